//! Very many connections, one after the other: what is over must not be kept.

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, Output};
use crate::workload;

/// More than this the agent may not grow between the first and the last tenth, beside a tenth of what it had.
const SLACK_KIB: u64 = 4 << 10;

/// The memory of the agent after the first tenth of the connections, and after all.
pub(crate) fn none(connections: u64) -> Result<()> {
    // Told are only failures, by which the fences know that everything before them is handled.
    let agent = Agent::start_with(&["--kind", "failed"], Output::Events)?;
    let storm = |count: u64| -> Result<u64> {
        workload::run(&["storm", &count.to_string()])?;
        agent.fence()?;
        resident_kib(agent.pid())
    };
    let tenth = connections / 10;
    let first = storm(tenth)?;
    storm(connections - 2 * tenth)?;
    let last = storm(tenth)?;
    let backend = agent.backend.name();
    agent.stop()?.lost_nothing()?;
    ensure!(
        last <= first + first / 10 + SLACK_KIB,
        "{first} KiB after {tenth} connections, {last} KiB after {connections}"
    );
    eprintln!(
        "leak, backend {backend}: {first} KiB after {tenth} connections, {last} KiB after {connections}"
    );
    Ok(())
}

/// `VmRSS` of a process.
fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the agent's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmRSS: {line}"))
}

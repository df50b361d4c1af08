//! Very many connections: what is over must not be kept, and what is open must be small.

use std::io::BufRead as _;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, Output};
use crate::settings;
use crate::storm::BURST;
use crate::workload::Workload;

/// More than this the agent may not grow between the first and the last tenth, beside a tenth of what it had.
const SLACK_KIB: u64 = 4 << 10;

/// Connections that are open at once.
const MANY: usize = 100_000;
/// What the agent may use of memory then.
const MOST_KIB: u64 = 64 << 10;

/// The memory of the agent after the first tenth of the connections, and after all.
pub(crate) fn no_leak(connections: u64) -> Result<()> {
    // Reported are only failures, by which the fences know that everything before them is handled.
    let agent = Agent::start_with(&["--kind", "failed"], Output::Events)?;
    let storm = |count: u64| -> Result<u64> {
        let mut storm = Workload::start(&["storm", &count.to_string(), "--burst", &BURST.to_string()])?;
        while storm.ready_again()? {
            agent.fence()?;
            storm.go()?;
        }
        storm.finish()?;
        agent.fence()?;
        memory_kib(agent.pid(), "VmRSS")
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

/// The memory of an agent on a machine with very many open connections, from its start to the end of its snapshot.
pub(crate) fn of_many() -> Result<()> {
    let mut workload = Workload::start(&["many", &MANY.to_string()])?;
    workload.ready()?;
    let started = Instant::now();
    let agent = Agent::start_with(&["--kind", "failed"], Output::Events)?;
    let start = started.elapsed();
    agent.fence()?;
    let (most, now) = (memory_kib(agent.pid(), "VmHWM")?, memory_kib(agent.pid(), "VmRSS")?);
    let backend = agent.backend.name();
    agent.stop()?.lost_nothing()?;
    let started = Instant::now();
    let listed = list()?;
    let took = started.elapsed();
    workload.go()?;
    workload.finish()?;
    ensure!(listed >= MANY, "{MANY} are open, {listed} are listed");
    ensure!(most < MOST_KIB, "{most} KiB at {MANY} open connections, allowed are {MOST_KIB}");
    eprintln!(
        "memory, backend {backend}: {MANY} open connections: at most {most} KiB, {now} KiB after the start, which took \
         {start:?}; conn list: {listed} in {took:?}"
    );
    Ok(())
}

/// How many sockets `conn list` lists.
fn list() -> Result<usize> {
    let output = Command::new(settings::conn()?).args(["list", "--json"]).output().context("conn list")?;
    ensure!(output.status.success(), "conn list: {}", output.status);
    Ok(output.stdout.lines().count())
}

/// A size in a process's status.
fn memory_kib(pid: u32, what: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the agent's status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(what)).with_context(|| format!("no {what}"))?;
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse().with_context(|| format!("{what}: {line}"))
}

//! Very many connections: counted, not read.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result, bail, ensure};
use conn_tests::event::Event;
use conn_tests::truth::Line;

use crate::agent::{Agent, Output};
use crate::preempted;
use crate::settings;
use crate::workload::Workload;

/// Connections at full speed before the next wait: less than the ring holds, so that none may be lost however little of the
/// processor the agent gets. How many it bears without a wait is a matter of speed, which README.md has a command for.
pub(crate) const BURST: u64 = 4_000;

/// Each connection, accept and close of a storm is reported, by count, or accounted for ([`preempted`]).
pub(crate) fn counts(threads: u64) -> Result<()> {
    let (count, threads, burst) = (settings::storm().to_string(), threads.to_string(), BURST.to_string());
    let mut workload =
        Workload::start(&["storm", &count, "--threads", &threads, "--burst", &burst, "--wait"])?;
    workload.ready()?;
    let (sender, counted) = channel();
    let (reported, bursts_reported) = channel();
    let reader = move |stdout| drop(sender.send(count_kinds(stdout, &reported)));
    // The storm runs already: the filter knows its process from /proc.
    let filter = format!("pid:{}", workload.pid());
    let agent = Agent::start_with(&[&filter], Output::Reader(Box::new(reader)))?;
    workload.go()?;
    while workload.ready_again()? && bursts_reported.recv_timeout(settings::seconds(30)).is_ok() {
        workload.go()?;
    }
    let lines = workload.finish()?;
    let Some(storm) = lines.iter().find_map(|l| if let Line::Storm(s) = l { Some(s) } else { None }) else {
        bail!("the storm reported nothing")
    };
    let backend = agent.backend;
    let ended = agent.stop()?;
    let (kinds, gaps) = counted.recv().context("count the events")?;
    let gaps = gaps.iter().map(|line| Event::parse(line)).collect::<Result<Vec<_>, _>>()?;
    let totals = ended.lost_nothing_but(&gaps).with_context(|| format!("{kinds:?}"))?;
    let skipped: u64 =
        gaps.iter().filter(|gap| preempted::accounts_for(gap)).filter_map(|gap| gap.lost).sum();
    let n = storm.connections;
    let want = [("connect", n), ("established", n), ("accept", n), ("close", 2 * n), ("failed", 0)];
    for (kind, want) in want {
        let reported = kinds.get(kind).copied().unwrap_or(0);
        ensure!(
            reported <= want && reported + skipped >= want,
            "{kind}: {want} happened, {reported} were reported, {skipped} are accounted for ({kinds:?}; {totals:?})"
        );
    }
    eprintln!(
        "storm, backend {}, {threads} threads: {n} connections, {} ns each, {skipped} runs skipped",
        backend.name(),
        storm.ns_per_connection
    );
    Ok(())
}

/// Threads that keep the processors busy: in so many sessions, so many each.
const CROWD: (usize, &str) = (16, "4");
/// Threads of a storm beside them.
const STORM_THREADS: &str = "64";
/// Their connections, five records and more each: several times what the ring has room for.
const STORM_BESIDE: u64 = 40_000;

/// A local user's busy threads and a storm at full speed: the agent starts, and not a record is lost.
pub(crate) fn in_a_crowd() -> Result<()> {
    let (sessions, threads) = CROWD;
    let mut crowd = (0..sessions).map(|_| Workload::start(&["busy", threads])).collect::<Result<Vec<_>>>()?;
    crowd.iter_mut().try_for_each(Workload::ready)?;
    // Hardly anything is shown: this process is one of many too, and would not keep up.
    let agent = Agent::start(&["kind:listen", "pid:1"])?;
    let n = settings::storm().max(STORM_BESIDE);
    crate::workload::run(&["storm", &n.to_string(), "--threads", STORM_THREADS])?;
    let totals = agent.stop()?.lost_nothing()?;
    drop(crowd);
    let seen =
        |record: &serde_json::Value| record.get("seen").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let seen: u64 = totals.records.values().map(seen).sum();
    ensure!(seen >= 5 * n, "{n} connections have five records each, {seen} were read");
    Ok(())
}

/// Counts lines by their `kind`, without reading the rest: the reader must be faster than the agent. The gaps whole.
/// Says when as many ends are closed as a burst has.
fn count_kinds(stdout: ChildStdout, reported: &Sender<()>) -> (BTreeMap<String, u64>, Vec<String>) {
    const KEY: &str = "\"kind\":\"";
    let (mut counts, mut gaps) = (BTreeMap::new(), Vec::new());
    let mut reader = BufReader::with_capacity(1 << 20, stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        if !matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            return (counts, gaps);
        }
        let head = String::from_utf8_lossy(&line[..line.len().min(512)]);
        let kind =
            head.split_once(KEY).and_then(|(_, rest)| rest.split_once('"')).map_or("?", |(kind, _)| kind);
        if kind == "gap" {
            gaps.push(String::from_utf8_lossy(&line).into_owned());
        }
        // Not by entry(), which would copy each key.
        let count = match counts.get_mut(kind) {
            Some(count) => count,
            None => counts.entry(kind.to_owned()).or_default(),
        };
        *count += 1;
        if kind == "close" && count.is_multiple_of(2 * BURST) {
            let _ = reported.send(());
        }
    }
}

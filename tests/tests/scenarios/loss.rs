//! A forced loss: a tiny ring, a stopped reader and a storm. The loss must be reported, and exactly.

use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use conn_tests::event::Event;
use conn_tests::expect::Backend;
use conn_tests::truth::Line;

use crate::agent::{Agent, Output};
use crate::workload::Workload;

/// Connections of the storm: some twenty times what the ring holds.
const CONNECTIONS: u64 = 2_000;
/// Connections that end in the loss, and as many that begin in it.
const PAIRS: usize = 5;
/// Connections right after the loss.
const NEXT: usize = 100;
/// Records of the same hook that others on this machine may cause meanwhile.
const OTHERS: u64 = 400;

/// The hook that runs at each close of this backend, and its records per connection and for the rest of the storm.
const fn counted_hook(backend: Backend) -> (&'static str, u64, u64) {
    match backend {
        Backend::Fentry => ("fentry:tcp_close", 2, 0),
        Backend::Kprobe => ("kprobe:tcp_close", 2, 0),
        // A connect, two handshakes and two closes; the listener comes and goes.
        Backend::Tracepoint => ("tp_btf:inet_sock_set_state", 5, 2),
    }
}

/// Connections of this process, with the clients' ports.
fn pairs(listener: &TcpListener) -> Result<Vec<(u16, [TcpStream; 2])>> {
    let pair = |_| {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let server = listener.accept()?.0;
        Ok((client.local_addr()?.port(), [client, server]))
    };
    (0..PAIRS).map(pair).collect()
}

/// After the loss the agent finds out what ended and what began in it, and follows what began.
fn is_repaired(agent: &Agent, gone: &[u16], new: Vec<(u16, [TcpStream; 2])>) -> Result<()> {
    let me = Some(std::process::id());
    let by_me = |event: &Event| event.process.as_ref().map(|process| process.pid) == me;
    for port in gone {
        agent.wait_for(0, "the end of a connection in the loss", |event| {
            event.kind == "close" && event.lport == Some(*port) && by_me(event) && is_lost(event)
        })?;
    }
    for (port, _) in &new {
        agent.wait_for(0, "a connection that was opened in the loss", |event| {
            event.kind == "established" && event.lport == Some(*port) && by_me(event) && is_found(event)
        })?;
        agent.wait_for(0, "a connection that was accepted in the loss", |event| {
            event.kind == "accept" && event.rport == Some(*port) && by_me(event) && is_found(event)
        })?;
    }
    let ports: Vec<u16> = new.iter().map(|(port, _)| *port).collect();
    drop(new);
    for port in ports {
        agent.wait_for(0, "the end of a connection from the loss", |event| {
            event.kind == "close"
                && event.lport == Some(port)
                && by_me(event)
                && event.end.as_deref() == Some("local_fin")
        })?;
    }
    Ok(())
}

fn is_lost(event: &Event) -> bool {
    event.end.as_deref() == Some("unseen")
        && event.closer.as_ref().is_some_and(|closer| closer.reason.as_deref() == Some("lost"))
}

fn is_found(event: &Event) -> bool {
    event.source.as_deref() == Some("resync")
        && event.method.as_deref() == Some("fd_table")
        && event.age.is_some()
}

/// What is reported as seen and as lost adds up to what happened, and after the loss everything is reported again.
pub(crate) fn is_exact() -> Result<()> {
    let mut workload = Workload::start(&["storm", &CONNECTIONS.to_string(), "--wait"])?;
    workload.ready()?;
    let agent = Agent::start_with(&["--ring-size", "64K", "--no-self-test"], Output::Events)?;
    let backend = agent.backend;
    let listener = TcpListener::bind("127.0.0.1:0").context("a listener")?;
    let gone = pairs(&listener)?;
    for (client, _) in &gone {
        agent.wait_for(0, "a connection from before the loss", |event| {
            event.kind == "established" && event.lport == Some(*client)
        })?;
    }
    agent.signal(libc::SIGSTOP)?;
    workload.go()?;
    let lines = workload.finish()?;
    let gone_ports: Vec<u16> = gone.iter().map(|(port, _)| *port).collect();
    drop(gone);
    let new = pairs(&listener)?;
    agent.signal(libc::SIGCONT)?;
    // What it reports, it has read: there is room again for what comes now.
    agent.wait_for(0, "what the ring held of the storm", |event| event.kind == "close")?;
    // Some get the addresses of sockets that went in the loss, perhaps before the repair.
    let next: Vec<_> = (0..NEXT / PAIRS).map(|_| pairs(&listener)).collect::<Result<_>>()?;
    agent.fence().context("after the loss")?;
    is_repaired(&agent, &gone_ports, new)?;
    drop(next);
    let ended = agent.stop()?;
    let totals = ended.totals()?;

    let Some(Line::Storm(storm)) = lines.iter().find(|line| matches!(line, Line::Storm(_))) else {
        anyhow::bail!("the storm reported nothing")
    };
    // A loss at the tail of a CPU's sequence shows at the next record of that CPU, or at the end.
    let gaps: Vec<_> = ended.events.iter().filter(|event| event.kind == "gap").collect();
    let full = gaps.iter().filter(|gap| gap.cause.as_deref() == Some("ring_full"));
    let reported: u64 = full.filter_map(|gap| gap.lost).sum();
    ensure!(reported > 0, "a ring of 64K held the records of {} connections", storm.connections);
    ensure!(totals.gaps == gaps.len() as u64, "{} gap events, {} in the totals", gaps.len(), totals.gaps);
    ensure!(totals.lost == reported, "{reported} lost in gap events, {} in the totals", totals.lost);

    let (hook, each, rest) = counted_hook(backend);
    let record = totals.records.get(hook).with_context(|| format!("no {hook} in the totals"))?;
    let number = |key: &str| record.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let (seen, lost) = (number("seen"), number("lost"));
    let happened = each * (storm.connections + NEXT as u64) + rest;
    ensure!(lost > 0, "{hook} lost nothing");
    ensure!(
        (happened..=happened + OTHERS).contains(&(seen + lost)),
        "{hook}: {happened} happened, {seen} seen + {lost} lost = {}",
        seen + lost
    );
    eprintln!("loss, backend {}: {hook}: {happened} happened, {seen} seen, {lost} lost", backend.name());
    Ok(())
}

/// What the kernel skips leaves no record: only its own counts report. The agent says of which hooks this kernel has none.
pub(crate) fn skipped_runs_are_counted() -> Result<()> {
    let agent = Agent::start(&[])?;
    agent.fence()?;
    let backend = agent.backend;
    let totals = agent.stop()?.lost_nothing()?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().context("a kernel version")?, numbers.next().context("a kernel version")?);
    // `bpf_prog_info.recursion_misses` came with 5.12, `bpf_link_info.perf_event.kprobe.missed` with 6.7.
    let is_counted = |hook: &str| match hook.split_once(':') {
        Some(("kprobe" | "kretprobe", _)) => version >= (6, 7),
        _ => version >= (5, 12),
    };
    let firsts = totals.records.keys().filter(|hook| !hook.contains("/backup"));
    let mut expected: Vec<_> = firsts.filter(|hook| !is_counted(hook)).cloned().collect();
    let mut reported = totals.uncounted.clone();
    expected.sort();
    reported.sort();
    ensure!(
        reported == expected,
        "of {backend:?} on {version:?} these are not counted: {reported:?}, not {expected:?}"
    );
    ensure!(totals.missed.is_some(), "the totals do not report what was skipped");
    Ok(())
}

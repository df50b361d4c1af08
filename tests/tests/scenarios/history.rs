//! The history against the stream of events that the same agent wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::service::{self, Service};
use crate::workload::Workload;

/// Connections of the storm that the agent loses in part.
const STORM: &str = "2000";
/// Connections of the storm in which the agent is killed.
const ENDLESS: &str = "200000";
/// How much of it is committed by then: several commits.
const COMMITTED: u64 = 512 << 10;

/// A rule on a listener at this port.
fn rule(port: u16) -> String {
    format!(
        "[[rule]]\nid = 'history.listener'\nkind = 'server'\nfind = 'listener'\nmatch = 'lport:{port} laddr:loopback'\n"
    )
}

/// Connections that were there before, live ones, open ones, refused ones, a listener, an alert and a loss: what `conn query` shows of
/// each is what the stream said.
pub(crate) fn equals_the_stream() -> Result<()> {
    let before = TcpListener::bind("127.0.0.1:0").context("a listener")?;
    let existing = TcpStream::connect(before.local_addr()?).context("a connection")?;
    let reserved = TcpListener::bind("127.0.0.1:0").context("a port")?;
    let port = reserved.local_addr()?.port();
    drop(reserved);
    let mut storm = Workload::start(&["storm", STORM, "--wait"])?;
    storm.ready()?;

    let agent = Service::start(&rule(port), "ring_size = '64K'")?;
    let listener = TcpListener::bind(("127.0.0.1", port)).context("the listener of the rule")?;
    let mut open = TcpStream::connect(listener.local_addr()?).context("a connection")?;
    let (mut accepted, _) = listener.accept().context("accept")?;
    for _ in 0..3 {
        let mut closed = TcpStream::connect(before.local_addr()?).context("a connection")?;
        closed.write_all(b"some bytes").context("write")?;
        drop(before.accept().context("accept")?);
    }
    let unused = TcpListener::bind("127.0.0.1:0").context("a port")?.local_addr()?;
    ensure!(TcpStream::connect(unused).is_err(), "somebody listens at a port that was free a moment ago");
    open.write_all(b"hello").context("write")?;
    accepted.write_all(b"hello yourself").context("write")?;
    agent.await_event("the alert", |event| event["alert"]["rule"] == "history.listener")?;
    agent.await_event("the refused connection", |event| {
        event["kind"] == "failed" && event["rport"] == unused.port()
    })?;

    agent.signal(libc::SIGSTOP)?;
    storm.go()?;
    storm.finish()?;
    agent.signal(libc::SIGCONT)?;
    agent.await_event("the loss", |event| event["kind"] == "gap")?;
    agent.await_event("the repair", |event| event["kind"] == "repair")?;

    let while_open = Compared::of(&agent)?;
    while_open.equal()?;
    let is_at = |line: &&Value, port: u16| line["lport"] == port && line["kind"] == "established";
    let local = open.local_addr()?.port();
    ensure!(
        while_open.shown.iter().filter(|line| is_at(line, local)).count() == 1,
        "the open connection is shown once, as open"
    );
    let old = existing.local_addr()?.port();
    let is_old = |line: &&Value| line["lport"] == old && line["source"] == "snapshot";
    ensure!(while_open.shown.iter().any(|line| is_old(&line)), "what was there before the agent is shown");

    drop((open, accepted, listener, existing));
    agent.await_event("the end of the listener", |event| {
        event["kind"] == "unlisten" && event["lport"] == port
    })?;
    agent.await_event("the end of the connection", |event| {
        event["kind"] == "close" && event["lport"] == local
    })?;
    let folder = agent.stop()?;
    // The agent is gone: the files alone say as much.
    Compared::in_folder(&folder, service::events(&folder)?)?.equal()?;
    std::fs::remove_dir_all(&folder).context("remove the folder")
}

/// What the stream said and what the history shows.
struct Compared {
    /// The stream.
    events: Vec<Value>,
    /// Connections and listeners, each as its last event.
    shown: Vec<Value>,
    alerts: Vec<Value>,
    notes: Vec<Value>,
}

impl Compared {
    fn of(agent: &Service) -> Result<Self> {
        // Others on this machine go on: what is newer than the stream as it was read is in the history alone.
        let events = agent.events()?;
        Self::in_folder(&agent.path(""), events)
    }

    fn in_folder(folder: &Path, events: Vec<Value>) -> Result<Self> {
        let query = |arguments: &[&str]| {
            let all = [&["query", "--history", "state", "--json"], arguments].concat();
            service::parsed(&service::conn(folder, &all)?)
        };
        let lines = query(&["--sql", "SELECT line FROM note ORDER BY seq"])?;
        let notes = lines.iter().filter_map(|row| row["line"].as_str());
        Ok(Self {
            events,
            shown: [query(&[])?, query(&["--listeners"])?].concat(),
            alerts: query(&["--alerts"])?,
            notes: notes.map(|line| serde_json::from_str(line).context("a line")).collect::<Result<_>>()?,
        })
    }

    /// Each entry is the same.
    fn equal(&self) -> Result<()> {
        let by_seq = |lines: &[Value]| -> BTreeMap<u64, Value> {
            lines.iter().filter_map(|line| Some((line["seq"].as_u64()?, line.clone()))).collect()
        };
        let (shown, alerts, notes) = (by_seq(&self.shown), by_seq(&self.alerts), by_seq(&self.notes));
        let mut last = BTreeMap::new();
        for event in &self.events {
            let seq = event["seq"].as_u64().context("a seq")?;
            match event["kind"].as_str().context("a kind")? {
                "alert" => is_in("alert", event, &alerts)?,
                "gap" | "repair" | "degraded" => is_in("note", event, &notes)?,
                "exec" | "exit" | "heartbeat" => {}
                _ => drop(last.insert(event["conn_id"].as_str().context("an id")?, (seq, event))),
            }
        }
        let mut collapsed = 0;
        let ids: BTreeSet<&str> = self.shown.iter().filter_map(|line| line["conn_id"].as_str()).collect();
        for (id, (seq, event)) in &last {
            match shown.get(seq) {
                Some(line) if line["count"].as_u64().unwrap_or(1) == 1 => {
                    ensure!(is_same(event, line), "not the same\nstream:  {event}\nhistory: {line}");
                }
                Some(_) => {}
                // It may have ended since the stream was read, or be one of many.
                None if ids.contains(id) => {}
                None => collapsed += 1,
            }
        }
        let counted: u64 =
            self.shown.iter().filter_map(|line| line["count"].as_u64()).map(|count| count - 1).sum();
        ensure!(counted >= collapsed, "{collapsed} connections are missing, {counted} were collapsed");
        ensure!(!last.is_empty() && !notes.is_empty() && !alerts.is_empty(), "something of each");
        let stderr = &mut std::io::stderr();
        let (rows, all) = (self.shown.len(), last.len());
        writeln!(stderr, "history: {all} connections and listeners in {rows} rows, {counted} collapsed")?;
        Ok(())
    }
}

fn is_in(what: &str, event: &Value, lines: &BTreeMap<u64, Value>) -> Result<()> {
    let line = event["seq"].as_u64().and_then(|seq| lines.get(&seq));
    ensure!(
        line.is_some_and(|line| is_same(event, line)),
        "{what}: not the same\nstream:  {event}\nhistory: {line:?}"
    );
    Ok(())
}

/// Whether two lines are the same, but for what became known of processes later.
fn is_same(then: &Value, now: &Value) -> bool {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            let is_process = then.contains_key("pid");
            then.iter()
                .all(|(key, value)| now.get(key).is_some_and(|now| value.is_null() || is_same(value, now)))
                && (is_process || now.keys().all(|key| then.contains_key(key)))
        }
        (Value::Array(then), Value::Array(now)) => {
            then.len() == now.len() && then.iter().zip(now).all(|(then, now)| is_same(then, now))
        }
        _ => then == now,
    }
}

/// An agent that is killed in a storm leaves a history that opens, and that has everything up to its last commit. The next one goes on
/// in the same file.
pub(crate) fn survives_a_kill() -> Result<()> {
    let agent = Service::start("", "allow_empty_rules = true")?;
    let storm = Workload::start(&["storm", ENDLESS])?;
    agent.await_committed(COMMITTED)?;
    let folder = agent.kill()?;
    drop(storm);
    let events = service::events(&folder)?;
    let rows = |sql: &str| {
        let arguments = ["query", "--history", "state", "--json", "--sql", sql];
        service::parsed(&service::conn(&folder, &arguments)?)
    };
    let check = rows("PRAGMA integrity_check")?;
    ensure!(check.len() == 1 && check[0]["integrity_check"] == "ok", "the file is whole: {check:?}");
    let shown = service::parsed(&service::conn(&folder, &["query", "--history", "state", "--json"])?)?;
    let kept = shown.iter().filter_map(|line| line["seq"].as_u64()).max().context("nothing is kept")?;
    let in_rows: u64 = shown.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum();
    let begun = |event: &&Value| matches!(event["kind"].as_str(), Some("connect" | "accept"));
    let until: u64 =
        events.iter().filter(begun).filter(|event| event["seq"].as_u64() <= Some(kept)).count() as u64;
    ensure!(in_rows >= until, "{until} connections up to event {kept}, of which {in_rows} are kept");
    let instant = |line: &Value| line["boot_ns"].as_str().and_then(|text| text.parse::<u64>().ok());
    let last = events.iter().filter_map(instant).max().context("no events")?;
    let last_kept =
        events.iter().filter(|event| event["seq"].as_u64() == Some(kept)).find_map(instant).unwrap_or(last);
    let missing = Duration::from_nanos(last.saturating_sub(last_kept));
    writeln!(std::io::stderr(), "history: killed in a storm, the last {missing:?} are missing")?;

    let next = Service::start_in(folder)?;
    let listener = TcpListener::bind("127.0.0.1:0").context("a listener")?;
    let port = listener.local_addr()?.port();
    next.await_event("a listener", |event| event["kind"] == "listen" && event["lport"] == port)?;
    let folder = next.stop()?;
    let filter = format!("lport:{port}");
    let line = service::conn(&folder, &["query", "--history", "state", "--json", "--listeners", &filter])?;
    ensure!(service::parsed(&line)?.len() == 1, "the next run is in the history: {line}");
    let again = service::parsed(&service::conn(&folder, &["query", "--history", "state", "--json"])?)?;
    ensure!(again.len() >= shown.len(), "{} rows, {} before", again.len(), shown.len());
    std::fs::remove_dir_all(&folder).context("remove the folder")
}

/// `conn tail --since` while events flow: everything that the stream has from its first event on, once each.
pub(crate) fn tail_goes_on() -> Result<()> {
    let agent = Service::start("", "allow_empty_rules = true")?;
    let storm = Workload::start(&["storm", "3000"])?;
    agent.await_committed(COMMITTED)?;
    let shown = agent.conn(&["tail", "--json", "--since", "5m", "--for", "3s"])?;
    storm.finish()?;
    let shown = service::parsed(&shown)?;
    let events = agent.events()?;
    let of = |line: &Value| line["seq"].as_u64().filter(|seq| *seq > 0);
    let seqs: Vec<u64> = shown.iter().filter_map(of).collect();
    ensure!(seqs.is_sorted_by(|one, next| one < next), "in order, each once: {seqs:?}");
    let (first, last) = (seqs.first().context("nothing")?, seqs.last().context("nothing")?);
    let hidden = |event: &&Value| matches!(event["kind"].as_str(), Some("heartbeat" | "exec" | "exit"));
    let expected: Vec<u64> = events
        .iter()
        .filter(|event| !hidden(event))
        .filter_map(of)
        .filter(|seq| (first..=last).contains(&seq))
        .collect();
    // What a collapsed row stands for is not shown one by one.
    let collapsed: u64 = shown.iter().filter_map(|line| line["count"].as_u64()).map(|count| count - 1).sum();
    let missing: Vec<u64> = expected.iter().copied().filter(|seq| seqs.binary_search(seq).is_err()).collect();
    ensure!(collapsed > 0 || missing.is_empty(), "a hole: {missing:?}");
    ensure!(
        seqs.iter().all(|seq| expected.binary_search(seq).is_ok()),
        "events that the stream does not have"
    );
    writeln!(
        std::io::stderr(),
        "history: {} events from {first} to {last}, {collapsed} collapsed",
        seqs.len()
    )?;
    drop(std::fs::remove_dir_all(agent.stop()?));
    Ok(())
}

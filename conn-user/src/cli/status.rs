//! `conn status`: how the agent that runs here is.

use std::fmt::Write as _;

use anyhow::Context as _;

use super::args::{Exit, StatusArgs};
use super::{emit, socket};
use crate::event::escape;
use crate::event::human;
use crate::service::protocol::Request;
use crate::service::status::Status;
use crate::units::DurationNs;

/// Runs `conn status`.
///
/// # Errors
/// When the output cannot be written; that there is no agent is reported here.
pub fn run(args: &StatusArgs) -> anyhow::Result<Exit> {
    let mut client = match socket::needed("conn status") {
        Ok(client) => client,
        Err(exit) => return Ok(exit),
    };
    let status: Status = match client.ask(&Request::Status) {
        Ok(status) => status,
        Err(error) => {
            emit(error);
            return Ok(Exit::Error);
        }
    };
    let mut out =
        if args.json { serde_json::to_string(&status).context("writing JSON")? } else { text(&status) };
    if args.json {
        out.push('\n');
    }
    super::print(out.as_bytes())
}

/// The state for people. What an agent says of others is escaped.
fn text(status: &Status) -> String {
    let shown = |text: &str| escape::string(text.as_bytes());
    let human = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    let bytes = |bytes: u64| human(&|out| human::write_bytes(bytes, out));
    let mut rows: Vec<(&str, String)> = Vec::new();
    let agent = &status.agent;
    rows.push((
        "agent",
        format!("{} on {}, run {}", socket::named(agent), shown(&agent.host), shown(&agent.run)),
    ));
    let running = human(&|out| human::write_duration(DurationNs(status.running_for_ns), out));
    rows.push(("since", format!("{} ({running}), backend {}", shown(&status.since), shown(&status.backend))));
    let total: u64 = status.events.values().sum();
    let mut events = total.to_string();
    if let Some(rate) = status.events_per_second {
        let _ = write!(events, ", {rate:.1}/s over the last minute");
    }
    rows.push(("events", events));
    let gaps = &status.gaps;
    let losses = if gaps.lost == 0 && gaps.count == 0 && gaps.undecoded == 0 {
        "none".to_owned()
    } else {
        format!(
            "{} records in {} gaps, {} undecoded, {} repairs",
            gaps.lost, gaps.count, gaps.undecoded, status.repairs.done
        )
    };
    rows.push(("lost", losses));
    for dropped in &status.dropped {
        let place =
            dropped.place.as_deref().map_or_else(String::new, |place| format!(" of {}", shown(place)));
        rows.push(("dropped", format!("{}{place}: {}", shown(&dropped.what), dropped.count)));
    }
    let folders: Vec<String> = status.rules.folders.iter().map(|folder| shown(folder)).collect();
    let from = if folders.is_empty() { "default rules".to_owned() } else { folders.join(", ") };
    rows.push(("rules", format!("{} active ({from})", status.rules.active)));
    let open = ["critical", "high", "medium", "low", "info"]
        .into_iter()
        .filter_map(|severity| status.open_alerts.get(severity).map(|count| format!("{count} {severity}")));
    let open: Vec<String> = open.collect();
    rows.push(("open alerts", if open.is_empty() { "none".to_owned() } else { open.join(", ") }));
    let clients = &status.clients;
    rows.push((
        "clients",
        format!(
            "{} now, {} of them tail, {} so far, {} refused; events they lost: {}",
            clients.now, clients.tails, clients.total, clients.refused, clients.dropped
        ),
    ));
    rows.push(("memory", status.memory_bytes.map_or_else(|| "not known".to_owned(), bytes)));
    if let Some(history) = &status.history {
        let span = history.first.as_deref().zip(history.last.as_deref());
        let span =
            span.map_or_else(String::new, |(first, last)| format!(", {} to {}", shown(first), shown(last)));
        rows.push((
            "history",
            format!(
                "{}: {} in {} files{span}, {} rows dropped",
                shown(&history.folder),
                bytes(history.bytes),
                history.files,
                history.dropped
            ),
        ));
    }
    rows.into_iter().fold(String::new(), |mut out, (name, value)| {
        let _ = writeln!(out, "{name:<12} {value}");
        out
    })
}

//! `conn replay`: the alerts that rules give on a recording.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::args::{Environment, Exit, ReplayArgs};
use super::lines::Lines;
use super::{needs, tell};
use crate::event::human;
use crate::event::json::StreamIdentity;
use crate::event::read::Reader;
use crate::replay::file::Input;
use crate::replay::lines::Cut;
use crate::replay::zeek::{Network, NetworkStats};
use crate::replay::{Replay, ReplayStats};
use crate::rules::RuleSet;
use crate::units::DurationNs;

/// Lines between two writes.
const BATCH: u32 = 1024;

/// Runs `conn replay`. This needs no privileges.
///
/// # Errors
/// When a recording cannot be read, or the output cannot be written.
pub fn run(args: &ReplayArgs) -> anyhow::Result<Exit> {
    let rules = match args.choice().load() {
        Ok(Some(rules)) => rules,
        Ok(None) => return Ok(Exit::Done),
        Err(exit) => return Ok(exit),
    };
    let result = tokio::runtime::Builder::new_current_thread()
        .build()
        .context("starting the runtime")?
        .block_on(replay(args, &rules));
    match result {
        Err(error)
            if error.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(Exit::Done)
        }
        result => result,
    }
}

async fn replay(args: &ReplayArgs, rules: &RuleSet) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let nobody = StreamIdentity { host: String::new(), boot_id: String::new(), agent_start: <_>::default() };
    let mut lines = Lines::new(args.format(Environment::of_process()), &nobody);
    let (mut reader, mut replay) = (Reader::default(), Replay::new(rules));
    let mut network = Network::default();
    let (mut runs, mut identity, mut unwritten) = (0, nobody, 0);
    for file in &args.files {
        let mut input = Input::open(file)?;
        let recording = match &mut input {
            Input::Events(recording) => recording,
            Input::Zeek(log) => {
                while let Some(told) = log.read()? {
                    network.add(told)?;
                }
                tell_cut(&input);
                continue;
            }
        };
        while let Some(recorded) = recording.next(&mut reader)? {
            if reader.runs() != runs {
                runs = reader.runs();
                replay.end_run(&mut |event| lines.add(event));
            }
            if let Some(stream) = reader.stream().filter(|stream| **stream != identity) {
                identity = stream.clone();
                lines.set_identity(&identity);
            }
            replay.take(recorded, reader.take_news(), &mut |event| lines.add(event));
            unwritten += 1;
            if unwritten == BATCH {
                unwritten = 0;
                lines.flush().await?;
            }
        }
        tell_cut(&input);
    }
    replay.end_run(&mut |event| lines.add(event));
    if !network.is_empty() {
        needs::tell_unjudged(rules);
        let nobody =
            StreamIdentity { host: String::new(), boot_id: String::new(), agent_start: <_>::default() };
        lines.set_identity(&nobody);
        let mut events = network.into_events(&rules.names);
        for event in events.by_ref() {
            replay.take(event, Vec::new(), &mut |event| lines.add(event));
            unwritten += 1;
            if unwritten >= BATCH {
                unwritten = 0;
                lines.flush().await?;
            }
        }
        replay.end_run(&mut |event| lines.add(event));
        tell_network(events.stats(), events.connections());
    }
    lines.flush().await?;
    let stats = replay.stats();
    tell_stats(stats, began.elapsed());
    Ok(if args.exit_code && stats.alerts > 0 { Exit::Alerts } else { Exit::Done })
}

fn tell_cut(input: &Input) {
    match input.cut() {
        None => {}
        Some(Cut::Line) => {
            tell(format_args!("note: the last line of {} is cut off and was not read", input.name()));
        }
        Some(Cut::Compressed) => tell(format_args!(
            "note: the compressed data of {} end too early; what comes after the last whole line was not read",
            input.name()
        )),
    }
}

fn tell_network(stats: &NetworkStats, connections: usize) {
    let others: u64 = stats.others.values().sum();
    if others > 0 {
        let each: Vec<String> =
            stats.others.iter().map(|(name, count)| format!("{count} {}", name.escape_debug())).collect();
        tell(format_args!(
            "note: {others} of {} lines are not TCP and were not judged: {}",
            stats.lines,
            each.join(", ")
        ));
    }
    for (count, what) in [
        (stats.repeated, "lines of open connections were left out: another line tells more of them"),
        (stats.failed_in, "attempts from outside failed; the host that is asked has no event of them"),
    ] {
        if count > 0 {
            tell(format_args!("note: {count} {what}"));
        }
    }
    tell(format_args!("{connections} connections of Zeek logs"));
}

fn tell_stats(stats: ReplayStats, took: Duration) {
    let duration = |duration| {
        let mut out = Vec::new();
        human::write_duration(duration, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    if stats.without_start > 0 {
        tell(
            "note: the recording does not begin with the start of the agent; what was open before is not known \
             (record with `conn tail --record`)",
        );
    }
    for (count, what) in [
        (stats.lost, "records were lost when it was recorded; the coverage of the alerts tells which spans"),
        (stats.not_followed, "connections were not followed, for want of room"),
        (
            stats.waiting as u64,
            "timers of rules wait for a time after the last event; what they would find is not told",
        ),
    ] {
        if count > 0 {
            tell(format_args!("note: {count} {what}"));
        }
    }
    let rate = u128::from(stats.events) * 1_000_000_000 / took.as_nanos().max(1);
    tell(format_args!(
        "{} events in {} of recorded time, {} alerts (then {}); took {}, {rate} events a second",
        stats.events,
        duration(stats.span),
        stats.alerts,
        stats.alerts_then,
        duration(DurationNs(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))),
    ));
}

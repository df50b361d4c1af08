//! `conn replay`: the alerts that rules give on a recording.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::args::{Environment, Exit, ReplayArgs};
use super::lines::Lines;
use super::{emit, needs, note};
use crate::event::human;
use crate::event::json::StreamIdentity;
use crate::event::read::{News, Reader, Recorded};
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

/// A replay whose alerts are written as they come.
struct Reported<'r> {
    replay: Replay<'r>,
    lines: Lines,
    /// Lines that were taken since the last write.
    taken: u32,
}

impl Reported<'_> {
    async fn take(&mut self, recorded: Recorded, news: Vec<News>) -> io::Result<()> {
        self.replay.take(recorded, news, &mut |event| self.lines.add(event));
        self.taken += 1;
        if self.taken == BATCH {
            self.taken = 0;
            self.lines.drain().await?;
        }
        Ok(())
    }

    fn end_run(&mut self) {
        self.replay.end_run(&mut |event| self.lines.add(event));
    }
}

async fn replay(args: &ReplayArgs, rules: &RuleSet) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let (mut runs, mut identity) = (0, StreamIdentity::default());
    let lines = Lines::new(args.format(Environment::of_process()), &identity, true)?;
    let mut reported = Reported { replay: Replay::new(rules), lines, taken: 0 };
    let (mut reader, mut network) = (Reader::default(), Network::default());
    for file in &args.files {
        let mut input = Input::open(file)?;
        match &mut input {
            Input::Events(recording) => {
                while let Some(recorded) = recording.next(&mut reader)? {
                    if reader.runs() != runs {
                        runs = reader.runs();
                        reported.end_run();
                    }
                    if let Some(stream) = reader.stream().filter(|stream| **stream != identity) {
                        identity = stream.clone();
                        reported.lines.set_identity(&identity);
                    }
                    reported.take(recorded, reader.take_news()).await?;
                }
            }
            Input::Zeek(log) => {
                while let Some(line) = log.read()? {
                    network.add(line)?;
                }
            }
        }
        emit_cut(input.name(), input.cut());
        emit_left_out(&input);
    }
    reported.end_run();
    if !network.is_empty() {
        needs::emit_unjudged(rules);
        reported.lines.set_identity(&StreamIdentity::default());
        let mut events = network.into_events(&rules.names);
        for event in events.by_ref() {
            reported.take(event, Vec::new()).await?;
        }
        reported.end_run();
        emit_network(events.stats(), events.connections());
    }
    reported.lines.drain().await?;
    let stats = reported.replay.stats();
    emit_stats(stats, began.elapsed());
    Ok(if args.exit_code && stats.alerts > 0 { Exit::Alerts } else { Exit::Done })
}

/// Says how a file ended, if it was cut off.
pub(super) fn emit_cut(name: &str, cut: Option<Cut>) {
    match cut {
        None => {}
        Some(Cut::Line) => {
            note(format_args!("the last line of {name} is cut off and was not read"));
        }
        Some(Cut::Compressed) => note(format_args!(
            "the compressed data of {name} end too early; what comes after the last whole line was not read"
        )),
    }
}

/// Says what of a file was not read, or that there was nothing.
fn emit_left_out(input: &Input) {
    let name = input.name();
    if input.is_empty() {
        let what = if matches!(input, Input::Zeek(_)) { "has no connections" } else { "is empty" };
        note(format_args!("{name} {what}"));
    }
    if let Input::Zeek(log) = input
        && !log.others().is_empty()
    {
        let each: Vec<String> =
            log.others().iter().map(|(log, lines)| format!("{lines} {}", log.escape_debug())).collect();
        note(format_args!("lines of other logs in {name} were left out: {}", each.join(", ")));
    }
}

fn emit_network(stats: &NetworkStats, connections: usize) {
    let others: u64 = stats.others.values().sum();
    if others > 0 {
        let each: Vec<String> =
            stats.others.iter().map(|(name, count)| format!("{count} {}", name.escape_debug())).collect();
        note(format_args!(
            "{others} of {} lines are not TCP and were not judged: {}",
            stats.lines,
            each.join(", ")
        ));
    }
    for (count, what) in [
        (stats.repeated, "lines of open connections were left out: another line reports more of them"),
        (stats.failed_in, "attempts from outside failed; the host that is asked has no event of them"),
    ] {
        if count > 0 {
            note(format_args!("{count} {what}"));
        }
    }
    emit(format_args!("{connections} connections of Zeek logs"));
}

fn emit_stats(stats: ReplayStats, took: Duration) {
    let duration = |duration| {
        let mut out = Vec::new();
        human::write_duration(duration, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    if stats.without_start > 0 {
        emit(
            "note: the recording does not begin with the start of the agent; what was open before is not known \
             (record with `conn tail --record`)",
        );
    }
    for (count, what) in [
        (
            stats.lost,
            "records were lost when it was recorded; the coverage of the alerts reports which spans",
        ),
        (stats.not_followed, "connections were not followed: limit reached"),
        (
            stats.waiting as u64,
            "timers of rules wait for a time after the last event; what they would find is not reported",
        ),
    ] {
        if count > 0 {
            note(format_args!("{count} {what}"));
        }
    }
    let rate = u128::from(stats.events) * 1_000_000_000 / took.as_nanos().max(1);
    emit(format_args!(
        "{} events in {} of recorded time, {} alerts (then {}); took {}, {rate} events a second",
        stats.events,
        duration(stats.span),
        stats.alerts,
        stats.alerts_then,
        duration(DurationNs(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))),
    ));
}

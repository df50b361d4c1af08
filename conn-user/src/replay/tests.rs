//! A recording gives the alerts that the run gave. Every test of a detector is a test of this, too: see [`gives`].

use std::io::Cursor;
use std::sync::Arc;

use super::file::{Recording, RecordingError};
use super::lines::Cut;
use super::*;
use crate::event::alert::Alert;
use crate::event::json::JsonEncoder;
use crate::event::model::Start;
use crate::event::read::Reader;
use crate::event::samples;
use crate::flow::model::Change;
use crate::process::identity::Identity;
use crate::process::info::ProcessInfo;
use crate::rules::model::{Detect, LongRule, ProcessRule, Rule};
use crate::rules::testing::{BEGAN, SECOND, process, rule, seconds};
use crate::units::WallNs;
use crate::{event::alert::Severity, filter::Names};

pub(crate) fn encoded<'e>(events: impl IntoIterator<Item = &'e Event>) -> String {
    let (mut encoder, mut out) = (JsonEncoder::new(&samples::identity()), Vec::new());
    for event in events {
        encoder.encode(event, &mut out);
    }
    String::from_utf8(out).expect("UTF-8")
}

fn rules(rules: Vec<Rule>) -> RuleSet {
    let names = Names::builtin().clone().into();
    RuleSet { rules: rules.into_iter().map(Into::into).collect(), names, baseline: Arc::default() }
}

fn replayed(rules: &RuleSet, text: &str, until: Option<BootNs>) -> (Vec<Event>, ReplayStats) {
    let (mut reader, mut replay, mut reported) = (Reader::default(), Replay::new(rules), Vec::new());
    let mut recording = Recording::new("a".to_owned(), Cursor::new(text.to_owned()));
    let mut runs = 0;
    while let Some(recorded) = recording.next(&mut reader).expect("events") {
        if reader.runs() != runs {
            runs = reader.runs();
            replay.end_run(&mut |event| reported.push(event.clone()));
        }
        replay.take(recorded, reader.take_news(), &mut |event| reported.push(event.clone()));
    }
    if let Some(until) = until {
        replay.take(Recorded::Alert(until), Vec::new(), &mut |event| reported.push(event.clone()));
    }
    replay.end_run(&mut |event| reported.push(event.clone()));
    (reported, replay.stats())
}

/// Whether these events give these alerts when they are written, read and replayed until then.
pub(crate) fn gives(rules: &RuleSet, events: &[Event], until: BootNs, alerts: &[Alert]) {
    lines_give(rules, &encoded(events), until, alerts);
}

/// Whether these lines give these alerts when they are read and replayed until then.
pub(crate) fn lines_give(rules: &RuleSet, lines: &str, until: BootNs, alerts: &[Alert]) {
    let (reported, _) = replayed(rules, lines, Some(until));
    let alerts: Vec<Event> = (1..)
        .zip(alerts)
        .map(|(seq, alert)| Event {
            seq,
            boot: alert.at,
            wall: WallNs(alert.at.0),
            body: EventBody::Alert(Box::new(alert.clone())),
        })
        .collect();
    let (reported, alerts) = (encoded(&reported), encoded(&alerts));
    assert!(reported == alerts, "replayed:\n{reported}\nnot as then:\n{alerts}\nof:\n{lines}");
}

fn long() -> RuleSet {
    let levels = [(seconds(100), Severity::Low), (seconds(200), Severity::High)].into();
    rules(vec![rule(Detect::Long(LongRule { levels, sum: false }), "dir:out")])
}

fn event(seq: u64, at: u64, body: EventBody) -> Event {
    Event { seq, boot: BootNs(BEGAN.0 + at * SECOND), wall: WallNs(at * SECOND), body }
}

fn start(at: u64) -> Event {
    event(0, at, EventBody::Start(Start { attached: BEGAN, has_facts: false }))
}

fn established(seq: u64, at: u64) -> Event {
    let mut conn = samples::outgoing();
    conn.established = Some(BootNs(BEGAN.0 + at * SECOND));
    event(seq, at, EventBody::Flow(Change::Established(conn)))
}

fn exec(seq: u64, at: u64) -> Event {
    let exec = crate::event::model::ProcEvent::new(process(9, "/usr/bin/true"));
    event(seq, at, EventBody::Exec(exec))
}

#[test]
fn time_ends_with_the_recording() {
    let text = encoded(&[start(0), established(1, 1), exec(2, 150)]);
    let (reported, stats) = replayed(&long(), &text, None);
    assert_eq!(reported.iter().map(|event| event.boot).collect::<Vec<_>>(), [BootNs(BEGAN.0 + 101 * SECOND)]);
    assert_eq!((stats.events, stats.alerts, stats.waiting, stats.span), (2, 1, 1, seconds(150)));
    // An alert that was reported then shows that the time came.
    let mut alert = reported[0].clone();
    alert.boot = BootNs(BEGAN.0 + 201 * SECOND);
    let (reported, stats) = replayed(&long(), &(text + &encoded(&[alert])), None);
    assert_eq!((reported.len(), stats.alerts_then, stats.waiting), (2, 1, 0));
}

#[test]
fn runs_are_judged_apart() {
    let one = encoded(&[established(1, 1)]);
    let other = encoded(&[start(150), exec(1, 300)]).replace("-123456789a", "-abc");
    let (reported, stats) = replayed(&long(), &(one.clone() + &other), None);
    assert_eq!((reported.len(), stats.runs, stats.without_start, stats.events), (0, 2, 1, 2));
    assert_eq!(stats.span, seconds(150));
    let (reported, stats) = replayed(&long(), &(one + &encoded(&[exec(2, 300)])), None);
    assert_eq!((reported.len(), stats.runs), (2, 1));
}

/// More was there than is read ahead.
#[test]
fn all_that_was_there_is_one_with_the_start() {
    let listening = |at: u64| {
        let change = samples::all().swap_remove(0).body;
        event(u64::from(at > 0), at, change)
    };
    let mut text = encoded(&[start(0)]);
    text += &encoded(&[listening(0)]).repeat(AHEAD + 10);
    text += &encoded(&[listening(5)]);
    let (_, stats) = replayed(&rules(Vec::new()), &text, None);
    assert_eq!((stats.events, stats.runs, stats.without_start), (AHEAD as u64 + 11, 1, 0));
}

/// The executable's place was not known when it connected; a later event has it.
#[test]
fn facts_that_came_late_are_waited_for() {
    let image = |identity| Arc::new(ProcessInfo { identity, ..ProcessInfo::clone(&process(9, "/tmp/x")) });
    let (known, unknown) = (image(Identity::default()), image(Identity::default()));
    known.identity.set_sha256(Some([7; 32]));
    let hash = "07".repeat(32);
    let connect = |process, seq, at| {
        let mut conn = samples::outgoing();
        conn.owner.process = Some(process);
        event(seq, at, EventBody::Flow(Change::Connect(conn)))
    };
    let set = rules(vec![rule(Detect::Process(ProcessRule::Network), &format!("exe_sha256:{hash}"))]);
    let text = encoded(&[start(0), connect(unknown, 1, 1), connect(known, 2, 60)]);
    let (reported, _) = replayed(&set, &text, None);
    assert_eq!(reported[0].boot, BootNs(BEGAN.0 + SECOND + LATE_FACTS.0), "when the agent asked again");
    assert_eq!(reported.len(), 1, "the second use is the same");
}

#[test]
fn a_cut_line_ends_it_and_a_wrong_one_is_reported() {
    let text = encoded(&[start(0), established(1, 1)]);
    let mut reader = Reader::default();
    let mut cut = Recording::new("a".to_owned(), Cursor::new(text[..text.len() - 20].to_owned()));
    assert!(matches!(cut.next(&mut reader), Ok(Some(_))) && matches!(cut.next(&mut reader), Ok(None)));
    assert_eq!(cut.cut(), Some(Cut::Line));
    for (line, expected) in [
        (&b"{}\n"[..], "a: line 2: not an event: missing field `schema`; a recording is what"),
        (b"\xff\n", "a: line 2: not UTF-8; a recording is what"),
    ] {
        let text = [encoded(&[start(0)]).as_bytes(), line].concat();
        let mut wrong = Recording::new("a".to_owned(), Cursor::new(text));
        assert!(wrong.next(&mut reader).is_ok());
        let error = wrong.next(&mut reader).expect_err("wrong");
        assert!(matches!(error, RecordingError::Line { line: 2, .. }));
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

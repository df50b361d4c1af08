//! Live order is replay order. The rig of the detectors' tests compares at its end what it did with a replay of its recording.

use std::sync::Arc;

use proptest::prelude::*;

use crate::event::alert::{Phase, Severity};
use crate::event::model::{EventBody, ProcEvent};
use crate::filter::Filter;
use crate::flow::model::{Change, ConnId, Direction, EndedHow, Source};
use crate::process::identity::{ExeFile, Identity, Replaced};
use crate::process::info::ProcessInfo;
use crate::process::inspect::Answer;
use crate::rules::model::{Detect, Expect, FanOutOf, LongRule, MissingRule, PathRule, ProcessRule, Rule};
use crate::rules::testing::{BEGAN, Rig, SECOND, child, process, rule, seconds};
use crate::units::{BootNs, DurationNs};

const MS: u64 = 1_000_000;

fn long(levels: &[u64]) -> Rule {
    let levels = levels.iter().map(|level| (DurationNs(level * MS), Severity::Low)).collect();
    let rule = rule(Detect::Long(LongRule { levels, sum: false }), "dir:out");
    Rule { throttle: DurationNs(0), ..rule }
}

fn missing(grace: u64) -> Rule {
    let detect = MissingRule { expect: Expect::Listeners(1), grace: DurationNs(grace * MS) };
    Rule { throttle: DurationNs(5 * MS), ..rule(Detect::Missing(detect), "lport:80") }
}

/// The reader is late: time comes with the events only.
#[test]
fn a_timer_fires_before_the_event_that_would_cancel_it() {
    let mut rig = Rig::new(missing(10_000));
    let server = process(10, "/usr/sbin/nginx");
    let id = rig.listen(&server, "0.0.0.0:80");
    rig.unlisten(id);
    rig.now = BootNs(rig.now.0 + 11 * SECOND);
    rig.listen(&server, "0.0.0.0:80");
    let reported = rig.reported();
    let steps: Vec<_> = reported.iter().map(|alert| (alert.phase, alert.at)).collect();
    let at = |after: u64| BootNs(BEGAN.0 + after * SECOND);
    assert_eq!(steps, [(Phase::Raised, at(10)), (Phase::Resolved, at(11))]);
}

/// A timer sees the connections as they were at its instant.
#[test]
fn what_ended_later_was_open() {
    let mut rig = Rig::new(long(&[1_000, 2_000]));
    let id = rig.open(&process(10, "/usr/bin/ssh"), "203.0.113.9:22");
    rig.now = BootNs(rig.now.0 + 1_500 * MS);
    rig.close(id, EndedHow::PeerFin, None);
    let steps: Vec<_> = rig.reported().iter().map(|alert| (alert.phase, alert.at.0 - BEGAN.0)).collect();
    assert_eq!(steps, [(Phase::Raised, 1_000 * MS), (Phase::Resolved, 1_500 * MS)]);
}

/// What the tables evict is not open for long, in a replay neither: also where it was there at the start.
#[test]
fn what_is_forgotten_is_followed_no_more() {
    let mut rig = Rig::before(vec![long(&[1_000])]);
    let there = rig.open(&process(10, "/usr/bin/ssh"), "203.0.113.9:22");
    rig.begin();
    rig.forget(there);
    let later = rig.open(&process(10, "/usr/bin/ssh"), "203.0.113.9:22");
    rig.forget(later);
    rig.pass(seconds(5));
    assert!(rig.reported().is_empty());
}

/// A timer fired that reported nothing, then an older event comes: without the clock a replay would have them in the other order.
#[test]
fn an_event_from_before_a_timer_that_fired() {
    let mut rig = Rig::new(missing(1_000));
    let server = process(10, "/usr/sbin/nginx");
    let first = rig.listen(&server, "0.0.0.0:80");
    rig.unlisten(first);
    rig.pass(seconds(1));
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
    let id = rig.listen(&server, "0.0.0.0:80");
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
    // Within the throttle the second absence is only counted, by a timer; what is there again by then comes later.
    rig.unlisten(id);
    rig.pass(DurationNs(1_004 * MS));
    rig.behind(DurationNs(8 * MS), |rig| {
        rig.listen(&server, "0.0.0.0:80");
    });
    rig.phases();
}

/// A program of which nothing was found out yet.
fn unknown(pid: u32, exe: &str) -> Arc<ProcessInfo> {
    Arc::new(ProcessInfo { identity: Identity::default(), ..ProcessInfo::clone(&process(pid, exe)) })
}

fn with_facts(rule: Rule) -> Rig {
    let mut rig = Rig::before(vec![rule]).with_facts();
    rig.begin();
    rig
}

/// The answer takes seconds; another event of the process comes before it. The replay knows it at the same point.
#[test]
fn what_waits_for_facts_is_judged_when_they_come() {
    let mut rig = with_facts(rule(Detect::Process(ProcessRule::Network), "exe_flag:writable"));
    let program = unknown(10, "/tmp/x");
    rig.connect(&program, "203.0.113.9:443");
    rig.pass(seconds(3));
    rig.connect(&program, "203.0.113.10:443");
    rig.pass(seconds(3));
    assert!(rig.reported().is_empty());
    let file = ExeFile { writable: Some(true), ..ExeFile::default() };
    rig.deliver(Answer::of_exe(&program, file));
    let reported = rig.only();
    assert_eq!(reported.at, BootNs(BEGAN.0 + 3 * SECOND), "between the second event and what comes");
    assert_eq!(rig.timers(), 0, "nothing more is found out of it: nothing waits");
    rig.pass(seconds(100));
    assert!(rig.reported().is_empty());
}

/// What is found out at the exec is settled when the program uses the network for the first time: then more
/// is asked.
#[test]
fn what_is_asked_again_is_waited_for_again() {
    let mut rig = with_facts(rule(Detect::Process(ProcessRule::Network), "exe_flag:writable"));
    let program = unknown(10, "/tmp/x");
    rig.exec(&program);
    rig.deliver(Answer::of_copy(&program, None));
    // The table asks when it resolves who connects.
    let answer = Answer::of_exe(&program, ExeFile { writable: Some(true), ..ExeFile::default() });
    rig.connect(&program, "203.0.113.9:443");
    assert!(rig.reported().is_empty());
    rig.deliver(answer);
    assert_eq!(rig.reported().len(), 1);
}

/// A rule that was matched at once is not judged a second time when the facts come that another one waits for.
#[test]
fn facts_are_for_those_who_wait_for_them() {
    let fan_out = PathRule::FanOut { of: FanOutOf::Peers, limit: 1, window: seconds(60) };
    let at_once = rule(Detect::Path(fan_out), "-exe_flag:writable");
    let mut rig = with_facts(at_once);
    let program = unknown(10, "/tmp/x");
    rig.connect(&program, "203.0.113.9:443");
    rig.deliver(Answer::of_exe(&program, ExeFile { writable: Some(false), ..ExeFile::default() }));
    assert!(rig.reported().is_empty(), "one peer");
}

/// What a program is a copy of becomes known after its events: they are judged again, and no others wait.
#[test]
fn a_copied_tool_is_judged_as_what_it_is() {
    for (copy_of, raised) in [(Some("bash"), 1), (Some("perl"), 0), (None, 0)] {
        let mut rig = with_facts(rule(Detect::Process(ProcessRule::Stdio), "proc:bash"));
        let (agent, shell) = (process(10, "/opt/agent"), unknown(11, "/tmp/x"));
        rig.exec(&unknown(12, "/tmp/y"));
        assert_eq!(rig.waiting(), 0, "without a connection there is nothing to wait for");
        let conn = rig.connection(Direction::Out, Some(&agent), None, "203.0.113.9:443", Source::Live);
        rig.opens(conn.clone(), Change::Connect);
        let stdio = Some(Box::new(conn));
        rig.body(EventBody::Exec(ProcEvent { stdio, ..ProcEvent::new(Arc::clone(&shell)) }));
        assert!(rig.reported().is_empty());
        assert_eq!(rig.waiting(), 1);
        rig.deliver(Answer::of_copy(&shell, copy_of));
        assert_eq!((rig.reported().len(), rig.waiting()), (raised, 0), "{copy_of:?}");
        let found = Filter::new("proc:bash").expect("a filter");
        let connect = rig.connection(Direction::Out, Some(&shell), None, "203.0.113.9:444", Source::Live);
        let event = crate::event::samples::event(9, EventBody::Flow(Change::Connect(connect)));
        assert_eq!(found.matches(&event), copy_of == Some("bash"));
    }
}

/// The connection of a renamed netcat is remembered once it is known as that.
#[test]
fn a_secondary_filter_waits_for_what_a_program_is_too() {
    let holds = Filter::new("proc:nc").expect("a filter");
    for (copy_of, raised) in [(Some("nc"), 1), (None, 0)] {
        let mut rig = with_facts(rule(
            Detect::Process(ProcessRule::Spawn {
                holds: holds.clone(),
                beside: false,
                received: None,
                answered: None,
            }),
            "proc:sh",
        ));
        let tool = unknown(10, "/tmp/x");
        rig.open(&tool, "203.0.113.9:443");
        rig.deliver(Answer::of_copy(&tool, copy_of));
        rig.exec(&child(&tool, 11, "/bin/sh"));
        assert_eq!(rig.reported().len(), raised, "{copy_of:?}");
    }
}

/// When an executable was compared is not known by the events: the answer comes between two of the detector's looks at it.
#[test]
fn an_answer_is_known_where_it_came() {
    let replaced =
        Rule { throttle: DurationNs(0), ..rule(Detect::Process(ProcessRule::Replaced), "dir:out") };
    for after in [1, 49, 51, 200, 700] {
        let mut rig = with_facts(replaced.clone());
        let program = process(10, "/usr/bin/x");
        rig.connect(&program, "203.0.113.9:443");
        rig.pass(DurationNs(after * MS));
        rig.deliver(Answer::of_comparison(&program, Replaced::Other));
        rig.pass(seconds(5));
        assert_eq!(rig.phases(), [(1, Phase::Raised)], "after {after} ms");
        // It is compared anew after a while: until then that is not known.
        rig.pass(seconds(60));
        rig.connect(&program, "203.0.113.9:443");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Close(usize),
    Listen,
    Unlisten(usize),
    Pass(u64),
    /// Time goes on, and nobody looks.
    Skip(u64),
}

fn steps() -> impl Strategy<Value = Vec<(Step, u64)>> {
    let step = prop_oneof![
        2 => Just(Step::Open),
        2 => any::<usize>().prop_map(Step::Close),
        2 => Just(Step::Listen),
        3 => any::<usize>().prop_map(Step::Unlisten),
        2 => (0..30_u64).prop_map(Step::Pass),
        2 => (0..30_u64).prop_map(Step::Skip),
    ];
    // Nearly all in order, some a little behind.
    proptest::collection::vec((step, prop_oneof![3 => Just(0), 1 => 0..12_u64]), 0..80)
}

fn take(ids: &mut Vec<ConnId>, which: usize) -> Option<ConnId> {
    (!ids.is_empty()).then(|| ids.swap_remove(which % ids.len()))
}

proptest! {
    #[test]
    fn the_order_of_a_run_is_that_of_its_replay(steps in steps()) {
        let mut rig = Rig::before(vec![long(&[7, 20]), missing(10)]);
        rig.begin();
        rig.now = BootNs(rig.now.0 + 100 * MS);
        let (ssh, server) = (process(10, "/usr/bin/ssh"), process(11, "/usr/sbin/nginx"));
        let (mut open, mut listening) = (Vec::new(), Vec::new());
        for (step, behind) in steps {
            let behind = DurationNs(behind * MS);
            match step {
                Step::Open => rig.behind(behind, |rig| open.push(rig.open(&ssh, "203.0.113.9:22"))),
                Step::Close(which) => {
                    if let Some(id) = take(&mut open, which) {
                        rig.behind(behind, |rig| rig.close(id, EndedHow::PeerFin, None));
                    }
                }
                Step::Listen => rig.behind(behind, |rig| listening.push(rig.listen(&server, "0.0.0.0:80"))),
                Step::Unlisten(which) => {
                    if let Some(id) = take(&mut listening, which) {
                        rig.behind(behind, |rig| rig.unlisten(id));
                    }
                }
                Step::Pass(ms) => rig.pass(DurationNs(ms * MS)),
                Step::Skip(ms) => rig.now = BootNs(rig.now.0 + ms * MS),
            }
        }
        rig.pass(DurationNs(0));
        // Its end compares.
        drop(rig);
    }
}

//! Alerts that wait for facts of their process. Each test is replayed at its end: the replay gives the same
//! alerts with the same facts.

use std::sync::Arc;

use super::hold::{ALERT_FACTS, HELD_MAX};
use crate::event::alert::{Alert, Phase};
use crate::flow::model::EndedHow;
use crate::process::identity::{ExeFile, Identity, ProcessState, Tty};
use crate::process::info::ProcessInfo;
use crate::process::inspect::Answer;
use crate::rules::model::{Detect, PathRule};
use crate::rules::testing::{BEGAN, Rig, process, rule};
use crate::units::{DurationNs, NetNs};

const MS: DurationNs = DurationNs(1_000_000);

fn rig() -> Rig {
    let mut rig =
        Rig::before(vec![rule(Detect::Path(PathRule::Forbidden), "dir:out")]).with_facts().holding();
    rig.begin();
    rig
}

/// Nothing is found out about it yet but what rules ask for.
fn unseen(pid: u32) -> Arc<ProcessInfo> {
    let program = process(pid, "/usr/bin/x");
    let identity = Identity::default();
    identity.set_exe(ExeFile { writable: Some(false), ..ExeFile::default() });
    identity.set_exe_is_host(true);
    identity.set_copy_of(None);
    Arc::new(ProcessInfo { identity, ..ProcessInfo::clone(&program) })
}

fn state() -> ProcessState {
    ProcessState { cwd: Some(b"/srv"[..].into()), tty: Tty::None, netns: Some(NetNs(7)) }
}

/// What an alert shows of its process: directory, namespace, hash.
fn shown(alert: &Alert) -> (bool, bool, bool) {
    let identity = &alert.subject.process().expect("a process").identity;
    let state = identity.state();
    let has = |of: fn(&ProcessState) -> bool| state.is_some_and(of);
    (has(|state| state.cwd.is_some()), has(|state| state.netns.is_some()), identity.sha256().is_some())
}

#[test]
fn it_waits_for_what_it_shows_of_its_process() {
    let mut rig = rig();
    let program = unseen(10);
    rig.open(&program, "203.0.113.9:22");
    rig.pass(MS);
    rig.deliver(Answer::of_state(&program, state()));
    assert!(rig.reported().is_empty(), "the hash is being computed");
    rig.pass(MS);
    rig.deliver(Answer::of_hash(&program, Some([7; 32])));
    let alert = rig.only();
    assert_eq!(shown(&alert), (true, true, true));
    assert_eq!(alert.at, BEGAN, "when it was found");
    assert_eq!(rig.timers(), 0);
    // What is known does not wait.
    rig.open(&program, "203.0.113.10:22");
    assert_eq!(rig.reported().len(), 1);
}

/// A large file takes longer to hash.
#[test]
fn it_waits_no_longer_than_that() {
    let mut rig = rig();
    let program = unseen(10);
    rig.open(&program, "203.0.113.9:22");
    rig.deliver(Answer::of_state(&program, state()));
    rig.pass(DurationNs(ALERT_FACTS.0 - 1));
    assert!(rig.reported().is_empty());
    rig.pass(DurationNs(1));
    assert_eq!(shown(&rig.only()), (true, true, false));
    rig.deliver(Answer::of_hash(&program, Some([7; 32])));
    assert!(rig.reported().is_empty());
    // An event shows that the time is over, too.
    rig.open(&unseen(11), "203.0.113.11:22");
    rig.now.0 += ALERT_FACTS.0;
    rig.exec(&unseen(12));
    assert_eq!(rig.reported().len(), 1);
}

/// Steps of one alert, and those of other processes, come in the order in which they were found.
#[test]
fn the_order_is_that_of_what_was_found() {
    let mut rig = rig();
    let (one, other) = (unseen(10), unseen(11));
    other.identity.set_state(state());
    other.identity.set_sha256(Some([8; 32]));
    let id = rig.open(&one, "203.0.113.9:22");
    rig.pass(MS);
    rig.open(&other, "203.0.113.10:22");
    rig.close(id, EndedHow::PeerFin, None);
    assert!(rig.reported().is_empty(), "all behind the first");
    rig.deliver(Answer::of_state(&one, state()));
    rig.deliver(Answer::of_hash(&one, Some([7; 32])));
    assert_eq!(rig.phases(), [(1, Phase::Raised), (2, Phase::Raised), (1, Phase::Resolved)]);
}

/// At the end of the stream nothing waits any more.
#[test]
fn the_end_hands_out_what_waits() {
    let mut rig = rig();
    rig.open(&unseen(10), "203.0.113.9:22");
    assert!(rig.reported().is_empty());
    // The replay at the end of the rig compares: it has the alert.
    drop(rig);
}

/// Many alerts at once do not take memory without end.
#[test]
fn the_first_does_not_wait_where_too_many_do() {
    let mut rig = rig();
    let program = unseen(10);
    for at in 0..=HELD_MAX {
        rig.open(&program, &format!("203.0.{}.{}:22", at >> 8, at & 255));
    }
    assert_eq!(rig.reported().len(), 1);
    rig.pass(ALERT_FACTS);
    assert_eq!((rig.reported().len(), rig.timers()), (HELD_MAX, 0));
}

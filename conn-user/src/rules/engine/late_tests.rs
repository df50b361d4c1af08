//! Exceptions by what is found out in the background.

use std::sync::Arc;

use crate::filter::Filter;
use crate::process::identity::Identity;
use crate::process::info::ProcessInfo;
use crate::rules::engine::LATE_FACTS;
use crate::rules::model::{Detect, PathRule, Rule};
use crate::rules::testing::{Rig, process, rule};

fn forbidden() -> Rule {
    let except = Filter::new("exe:/usr/sbin/sshd exe_flag:host").expect("a filter");
    Rule { except: [except].into(), ..rule(Detect::Path(PathRule::Forbidden), "dir:out dport:22") }
}

/// Nothing is found out about it yet.
fn unsettled(pid: u32, exe: &str) -> Arc<ProcessInfo> {
    let identity = Identity::default();
    Arc::new(ProcessInfo { identity, ..ProcessInfo::clone(&process(pid, exe)) })
}

/// Neither a false alert while the answer is on its way, nor none at all when none comes.
#[test]
fn an_exception_waits_for_its_fact_and_not_for_ever() {
    for (answer, raised) in [(Some(true), 0), (Some(false), 1), (None, 1)] {
        let mut rig = Rig::new(forbidden());
        // Its events are written down when the answer is there already.
        rig.is_not_recorded();
        let sshd = unsettled(10, "/usr/sbin/sshd");
        rig.open(&sshd, "203.0.113.9:22");
        assert!(rig.reported().is_empty(), "{answer:?}: it waits");
        if let Some(is_host) = answer {
            sshd.identity.set_exe_is_host(is_host);
        }
        rig.pass(LATE_FACTS);
        assert_eq!(rig.reported().len(), raised, "{answer:?}");
    }
}

#[test]
fn what_no_exception_can_concern_does_not_wait() {
    let mut rig = Rig::new(forbidden());
    rig.open(&unsettled(10, "/usr/bin/ssh"), "203.0.113.9:22");
    assert_eq!(rig.reported().len(), 1, "another executable");
    let known = unsettled(11, "/usr/sbin/sshd");
    known.identity.set_exe_is_host(false);
    rig.open(&known, "203.0.113.10:22");
    assert_eq!(rig.reported().len(), 1, "known to be another file");
}

/// Facts of one process never come (its executable is on a file system that hangs): the others wait for theirs as ever.
#[test]
fn a_process_whose_facts_never_come_leaves_room_for_others() {
    let mut rig = Rig::new(forbidden());
    rig.is_not_recorded();
    let hangs = unsettled(10, "/usr/sbin/sshd");
    for at in 0..300_u32 {
        rig.open(&hangs, &format!("203.0.{}.{}:22", at >> 8, at & 255));
    }
    // It fires for those that find no room, by what is known.
    assert_eq!((rig.waiting(), rig.reported().len()), (256, 300 - 256));
    let sshd = unsettled(11, "/usr/sbin/sshd");
    rig.open(&sshd, "203.0.113.9:22");
    assert_eq!((rig.waiting(), rig.reported().len()), (257, 0), "another one waits");
    rig.pass(LATE_FACTS);
    assert_eq!((rig.waiting(), rig.timers()), (0, 0));
}

/// All events of a process are judged when its facts come, each looked at once.
#[test]
fn each_waiting_event_is_looked_at_once() {
    let mut rig = Rig::new(forbidden());
    rig.is_not_recorded();
    for pid in 10..20 {
        let sshd = unsettled(pid, "/usr/sbin/sshd");
        for at in 0..100 {
            rig.open(&sshd, &format!("203.0.113.{at}:22"));
        }
    }
    let one = unsettled(30, "/usr/sbin/sshd");
    rig.open(&one, "203.0.113.9:22");
    let _ = crate::rules::work::taken();
    rig.deliver(crate::process::inspect::Answer::of_exe(&one, crate::process::identity::ExeFile::default()));
    assert_eq!(crate::rules::work::taken(), 1);
    assert_eq!(rig.waiting(), 1_000);
}

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

/// Neither a false alert while the answer is on its way, nor silence when none comes.
#[test]
fn an_exception_waits_for_its_fact_and_not_for_ever() {
    for (answer, raised) in [(Some(true), 0), (Some(false), 1), (None, 1)] {
        let mut rig = Rig::new(forbidden());
        // Its events are written down when the answer is there already.
        rig.is_not_recorded();
        let sshd = unsettled(10, "/usr/sbin/sshd");
        rig.open(&sshd, "203.0.113.9:22");
        assert!(rig.told().is_empty(), "{answer:?}: it waits");
        if let Some(is_host) = answer {
            sshd.identity.set_exe_is_host(is_host);
        }
        rig.pass(LATE_FACTS);
        assert_eq!(rig.told().len(), raised, "{answer:?}");
    }
}

#[test]
fn what_no_exception_can_concern_does_not_wait() {
    let mut rig = Rig::new(forbidden());
    rig.open(&unsettled(10, "/usr/bin/ssh"), "203.0.113.9:22");
    assert_eq!(rig.told().len(), 1, "another executable");
    let known = unsettled(11, "/usr/sbin/sshd");
    known.identity.set_exe_is_host(false);
    rig.open(&known, "203.0.113.10:22");
    assert_eq!(rig.told().len(), 1, "known to be another file");
}

//! What is remembered of ended connections and processes is bounded, and costs nothing: counted, not timed.

use std::sync::Arc;

use super::defaults;
use super::engine::LATE_FACTS;
use super::host::Host;
use super::model::{Detect, LongRule, PathRule, Rule};
use super::testing::{Rig, child, process, rule, seconds};
use super::work;
use crate::event::alert::Severity;
use crate::filter::Filter;
use crate::flow::model::EndedHow;
use crate::process::identity::{ExeFile, Identity};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::DurationNs;

/// The default rules, in a rig that is not replayed: it takes too many events.
fn with_defaults() -> Rig {
    let set = defaults::set(&Host::default()).expect("the default rules");
    let mut rig = Rig::before(set.rules.iter().map(|rule| Rule::clone(rule)).collect());
    rig.is_not_recorded();
    rig.begin();
    rig
}

/// Clients from outside come and go.
fn visits(rig: &mut Rig, count: u32) {
    let nginx = process(10, "/usr/sbin/nginx");
    for at in 0..count {
        rig.pass(DurationNs(1_000_000));
        let remote = format!("203.0.{}.{}:{}", at >> 8 & 255, at & 255, 1_024 + at % 60_000);
        let id = rig.accept(&nginx, "10.0.0.1:443", &remote);
        rig.close(id, EndedHow::PeerFin, None);
    }
}

#[test]
fn an_event_costs_as_much_when_much_is_remembered() {
    let mut rig = with_defaults();
    let shell = child(&process(10, "/usr/sbin/nginx"), 100_001, "/bin/bash");
    let mut cost = |remembered: u32| {
        visits(&mut rig, remembered);
        let _ = work::taken();
        visits(&mut rig, 10);
        let id = rig.connect(&shell, "10.0.0.9:22");
        rig.fail(id, 111);
        work::taken()
    };
    let few = cost(10);
    assert_eq!(cost(2_000), few);
}

/// Each pair of a program and a peer reaches its level at the same time, when many connections are open.
#[test]
fn an_alert_on_a_sum_looks_at_its_own_connections() {
    let levels = [(seconds(100), Severity::Low)].into();
    let sum = rule(Detect::Long(LongRule { levels, sum: true }), "dir:out");
    let mut rig = Rig::before(vec![sum]);
    rig.is_not_recorded();
    rig.begin();
    let agent = process(10, "/usr/bin/agent");
    for at in 0..200_u32 {
        rig.open(&agent, &format!("203.0.113.{at}:443"));
    }
    let _ = work::taken();
    rig.pass(seconds(101));
    assert_eq!(rig.reported().len(), 200);
    assert!(work::taken() <= 200, "one each");
}

#[test]
fn what_has_ended_leaves_no_timer_and_is_not_followed() {
    let mut rig = with_defaults();
    let mut left = |count: u32| {
        visits(&mut rig, count);
        for at in 0..count / 10 {
            let tool = child(&process(20, "/usr/bin/cron"), 200_000 + at, "/usr/bin/tool");
            rig.exec(&tool);
            rig.open_and_close(&tool, &format!("198.51.{}.7:443", at & 255), None);
            let id = rig.listen(&tool, "0.0.0.0:8080");
            rig.unlisten(id);
            rig.exit(&tool, ExitStatus::Code(0));
        }
        rig.reported();
        (rig.timers(), rig.followed())
    };
    let few = left(100);
    assert_eq!(left(1_000), few);
    // One for each of the rules on pivots, whose memory expires.
    assert_eq!(few, (4, 0));
    rig.pass(seconds(3_600));
    assert_eq!(rig.timers(), 0);
}

/// An event of a connection that has ended since is judged when its facts are known: nothing may stay of it.
#[test]
fn what_is_judged_after_its_end_leaves_nothing() {
    let to = Filter::new("dir:out raddr:rfc1918").expect("a filter");
    let levels = || [(seconds(100), Severity::Low)].into();
    let detectors = [
        (Detect::Path(PathRule::Pivot { to, within: seconds(60), own: true }), "exe_flag:writable"),
        (
            Detect::Path(PathRule::Beacon { score: 0.9, at_least: 4, apart: DurationNs(0) }),
            "exe_flag:writable",
        ),
        (Detect::Long(LongRule { levels: levels(), sum: false }), "exe_flag:writable"),
        (Detect::Long(LongRule { levels: levels(), sum: true }), "exe_flag:writable"),
    ];
    for (detect, matches) in detectors {
        let mut rig = Rig::new(rule(detect, matches));
        rig.is_not_recorded();
        let identity = Identity::default();
        let server = process(10, "/tmp/server");
        let server = Arc::new(ProcessInfo { identity, ..ProcessInfo::clone(&server) });
        let id = rig.accept(&server, "10.0.0.1:80", "203.0.113.1:5000");
        rig.close(id, EndedHow::PeerFin, None);
        server.identity.set_exe(ExeFile { writable: Some(true), ..ExeFile::default() });
        rig.pass(LATE_FACTS);
        assert_eq!(rig.followed(), 0);
        rig.pass(seconds(61));
        assert_eq!(rig.timers(), 0);
    }
}

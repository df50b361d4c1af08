//! Long connections on the rig's clock.

use crate::event::alert::{Phase, Severity, Value};
use crate::flow::model::{Direction, EndedHow, Traffic};
use crate::rules::model::{Detect, LongRule, Rule};
use crate::rules::testing::{Rig, evidence, process, rule, seconds};
use crate::units::DurationNs;

const HOUR: u64 = 3_600;

fn long(sum: bool) -> Rule {
    let levels = [(1, Severity::Low), (4, Severity::Medium), (12, Severity::High)];
    let levels = levels.map(|(hours, severity)| (seconds(hours * HOUR), severity)).into();
    rule(Detect::Long(LongRule { levels, sum }), "dir:out,unknown -raddr:loopback")
}

fn duration(seconds: u64) -> Value {
    Value::Duration(DurationNs(seconds * 1_000_000_000))
}

#[test]
fn levels_escalate_under_one_id_and_the_end_resolves() {
    let mut rig = Rig::new(long(false));
    let id = rig.open(&process(10, "/usr/bin/ssh"), "203.0.113.9:22");
    rig.pass(DurationNs(HOUR * 1_000_000_000 - 1));
    assert!(rig.reported().is_empty(), "not a nanosecond too early");
    rig.pass(DurationNs(1));
    let alert = rig.only();
    assert_eq!((alert.phase, alert.severity), (Phase::Raised, Severity::Low));
    assert_eq!(evidence(&alert, "open_for"), Some(&duration(HOUR)));
    rig.pass(seconds(11 * HOUR));
    let reported: Vec<_> =
        rig.reported().iter().map(|alert| (alert.id.0, alert.phase, alert.severity)).collect();
    assert_eq!(reported, [(1, Phase::Escalated, Severity::Medium), (1, Phase::Escalated, Severity::High)]);
    rig.pass(seconds(100));
    rig.close(id, EndedHow::PeerFin, Some(Traffic { bytes_out: 7, ..Traffic::default() }));
    let alert = rig.only();
    assert_eq!((alert.id.0, alert.phase), (1, Phase::Resolved));
    assert_eq!(evidence(&alert, "open_for"), Some(&duration(12 * HOUR + 100)));
    assert_eq!(evidence(&alert, "bytes_out"), Some(&Value::Number(7)));
    assert_eq!((rig.timers(), rig.followed()), (0, 0));
}

#[test]
fn short_and_other_connections_leave_nothing() {
    let mut rig = Rig::new(long(false));
    let ssh = process(10, "/usr/bin/ssh");
    rig.open_and_close(&ssh, "203.0.113.9:22", None);
    rig.open(&ssh, "127.0.0.1:22");
    let id = rig.connect(&ssh, "203.0.113.9:22");
    rig.fail(id, 111);
    assert_eq!((rig.timers(), rig.followed()), (0, 0));
    rig.pass(seconds(100 * HOUR));
    assert!(rig.reported().is_empty());
}

#[test]
fn one_from_before_counts_from_its_bound() {
    let mut rig = Rig::before(vec![long(false)]);
    let ssh = process(10, "/usr/bin/ssh");
    // Between its process's start (0.1 s after boot) and now, 1,000 s after boot: certainly open from now on.
    rig.existing(Direction::Unknown, &ssh, None, "203.0.113.9:22");
    rig.begin();
    assert!(rig.reported().is_empty());
    rig.pass(seconds(HOUR));
    let alert = rig.only();
    assert_eq!(evidence(&alert, "open_for"), Some(&duration(HOUR)));
    let Some(Value::Duration(most)) = evidence(&alert, "open_for_at_most") else { panic!("{alert:?}") };
    assert_eq!(most.0 / 1_000_000_000, HOUR + 999);
}

#[test]
fn many_are_summed_by_program_and_peer() {
    let mut rig = Rig::new(long(true));
    let ssh = process(10, "/usr/bin/ssh");
    for _ in 0..3 {
        let id = rig.open(&ssh, "203.0.113.9:22");
        let other = rig.open(&ssh, "203.0.113.10:22");
        rig.pass(seconds(1_199));
        rig.close(id, EndedHow::LocalFin, None);
        rig.close(other, EndedHow::LocalFin, None);
        rig.pass(seconds(5_000));
    }
    assert!(rig.reported().is_empty(), "3 s are missing");
    let id = rig.open(&ssh, "203.0.113.9:22");
    rig.pass(seconds(2));
    assert!(rig.reported().is_empty());
    rig.pass(seconds(1));
    let alert = rig.only();
    assert_eq!((alert.phase, evidence(&alert, "connections")), (Phase::Raised, Some(&Value::Number(4))));
    assert_eq!(evidence(&alert, "open_in_all"), Some(&duration(HOUR)));
    rig.close(id, EndedHow::LocalFin, None);
    assert_eq!(rig.only().phase, Phase::Resolved);
    assert_eq!((rig.timers(), rig.followed()), (0, 0));
}

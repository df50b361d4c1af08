//! Other rules take over while connections are open.

use crate::event::alert::{Covered, Phase, Severity, Value};
use crate::flow::model::{Direction, EndedHow};
use crate::rules::model::{Detect, LongRule, PathKey, PathRule, Rule};
use crate::rules::testing::{BEGAN, Rig, evidence, process, rule, seconds};

fn long(matches: &str) -> Rule {
    let levels = [(seconds(100), Severity::Low), (seconds(200), Severity::High)].into();
    rule(Detect::Long(LongRule { levels, sum: false }), matches)
}

fn first_seen() -> Rule {
    let detect = PathRule::FirstSeen { by: [PathKey::Ip].into(), learn: seconds(50) };
    rule(Detect::Path(detect), "dir:out")
}

#[test]
fn a_rule_that_stays_goes_on() {
    let mut rig = Rig::before(vec![long("dir:out"), first_seen()]);
    rig.begin();
    let ssh = process(10, "/usr/bin/ssh");
    let id = rig.open(&ssh, "203.0.113.9:22");
    rig.pass(seconds(101));
    assert_eq!(rig.only().phase, Phase::Raised);
    rig.set_rules(vec![first_seen(), long("dir:out")]);
    assert!(rig.reported().is_empty(), "in another order, but the same");
    rig.pass(seconds(100));
    let alert = rig.only();
    assert_eq!((alert.id.0, alert.phase), (1, Phase::Escalated));
    // What was learnt is not forgotten, and nothing is learnt any more.
    rig.open_and_close(&ssh, "203.0.113.9:22", None);
    assert!(rig.reported().is_empty());
    rig.open_and_close(&ssh, "203.0.113.10:22", None);
    assert_eq!(rig.phases(), [(2, Phase::Raised), (2, Phase::Resolved)]);
    rig.close(id, EndedHow::PeerFin, None);
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
}

#[test]
fn a_rule_that_goes_ends_its_alerts_and_a_new_one_judges_what_is_there() {
    let mut rig = Rig::new(long("dir:out"));
    let ssh = process(10, "/usr/bin/ssh");
    let id = rig.open(&ssh, "203.0.113.9:22");
    rig.pass(seconds(150));
    assert_eq!(rig.only().phase, Phase::Raised);
    let forbidden = rule(Detect::Path(PathRule::Forbidden), "dir:out dport:22");
    rig.set_rules(vec![forbidden, long("dir:out rport:22"), first_seen()]);
    let reported = rig.reported();
    let steps: Vec<_> = reported.iter().map(|alert| (alert.id.0, alert.phase, alert.severity)).collect();
    let (medium, low) = (Severity::Medium, Severity::Low);
    assert_eq!(steps[0], (1, Phase::Resolved, low), "its filter is another now");
    assert_eq!(evidence(&reported[0], "why"), Some(&Value::Text(b"the rule is no longer active"[..].into())));
    assert_eq!(steps[1..], [(2, Phase::Raised, medium)], "an open connection is forbidden");
    rig.pass(seconds(1));
    assert_eq!(
        rig.phases(),
        [(3, Phase::Raised)],
        "the new level counts from the beginning of the connection"
    );
    rig.pass(seconds(49));
    assert_eq!(rig.phases(), [(3, Phase::Escalated)]);
    rig.close(id, EndedHow::PeerFin, None);
    assert_eq!(rig.phases().len(), 2);
    assert_eq!((rig.timers(), rig.followed()), (0, 0));
    rig.set_rules(Vec::new());
    assert!(rig.reported().is_empty());
}

#[test]
fn what_existed_at_the_start_was_not_watched_from_its_beginning() {
    let mut rig = Rig::before(vec![rule(Detect::Path(PathRule::Forbidden), "dport:22")]);
    let ssh = process(10, "/usr/bin/ssh");
    rig.existing(Direction::Out, &ssh, None, "203.0.113.9:22");
    rig.begin();
    assert_eq!(rig.only().covered, Covered::Since(BEGAN), "though the rule asks for no span of time");
    rig.open(&ssh, "203.0.113.10:22");
    assert_eq!(rig.only().covered, Covered::All);
}

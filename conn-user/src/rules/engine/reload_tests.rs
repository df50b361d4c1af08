//! Rules that are loaded again and again: places are used again, and the work is that of what has changed.

use std::sync::Arc;

use super::Engine;
use crate::event::alert::{Phase, RuleRef, Severity};
use crate::flow::model::EndedHow;
use crate::rules::RuleSet;
use crate::rules::model::{Detect, LongRule, PathRule, ProcessRule, Rule, ServerRule};
use crate::rules::testing::{Rig, process, rule, seconds};
use crate::rules::work;
use crate::units::{BootNs, DurationNs};

fn named(number: usize, port: usize) -> Arc<Rule> {
    let (detect, matches) = match number % 4 {
        0 => (Detect::Path(PathRule::Forbidden), format!("dir:out dport:{port}")),
        1 => (Detect::Process(ProcessRule::Network), format!("proc:tool-{number} dport:{port}")),
        2 => (Detect::Server(ServerRule::Takeover), format!("lport:{port}")),
        _ => {
            let levels = [(DurationNs(1_000_000 * port as u64), Severity::Low)].into();
            (Detect::Long(LongRule { levels, sum: false }), "dir:out dport:443".to_owned())
        }
    };
    let rule = rule(detect, &matches);
    let about = RuleRef { id: format!("rule-{number}").into(), ..(*rule.about).clone() };
    Arc::new(Rule { about: Arc::new(about), ..rule })
}

fn set(count: usize, first_port: usize) -> RuleSet {
    let rules = (0..count).map(|number| named(number, first_port + number)).collect();
    let names = Arc::new(crate::filter::Names::builtin().clone());
    RuleSet { rules, names, baseline: Arc::default() }
}

struct Nowhere;

impl crate::rules::detector::Flows for Nowhere {
    fn connection(&self, _id: crate::flow::model::ConnId) -> Option<crate::flow::model::ConnEvent> {
        None
    }
}

#[test]
fn reloads_use_places_again_and_cost_what_has_changed() {
    const RULES: usize = 1_000;
    let (one, other) = (set(RULES, 1_000), set(RULES, 20_000));
    let mut engine = Engine::new(&one, BootNs(1));
    engine.start(BootNs(1), [], &Nowhere);
    // A connection that stays open, which all the rules of kind `long` follow.
    let open: Vec<_> = {
        let mut rig = Rig::before(Vec::new());
        rig.existing(crate::flow::model::Direction::Out, &process(10, "/usr/bin/x"), None, "203.0.113.9:443");
        rig.existing_events()
    };
    let mut figures = Vec::new();
    for reload in 0..100_u64 {
        // Staging is done elsewhere; what remains for the thread that judges is counted.
        let set = if reload % 2 == 0 { &other } else { &one };
        let staged = engine.layout().stage(set);
        let _ = work::taken();
        engine.apply(staged, BootNs(2 + reload), open.iter().cloned(), &Nowhere);
        let followers: usize = engine.followed.values().map(|followers| followers.iter().count()).sum();
        figures.push((work::taken(), engine.running.len(), engine.timers.len(), followers));
    }
    // Each reload removes 1,000 rules and 250 timers, and adds 1,000 rules.
    assert_eq!(figures[1], (2_250, RULES, 250, 250));
    assert!(figures[1..].iter().all(|own| *own == figures[1]), "{figures:?}");

    let same = engine.layout().stage(&one);
    engine.apply(same, BootNs(200), [], &Nowhere);
    assert_eq!(work::taken(), 0, "nothing changed");
    let mut rules = one.rules.clone();
    rules[0] = named(0, 7);
    let changed = engine.layout().stage(&RuleSet { rules, ..one });
    engine.apply(changed, BootNs(201), [], &Nowhere);
    assert_eq!(work::taken(), 2, "one removed and one added");
    assert_eq!(engine.running.len(), RULES);
}

/// What was left of a rule is not taken for the one that has its place now.
#[test]
fn a_place_that_is_used_again_has_nothing_of_before() {
    let long = |level, matches: &str| {
        let levels = [(seconds(level), Severity::Low)].into();
        rule(Detect::Long(LongRule { levels, sum: false }), matches)
    };
    let mut rig = Rig::before(vec![long(10, "dir:out")]);
    rig.begin();
    let ssh = process(10, "/usr/bin/ssh");
    let id = rig.open(&ssh, "203.0.113.9:22");
    rig.set_rules(vec![long(20, "dir:in")]);
    rig.pass(seconds(15));
    assert!(rig.reported().is_empty(), "the timer of before is gone");
    rig.set_rules(vec![long(12, "dir:out")]);
    rig.pass(seconds(1));
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
    rig.set_rules(vec![rule(Detect::Path(PathRule::Forbidden), "dir:out")]);
    assert_eq!(rig.phases(), [(1, Phase::Resolved), (2, Phase::Raised)]);
    rig.set_rules(vec![rule(Detect::Path(PathRule::Forbidden), "dir:out dport:22")]);
    assert_eq!(
        rig.phases(),
        [(2, Phase::Resolved), (3, Phase::Raised)],
        "not within the throttle of another rule"
    );
    rig.close(id, EndedHow::PeerFin, None);
    assert_eq!(rig.phases(), [(3, Phase::Resolved)]);
}

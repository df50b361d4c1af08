//! One command: what its processes connected to and served, and whether that is what was expected. `docs/run.md`.
//!
//! Events go in, those of the run's processes ([`tree`]) are kept ([`seen`]) and judged; at the end comes a [`report`]. Nothing here
//! knows the kernel: time is that of the events, as in a replay. A rule of kind `missing` is an expectation ([`expect`]), all others
//! are judged by the ordinary engine; what it raises is unexpected.

pub mod expect;
pub mod json;
pub mod junit;
pub mod report;
#[cfg(test)]
mod samples;
pub mod schema;
pub mod seen;
#[cfg(test)]
mod tests;
pub mod text;
pub mod tree;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use self::expect::Expectation;
use self::report::{Command, Ended, Loss, Report, Unexpected};
use self::seen::Seen;
use self::tree::Tree;
use crate::event::alert::{Alert, Phase};
use crate::event::model::{Event, EventBody};
use crate::process::hash::IntBuild;
use crate::replay::flows::Living;
use crate::rules::engine::LATE_FACTS;
use crate::rules::model::Rule;
use crate::rules::{Engine, RuleSet};
use crate::units::{BootNs, WallNs};

/// Most unexpected things that are told one by one, but for the first of a rule; more are counted.
const UNEXPECTED_MAX: usize = 1_000;

/// A tree that is filled where forks are seen, and asked here.
pub type SharedTree = Rc<RefCell<Tree>>;

/// See the module.
pub struct Run {
    tree: SharedTree,
    began: BootNs,
    seen: Seen,
    living: Living,
    judges: Option<Judges>,
    unexpected: Vec<Unexpected>,
    by_alert: HashMap<u64, usize, IntBuild>,
    more_unexpected: u64,
    lost: u64,
    /// What the wall clock is ahead of the time since boot, by the last event.
    wall: u64,
}

/// What judges a run.
struct Judges {
    engine: Engine,
    rules: Vec<Arc<Rule>>,
    expectations: Vec<Expectation>,
}

impl Judges {
    /// The run is over. What was not judged as it should, for want of room.
    fn finish(&mut self) -> u64 {
        let engine = self.engine.stats();
        let not_asked = self.expectations.iter_mut().map(Expectation::finish);
        not_asked.fold(engine.late_dropped.saturating_add(engine.forgotten), u64::saturating_add)
    }
}

impl Run {
    /// A run that begins now; without rules nothing is expected.
    pub fn new(rules: Option<&RuleSet>, tree: SharedTree, began: BootNs) -> Self {
        let living = Living::default();
        let judges = rules.map(|rules| {
            let expectations = rules.rules.iter().filter_map(Expectation::of).collect();
            let others: Vec<_> =
                rules.rules.iter().filter(|rule| Expectation::of(rule).is_none()).cloned().collect();
            let set = RuleSet { rules: others.clone(), ..rules.clone() };
            let mut engine = Engine::new(&set, began);
            // What was there before is not the run's.
            engine.start(began, [], &living);
            Judges { engine, rules: others, expectations }
        });
        Self {
            tree,
            began,
            seen: Seen::default(),
            living,
            judges,
            unexpected: Vec::new(),
            by_alert: HashMap::default(),
            more_unexpected: 0,
            lost: 0,
            wall: 0,
        }
    }

    /// Takes an event of the machine.
    pub fn on_event(&mut self, event: &Event) {
        if event.seq == 0 || event.boot < self.began {
            return;
        }
        self.wall = event.wall.0.wrapping_sub(event.boot.0);
        self.pass(event.boot);
        if !self.is_of_run(event) {
            return;
        }
        if let EventBody::Flow(change) = &event.body {
            self.seen.on_change(change);
        }
        let Some(judges) = &mut self.judges else { return };
        let event = self.living.follow(event.clone());
        for expectation in &mut judges.expectations {
            expectation.on_event(&event);
        }
        let alerts = judges.engine.on_event(&event, &self.living);
        self.take(alerts);
    }

    /// Whether an event is of a process of the run, or a loss, which concerns everybody.
    fn is_of_run(&mut self, event: &Event) -> bool {
        let mut tree = self.tree.borrow_mut();
        match &event.body {
            EventBody::Exec(of) => {
                tree.on_exec(&of.process);
                !tree.is_over(event.boot) && tree.has(&of.process)
            }
            EventBody::Exit(of, _) => {
                let is_of_run = tree.has(&of.process);
                tree.on_exit(&of.process);
                is_of_run
            }
            EventBody::Flow(change) => {
                let of_connection = change.connection().map(|conn| {
                    // Nobody accepted it: it is its listener's.
                    let listener = || conn.listener.as_ref().and_then(|listener| listener.process.as_ref());
                    (conn.id, conn.owner.process.as_ref().or_else(listener))
                });
                let of_listener = || change.listener().map(|of| (of.id, of.owner.process.as_ref()));
                of_connection.or_else(of_listener).is_some_and(|(id, owner)| {
                    self.seen.is_open(id)
                        || !tree.is_over(event.boot) && owner.is_some_and(|owner| tree.has(owner))
                })
            }
            EventBody::Gap(gap) => {
                let is_during = !tree.is_over(gap.from);
                if is_during {
                    self.lost = self.lost.saturating_add(gap.lost);
                }
                is_during
            }
            EventBody::Alert(_) | EventBody::Start(_) => false,
        }
    }

    /// Lets the time pass until then: timers fire at their instants.
    fn pass(&mut self, until: BootNs) {
        while let Some(judges) = &mut self.judges
            && let Some(due) = judges.engine.next_deadline().filter(|due| *due <= until)
        {
            let alerts = judges.engine.on_time(due, &self.living);
            self.take(alerts);
        }
    }

    fn take(&mut self, alerts: Vec<Alert>) {
        for alert in alerts {
            match (alert.phase, self.by_alert.get(&alert.id.0)) {
                // The first one of each rule is told in any case: by it the rule has failed.
                (Phase::Raised, _)
                    if self.unexpected.len() >= UNEXPECTED_MAX
                        && self.unexpected.iter().any(|told| told.alert.rule.id == alert.rule.id) =>
                {
                    self.more_unexpected += 1;
                }
                (Phase::Raised, _) => {
                    self.by_alert.insert(alert.id.0, self.unexpected.len());
                    let wall = WallNs(alert.at.0.wrapping_add(self.wall));
                    self.unexpected.push(Unexpected { wall, alert });
                }
                (Phase::Escalated | Phase::Resolved, Some(at)) => {
                    // The subject and the first evidence stay; how bad it got, and how often it was found, are news.
                    if let Some(told) = self.unexpected.get_mut(*at) {
                        told.alert.severity = told.alert.severity.max(alert.severity);
                        told.alert.repeats += alert.repeats;
                    }
                }
                (Phase::Escalated | Phase::Resolved, None) => {}
            }
        }
    }

    /// The run is over, the command has ended at an instant of its own. `unseen`: what the agent knows to have missed and has not
    /// told as events.
    pub fn finish(
        mut self,
        command: Command,
        (ended, ended_at): (Ended, BootNs),
        now: BootNs,
        unseen: Loss,
    ) -> Report {
        // Facts of a process come soon after it used the network; the command was waited for as long.
        self.pass(BootNs(now.0.saturating_add(LATE_FACTS.0)));
        let unjudged = self.judges.as_mut().map_or(0, Judges::finish);
        let tree = self.tree.borrow();
        let not_followed = [
            unseen.not_followed,
            // Without the command's own process nothing is known to be the run's.
            u64::from(tree.is_empty()),
            tree.not_kept(),
            self.seen.not_shown(),
            self.living.not_kept(),
            unjudged,
        ];
        let loss = Loss {
            records: self.lost.saturating_add(unseen.records),
            not_followed: not_followed.into_iter().fold(0, u64::saturating_add),
        };
        let (connections, listeners) = self.seen.into_rows();
        let (rules, expectations) =
            self.judges.map_or_else(Default::default, |judges| (judges.rules, judges.expectations));
        Report {
            command,
            ended,
            took: ended_at.since(self.began),
            processes: tree.len(),
            connections,
            listeners,
            rules,
            unexpected: self.unexpected,
            more_unexpected: self.more_unexpected,
            expectations,
            survivors: tree.survivors(),
            loss,
        }
    }
}

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
mod wire;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use self::expect::Expectation;
use self::report::{Command, Ended, Loss, Report, Unexpected};
use self::seen::Seen;
use self::tree::Tree;
use crate::clock::Clock;
use crate::event::alert::{Alert, Phase};
use crate::event::model::{Event, EventBody};
use crate::process::hash::IntBuild;
use crate::rules::model::Rule;
use crate::rules::{Engine, RuleSet};
use crate::session::{Living, Session};
use crate::units::{BootNs, WallNs};

/// Most unexpected things that are reported one by one, but for the first of a rule; more are counted.
const UNEXPECTED_MAX: usize = 1_000;

/// A tree that is filled where forks are seen, and asked here.
pub type SharedTree = Rc<RefCell<Tree>>;

/// What is known of the run of a command so far.
pub struct Run {
    tree: SharedTree,
    began: BootNs,
    seen: Seen,
    judges: Option<Judges>,
    unexpected: Unexpecteds,
    lost: u64,
}

/// What was not expected.
#[derive(Default)]
struct Unexpecteds {
    reported: Vec<Unexpected>,
    by_alert: HashMap<u64, usize, IntBuild>,
    more: u64,
}

/// What judges a run.
struct Judges {
    session: Session<Living>,
    rules: Vec<Arc<Rule>>,
    expectations: Vec<Expectation>,
}

impl Judges {
    /// Whether something waits for what is found out of its process.
    fn waits_for_facts(&self) -> bool {
        self.session.waiting() > 0 || self.expectations.iter().any(Expectation::waits_for_facts)
    }

    /// The run is over. What was not judged as it should, because a limit was reached or of facts that did not come.
    fn finish(&mut self, unexpected: &mut Unexpecteds) -> u64 {
        let waiting = self.session.waiting() as u64;
        self.session.finish(&mut |alert| unexpected.take(alert));
        let engine = self.session.engine().map(Engine::stats).unwrap_or_default();
        let not_asked = self.expectations.iter_mut().map(Expectation::finish);
        not_asked.fold(
            engine
                .late_dropped
                .saturating_add(engine.forgotten)
                .saturating_add(waiting)
                .saturating_add(self.session.flows.not_kept()),
            u64::saturating_add,
        )
    }
}

impl Run {
    /// A run that begins now; without rules nothing is expected.
    pub fn new(rules: Option<&RuleSet>, tree: SharedTree, began: BootNs) -> Self {
        let judges = rules.map(|rules| {
            let expectations = rules.rules.iter().filter_map(Expectation::of).collect();
            let others: Vec<_> =
                rules.rules.iter().filter(|rule| Expectation::of(rule).is_none()).cloned().collect();
            let set = RuleSet { rules: others.clone(), ..rules.clone() };
            let mut session = Session::new(Living::default(), Clock::of(began, WallNs(began.0)));
            // What was there before is not the run's.
            session.start(Engine::new(&set, began).with_delivered_facts(), began, [], &mut |_| {});
            Judges { session, rules: others, expectations }
        });
        Self { tree, began, seen: Seen::default(), judges, unexpected: Unexpecteds::default(), lost: 0 }
    }

    /// Takes an event of the machine.
    pub fn on_event(&mut self, event: &Event) {
        if let (EventBody::Facts(facts), Some(judges)) = (&event.body, &mut self.judges) {
            // Its own processes are all that its rules wait for.
            judges
                .session
                .know(event.boot, &facts.process.identity, &mut |alert| self.unexpected.take(alert));
        }
        if event.seq == 0 || event.boot < self.began {
            return;
        }
        if let Some(judges) = &mut self.judges {
            judges.session.set_clock(Clock::of(event.boot, event.wall));
            judges.session.pass(event.boot, &mut |alert| self.unexpected.take(alert));
        }
        if !self.is_of_run(event) {
            return;
        }
        if let EventBody::Flow(change) = &event.body {
            self.seen.on_change(change);
        }
        let Some(judges) = &mut self.judges else { return };
        let event = judges.session.flows.follow(event.clone());
        for expectation in &mut judges.expectations {
            expectation.on_event(&event);
        }
        judges.session.judge(&event, &mut |alert| self.unexpected.take(alert));
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
            EventBody::Repair(_) => true,
            EventBody::Alert(_)
            | EventBody::Degraded(_)
            | EventBody::Heartbeat(_)
            | EventBody::Start(_)
            | EventBody::Facts(_)
            | EventBody::Sample(_)
            | EventBody::Clock => false,
        }
    }

    /// Whether the verdict waits for what is found out of processes in the background: it comes as events.
    pub fn waits_for_facts(&self) -> bool {
        self.judges.as_ref().is_some_and(Judges::waits_for_facts)
    }

    /// The run is over, the command has ended at an instant of its own. `unseen`: what the agent knows to have missed and has not
    /// reported as events.
    pub fn finish(
        mut self,
        command: Command,
        (ended, ended_at): (Ended, BootNs),
        now: BootNs,
        unseen: Loss,
    ) -> Report {
        let unjudged = self.judges.as_mut().map_or(0, |judges| {
            judges.session.pass(now, &mut |alert| self.unexpected.take(alert));
            judges.finish(&mut self.unexpected)
        });
        let tree = self.tree.borrow();
        let not_followed = [
            unseen.not_followed,
            // Without the command's own process nothing is known to be the run's.
            u64::from(tree.is_empty()),
            tree.not_kept(),
            self.seen.not_shown(),
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
            unexpected: self.unexpected.reported,
            more_unexpected: self.unexpected.more,
            expectations,
            survivors: tree.survivors(),
            loss,
        }
    }
}

impl Unexpecteds {
    fn take(&mut self, event: &Event) {
        let EventBody::Alert(alert) = &event.body else { return };
        match (alert.phase, self.by_alert.get(&alert.id.0)) {
            // The first one of each rule is reported in any case: by it the rule has failed.
            (Phase::Raised, _)
                if self.reported.len() >= UNEXPECTED_MAX
                    && self.reported.iter().any(|reported| reported.alert.rule.id == alert.rule.id) =>
            {
                self.more += 1;
            }
            (Phase::Raised, _) => {
                self.by_alert.insert(alert.id.0, self.reported.len());
                self.reported.push(Unexpected { wall: event.wall, alert: Alert::clone(alert) });
            }
            (Phase::Escalated | Phase::Resolved, Some(at)) => {
                // The subject and the first evidence stay; how bad it got, and how often it was found, are news.
                if let Some(reported) = self.reported.get_mut(*at) {
                    reported.alert.severity = reported.alert.severity.max(alert.severity);
                    reported.alert.repeats += alert.repeats;
                }
            }
            (Phase::Escalated | Phase::Resolved, None) => {}
        }
    }
}

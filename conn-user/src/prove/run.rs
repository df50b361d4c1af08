//! A case, run: its events into an engine, and time that passes as its lines say.

use super::world::{BEGAN, World, id};
use crate::event::alert::{Alert, Subject};
use crate::event::model::Event;
use crate::rules::cases::{Act, Case, On, Step};
use crate::rules::{Engine, RuleSet};
use crate::units::{BootNs, DurationNs};

/// What happened in a case.
pub(super) struct Ran<'c> {
    /// Every event with the line that told it.
    pub(super) trail: Vec<Happened<'c>>,
    /// The alerts that count, in their order.
    pub(super) told: Vec<Alert>,
    /// When the case ended, since its beginning.
    pub(super) ended: DurationNs,
    pub(super) engine: Engine,
    world: World<'c>,
}

/// An event with the line that told it.
pub(super) struct Happened<'c> {
    pub(super) step: &'c Step,
    pub(super) event: Event,
    pub(super) existing: bool,
}

impl Ran<'_> {
    /// Whether an alert is about this.
    pub(super) fn is_about(&self, alert: &Alert, on: &On) -> bool {
        match (on, &alert.subject) {
            (On::Flow(flow), Subject::Connection(conn)) => conn.id == id(*flow),
            (On::Flow(flow), Subject::Listener(listener)) => listener.id == id(*flow),
            (On::Flow(_), Subject::Process(_) | Subject::Absence) => false,
            (On::Process(name), subject) => {
                let process = self.world.process(name);
                process.zip(subject.process()).is_some_and(|(one, other)| one.is_same(other))
            }
        }
    }
}

/// The time since the beginning of the case.
pub(super) fn since_begin(at: BootNs) -> DurationNs {
    at.since(BEGAN)
}

struct Run<'c> {
    case: &'c Case,
    engine: Engine,
    world: World<'c>,
    trail: Vec<Happened<'c>>,
    told: Vec<Alert>,
}

/// Runs a case against these rules.
pub(super) fn run<'c>(case: &'c Case, rules: &RuleSet) -> Ran<'c> {
    let mut run = Run {
        case,
        engine: Engine::new(rules, BEGAN).with_recorded_answers(),
        world: World::new(case),
        trail: Vec::new(),
        told: Vec::new(),
    };
    let mut existing = Vec::new();
    for step in &case.existing {
        if let Some(event) = run.world.event(step, true) {
            existing.push(event.clone());
            run.trail.push(Happened { step, event, existing: true });
        }
    }
    let alerts = run.engine.start(BEGAN, existing, &run.world);
    run.tell(alerts);
    for step in &case.events {
        if let Act::Pass(time) = &step.act {
            run.pass(*time);
            continue;
        }
        for event in [run.world.event(step, false), run.world.established(step)].into_iter().flatten() {
            let alerts = run.engine.on_event(&event, &run.world);
            run.trail.push(Happened { step, event, existing: false });
            run.tell(alerts);
        }
    }
    let Run { engine, world, trail, told, .. } = run;
    Ran { trail, told, ended: since_begin(world.now), engine, world }
}

impl Run<'_> {
    /// Lets time pass; each timer fires at its time.
    fn pass(&mut self, time: DurationNs) {
        let end = BootNs(self.world.now.0.saturating_add(time.0));
        while let Some(due) = self.engine.next_deadline().filter(|due| *due <= end) {
            self.world.now = due.max(self.world.now);
            self.world.answer();
            let alerts = self.engine.on_time(self.world.now, &self.world);
            self.tell(alerts);
        }
        self.world.now = end;
    }

    fn tell(&mut self, alerts: Vec<Alert>) {
        let counts = |alert: &Alert| {
            self.case.rules.is_empty() || self.case.rules.iter().any(|id| **id == *alert.rule.id)
        };
        self.told.extend(alerts.into_iter().filter(counts));
    }
}

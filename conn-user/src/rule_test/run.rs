//! Runs a test: feeds its events to an engine, and lets time pass as its lines say.

use std::sync::mpsc::Receiver;

use super::model::{Act, On, RuleTest, Step};
use super::world::{self, BEGAN, World, id};
use crate::clock::Clock;
use crate::event::alert::{Alert, Subject};
use crate::event::model::{Event, EventBody};
use crate::flow::sample::{Question, Sampler};
use crate::rules::{Engine, RuleSet};
use crate::session::Session;
use crate::units::{BootNs, DurationNs};

/// What happened while a test ran.
pub(super) struct Ran<'t> {
    /// Every event with the line that reported it.
    pub(super) trail: Vec<Happened<'t>>,
    /// The alerts that count, in order.
    pub(super) reported: Vec<Alert>,
    /// When the test ended, since its start.
    pub(super) ended: DurationNs,
    session: Session<World<'t>>,
}

/// An event with the line that reported it.
pub(super) struct Happened<'t> {
    pub(super) step: &'t Step,
    pub(super) event: Event,
    pub(super) existing: bool,
}

impl Ran<'_> {
    /// Returns the engine as it is at the end.
    pub(super) const fn engine(&self) -> Option<&Engine> {
        self.session.engine()
    }

    /// Returns whether an alert is about this connection, listener or process.
    pub(super) fn is_about(&self, alert: &Alert, on: &On) -> bool {
        match (on, &alert.subject) {
            (On::Flow(flow), Subject::Connection(conn)) => conn.id == id(*flow),
            (On::Flow(flow), Subject::Listener(listener)) => listener.id == id(*flow),
            (On::Flow(_), Subject::Process(_) | Subject::Absence) => false,
            (On::Process(name), subject) => {
                let process = self.session.flows.process(name);
                process.zip(subject.process()).is_some_and(|(one, other)| one.is_same(other))
            }
        }
    }
}

/// Returns the time since the start of the test.
pub(super) fn since_begin(at: BootNs) -> DurationNs {
    at.since(BEGAN)
}

struct Run<'t> {
    session: Session<World<'t>>,
    trail: Vec<Happened<'t>>,
    alerts: Counted<'t>,
    questions: Receiver<Question>,
}

/// Collects the alerts of the rules that a test is about.
struct Counted<'t> {
    test: &'t RuleTest,
    reported: Vec<Alert>,
}

/// Runs a test against these rules.
pub(super) fn run<'t>(test: &'t RuleTest, rules: &RuleSet) -> Ran<'t> {
    let (sampler, questions) = Sampler::unanswered();
    let mut run = Run {
        session: Session::new(World::new(test), Clock::of(BEGAN, world::wall(BEGAN))),
        trail: Vec::new(),
        alerts: Counted { test, reported: Vec::new() },
        questions,
    };
    let mut existing = Vec::new();
    for step in &test.existing {
        if let Some(event) = run.session.flows.event(step, true) {
            existing.push(event.clone());
            run.trail.push(Happened { step, event, existing: true });
        }
    }
    let engine = Engine::new(rules, BEGAN).with_recorded_answers().with_sampler(Some(sampler));
    run.session.start(engine, BEGAN, existing, &mut |event| run.alerts.take(event));
    run.sample();
    for step in &test.events {
        if let Act::Pass(time) = &step.act {
            run.pass(*time);
            continue;
        }
        let world = &mut run.session.flows;
        for event in [world.event(step, false), world.established(step)].into_iter().flatten() {
            run.session.judge(&event, &mut |event| run.alerts.take(event));
            run.sample();
            run.trail.push(Happened { step, event, existing: false });
        }
    }
    let Run { session, trail, alerts, .. } = run;
    Ran { trail, reported: alerts.reported, ended: since_begin(session.flows.now), session }
}

impl Run<'_> {
    /// Lets time pass: each timer fires at its instant, before which the answers of the background are known.
    fn pass(&mut self, time: DurationNs) {
        let end = BootNs(self.session.flows.now.0.saturating_add(time.0));
        let mut before = |at: BootNs, _: &Engine, world: &mut World<'_>| {
            world.now = at.max(world.now);
            world.answer();
        };
        loop {
            let due = self.session.next_deadline().filter(|due| *due <= end);
            self.session.pass_and(due.unwrap_or(end), &mut before, &mut |event| self.alerts.take(event));
            if due.is_none() {
                break;
            }
            self.sample();
        }
        self.session.flows.now = end;
    }

    /// Gives the rules the samples that they asked for.
    fn sample(&mut self) {
        while let Ok(question) = self.questions.try_recv() {
            let world = &self.session.flows;
            let (at, sample) = (world.now, world.sample(question.id));
            self.session.sampled(at, &sample, &mut |event| self.alerts.take(event));
        }
    }
}

impl Counted<'_> {
    fn take(&mut self, event: &Event) {
        let EventBody::Alert(alert) = &event.body else { return };
        if self.test.rules.is_empty() || self.test.rules.iter().any(|id| **id == *alert.rule.id) {
            self.reported.push(Alert::clone(alert));
        }
    }
}

//! A rig for detectors: processes, an engine with one rule on a clock that the test moves, and the events of a machine.

mod actions;
mod asked;
mod build;
mod sampling;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use self::build::{SECOND, child, evidence, process, rule, seconds};
use super::baseline::Baseline;
use super::detector::Flows;
use super::model::Rule;
use super::path_memory::PathMemory;
use super::{Engine, RuleSet};
use crate::clock::Clock;
use crate::event::alert::{Alert, Phase};
use crate::event::model::{Event, EventBody, Start};
use crate::filter::Names;
use crate::flow::model::{Change, ConnEvent, ConnId, ListenEvent};
use crate::process::inspect::{Answer, Comparer};
use crate::session::Session;
use crate::units::{BootNs, DurationNs, WallNs};

/// When engines of rigs begin.
pub(crate) const BEGAN: BootNs = BootNs(1_000 * SECOND);

fn set(rules: Vec<Rule>) -> RuleSet {
    let names = Arc::new(Names::builtin().clone());
    RuleSet { rules: rules.into_iter().map(Arc::new).collect(), names, baseline: Arc::default() }
}

/// Takes the alerts among what a session hands out.
pub(crate) fn taken(alerts: &mut Vec<Alert>) -> impl FnMut(&Event) {
    |event| {
        if let EventBody::Alert(alert) = &event.body {
            alerts.push(Alert::clone(alert));
        }
    }
}

#[derive(Default)]
struct Living(BTreeMap<u64, ConnEvent>);

impl Flows for Living {
    fn connection(&self, id: ConnId) -> Option<ConnEvent> {
        self.0.get(&id.0).cloned()
    }
}

/// A machine in which tests of rules let things happen. What happens, happens at [`Rig::now`]; [`Rig::pass`]
/// lets time pass and timers fire.
pub(crate) struct Rig {
    session: Session<Living>,
    /// Until it begins.
    engine: Option<Engine>,
    pub(crate) now: BootNs,
    listeners: BTreeMap<u64, ListenEvent>,
    /// What was there before; `None`: the engine has begun.
    existing: Option<Vec<Event>>,
    last_id: u64,
    seq: u64,
    reported: Vec<Alert>,
    rules: RuleSet,
    recording: Recording,
    why_nots: Vec<String>,
    holds: bool,
}

/// What a recording of what happens would have.
#[derive(Default)]
struct Recording {
    existing: Vec<Event>,
    events: Vec<Event>,
    alerts: Vec<Alert>,
    began: BootNs,
    /// Something happened that a recording does not have.
    is_partial: bool,
    /// Facts become known meanwhile: the lines are written as it happens, not at the end.
    has_facts: bool,
    lines: String,
}

/// Every test of a detector is one of the replay: the recording of it gives the same alerts.
impl Drop for Rig {
    fn drop(&mut self) {
        self.hand_over(|session, out| session.finish(&mut &mut *out));
        let Recording { existing, events, alerts, began, is_partial, has_facts, lines } =
            std::mem::take(&mut self.recording);
        if !std::thread::panicking() && !is_partial {
            let start = Event {
                seq: 0,
                boot: began,
                wall: WallNs(began.0),
                body: EventBody::Start(Start { attached: BEGAN, has_facts }),
            };
            let before = existing.len();
            let existing = existing.into_iter().map(|event| Event { seq: 0, ..event });
            let events: Vec<Event> = std::iter::once(start).chain(existing).chain(events).collect();
            if has_facts {
                let lines = crate::replay::tests::encoded(&events[..=before]) + &lines;
                crate::replay::tests::lines_give(&self.rules, &lines, self.now, &alerts);
            } else {
                crate::replay::tests::gives(&self.rules, &events, self.now, &alerts);
            }
        }
    }
}

impl Rig {
    /// An engine with this rule that has begun, with nothing there before.
    pub(crate) fn new(rule: Rule) -> Self {
        let mut rig = Self::before(vec![rule]);
        rig.begin();
        rig
    }

    /// With executables compared by this.
    pub(crate) fn comparing(mut self, comparer: Comparer) -> Self {
        let engine = Engine::new(&self.rules, BEGAN).with_comparer(Some(comparer));
        self.session.start(engine, self.now, [], &mut |_| {});
        self.is_not_recorded();
        self
    }

    /// The test has something that a recording does not have: what it gives is not compared with a replay.
    pub(crate) const fn is_not_recorded(&mut self) {
        self.recording.is_partial = true;
    }

    /// An engine that has not begun: what happens until [`Self::begin`] was there before, and is reported as a snapshot has
    /// it. Listeners and connections only.
    pub(crate) fn before(rules: Vec<Rule>) -> Self {
        Self::with_baseline(rules, Baseline::default())
    }

    /// An engine that has not begun, with a baseline.
    pub(crate) fn with_baseline(rules: Vec<Rule>, baseline: Baseline) -> Self {
        let rules = RuleSet { baseline: Arc::new(baseline), ..set(rules) };
        Self {
            session: Session::new(Living::default(), Clock::of(BEGAN, WallNs(BEGAN.0))),
            engine: Some(Engine::new(&rules, BEGAN)),
            now: BEGAN,
            listeners: BTreeMap::new(),
            existing: Some(Vec::new()),
            last_id: 0,
            seq: 0,
            reported: Vec::new(),
            rules,
            recording: Recording::default(),
            why_nots: Vec::new(),
            holds: false,
        }
    }

    /// Facts come as answers of a background ([`Rig::deliver`]); comparisons are answered so, too.
    pub(crate) fn with_facts(mut self) -> Self {
        let engine = Engine::new(&self.rules, BEGAN).with_delivered_facts().with_recorded_answers();
        self.engine = Some(engine);
        self.recording.has_facts = true;
        self
    }

    /// Alerts wait for facts of their process, as in the agent. To be called before [`Rig::begin`], after
    /// [`Rig::with_facts`].
    pub(crate) fn holding(mut self) -> Self {
        self.engine = self.engine.take().map(Engine::with_held_alerts);
        self.holds = true;
        self
    }

    /// With what rules learned in earlier runs.
    pub(crate) fn remembering(mut self, memory: PathMemory) -> Self {
        let engine = self.engine.take().unwrap_or_else(|| Engine::new(&self.rules, BEGAN));
        self.engine = Some(engine.with_memory(Some(memory)));
        self
    }

    /// Returns the events so far.
    pub(crate) fn happened(&self) -> Vec<Event> {
        self.recording.events.clone()
    }

    /// The tables evict a connection, and nobody saw its end.
    pub(crate) fn forget(&mut self, id: ConnId) {
        let conn = self.session.flows.connection(id).expect("it lives");
        self.hand_over(|session, out| session.forget(conn, &mut &mut *out));
    }

    /// An answer of the background has come.
    pub(crate) fn deliver(&mut self, answer: Answer) {
        self.hand_over(|session, out| session.deliver(answer, &mut &mut *out));
    }

    /// Has the session do something, and records what it hands out. Returns the alerts.
    fn hand_over(&mut self, act: impl FnOnce(&mut Session<Living>, &mut dyn FnMut(&Event))) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let Recording { events: lines, lines: written, .. } = &mut self.recording;
        act(&mut self.session, &mut |reported| match &reported.body {
            EventBody::Alert(alert) => alerts.push(Alert::clone(alert)),
            _ => {
                written.push_str(&crate::replay::tests::encoded([reported]));
                lines.push(reported.clone());
            }
        });
        self.add(alerts.clone());
        alerts
    }

    /// What was there before, as events. The rig is of no use any more.
    pub(crate) fn existing_events(mut self) -> Vec<Event> {
        self.is_not_recorded();
        self.existing.take().unwrap_or_default()
    }

    /// The engine begins.
    pub(crate) fn begin(&mut self) {
        let existing = self.existing.take().unwrap_or_default();
        self.recording.existing.clone_from(&existing);
        self.recording.began = self.now;
        let engine = self.engine.take().expect("it has not begun");
        self.session.record();
        self.session.note(
            self.now,
            EventBody::Start(Start { attached: BEGAN, has_facts: false }),
            &mut |_| {},
        );
        let mut alerts = Vec::new();
        self.session.start(engine, self.now, existing, &mut taken(&mut alerts));
        self.add(alerts);
    }

    /// Other rules are loaded.
    pub(crate) fn set_rules(&mut self, rules: Vec<Rule>) {
        self.set_rules_and(rules, Baseline::default());
    }

    /// Other rules and another baseline are loaded.
    pub(crate) fn set_rules_and(&mut self, rules: Vec<Rule>, baseline: Baseline) {
        let rules = RuleSet { baseline: Arc::new(baseline), ..set(rules) };
        let open = self.session.flows.0.values().map(|conn| Change::Established(conn.clone()));
        let listening = self.listeners.values().map(|listener| Change::Listen(listener.clone()));
        let now = self.now;
        let event = |change| Event { seq: 0, boot: now, wall: WallNs(now.0), body: EventBody::Flow(change) };
        let existing: Vec<Event> = open.chain(listening).map(event).collect();
        self.recording.is_partial = true;
        let mut alerts = Vec::new();
        let replace = |flows: &Living, engine: &mut Option<Engine>| {
            engine.as_mut().expect("it has begun").set_rules(&rules, now, existing, flows)
        };
        self.session.set_rules(now, replace, &mut taken(&mut alerts));
        self.add(alerts);
    }

    fn engine(&self) -> &Engine {
        self.session.engine().expect("it has begun")
    }

    fn add(&mut self, alerts: Vec<Alert>) {
        self.recording.alerts.extend_from_slice(&alerts);
        self.reported.extend(alerts);
    }

    /// Takes the alerts that were reported since the last call.
    pub(crate) fn reported(&mut self) -> Vec<Alert> {
        std::mem::take(&mut self.reported)
    }

    /// Takes them, each as its number and phase.
    pub(crate) fn phases(&mut self) -> Vec<(u64, Phase)> {
        self.reported().iter().map(|alert| (alert.id.0, alert.phase)).collect()
    }

    /// Takes the only one.
    pub(crate) fn only(&mut self) -> Alert {
        let mut reported = self.reported();
        assert_eq!(reported.len(), 1, "alerts: {reported:#?}");
        reported.remove(0)
    }

    /// Timers that wait.
    pub(crate) fn timers(&self) -> usize {
        self.engine().stats().timers
    }

    /// Events that wait for facts.
    pub(crate) fn waiting(&self) -> usize {
        self.engine().waiting()
    }

    /// Connections and listeners that are followed.
    pub(crate) fn followed(&self) -> usize {
        self.engine().stats().followed
    }

    /// Lets time pass; each timer fires at its time.
    pub(crate) fn pass(&mut self, time: DurationNs) {
        self.now = BootNs(self.now.0 + time.0);
        let mut alerts = Vec::new();
        self.session.pass(self.now, &mut taken(&mut alerts));
        self.add(alerts);
    }

    /// Fires what is due: before anything changes that a timer may look at.
    fn settle(&mut self) {
        if self.existing.is_none() {
            self.pass(DurationNs(0));
        }
    }

    /// Does something by a clock that is so much behind, as another CPU's may be.
    pub(crate) fn behind(&mut self, by: DurationNs, act: impl FnOnce(&mut Self)) {
        let now = self.now;
        self.now = BootNs(now.0 - by.0);
        act(self);
        self.now = now;
    }

    /// Reports any event.
    pub(crate) fn body(&mut self, body: EventBody) {
        self.settle();
        self.seq += 1;
        let event = Event { seq: self.seq, boot: self.now, wall: WallNs(self.now.0), body };
        match &mut self.existing {
            Some(existing) => existing.push(Event { seq: 0, ..event }),
            None => {
                // What waits is not handed out with its event.
                let expected = if self.holds { Vec::new() } else { self.ask(&event) };
                let body = event.body.clone();
                let alerts = self.hand_over(|session, out| session.emit(event.boot, body, &mut &mut *out));
                self.check(&event, &expected, &alerts);
            }
        }
    }
}

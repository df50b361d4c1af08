//! The engine: events in, alerts out. Its clock is that of the events and of its timers; who drives it defines it.

mod late;
#[cfg(test)]
mod late_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use smallvec::SmallVec;

pub use self::late::LATE_FACTS;
pub(crate) use self::late::is_unsettled;
use self::late::{ANSWER_MAX, LATE_MAX, Late, LateSubject, is_open, user};

use super::alerts::{AlertStats, Alerts};
use super::baseline::Baseline;
use super::detector::{Detector, Flows, Followers, Scene, Triggers};
use super::exits::Exits;
use super::explain::Explanation;
use super::index::Index;
use super::memory::Past;
use super::model::{Detect, ProcessRule, Rule};
use super::set::RuleSet;
use super::timers::Timers;
use super::{long, missing, path, process, server};
use crate::event::alert::{Alert, Evidence};
use crate::event::model::{Event, EventBody};
use crate::filter::names::Names;
use crate::flow::coverage::Coverage;
use crate::flow::model::{Change, ConnId, Ending, Failure};
use crate::process::hash::IntMap;
use crate::process::inspect::Comparer;
use crate::units::{BootNs, DurationNs};

/// Rule number of the engine's own timers.
const OWN: u32 = u32::MAX;

/// Counters of an [`Engine`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Of its alerts.
    pub alerts: AlertStats,
    /// Timers that wait.
    pub timers: usize,
    /// Connections and listeners that are followed.
    pub followed: usize,
    /// Events that were not judged by late facts, for want of room.
    pub late_dropped: u64,
    /// What detectors do not remember any more, for want of room.
    pub forgotten: u64,
}

struct Running {
    rule: Arc<Rule>,
    detector: Box<dyn Detector>,
    /// From when on it judges.
    began: BootNs,
    /// Another rule took over. Its place stays taken: alerts and timers know rules by their place.
    is_retired: bool,
}

/// The detector of a rule that is not in force any more.
struct Retired;

impl Detector for Retired {
    fn triggers(&self) -> Triggers {
        Triggers::NONE
    }

    fn on_match(&mut self, _rule: &Rule, _event: &Event, _scene: &mut Scene<'_>) {}
}

/// Rules at work.
pub struct Engine {
    running: Vec<Running>,
    index: Index,
    names: Arc<Names>,
    baseline: Arc<Baseline>,
    /// Rules that tell of programs that the baseline does not have.
    program_rules: Vec<Arc<Rule>>,
    coverage: Coverage,
    /// The largest instant among the events judged and the timers fired. Never goes back.
    now: BootNs,
    timers: Timers,
    followed: IntMap<u64, Followers>,
    alerts: Alerts,
    exits: Exits,
    comparer: Option<Comparer>,
    has_recorded_answers: bool,
    late_wait: DurationNs,
    late: IntMap<u64, Late>,
    /// Events that wait, by the key of their process (`Identity::key`).
    late_of: IntMap<u64, SmallVec<[u64; 2]>>,
    late_subjects: IntMap<u64, LateSubject>,
    late_last: u64,
    candidates: Vec<u32>,
    /// Of them those that wait for facts of an event's process.
    waits: Vec<u32>,
    stats: EngineStats,
}

/// The detector of a rule, which knows nothing yet.
pub(super) fn detector(detect: &Detect) -> Box<dyn Detector> {
    match detect {
        Detect::Path(rule) => path::detector(rule),
        Detect::Process(rule) => process::detector(*rule),
        Detect::Server(rule) => server::detector(*rule),
        Detect::Long(rule) => long::detector(rule),
        Detect::Missing(rule) => missing::detector(rule),
    }
}

impl Engine {
    /// An engine that begins at this instant: when the programs were attached.
    pub fn new(rules: &RuleSet, began: BootNs) -> Self {
        let running: Vec<Running> = rules.rules.iter().map(|rule| Running::new(rule, began)).collect();
        let index = index(&running);
        Self {
            running,
            index,
            names: Arc::clone(&rules.names),
            baseline: Arc::clone(&rules.baseline),
            program_rules: program_rules(rules),
            coverage: Coverage::new(began),
            now: BootNs(0),
            timers: Timers::default(),
            followed: IntMap::default(),
            alerts: Alerts::default(),
            exits: Exits::default(),
            comparer: None,
            has_recorded_answers: false,
            late_wait: LATE_FACTS,
            late: IntMap::default(),
            late_of: IntMap::default(),
            late_subjects: IntMap::default(),
            late_last: 0,
            candidates: Vec::new(),
            waits: Vec::new(),
            stats: EngineStats::default(),
        }
    }

    /// Lets rules have executables compared with what their paths lead to now. Without it they judge by what is known.
    #[must_use]
    pub fn with_comparer(mut self, comparer: Option<Comparer>) -> Self {
        self.comparer = comparer;
        self
    }

    /// Lets rules wait for what comparisons said when the events were recorded: the events' processes have it.
    #[must_use]
    pub const fn with_recorded_answers(mut self) -> Self {
        self.has_recorded_answers = true;
        self
    }

    /// Facts are delivered ([`Self::on_facts`]): events wait for them, however late the reader is.
    #[must_use]
    pub const fn with_delivered_facts(mut self) -> Self {
        self.late_wait = ANSWER_MAX;
        self
    }

    /// Begins. To be called when the tables know what was there before, and before the first event; `existing` are what
    /// was there, as events.
    pub fn start(
        &mut self,
        now: BootNs,
        existing: impl IntoIterator<Item = Event>,
        flows: &dyn Flows,
    ) -> Vec<Alert> {
        self.begin_from(0, now, existing, flows);
        self.alerts.take()
    }

    /// Puts other rules in force. A rule that stays as it is goes on: with what it remembers, its timers and alerts. The
    /// alerts of those that go, or change, are resolved. A new one begins now, with `existing` as in [`Self::start`].
    pub fn set_rules(
        &mut self,
        rules: &RuleSet,
        now: BootNs,
        existing: impl IntoIterator<Item = Event>,
        flows: &dyn Flows,
    ) -> Vec<Alert> {
        let same_names = *self.names == *rules.names;
        let program_rules = program_rules(rules);
        let same_baseline = *self.baseline == *rules.baseline && self.program_rules == program_rules;
        let is_same = |rule: &Rule, running: &Rule| {
            same_names && (same_baseline || !rule.asks_baseline()) && rule == running
        };
        let mut new: Vec<&Arc<Rule>> = rules.rules.iter().collect();
        for running in self.running.iter_mut().filter(|running| !running.is_retired) {
            match new.iter().position(|rule| is_same(rule, &running.rule)) {
                Some(at) => drop(new.swap_remove(at)),
                None => (running.is_retired, running.detector) = (true, Box::new(Retired)),
            }
        }
        let Self { running, alerts, timers, .. } = self;
        let is_gone = |place: u32| running.get(place as usize).is_some_and(|running| running.is_retired);
        alerts.end_rules(is_gone, now);
        timers.cancel_rules(is_gone);
        let first = self.running.len();
        self.running.extend(new.into_iter().map(|rule| Running::new(rule, now)));
        self.names = Arc::clone(&rules.names);
        self.baseline = Arc::clone(&rules.baseline);
        self.program_rules = program_rules;
        self.index = index(&self.running);
        self.begin_from(first, now, existing, flows);
        self.alerts.take()
    }

    /// Lets the rules from this place on begin.
    fn begin_from(
        &mut self,
        first: usize,
        now: BootNs,
        existing: impl IntoIterator<Item = Event>,
        flows: &dyn Flows,
    ) {
        if first == self.running.len() {
            return;
        }
        self.now = self.now.max(now);
        for place in first..self.running.len() {
            self.with(place as u32, now, flows, |detector, rule, scene| detector.on_start(rule, scene));
        }
        for event in existing {
            self.judge(&event, Some(first as u32), flows);
        }
    }

    /// Judges an event. First every timer due at or before it fires, each at its own instant.
    pub fn on_event(&mut self, event: &Event, flows: &dyn Flows) -> Vec<Alert> {
        self.fire(event.boot, flows);
        self.now = self.now.max(event.boot);
        match &event.body {
            EventBody::Gap(gap) => self.coverage.lose(gap.clone()),
            EventBody::Repair(repair) => self.coverage.repaired(repair.seen, event.boot),
            EventBody::Flow(Change::Close(conn, _) | Change::Failed(conn, _)) => {
                self.judge(event, None, flows);
                self.end(conn.id, event, flows);
            }
            EventBody::Flow(Change::Unlisten(listener, _)) => self.end(listener.id, event, flows),
            EventBody::Exit(exit, status) => {
                for place in self.exits.add(&exit.process, *status) {
                    self.with(place, event.boot, flows, |detector, rule, scene| {
                        detector.on_exit(rule, &exit.process, *status, scene);
                    });
                }
                self.judge(event, None, flows);
            }
            _ => self.judge(event, None, flows),
        }
        if self.alerts.has_told() { self.alerts.take() } else { Vec::new() }
    }

    /// A connection is not followed any more; `event` is an end of it that nobody saw, and is not judged.
    pub fn forget(&mut self, event: &Event, flows: &dyn Flows) -> Vec<Alert> {
        if let EventBody::Flow(Change::Close(conn, _)) = &event.body {
            self.end(conn.id, event, flows);
        }
        self.alerts.take()
    }

    /// The clock: the largest instant among the events judged and the timers fired.
    pub const fn now(&self) -> BootNs {
        self.now
    }

    /// The instant of the next timer.
    pub fn next_deadline(&self) -> Option<BootNs> {
        self.timers.next()
    }

    /// The instant of the next timer that is due at or before an instant or the clock.
    #[inline]
    pub(crate) fn next_due(&self, until: BootNs) -> Option<BootNs> {
        self.timers.next().filter(|at| *at <= until.max(self.now))
    }

    /// When the next timer of this rule is due. Slow: for people.
    pub fn next_deadline_of(&self, id: &str) -> Option<BootNs> {
        let is_it = |running: &Running| !running.is_retired && *running.rule.about.id == *id;
        let place = self.running.iter().position(is_it)?;
        self.timers.next_of(place as u32)
    }

    /// Fires the next timer that is due at or before an instant or the clock, at its own instant.
    pub(crate) fn fire_next(&mut self, until: BootNs, flows: &dyn Flows) -> Vec<Alert> {
        self.fire_one(until, flows);
        self.alerts.take()
    }

    fn fire(&mut self, until: BootNs, flows: &dyn Flows) {
        while self.fire_one(until, flows) {}
    }

    /// Returns whether one was due.
    fn fire_one(&mut self, until: BootNs, flows: &dyn Flows) -> bool {
        let Some((at, alarm)) = self.timers.due(until.max(self.now)) else { return false };
        self.now = self.now.max(at);
        if alarm.rule == OWN {
            if let Some(mut late) = self.late.remove(&alarm.token) {
                self.judge_late(&mut late, true, at, flows);
                self.forget_late(alarm.token, &late);
            }
        } else {
            self.with(alarm.rule, at, flows, |detector, rule, scene| {
                detector.on_timer(rule, alarm.token, scene);
            });
        }
        true
    }

    /// What the rule of this id would make of an event that was not judged yet, and by what. Judges nothing. `None`: there is
    /// no such rule in force.
    pub fn explain(&self, event: &Event, now: BootNs, rule: &str) -> Option<Explanation> {
        let (place, running) = (0..).zip(&self.running).find(|(_, running)| running.is(rule))?;
        let trace = running.rule.trace(event, &self.names);
        let past = Past {
            now,
            began: running.began,
            names: &self.names,
            baseline: &self.baseline,
            program_rules: &self.program_rules,
        };
        // Of what it does not look at, it knows nothing.
        let memory =
            trace.is_looked_at().then(|| running.detector.recall(&running.rule, event, &past)).flatten();
        let same = memory.as_ref().and_then(|memory| memory.same);
        let told = same.and_then(|same| self.alerts.told((place, &running.rule), same, now));
        Some(Explanation { rule: Arc::clone(&running.rule), trace, memory, told })
    }

    /// The rules in force.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.running.iter().filter(|running| !running.is_retired).map(|running| &*running.rule)
    }

    /// The counters.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            alerts: self.alerts.stats(),
            timers: self.timers.len(),
            followed: self.followed.len(),
            forgotten: self.exits.unfollowed()
                + self.running.iter().map(|running| running.detector.forgotten()).sum::<u64>(),
            ..self.stats
        }
    }

    /// `existing`: the event tells what was there when the rules from this place on began, and is for them only.
    fn judge(&mut self, event: &Event, existing: Option<u32>, flows: &dyn Flows) {
        let triggers = existing.map_or_else(|| Triggers::of(event), |_| Triggers::of_existing(event));
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        self.index.candidates(triggers, event, &mut candidates);
        let has_room = self.late.len() < LATE_MAX;
        let mut waits = std::mem::take(&mut self.waits);
        waits.clear();
        for &place in candidates.iter().filter(|place| existing.is_none_or(|first| **place >= first)) {
            let running = &self.running[place as usize];
            let also = running.detector.also().is_some_and(|filter| filter.matches(event));
            if !running.selects(event) {
                if self.index.is_late(place) {
                    waits.push(place);
                }
            } else if has_room && running.may_yet_except(event) && is_unsettled(event) {
                waits.push(place);
            } else {
                self.with(place, event.boot, flows, |detector, rule, scene| {
                    scene.existing = existing.is_some();
                    detector.on_match(rule, event, scene);
                });
            }
            if also {
                self.with(place, event.boot, flows, |detector, rule, scene| {
                    scene.existing = existing.is_some();
                    detector.on_also(rule, event, scene);
                });
            }
        }
        self.candidates = candidates;
        if !waits.is_empty()
            && let Some(process) = user(event).filter(|process| is_open(process))
        {
            self.wait_for_facts(event, existing.is_some(), process.identity.key(), &waits);
        }
        self.waits = waits;
    }

    fn end(&mut self, id: ConnId, event: &Event, flows: &dyn Flows) {
        if let Some(subject) = self.late_subjects.get_mut(&id.0) {
            subject.is_over = true;
        }
        if let Some(followers) = self.followed.remove(&id.0) {
            for place in followers {
                self.with(place, event.boot, flows, |detector, rule, scene| {
                    detector.on_end(rule, event, scene);
                });
            }
        }
        self.alerts.on_end(id, || ending(event), event.boot);
    }

    fn with(
        &mut self,
        place: u32,
        now: BootNs,
        flows: &dyn Flows,
        act: impl FnOnce(&mut dyn Detector, &Rule, &mut Scene<'_>),
    ) {
        let Some(running) = self.running.get_mut(place as usize) else { return };
        let mut scene = Scene {
            now,
            began: running.began,
            existing: false,
            names: &self.names,
            baseline: &self.baseline,
            program_rules: &self.program_rules,
            coverage: &self.coverage,
            flows,
            rule: place,
            timers: &mut self.timers,
            followed: &mut self.followed,
            alerts: &mut self.alerts,
            exits: &mut self.exits,
            comparer: self.comparer.as_ref(),
            has_recorded_answers: self.has_recorded_answers,
            is_over: false,
        };
        act(running.detector.as_mut(), &running.rule, &mut scene);
    }
}

impl Running {
    fn new(rule: &Arc<Rule>, began: BootNs) -> Self {
        Self { detector: detector(&rule.detect), rule: Arc::clone(rule), began, is_retired: false }
    }

    fn is(&self, rule: &str) -> bool {
        !self.is_retired && &*self.rule.about.id == rule
    }

    fn selects(&self, event: &Event) -> bool {
        let excepts = || !self.detector.asks_exceptions() && self.rule.excepts(event);
        self.rule.matches.matches(event) && !excepts()
    }

    /// Whether an exception may still come to match, once what the inspector finds out is known. Without an answer in time
    /// the rule fires.
    fn may_yet_except(&self, event: &Event) -> bool {
        !self.detector.asks_exceptions() && self.rule.except.iter().any(|filter| filter.may_yet_match(event))
    }
}

fn program_rules(rules: &RuleSet) -> Vec<Arc<Rule>> {
    let tells = |rule: &&Arc<Rule>| rule.detect == Detect::Process(ProcessRule::Unlearned);
    rules.rules.iter().filter(tells).cloned().collect()
}

fn index(running: &[Running]) -> Index {
    Index::new(running.iter().map(|of| (&*of.rule, of.detector.triggers(), of.detector.also())))
}

/// The connection or listener that an event is about.
fn subject(event: &Event) -> Option<ConnId> {
    super::detector::connection(event)
        .map(|conn| conn.id)
        .or_else(|| super::detector::listener(event).map(|listener| listener.id))
}

/// What a connection or a listener was when it ended.
fn ending(event: &Event) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    match &event.body {
        EventBody::Flow(Change::Close(_, Ending { how, duration, traffic, .. })) => {
            use crate::event::names::Named as _;
            evidence.push(Evidence::text("end", how.name().as_bytes()));
            evidence.extend(duration.map(|duration| Evidence::duration("duration", duration)));
            if let Some(traffic) = traffic {
                evidence.push(Evidence::number("bytes_in", traffic.bytes_in));
                evidence.push(Evidence::number("bytes_out", traffic.bytes_out));
            }
        }
        EventBody::Flow(Change::Failed(_, Failure { errno, after })) => {
            let error = crate::event::errno::name(*errno).unwrap_or("cancelled");
            evidence.push(Evidence::text("error", error.as_bytes()));
            evidence.extend(after.map(|after| Evidence::duration("duration", after)));
        }
        EventBody::Flow(Change::Unlisten(_, end)) => {
            evidence.extend(end.duration.map(|duration| Evidence::duration("duration", duration)));
        }
        _ => {}
    }
    evidence
}

//! The engine: events in, alerts out. Its clock is that of the events and of its timers; who drives it defines it.

mod explained;
mod hold;
#[cfg(test)]
mod hold_tests;
mod late;
#[cfg(test)]
mod late_tests;
mod reload;
#[cfg(test)]
mod reload_tests;
mod samples;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::hold::ALERT_FACTS;
use self::hold::{HOLD, Held};
pub use self::late::LATE_FACTS;
pub(crate) use self::late::is_unsettled;
use self::late::{ANSWER_MAX, Late, LateSubject, WaitingOf, is_open, user};

use super::alerts::{AlertStats, Alerts};
use super::detector::{Context, Detector, Effects, Flows, Followers, RuleRun, Triggers, connection};
use super::exits::Exits;
use super::index::Index;
use super::model::Rule;
use super::path_memory::PathMemory;
use super::set::RuleSet;
use super::stage::{Layout, Staged};
use super::timers::Timers;
use crate::event::alert::{Alert, Evidence, Severity};
use crate::event::model::{Event, EventBody};
use crate::filter::Filter;
use crate::flow::coverage::Coverage;
use crate::flow::model::{Change, ConnId, Ending, Failure};
use crate::flow::sample::Sampler;
use crate::process::hash::IntMap;
use crate::process::inspect::Comparer;
use crate::units::{BootNs, DurationNs};

/// Counters of an [`Engine`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Of its alerts.
    pub alerts: AlertStats,
    /// Timers that wait.
    pub timers: usize,
    /// Connections and listeners that are followed.
    pub followed: usize,
    /// Events that were not judged by late facts: limit reached.
    pub late_dropped: u64,
    /// What detectors do not remember any more: limit reached.
    pub forgotten: u64,
}

/// A rule at work.
struct Running {
    run: RuleRun,
    rule: Arc<Rule>,
    detector: Box<dyn Detector>,
    /// From when on it judges.
    began: BootNs,
}

/// For whom an event is judged.
#[derive(Clone, Copy)]
enum Audience<'a> {
    /// All rules: it happens now.
    All,
    /// Rules that begin: it is what was there before. `None`: all rules do.
    Beginning(Option<&'a Index>),
}

/// Rules at work.
pub struct Engine {
    /// By place.
    running: Vec<Option<Running>>,
    index: Index,
    /// What is at which place, with the names and the baseline.
    layout: Arc<Layout>,
    /// Detectors that began.
    runs: u32,
    coverage: Coverage,
    /// The largest instant among the events judged and the timers fired. Never goes back.
    now: BootNs,
    timers: Timers,
    followed: IntMap<u64, Followers>,
    alerts: Alerts,
    held: Held,
    exits: Exits,
    comparer: Option<Comparer>,
    sampler: Option<Sampler>,
    /// Rules that wait for a sample of a connection.
    sampled: IntMap<u64, Followers>,
    /// What rules learned in earlier runs.
    memory: Option<PathMemory>,
    has_recorded_answers: bool,
    late_wait: DurationNs,
    late: IntMap<u64, Late>,
    /// Events that wait, by the key of their process (`Identity::key`).
    late_of: IntMap<u64, WaitingOf>,
    late_subjects: IntMap<u64, LateSubject>,
    late_last: u64,
    candidates: Vec<u32>,
    /// Of them those that wait for facts of an event's process.
    waits: Vec<RuleRun>,
    /// Those whose secondary filters do.
    secondary_waits: Vec<RuleRun>,
    stats: EngineStats,
    /// What detectors of rules that were removed had forgotten.
    forgotten_before: u64,
}

impl Engine {
    /// An engine that begins at this instant: when the programs were attached.
    pub fn new(rules: &RuleSet, began: BootNs) -> Self {
        Self::of(rules.into(), began)
    }

    /// Returns an engine of rules that were staged elsewhere, that begins at this instant.
    pub fn of(staged: Staged, began: BootNs) -> Self {
        let Staged { layout, index, added, .. } = staged.alone();
        let mut engine = Self {
            running: Vec::new(),
            index,
            layout,
            runs: 0,
            coverage: Coverage::new(began),
            now: BootNs(0),
            timers: Timers::default(),
            followed: IntMap::default(),
            alerts: Alerts::default(),
            held: Held::default(),
            exits: Exits::default(),
            comparer: None,
            sampler: None,
            sampled: IntMap::default(),
            memory: None,
            has_recorded_answers: false,
            late_wait: LATE_FACTS,
            late: IntMap::default(),
            late_of: IntMap::default(),
            late_subjects: IntMap::default(),
            late_last: 0,
            candidates: Vec::new(),
            waits: Vec::new(),
            secondary_waits: Vec::new(),
            stats: EngineStats::default(),
            forgotten_before: 0,
        };
        engine.add(added, began);
        engine
    }

    /// Lets rules have executables compared with what their paths lead to now. Without it they judge by what is known.
    #[must_use]
    pub fn with_comparer(mut self, comparer: Option<Comparer>) -> Self {
        self.comparer = comparer;
        self
    }

    /// Lets rules begin with what they learned in earlier runs, and report what they learn.
    #[must_use]
    pub fn with_memory(mut self, memory: Option<PathMemory>) -> Self {
        if let Some(memory) = &memory {
            for running in self.running.iter_mut().flatten() {
                running.detector.restore(&running.rule, memory, running.began);
            }
        }
        self.memory = memory;
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
        let places: Vec<u32> = (0..self.running.len() as u32).collect();
        self.begin(&places, None, now, existing, flows);
        self.take_alerts()
    }

    /// Judges an event. First every timer due at or before it fires, each at its own instant.
    pub fn on_event(&mut self, event: &Event, flows: &dyn Flows) -> Vec<Alert> {
        self.fire(event.boot, flows);
        self.now = self.now.max(event.boot);
        match &event.body {
            EventBody::Gap(gap) => self.coverage.lose(gap.clone()),
            EventBody::Repair(repair) => self.coverage.repaired(repair.seen, event.boot),
            EventBody::Flow(Change::Close(conn, _) | Change::Failed(conn, _)) => {
                self.judge(event, Audience::All, flows);
                self.end(conn.id, event, flows);
            }
            EventBody::Flow(Change::Unlisten(listener, _)) => self.end(listener.id, event, flows),
            EventBody::Exit(exit, status) => {
                for run in self.exits.add(&exit.process, *status, event.boot).iter() {
                    self.with(run, event.boot, flows, |detector, rule, context| {
                        detector.on_exit(rule, &exit.process, *status, context);
                    });
                }
                self.judge(event, Audience::All, flows);
            }
            _ => self.judge(event, Audience::All, flows),
        }
        self.take_alerts()
    }

    /// A connection is not followed any more; `event` is an end of it that nobody saw, and is not judged.
    pub fn forget(&mut self, event: &Event, flows: &dyn Flows) -> Vec<Alert> {
        if let EventBody::Flow(Change::Close(conn, _)) = &event.body {
            self.end(conn.id, event, flows);
        }
        self.take_alerts()
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
        self.timers.next_of(self.running(id)?.run.place)
    }

    /// Fires the next timer that is due at or before an instant or the clock, at its own instant.
    pub(crate) fn fire_next(&mut self, until: BootNs, flows: &dyn Flows) -> Vec<Alert> {
        self.fire_one(until, flows);
        self.take_alerts()
    }

    fn fire(&mut self, until: BootNs, flows: &dyn Flows) {
        while self.fire_one(until, flows) {}
    }

    /// Returns whether one was due.
    fn fire_one(&mut self, until: BootNs, flows: &dyn Flows) -> bool {
        let Some((at, alarm)) = self.timers.due(until.max(self.now)) else { return false };
        self.now = self.now.max(at);
        if alarm.rule == RuleRun::ENGINE && alarm.token == HOLD {
            self.on_hold_timer();
        } else if alarm.rule == RuleRun::ENGINE {
            if let Some(mut late) = self.late.remove(&alarm.token) {
                self.judge_late(&mut late, true, at, flows);
                self.forget_late(alarm.token, &late);
            }
        } else {
            self.with(alarm.rule, at, flows, |detector, rule, context| {
                detector.on_timer(rule, alarm.token, context);
            });
        }
        true
    }

    /// The active rules.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.running.iter().flatten().map(|running| &*running.rule)
    }

    /// The rule of this id at work. Looks at all of them.
    fn running(&self, id: &str) -> Option<&Running> {
        self.running.iter().flatten().find(|running| *running.rule.about.id == *id)
    }

    /// The severities of the open alerts, in no order. Looks at all of them.
    pub fn open_severities(&self) -> impl Iterator<Item = Severity> {
        self.alerts.open_severities()
    }

    /// The counters.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            alerts: self.alerts.stats(),
            timers: self.timers.len(),
            followed: self.followed.len(),
            forgotten: self.exits.unfollowed()
                + self.forgotten_before
                + self.running.iter().flatten().map(|running| running.detector.forgotten()).sum::<u64>(),
            ..self.stats
        }
    }

    fn judge(&mut self, event: &Event, audience: Audience<'_>, flows: &dyn Flows) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let (index, triggers, existing) = match audience {
            Audience::All => (&self.index, Triggers::of(event), false),
            Audience::Beginning(index) => (index.unwrap_or(&self.index), Triggers::of_existing(event), true),
        };
        index.candidates(triggers, event, &mut candidates);
        let mut waits = std::mem::take(&mut self.waits);
        let mut secondary_waits = std::mem::take(&mut self.secondary_waits);
        waits.clear();
        secondary_waits.clear();
        self.wait_for_name(event, index.by_name(triggers), &mut waits, &mut secondary_waits);
        let has_room = user(event).is_some_and(|process| self.has_room_to_wait(process.identity.key()));
        for &place in &candidates {
            let Some(running) = self.running.get(place as usize).and_then(Option::as_ref) else { continue };
            let run = running.run;
            let secondary = running.detector.secondary().is_some_and(|of| of.filter.matches(event));
            if !running.selects(event) {
                if self.index.is_late(place) && !waits.contains(&run) {
                    waits.push(run);
                }
            } else if has_room
                && running.detector.may_concern(event)
                && running.may_yet_except(event)
                && is_unsettled(event)
            {
                waits.push(run);
            } else {
                self.with(run, event.boot, flows, |detector, rule, context| {
                    context.existing = existing;
                    detector.on_match(rule, event, context);
                });
            }
            if secondary {
                self.with(run, event.boot, flows, |detector, rule, context| {
                    context.existing = existing;
                    detector.on_secondary(rule, event, context);
                });
            }
        }
        self.candidates = candidates;
        if !(waits.is_empty() && secondary_waits.is_empty())
            && let Some(process) = user(event).filter(|process| is_open(process))
        {
            self.wait_for_facts(event, existing, process.identity.key(), (&waits, &secondary_waits));
        }
        self.waits = waits;
        self.secondary_waits = secondary_waits;
    }

    /// Collects the rules, of these places, that would select the event if its process turned out to be a copy of a tool.
    fn wait_for_name(
        &self,
        event: &Event,
        places: impl Iterator<Item = u32>,
        waits: &mut Vec<RuleRun>,
        secondary_waits: &mut Vec<RuleRun>,
    ) {
        if user(event).is_none_or(|process| process.identity.copy_of_settled() || !is_open(process)) {
            return;
        }
        let may_yet = |filter: &Filter| !filter.matches(event) && filter.may_yet_match(event);
        for place in places {
            let Some(running) = self.running.get(place as usize).and_then(Option::as_ref) else { continue };
            if may_yet(&running.rule.matches) && running.detector.may_concern(event) {
                waits.push(running.run);
            }
            if running.detector.secondary().is_some_and(|of| may_yet(of.filter)) {
                secondary_waits.push(running.run);
            }
        }
    }

    fn end(&mut self, id: ConnId, event: &Event, flows: &dyn Flows) {
        if let Some(subject) = self.late_subjects.get_mut(&id.0) {
            subject.is_over = true;
        }
        if let Some(followers) = self.followed.remove(&id.0) {
            for run in followers.iter() {
                self.with(run, event.boot, flows, |detector, rule, context| {
                    detector.on_end(rule, event, context);
                });
            }
        }
        self.sampled.remove(&id.0);
        self.alerts.on_end(id, || ending(event), event.boot);
    }

    /// Has the detector of a rule do something, if the rule is still at work.
    fn with(
        &mut self,
        run: RuleRun,
        now: BootNs,
        flows: &dyn Flows,
        act: impl FnOnce(&mut dyn Detector, &Rule, &mut Context<'_>),
    ) {
        let Some(running) = self.running.get_mut(run.place as usize).and_then(Option::as_mut) else { return };
        if running.run != run {
            return;
        }
        let mut context = Context {
            now,
            began: running.began,
            existing: false,
            names: &self.layout.names,
            baseline: &self.layout.baseline,
            program_rules: &self.layout.program_rules,
            coverage: &self.coverage,
            flows,
            rule: run,
            comparer: self.comparer.as_ref(),
            sampler: self.sampler.as_ref(),
            has_recorded_answers: self.has_recorded_answers,
            effects: Effects::Real {
                timers: &mut self.timers,
                followed: &mut self.followed,
                alerts: &mut self.alerts,
                exits: &mut self.exits,
                sampled: &mut self.sampled,
            },
            is_over: false,
        };
        act(running.detector.as_mut(), &running.rule, &mut context);
    }
}

impl Running {
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

/// The connection or listener that an event is about.
fn subject(event: &Event) -> Option<ConnId> {
    connection(event)
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

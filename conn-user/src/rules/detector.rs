//! What a detector is, and what it may do.

use std::sync::Arc;

pub use super::about::{connection, listener};
use super::alerts::{Alerts, Found, Life};
use super::baseline::Baseline;
use super::dry_run::{CopyDetector, DryRun, Note};
use super::exits::Exits;
use super::model::Rule;
use super::path_memory::{PathMemory, Reporter};
pub(super) use super::rule_run::Followers;
pub use super::rule_run::RuleRun;
use super::timers::{Alarm, TimerId, Timers};
use crate::event::alert::{AlertId, Evidence, Severity};
use crate::event::model::{Event, EventBody};
use crate::filter::Filter;
use crate::filter::names::Names;
use crate::flow::coverage::Coverage;
use crate::flow::model::{Change, ConnEvent, ConnId, Source};
use crate::flow::sample::{Sample, Sampler};
use crate::flow::table::FlowTable;
use crate::process::hash::IntMap;
use crate::process::identity::Replaced;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::process::inspect::Comparer;
use crate::units::{BootNs, DurationNs};

/// Where the engine finds connections that live.
pub trait Flows {
    /// The connection or `None`: it ended, or was never followed.
    fn connection(&self, id: ConnId) -> Option<ConnEvent>;
}

impl Flows for FlowTable {
    fn connection(&self, id: ConnId) -> Option<ConnEvent> {
        self.connection(id)
    }
}

/// What of an event wakes a detector up. A set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triggers(u8);

impl Triggers {
    /// A connection begins: an outgoing attempt, an accept, or one that was there before it was seen. Of a connection whose
    /// connect was lost, its establishment.
    pub const BEGIN: Self = Self(1);
    /// A connection is open: established, accepted, or there before it was seen.
    pub const OPEN: Self = Self(1 << 1);
    /// Something listens, also what did at the start.
    pub const LISTEN: Self = Self(1 << 2);
    /// An attempt failed.
    pub const FAILED: Self = Self(1 << 3);
    /// A program was executed.
    pub const EXEC: Self = Self(1 << 4);
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self(0b1_1111);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether they have one in common.
    pub const fn intersect(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What these are called, for people.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(Triggers, &str); 5] = [
            (Triggers::BEGIN, "the beginning of a connection"),
            (Triggers::OPEN, "an open connection"),
            (Triggers::LISTEN, "a listener"),
            (Triggers::FAILED, "a failed attempt"),
            (Triggers::EXEC, "an exec"),
        ];
        NAMES.into_iter().filter(move |(one, _)| self.intersect(*one)).map(|(_, name)| name)
    }

    /// What this event is.
    pub fn of(event: &Event) -> Self {
        match &event.body {
            EventBody::Flow(Change::Connect(_)) => Self::BEGIN,
            EventBody::Flow(Change::Accept(_)) => Self::BEGIN.and(Self::OPEN),
            EventBody::Flow(Change::Established(conn)) => match conn.source {
                Source::Live => Self::OPEN,
                Source::Late | Source::Snapshot | Source::Resync => Self::BEGIN.and(Self::OPEN),
            },
            EventBody::Flow(Change::Failed(..)) => Self::FAILED,
            EventBody::Flow(Change::Listen(_)) => Self::LISTEN,
            EventBody::Exec(_) => Self::EXEC,
            _ => Self::NONE,
        }
    }

    /// What this event is, which may be of a recording or a test: what has no number was there when the rules began.
    pub fn of_reported(event: &Event) -> Self {
        if event.seq == 0 { Self::of_existing(event) } else { Self::of(event) }
    }

    /// What an event is that reports what was there when the rule began.
    pub fn of_existing(event: &Event) -> Self {
        match &event.body {
            EventBody::Flow(Change::Established(_)) => Self::BEGIN.and(Self::OPEN),
            _ => Self::of(event),
        }
    }
}

/// Describes a second filter of a rule, beside `match`.
#[derive(Clone, Copy, Debug)]
pub struct Secondary<'a> {
    /// The key of the rule that has it.
    pub key: &'static str,
    /// What it selects, for people, in the plural.
    pub selects: &'static str,
    /// What `match` selects in such a rule.
    pub match_selects: &'static str,
    /// Alerts are raised at events that it selects, and not at those that `match` does.
    pub raises: bool,
    /// The filter.
    pub filter: &'a Filter,
}

/// One rule at work.
pub trait Detector: CopyDetector + Send {
    /// Which events it is asked about.
    fn triggers(&self) -> Triggers;

    /// The rule begins. Whatever was there before comes next as events ([`Context::existing`]).
    fn on_start(&mut self, _rule: &Rule, _context: &mut Context<'_>) {}

    /// Takes over what the rule learned in earlier runs. `now`: when it begins.
    fn restore(&mut self, _rule: &Rule, _memory: &PathMemory, _now: BootNs) {}

    /// Whether it asks the rule's exceptions itself: then [`Self::on_match`] gets what they hold for, too.
    fn asks_exceptions(&self) -> bool {
        false
    }

    /// An event of its triggers that the rule's filters let pass.
    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>);

    /// Returns the secondary filter: events of its triggers that match it go to [`Self::on_secondary`].
    fn secondary(&self) -> Option<Secondary<'_>> {
        None
    }

    /// Returns whether the secondary filter decides about an event of its triggers, and not `match`. For explanations only: the
    /// detector gets both.
    fn secondary_decides(&self, _event: &Event) -> bool {
        false
    }

    /// Returns whether an event could lead to something if the filters let it pass. Asked before it waits for facts of its process.
    fn may_concern(&self, _event: &Event) -> bool {
        true
    }

    /// Handles an event that the secondary filter matches; `match` may match it too.
    fn on_secondary(&mut self, _rule: &Rule, _event: &Event, _context: &mut Context<'_>) {}

    /// The end of a connection or listener that it follows (see [`Context::follow`]): a `Close`, `Failed` or `Unlisten`.
    fn on_end(&mut self, _rule: &Rule, _event: &Event, _context: &mut Context<'_>) {}

    /// The end of a process that it follows (see [`Context::follow_process`]).
    fn on_exit(
        &mut self,
        _rule: &Rule,
        _process: &ProcessInfo,
        _status: ExitStatus,
        _context: &mut Context<'_>,
    ) {
    }

    /// What it does not remember any more because a limit was reached; it may judge wrongly what is not in its memory.
    fn forgotten(&self) -> u64 {
        0
    }

    /// A sample that it asked for ([`Context::sample`]).
    fn on_sample(&mut self, _rule: &Rule, _sample: &Sample, _context: &mut Context<'_>) {}

    /// No more samples come, nor does time pass: this connection will not be sampled.
    fn on_no_sample(&mut self, rule: &Rule, id: ConnId, context: &mut Context<'_>) {
        self.on_sample(rule, &Sample { id, counters: None }, context);
    }

    /// A timer of its own is due.
    fn on_timer(&mut self, _rule: &Rule, _token: u64, _context: &mut Context<'_>) {}
}

/// What comes of what a detector does.
pub(super) enum Effects<'a> {
    /// It changes the engine.
    Real {
        timers: &'a mut Timers,
        followed: &'a mut IntMap<u64, Followers>,
        alerts: &'a mut Alerts,
        exits: &'a mut Exits,
        /// Rules that wait for a sample of a connection.
        sampled: &'a mut IntMap<u64, Followers>,
    },
    /// It is recorded, and changes nothing.
    Dry { run: &'a mut DryRun, alerts: &'a Alerts, exits: &'a Exits },
}

/// What a detector may look at and do.
pub struct Context<'a> {
    /// The instant of the event, or at which the timer was due.
    pub now: BootNs,
    /// When the rule began: with the engine, or when it was loaded.
    pub began: BootNs,
    /// The event reports what was there when the rule began.
    pub existing: bool,
    /// The zones and lists.
    pub names: &'a Names,
    /// What is normal.
    pub baseline: &'a Baseline,
    /// Active rules that report programs that the baseline does not have.
    pub program_rules: &'a [Arc<Rule>],
    /// What was seen.
    pub coverage: &'a Coverage,
    /// The connections that live.
    pub flows: &'a dyn Flows,
    pub(super) rule: RuleRun,
    pub(super) comparer: Option<&'a Comparer>,
    pub(super) sampler: Option<&'a Sampler>,
    pub(super) has_recorded_answers: bool,
    pub(super) effects: Effects<'a>,
    /// The event is judged late, and its connection or listener has ended since.
    pub(super) is_over: bool,
}

impl Context<'_> {
    /// Explains the decision that is made here: the last note of an event counts. Evaluated in dry runs only, of which the
    /// explanations are made.
    #[inline]
    pub(super) fn note(&mut self, note: impl FnOnce() -> Note) {
        if let Effects::Dry { run, .. } = &mut self.effects {
            run.note = Some(note());
        }
    }

    /// Has the end of this connection or listener reported to the detector. `false`: it has ended already, so that nothing that is
    /// remembered of it would be forgotten at its end.
    #[must_use]
    pub fn follow(&mut self, id: ConnId) -> bool {
        if !self.is_over
            && let Effects::Real { followed, .. } = &mut self.effects
        {
            followed.entry(id.0).or_default().add(self.rule);
        }
        !self.is_over
    }

    /// Has the detector reported the end of this process.
    pub fn follow_process(&mut self, process: &ProcessInfo) {
        if let Effects::Real { exits, .. } = &mut self.effects {
            exits.follow(process, self.rule);
        }
    }

    /// How this process ended, if it did of late.
    pub fn exit_of(&self, process: &ProcessInfo) -> Option<ExitStatus> {
        self.exits().of(process).map(|(status, _)| status)
    }

    /// How this process ended, if it did within this time before now.
    pub fn exit_of_within(&self, process: &ProcessInfo, time: DurationNs) -> Option<ExitStatus> {
        let (status, at) = self.exits().of(process)?;
        (self.now.since(at) <= time).then_some(status)
    }

    fn exits(&self) -> &Exits {
        match &self.effects {
            Effects::Real { exits, .. } => exits,
            Effects::Dry { exits, .. } => exits,
        }
    }

    /// Returns whether it is time to compare the executable of this process: never twice within `every`. Then what the last
    /// comparison said is forgotten.
    pub fn begins_comparison(&mut self, process: &ProcessInfo, every: DurationNs) -> bool {
        match &mut self.effects {
            Effects::Real { .. } => process.identity.is_to_be_compared(self.now, every),
            Effects::Dry { run, .. } => {
                run.compares = process.identity.is_time_to_compare(self.now, every);
                run.compares
            }
        }
    }

    /// Has the executable of this process compared with what its path leads to now, in the background: see
    /// [`crate::process::identity::Identity::replaced`]. Returns whether an answer may come; without one the answer is that it is
    /// not known.
    pub fn compare(&mut self, process: &Arc<ProcessInfo>) -> bool {
        if let Effects::Dry { run, .. } = &mut self.effects {
            run.waits = true;
            return self.has_recorded_answers || self.comparer.is_some();
        }
        let may_come =
            self.has_recorded_answers || self.comparer.is_some_and(|comparer| comparer.ask(process));
        if !may_come {
            process.identity.set_replaced(Replaced::Unknown);
        }
        may_come
    }

    /// Returns what the last comparison of the executable of this process said; `None`: there was none, or it is under way.
    pub fn replaced(&self, process: &ProcessInfo) -> Option<Replaced> {
        let is_under_way = matches!(&self.effects, Effects::Dry { run, .. } if run.compares);
        process.identity.replaced().filter(|_| !is_under_way)
    }

    /// Returns whether executables are compared at all.
    pub const fn can_compare(&self) -> bool {
        self.has_recorded_answers || self.comparer.is_some()
    }

    /// Has a connection sampled in the background: [`Detector::on_sample`] gets the sample. Returns whether one may come.
    pub fn sample(&mut self, conn: &ConnEvent) -> bool {
        match &mut self.effects {
            Effects::Real { sampled, .. } => {
                let asks = self.sampler.map_or(self.has_recorded_answers, |sampler| sampler.ask(conn));
                if asks {
                    sampled.entry(conn.id.0).or_default().add(self.rule);
                }
                asks
            }
            Effects::Dry { run, .. } => {
                let asks = self.sampler.is_some() || self.has_recorded_answers;
                run.waits |= asks;
                asks
            }
        }
    }

    /// Has what was learned kept for later runs; what is not adds to `forgotten`.
    pub(super) fn learn(&self, reporter: &Reporter, path: u64, forgotten: &mut u64) {
        if matches!(self.effects, Effects::Real { .. }) {
            reporter.learn(path, forgotten);
        }
    }

    /// Sets a timer.
    pub fn set_timer(&mut self, at: BootNs, token: u64) -> TimerId {
        match &mut self.effects {
            Effects::Real { timers, .. } => timers.set(at, Alarm { rule: self.rule, token }),
            Effects::Dry { run, .. } => {
                run.waits = true;
                TimerId::NONE
            }
        }
    }

    /// Takes it back. It must not have fired.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        if let Effects::Real { timers, .. } = &mut self.effects {
            timers.cancel(timer);
        }
    }

    /// Whether [`Self::raise`] would only count this finding of the rule as a repeat; then it is counted. To be asked first
    /// where events may find the same again and again: to put together what is reported costs more than to judge it. In a dry
    /// run it is put together all the same.
    pub fn is_reported(&mut self, rule: &Rule, dedup_key: u64) -> bool {
        match &mut self.effects {
            Effects::Real { alerts, .. } => alerts.is_reported((self.rule, rule), dedup_key, self.now),
            Effects::Dry { .. } => false,
        }
    }

    /// Raises an alert, unless the same one is open or was reported within the rule's throttle.
    pub fn raise(&mut self, rule: &Rule, found: Found) -> Option<AlertId> {
        self.raise_as(rule, found, rule.severity)
    }

    /// Raises an alert as [`Self::raise`] does, with another severity than the rule's.
    pub fn raise_as(&mut self, rule: &Rule, mut found: Found, severity: Severity) -> Option<AlertId> {
        if self.is_over && matches!(found.life, Life::With(_)) {
            found.life = Life::Moment;
        }
        let of = (self.rule, rule);
        match &mut self.effects {
            Effects::Real { alerts, .. } => alerts.raise(of, found, severity, self.now, self.coverage),
            Effects::Dry { run, alerts, .. } => run.raise(alerts, of, found, severity, self.now),
        }
    }

    /// Reports that it got worse.
    pub fn escalate(&mut self, id: AlertId, severity: Severity, evidence: Vec<Evidence>) {
        if let Effects::Real { alerts, .. } = &mut self.effects {
            alerts.escalate(id, severity, evidence, self.now);
        }
    }

    /// Reports that it is over. One that is bound to a connection or a listener is resolved by its end.
    pub fn resolve(&mut self, id: AlertId, evidence: Vec<Evidence>) {
        if let Effects::Real { alerts, .. } = &mut self.effects {
            alerts.resolve(id, evidence, self.now);
        }
    }
}

//! At least so many listeners, or open connections.

use std::collections::HashSet;

use super::super::alerts::{Found, Life};
use super::super::detector::{Context, Detector, Triggers, connection, listener};
use super::super::dry_run::{Note, lasting};
use super::super::model::Rule;
use super::super::timers::TimerId;
use super::cause::{ABSENCE, Cause};
use crate::event::alert::{AlertId, Evidence, Subject};
use crate::event::model::Event;
use crate::flow::model::ConnId;
use crate::process::hash::IntBuild;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::{BootNs, DurationNs};

/// Most that are counted at once; what is beyond them is taken for present, and counted as forgotten.
const COUNTED_MAX: usize = 1 << 20;

/// Finds the absence of listeners or connections that are always there.
#[derive(Clone, Debug)]
pub(super) struct Present {
    triggers: Triggers,
    least: usize,
    grace: DurationNs,
    counted: HashSet<u64, IntBuild>,
    absent: Option<Absent>,
    ever: bool,
    cause: Option<Cause>,
    alert: Option<AlertId>,
    not_counted: u64,
}

#[derive(Clone, Debug)]
struct Absent {
    since: BootNs,
    timer: Option<TimerId>,
}

impl Present {
    pub(super) fn listeners(least: u32, grace: DurationNs) -> Self {
        Self::new(Triggers::LISTEN, least, grace)
    }

    pub(super) fn connections(least: u32, grace: DurationNs) -> Self {
        Self::new(Triggers::OPEN, least, grace)
    }

    fn new(triggers: Triggers, least: u32, grace: DurationNs) -> Self {
        Self {
            triggers,
            least: least as usize,
            grace,
            counted: HashSet::default(),
            absent: None,
            ever: false,
            cause: None,
            alert: None,
            not_counted: 0,
        }
    }

    /// Too few: the grace begins, unless it did before.
    fn miss(&mut self, context: &mut Context<'_>) {
        if self.absent.is_none() && self.counted.len() < self.least {
            let due = BootNs(context.now.0.saturating_add(self.grace.0));
            self.absent = Some(Absent { since: context.now, timer: Some(context.set_timer(due, 0)) });
        }
    }

    /// Explains how many are there, and what is waited for.
    fn explain(&self, rule: &Rule, now: BootNs) -> Note {
        let (present, least) = (self.counted.len(), self.least);
        let note = |says| {
            let counts = [("at_least", least as u64), ("present", present as u64)];
            Note::new(says).with(counts.map(|(name, count)| Evidence::number(name, count))).waits()
        };
        let Some(absent) = &self.absent else {
            return note(format!("{present} are there, {least} must be"));
        };
        let lasted = now.since(absent.since);
        let mut facts =
            vec![Evidence::duration("absent_for", lasted), Evidence::duration("grace", self.grace)];
        if let Some(cause) = &self.cause {
            cause.evidence(&mut facts);
        }
        let says = match self.grace.0.saturating_sub(lasted.0) {
            _ if self.alert.is_some() => format!("{present} are there, {least} must be; that is reported"),
            0 => format!(
                "{present} are there, {least} must be: it is reported, at most once in {}",
                lasting(rule.throttle)
            ),
            left => {
                format!("{present} are there, {least} must be: reported in {}", lasting(DurationNs(left)))
            }
        };
        note(says).with(facts).key(ABSENCE)
    }

    fn evidence(&self, rule: &Rule, since: BootNs, context: &Context<'_>) -> Vec<Evidence> {
        let mut evidence = vec![
            Evidence::text("expected", rule.matches.to_string().into_bytes()),
            Evidence::number("at_least", self.least as u64),
            Evidence::number("present", self.counted.len() as u64),
            Evidence::duration("absent_for", context.now.since(since)),
        ];
        match &self.cause {
            Some(cause) => cause.evidence(&mut evidence),
            None if self.ever => {}
            None => evidence.push(Evidence::text("cause", *b"never seen")),
        }
        evidence
    }
}

impl Detector for Present {
    fn triggers(&self) -> Triggers {
        self.triggers
    }

    fn on_start(&mut self, _rule: &Rule, context: &mut Context<'_>) {
        self.miss(context);
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let id: Option<ConnId> =
            connection(event).map(|conn| conn.id).or_else(|| listener(event).map(|listener| listener.id));
        let Some(id) = id else { return };
        let now = context.now;
        context.note(|| self.explain(rule, now));
        if self.counted.len() >= COUNTED_MAX {
            self.not_counted += 1;
            return context.note(|| Note::new("it is not counted: limit reached"));
        }
        if self.counted.contains(&id.0) || !context.follow(id) {
            return;
        }
        self.counted.insert(id.0);
        self.ever = true;
        if self.counted.len() < self.least {
            return;
        }
        let Some(absent) = self.absent.take() else { return };
        if let Some(timer) = absent.timer {
            context.cancel_timer(timer);
        }
        if let Some(alert) = self.alert.take() {
            let evidence = self.evidence(rule, absent.since, context);
            context.resolve(alert, evidence);
        }
        self.cause = None;
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let id =
            connection(event).map(|conn| conn.id).or_else(|| listener(event).map(|listener| listener.id));
        if id.is_some_and(|id| self.counted.remove(&id.0)) && self.counted.len() < self.least {
            self.cause = Cause::of(event, context);
            self.miss(context);
        }
    }

    fn on_exit(
        &mut self,
        _rule: &Rule,
        process: &ProcessInfo,
        status: ExitStatus,
        _context: &mut Context<'_>,
    ) {
        if let Some(cause) = &mut self.cause {
            cause.on_exit(process, status);
        }
    }

    fn forgotten(&self) -> u64 {
        self.not_counted
    }

    fn on_timer(&mut self, rule: &Rule, _token: u64, context: &mut Context<'_>) {
        let Some(since) = self.absent.as_ref().map(|absent| absent.since) else { return };
        let found = Found {
            dedup_key: ABSENCE,
            subject: Subject::Absence,
            evidence: self.evidence(rule, since, context),
            suppress: None,
            judged_from: since,
            life: Life::Detector,
        };
        self.alert = context.raise(rule, found);
        // Reported too short a time ago to be reported again: if it lasts, it must be reported all the same.
        let again = self.alert.is_none();
        let due = BootNs(context.now.0.saturating_add(rule.throttle.0.max(1)));
        let timer = again.then(|| context.set_timer(due, 0));
        if let Some(absent) = &mut self.absent {
            absent.timer = timer;
        }
    }
}

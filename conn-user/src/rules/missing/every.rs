//! A connection at least once in a time.

use super::super::alerts::{Found, Life};
use super::super::detector::{Context, Detector, Triggers, connection};
use super::super::dry_run::{Note, lasting};
use super::super::long::since;
use super::super::model::Rule;
use super::super::timers::TimerId;
use super::cause::{ABSENCE, Cause};
use crate::event::alert::{AlertId, Evidence, Subject};
use crate::event::model::Event;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::{BootNs, DurationNs};

/// Finds the absence of a connection that comes again and again.
#[derive(Clone, Debug)]
pub(super) struct Every {
    interval: DurationNs,
    grace: DurationNs,
    /// The last one, or the beginning of the watch.
    last: BootNs,
    seen: u64,
    timer: Option<TimerId>,
    cause: Option<Cause>,
    alert: Option<AlertId>,
}

impl Every {
    pub(super) fn new(every: DurationNs, grace: DurationNs) -> Self {
        Self { interval: every, grace, last: BootNs(0), seen: 0, timer: None, cause: None, alert: None }
    }

    /// Waits for the instant at which the next one is overdue.
    fn wait(&mut self, context: &mut Context<'_>) {
        if let Some(timer) = self.timer.take() {
            context.cancel_timer(timer);
        }
        let due = self.last.0.saturating_add(self.interval.0).saturating_add(self.grace.0);
        self.timer = Some(context.set_timer(BootNs(due), 0));
    }

    /// Explains when the next one is overdue.
    fn explain(&self, now: BootNs) -> Note {
        let lasted = now.since(self.last);
        let mut facts = vec![
            Evidence::duration("every", self.interval),
            Evidence::duration("grace", self.grace),
            Evidence::duration("absent_for", lasted),
            Evidence::number("seen", self.seen),
        ];
        if let Some(cause) = &self.cause {
            cause.evidence(&mut facts);
        }
        let due = self.interval.0.saturating_add(self.grace.0);
        let says = match due.saturating_sub(lasted.0) {
            _ if self.alert.is_some() => "overdue, and reported".to_owned(),
            0 => "overdue: it is reported".to_owned(),
            left => format!("the next one is overdue in {}", lasting(DurationNs(left))),
        };
        Note::new(says).with(facts).waits().key(ABSENCE)
    }

    fn evidence(&self, rule: &Rule, context: &Context<'_>) -> Vec<Evidence> {
        let mut evidence = vec![
            Evidence::text("expected", rule.matches.to_string().into_bytes()),
            Evidence::duration("every", self.interval),
            Evidence::duration("absent_for", context.now.since(self.last)),
            Evidence::number("seen", self.seen),
        ];
        match &self.cause {
            Some(cause) => cause.evidence(&mut evidence),
            None if self.seen > 0 => {}
            None => evidence.push(Evidence::text("cause", *b"never seen")),
        }
        evidence
    }
}

impl Detector for Every {
    fn triggers(&self) -> Triggers {
        Triggers::OPEN
    }

    fn on_start(&mut self, _rule: &Rule, context: &mut Context<'_>) {
        self.last = context.now;
        self.wait(context);
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let now = context.now;
        context.note(|| self.explain(now));
        self.seen += 1;
        // How it ends is the cause of the next absence. Of one that has ended already that is not known.
        let _ = context.follow(conn.id);
        if let Some(alert) = self.alert.take() {
            let evidence = self.evidence(rule, context);
            context.resolve(alert, evidence);
        }
        self.cause = None;
        // One that was there before may have been established long ago: the watch began later.
        self.last = self.last.max(since(conn, event.boot));
        self.wait(context);
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        self.cause = Cause::of(event, context);
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

    fn on_timer(&mut self, rule: &Rule, _token: u64, context: &mut Context<'_>) {
        let found = Found {
            dedup_key: ABSENCE,
            subject: Subject::Absence,
            evidence: self.evidence(rule, context),
            suppress: None,
            judged_from: self.last,
            life: Life::Detector,
        };
        self.alert = context.raise(rule, found);
        // See `Present::on_timer`.
        let again = self.alert.is_none();
        let due = BootNs(context.now.0.saturating_add(rule.throttle.0.max(1)));
        self.timer = again.then(|| context.set_timer(due, 0));
    }
}

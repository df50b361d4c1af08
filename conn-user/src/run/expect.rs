//! What must happen in a run: its rules of kind `missing`.
//!
//! Live such a rule watches for an absence that lasts. A run has an end, so here it is one question, asked at the end: was it there
//! (`count` times)? `grace` and `every` mean nothing.

use std::collections::HashSet;
use std::sync::Arc;

use crate::event::model::{Event, EventBody};
use crate::flow::model::{Change, Failure};
use crate::process::hash::IntBuild;
use crate::rules::detector::{Triggers, connection, listener};
use crate::rules::engine::is_unsettled;
use crate::rules::model::{Detect, Expect, Rule};

/// Most events that wait for facts of their process.
const UNSETTLED_MAX: usize = 4_096;

/// A rule of kind `missing` and what the run did of it.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The rule.
    pub rule: Arc<Rule>,
    /// It is about listeners, not connections.
    pub of_listeners: bool,
    /// How many must be there.
    pub least: u32,
    /// How many were, at most `least`: more are not counted.
    pub seen: u32,
    /// Attempts that match and failed.
    pub failed: u64,
    /// The error of the last of them; 0: it was cancelled.
    pub errno: Option<u16>,
    counted: HashSet<u64, IntBuild>,
    /// Events that do not match as yet, but facts that the rule asks for may still come.
    unsettled: Vec<Event>,
    not_kept: u64,
}

impl Expectation {
    /// Of a rule; `None`: it is of another kind.
    pub fn of(rule: &Arc<Rule>) -> Option<Self> {
        let Detect::Missing(missing) = &rule.detect else { return None };
        let (of_listeners, least) = match missing.expect {
            Expect::Listeners(least) => (true, least),
            Expect::Open(least) => (false, least),
            Expect::Every(_) => (false, 1),
        };
        Some(Self {
            rule: Arc::clone(rule),
            of_listeners,
            least,
            seen: 0,
            failed: 0,
            errno: None,
            counted: HashSet::default(),
            unsettled: Vec::new(),
            not_kept: 0,
        })
    }

    /// Whether there were enough.
    pub const fn is_met(&self) -> bool {
        self.seen >= self.least
    }

    /// Takes an event of the run.
    pub fn on_event(&mut self, event: &Event) {
        if self.is_met() {
            return;
        }
        let is_failure = matches!(event.body, EventBody::Flow(Change::Failed(..)));
        let wanted = if self.of_listeners { Triggers::LISTEN } else { Triggers::OPEN };
        let is_one = Triggers::of(event).intersect(wanted);
        if !(is_one || is_failure && !self.of_listeners) {
            return;
        }
        if self.rule.selects(event) {
            self.take(event);
        } else if self.rule.needs_late_facts() && is_unsettled(event) {
            if self.unsettled.len() < UNSETTLED_MAX {
                self.unsettled.push(event.clone());
            } else {
                self.not_kept += 1;
            }
        }
    }

    /// Whether events wait for facts that may still come.
    pub fn waits_for_facts(&self) -> bool {
        !self.is_met() && self.unsettled.iter().any(is_unsettled)
    }

    /// The run is over: what waited for facts is asked again. How many events could not wait, or wait in vain, which makes a
    /// difference where it is not met.
    pub fn finish(&mut self) -> u64 {
        for event in std::mem::take(&mut self.unsettled) {
            if self.is_met() {
                break;
            }
            if self.rule.selects(&event) {
                self.take(&event);
            } else {
                self.not_kept += u64::from(is_unsettled(&event));
            }
        }
        if self.is_met() { 0 } else { self.not_kept }
    }

    /// Takes an event that matches.
    fn take(&mut self, event: &Event) {
        if let EventBody::Flow(Change::Failed(_, Failure { errno, .. })) = &event.body {
            self.failed += 1;
            self.errno = Some(*errno);
            return;
        }
        let id =
            connection(event).map(|conn| conn.id).or_else(|| listener(event).map(|listener| listener.id));
        if id.is_some_and(|id| self.counted.insert(id.0)) {
            self.seen += 1;
        }
    }
}

//! Alerts that wait a moment for what the background finds out of their process, so that they show where it
//! worked and what it ran: a rule judges an event when it happens, and the inspector needs some milliseconds
//! more.
//!
//! Only the handing out waits, never the judgement: what is found, when, and what is counted as the same does
//! not change. Alerts keep their order, so one whose process is known waits with those before it, at most as
//! long as it would by itself.
//!
//! Whether an alert waits follows from what the events say of its process and not from what was asked about
//! it, which a recording does not have: a replay hands it out at the same point.

use std::collections::VecDeque;

use super::Engine;
use crate::event::alert::Alert;
use crate::process::info::ProcessInfo;
use crate::rules::detector::RuleRun;
use crate::rules::timers::{Alarm, TimerId};
use crate::units::{BootNs, DurationNs};

/// How long an alert waits for facts of its process, from its own instant.
pub const ALERT_FACTS: DurationNs = DurationNs(50_000_000);
/// Most alerts that wait; then the first one is handed out as it is.
pub(super) const HELD_MAX: usize = 1024;
/// The token of the engine's timer for them. Those of events that wait begin at 1.
pub(super) const HOLD: u64 = 0;

/// Alerts that wait, in their order.
#[derive(Default)]
pub(super) struct Held {
    /// Facts are delivered, and alerts are handed out at once to those who show them.
    is_on: bool,
    alerts: VecDeque<Alert>,
    /// For the first of them.
    timer: Option<(TimerId, BootNs)>,
}

impl Engine {
    /// Lets alerts wait for facts of their process, where these are delivered ([`Engine::on_facts`]).
    #[must_use]
    pub const fn with_held_alerts(mut self) -> Self {
        self.held.is_on = true;
        self
    }

    /// Alerts that wait for facts of their process.
    pub fn held(&self) -> usize {
        self.held.alerts.len()
    }

    /// Takes the alerts that are to be handed out: in their order, up to the first that still waits.
    pub(super) fn take_alerts(&mut self) -> Vec<Alert> {
        if !self.alerts.has_reported() && self.held.alerts.is_empty() {
            return Vec::new();
        }
        let found = self.alerts.take();
        if !self.held.is_on || (self.held.alerts.is_empty() && !found.iter().any(lacks_facts)) {
            return found;
        }
        self.held.alerts.extend(found);
        let mut taken = Vec::new();
        while let Some(first) = self.held.alerts.front() {
            let waits = lacks_facts(first) && deadline(first) > self.now;
            if waits && self.held.alerts.len() <= HELD_MAX {
                break;
            }
            taken.extend(self.held.alerts.pop_front());
        }
        self.set_hold_timer();
        taken
    }

    /// Takes all alerts: no more facts come.
    pub(super) fn take_all_alerts(&mut self) -> Vec<Alert> {
        let mut taken: Vec<Alert> = std::mem::take(&mut self.held.alerts).into();
        taken.append(&mut self.alerts.take());
        self.set_hold_timer();
        taken
    }

    /// The timer fired.
    pub(super) const fn on_hold_timer(&mut self) {
        self.held.timer = None;
    }

    /// Sets the timer for the first alert that waits.
    fn set_hold_timer(&mut self) {
        let due = self.held.alerts.front().map(deadline);
        if self.held.timer.map(|(_, at)| at) == due {
            return;
        }
        if let Some((timer, _)) = self.held.timer.take() {
            self.timers.cancel(timer);
        }
        if let Some(at) = due {
            self.held.timer = Some((self.timers.set(at, Alarm { rule: RuleRun::ENGINE, token: HOLD }), at));
        }
    }
}

/// Until when an alert waits at most.
fn deadline(alert: &Alert) -> BootNs {
    BootNs(alert.at.0.saturating_add(ALERT_FACTS.0))
}

/// Whether something of an alert's process may still be found out that the alert shows.
fn lacks_facts(alert: &Alert) -> bool {
    let lacks = |process: &ProcessInfo| {
        let state = process.identity.state();
        !process.kernel
            && (state.is_none_or(|state| state.cwd.is_none() || state.netns.is_none())
                || process.identity.sha256().is_none())
    };
    alert.subject.process().is_some_and(|process| lacks(process))
}

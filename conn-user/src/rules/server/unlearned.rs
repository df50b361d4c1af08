//! `find = "listener"`, `baseline = true`: a listener that the baseline has no entry of.

use crate::event::alert::Evidence;
use crate::event::model::Event;
use crate::rules::baseline::{self, Baseline, Finder, User, What};
use crate::rules::detector::{self, Context, Detector, Triggers};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;

use super::listener;

/// Finds listeners that are not in the baseline.
#[derive(Debug, Default)]
pub(super) struct Unlearned(Finder);

impl Detector for Unlearned {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let (Some(listener), Some(user)) = (detector::listener(event), User::of(event)) else { return };
        let local = listener.local;
        // At which port it listens is not known.
        if local.port() == 0 || self.0.knows_listener(user, local, context) {
            return;
        }
        if context.is_reported(rule, listener::same(listener))
            || (!self.0.knows_program(user, context) && baseline::is_deferred(event, context))
        {
            return;
        }
        let evidence = evidence(user, local.port(), context.baseline);
        listener::raise(rule, listener, evidence, context.now, context);
    }

    fn recall(&self, _rule: &Rule, event: &Event, past: &Past<'_>) -> Option<Memory> {
        let listener = detector::listener(event)?;
        let Some(user) = User::of(event) else { return Some(baseline::of_nobody()) };
        let facts = evidence(user, listener.local.port(), past.baseline);
        if listener.local.port() == 0 {
            return Some(Memory::not_raised("at which port it listens is not known", facts));
        }
        let is_known = past.baseline.has_listener(user, listener.local, past.names);
        let same = listener::same(listener);
        Some(baseline::recollection_of_use(is_known, (event, user), same, "listener", facts, past))
    }
}

fn evidence(user: User<'_>, port: u16, known: &Baseline) -> Vec<Evidence> {
    let near = |what: &What| match what {
        What::Listener { ports, .. } => 1 + u8::from(ports.hold(port)),
        _ => 0,
    };
    baseline::evidence("listener", user, near, known)
}

//! `find = "listener"`, `baseline = true`: a listener that the baseline has no entry of.

use crate::event::alert::Evidence;
use crate::event::model::Event;
use crate::rules::baseline::{self, Baseline, Finder, User, What};
use crate::rules::detector::{self, Context, Detector, Triggers};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;

use super::listener;

/// Finds listeners that are not in the baseline.
#[derive(Clone, Debug, Default)]
pub(super) struct Unlearned(Finder);

impl Detector for Unlearned {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(listener) = detector::listener(event) else { return };
        let Some(user) = baseline::user(event, context) else { return };
        let (local, known) = (listener.local, context.baseline);
        let evidence = || evidence(user, local.port(), known);
        if local.port() == 0 {
            return context.note(|| Note::new("at which port it listens is not known").with(evidence()));
        }
        if self.0.knows_listener(user, local, context) {
            return context.note(|| baseline::known("listener").with(evidence()));
        }
        if context.is_reported(rule, listener::dedup_key(listener))
            || self.0.defers_program("listener", (event, user), evidence, context)
        {
            return;
        }
        context.note(|| baseline::unknown("listener"));
        listener::raise(rule, listener, evidence(), context.now, context);
    }
}

fn evidence(user: User<'_>, port: u16, known: &Baseline) -> Vec<Evidence> {
    let near = |what: &What| match what {
        What::Listener { ports, .. } => 1 + u8::from(ports.hold(port)),
        _ => 0,
    };
    baseline::evidence("listener", user, near, known)
}

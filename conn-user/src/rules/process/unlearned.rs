//! `find = "network"`, `baseline = true`: a program uses the network that the baseline has no entry of.

use crate::event::model::Event;
use crate::rules::alerts::Life;
use crate::rules::baseline::{self, Finder, User};
use crate::rules::detector::{Context, Detector, Triggers};
use crate::rules::model::Rule;
use crate::rules::program;

use super::network::Use;

/// Finds programs whose use of the network is not in the baseline.
#[derive(Clone, Debug, Default)]
pub(super) struct Unlearned(Finder);

impl Detector for Unlearned {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN.and(Triggers::LISTEN)
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(user) = baseline::user(event, context) else { return };
        let known = context.baseline;
        let evidence = || baseline::evidence("program", user, |_| 1, known);
        if self.0.knows_program(user, context) {
            return context.note(|| baseline::known("program").with(evidence()));
        }
        context.note(|| baseline::unknown("program"));
        let dedup_key = dedup_key(user);
        if context.is_reported(rule, dedup_key) {
            return;
        }
        if let Some(used) = Use::of(event) {
            let life = Life::With(used.id);
            used.raise(dedup_key, rule, evidence(), life, context);
        }
    }
}

fn dedup_key(user: User<'_>) -> u64 {
    program::key(&(user.unit, user.exe))
}

//! Listeners that should not be.

use super::detector::{Detector, Scene, Triggers};
use super::model::{Rule, ServerRule};
use crate::event::model::Event;

/// The detector of such a rule.
pub(super) fn detector(_rule: ServerRule) -> Box<dyn Detector> {
    Box::new(Nothing)
}

struct Nothing;

impl Detector for Nothing {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, _rule: &Rule, _event: &Event, _scene: &mut Scene<'_>) {}
}

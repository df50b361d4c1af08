//! Connections on unusual paths.

use super::detector::{Detector, Scene, Triggers};
use super::model::{PathRule, Rule};
use crate::event::model::Event;

/// The detector of such a rule.
pub(super) fn detector(_rule: &PathRule) -> Box<dyn Detector> {
    Box::new(Nothing)
}

struct Nothing;

impl Detector for Nothing {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, _rule: &Rule, _event: &Event, _scene: &mut Scene<'_>) {}
}

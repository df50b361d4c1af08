//! Processes that use the network and should not.

mod network;
mod stdio;
#[cfg(test)]
mod tests;

use super::detector::{Detector, Scene, Triggers};
use super::model::{ProcessRule, Rule};
use crate::event::model::Event;

/// The detector of such a rule.
pub(super) fn detector(rule: ProcessRule) -> Box<dyn Detector> {
    match rule {
        ProcessRule::Network => Box::new(network::Network),
        ProcessRule::Replaced => Box::new(Nothing),
        ProcessRule::Stdio => Box::new(stdio::Stdio),
    }
}

/// Not written yet: asks nothing and finds nothing.
struct Nothing;

impl Detector for Nothing {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, _rule: &Rule, _event: &Event, _scene: &mut Scene<'_>) {}
}

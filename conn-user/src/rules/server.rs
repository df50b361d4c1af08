//! Listeners that should not be.

mod accept;
mod join;
mod listener;
mod places;
mod takeover;
#[cfg(test)]
mod tests;
mod unlearned;
mod widened;

use super::detector::Detector;
use super::model::ServerRule;

/// The detector of such a rule.
pub(super) fn detector(rule: ServerRule) -> Box<dyn Detector> {
    match rule {
        ServerRule::Listener => Box::new(listener::Listener),
        ServerRule::Unlearned => Box::<unlearned::Unlearned>::default(),
        ServerRule::Takeover => Box::<takeover::Takeover>::default(),
        ServerRule::Join => Box::<join::Join>::default(),
        ServerRule::Widened => Box::<widened::Widened>::default(),
        ServerRule::Accept => Box::<accept::Accept>::default(),
    }
}

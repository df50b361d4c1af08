//! Processes that use the network and should not.

mod network;
mod replaced;
mod stdio;
#[cfg(test)]
mod tests;
mod unlearned;

use super::detector::Detector;
use super::model::ProcessRule;

/// The detector of such a rule.
pub(super) fn detector(rule: ProcessRule) -> Box<dyn Detector> {
    match rule {
        ProcessRule::Network => Box::new(network::Network),
        ProcessRule::Unlearned => Box::<unlearned::Unlearned>::default(),
        ProcessRule::Replaced => Box::new(replaced::Replacement::default()),
        ProcessRule::Stdio => Box::new(stdio::Stdio { of_parent: false }),
        ProcessRule::ParentStdio => Box::new(stdio::Stdio { of_parent: true }),
    }
}

//! What should be there and is not: expected listeners and expected connections.
//!
//! Reported when a timer is due, never by looking again and again. How the last one went is the cause that the alert names.

mod cause;
mod every;
mod present;
#[cfg(test)]
mod tests;

use super::detector::Detector;
use super::model::{Expect, MissingRule};

/// The detector of such a rule.
pub(super) fn detector(rule: &MissingRule) -> Box<dyn Detector> {
    match rule.expect {
        Expect::Listeners(least) => Box::new(present::Present::listeners(least, rule.grace)),
        Expect::Open(least) => Box::new(present::Present::connections(least, rule.grace)),
        Expect::Every(every) => Box::new(every::Every::new(every, rule.grace)),
    }
}

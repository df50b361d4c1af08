//! Connections that are open for long: reported by timers while they are open, whether anything is sent or not.
//!
//! One that was there before it was seen counts from the latest instant at which it can have begun: it is reported as soon as it
//! is certain, and the evidence says how old it may be at most.

mod each;
mod sum;
#[cfg(test)]
mod tests;

use super::detector::Detector;
use super::model::LongRule;

pub(in crate::rules) use each::since;

/// The detector of such a rule.
pub(super) fn detector(rule: &LongRule) -> Box<dyn Detector> {
    if rule.sum { Box::new(sum::Sum::new(rule)) } else { Box::new(each::Each::new(rule)) }
}

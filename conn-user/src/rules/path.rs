//! Connections on unusual paths.

mod beacon;
mod fan_out;
mod first_seen;
mod forbidden;
mod pivot;
mod score;
mod unlearned;
mod volume;
mod ways_in;

use super::detector::Detector;
use super::model::PathRule;

/// The detector of such a rule.
pub(super) fn detector(rule: &PathRule) -> Box<dyn Detector> {
    match rule {
        PathRule::Forbidden => Box::new(forbidden::Forbidden),
        PathRule::FirstSeen { by, learn } => Box::new(first_seen::FirstSeen::new(by, *learn)),
        PathRule::Unlearned => Box::<unlearned::Unlearned>::default(),
        PathRule::Pivot { to, within, own } => Box::new(pivot::Pivot::new(to, *within, *own)),
        PathRule::FanOut { of, limit, window } => Box::new(fan_out::FanOut::new(*of, *limit, *window)),
        PathRule::Volume { sent, window } => Box::new(volume::Volume::new(*sent, *window)),
        PathRule::Beacon { score, at_least, apart } => {
            Box::new(beacon::Beacon::new(*score, *at_least, *apart))
        }
    }
}

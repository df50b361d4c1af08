//! The detector of each kind of rule.

use super::detector::Detector;
use super::model::Detect;
use super::{long, missing, path, process, server};

/// The detector of a rule, which knows nothing yet.
pub(super) fn detector(detect: &Detect) -> Box<dyn Detector> {
    match detect {
        Detect::Path(rule) => path::detector(rule),
        Detect::Process(rule) => process::detector(rule),
        Detect::Server(rule) => server::detector(*rule),
        Detect::Long(rule) => long::detector(rule),
        Detect::Missing(rule) => missing::detector(rule),
    }
}

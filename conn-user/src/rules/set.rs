//! The rules of a run, with the zones and lists that they name.

use std::sync::Arc;

use super::baseline::Baseline;
use super::model::Rule;
use crate::filter::names::Names;

/// Rules in the order in which they were read; ids are unique.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// The rules that are active.
    pub rules: Vec<Arc<Rule>>,
    /// Zones and lists.
    pub names: Arc<Names>,
    /// What is normal, for the rules that ask.
    pub baseline: Arc<Baseline>,
}

//! Tests of rules, run: the events of a case into the same engine, on a clock of their own. Page: `docs/tests.md`.
//!
//! [`world`] makes events of the lines, [`run`] lets them happen and time pass, [`verdict`] holds what was reported against
//! what was expected, and [`why`] says which words of a rule did not hold.

pub mod report;
mod run;
#[cfg(test)]
mod tests;
mod verdict;
mod why;
mod world;

use std::sync::Arc;
use std::time::Duration;

pub use self::verdict::Failure;
use crate::rules::RuleSet;
use crate::rules::cases::Case;
use crate::rules::file::Checked;

/// A case that was run.
#[derive(Debug)]
pub struct Proved<'c> {
    /// Which.
    pub case: &'c Case,
    /// `None`: everything was as expected.
    pub failure: Option<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// Runs those of these cases that `wanted` chooses, each in an engine of its own.
pub fn prove<'c>(checked: &'c Checked, rules: &RuleSet, wanted: impl Fn(&Case) -> bool) -> Vec<Proved<'c>> {
    let run = |case: &'c Case| {
        let began = std::time::Instant::now();
        let failure = prove_one(case, &rules_of(case, checked, rules));
        Proved { case, failure, took: began.elapsed() }
    };
    checked.cases.iter().filter(|case| wanted(case)).map(run).collect()
}

/// The rules of a case: those active, and those that it switches on.
fn rules_of(case: &Case, checked: &Checked, rules: &RuleSet) -> RuleSet {
    let enabled = checked.off.iter().filter(|rule| case.enable.iter().any(|id| **id == *rule.about.id));
    let rules_in_force = rules.rules.iter().chain(enabled).map(Arc::clone).collect();
    RuleSet { rules: rules_in_force, ..rules.clone() }
}

/// Runs one case. `None`: everything was as expected.
pub fn prove_one(case: &Case, rules: &RuleSet) -> Option<Failure> {
    let ran = run::run(case, rules);
    verdict::judge(case, &ran, &rules.names)
}

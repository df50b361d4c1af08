//! Rule tests: what happens, in a compact form, and which alerts are expected. Reference: `docs/tests.md`.
//!
//! A test is a `[[test]]` of a rule file, which [`crate::rules::file`] keeps as source. [`read`] makes a
//! [`model::RuleTest`] of it, whose lines are read by [`script`] and [`expect`]. [`run`] runs it against the
//! real engine, on a clock of its own, with the events that [`world`] makes of the lines; [`verdict`]
//! compares the alerts with those expected, [`why`] says which terms of a rule did not match, and [`report`]
//! makes text, JSON and JUnit of the outcomes.

mod expect;
mod format;
#[cfg(test)]
mod line_tests;
mod model;
mod read;
pub mod report;
mod run;
mod script;
#[cfg(test)]
mod tests;
mod verdict;
mod why;
mod words;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::model::RuleTest;
pub use self::verdict::Failure;
use crate::rules::file::{self, Checked, Compiled};
use crate::rules::host::Host;
use crate::rules::{RuleSet, defaults};

/// Rule files with their tests.
#[derive(Debug)]
pub struct Suite {
    /// The files and their rules, or everything that is wrong with rules and tests.
    pub checked: Checked,
    /// The valid tests, in the order in which they were read.
    pub tests: Vec<RuleTest>,
}

/// Reads rule folders (or single files) with their tests. An invalid test is an error, as an invalid rule is.
pub fn check(paths: &[PathBuf], host: &Host) -> Suite {
    suite(file::compile(paths, host))
}

/// Checks a text as if it were the one rule file, with its tests.
pub fn check_text(text: &str, host: &Host) -> Suite {
    suite(file::compile_texts(&[("text", text)], host, false))
}

/// Returns the default rules with their tests, for a host without zones.
pub fn of_defaults() -> Suite {
    let names: Vec<String> = defaults::TESTS.iter().map(|(name, _)| format!("{name} (built in)")).collect();
    let texts: Vec<(&str, &str)> =
        names.iter().zip(defaults::TESTS).map(|(name, (_, text))| (name.as_str(), text)).collect();
    suite(file::compile_texts(&texts, &Host::default(), true))
}

fn suite(mut compiled: Compiled) -> Suite {
    let tests = read::read(compiled.tests());
    Suite { checked: compiled.finish(), tests }
}

/// A test that was run.
#[derive(Debug)]
pub struct Outcome<'t> {
    /// The test.
    pub test: &'t RuleTest,
    /// Why it failed; `None`: it passed.
    pub failure: Option<Failure>,
    /// How long it took.
    pub took: Duration,
}

impl Suite {
    /// Runs those tests that `wanted` chooses against these rules, which are the suite's, each in an engine
    /// of its own.
    pub fn run(&self, rules: &RuleSet, wanted: impl Fn(&RuleTest) -> bool) -> Vec<Outcome<'_>> {
        let run = |test| {
            let began = std::time::Instant::now();
            let failure = run_one(test, &self.rules_of(test, rules));
            Outcome { test, failure, took: began.elapsed() }
        };
        self.tests.iter().filter(|test| wanted(test)).map(run).collect()
    }

    /// Returns the rules of a test: the active ones, and those that it enables.
    fn rules_of(&self, test: &RuleTest, rules: &RuleSet) -> RuleSet {
        let enabled =
            self.checked.off.iter().filter(|rule| test.enable.iter().any(|id| **id == *rule.about.id));
        let active = rules.rules.iter().chain(enabled).map(Arc::clone).collect();
        RuleSet { rules: active, ..rules.clone() }
    }
}

/// Runs one test. Returns why it failed; `None`: it passed.
fn run_one(test: &RuleTest, rules: &RuleSet) -> Option<Failure> {
    let ran = run::run(test, rules);
    verdict::judge(test, &ran, &rules.names)
}

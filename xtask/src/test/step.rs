//! A step of a test run, and what came of it.

use std::time::Duration;

use crate::libtest::{Counts, Failure};

/// What came of a step: a test program on this machine, or the scenarios of a backend on a kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    /// E.g. "conn-user/snapshot", "6.12/kprobe".
    pub(crate) name: String,
    /// Numbers of tests; a step that did not come to its end has a failure.
    pub(crate) counts: Counts,
    pub(crate) failures: Vec<Failure>,
    /// Skipped and ignored tests with the reasons.
    pub(crate) skips: Vec<String>,
    pub(crate) took: Duration,
    /// What else is to be shown when it is done.
    pub(crate) report: String,
}

impl Step {
    /// A step that could not be done.
    pub(crate) fn broken(name: &str, took: Duration, error: &anyhow::Error) -> Self {
        let failure = Failure { test: "(the step)".to_owned(), message: format!("{error:#}") };
        let counts = Counts { failed: 1, ..Counts::default() };
        Self { name: name.to_owned(), counts, failures: vec![failure], took, ..Self::default() }
    }

    /// One line on it.
    pub(crate) fn line(&self) -> String {
        let Counts { passed, failed, ignored, .. } = self.counts;
        let result = if failed == 0 { "ok" } else { "FAILED" };
        let seconds = self.took.as_secs_f64();
        format!(
            "{}: {result}, {passed} passed, {failed} failed, {ignored} skipped, {seconds:.0} s",
            self.name
        )
    }
}

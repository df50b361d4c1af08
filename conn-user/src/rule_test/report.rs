//! The report of a run of rule tests: text for people, a JSON object for programs, and cases for JUnit.

use std::fmt::Write as _;

use serde::Serialize;

use super::Outcome;
use crate::event::escape;
use crate::event::wire::encode_line;
use crate::output::junit;

/// The numbers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// As expected.
    pub passed: usize,
    /// Not as expected.
    pub failed: usize,
    /// Not run: `--filter` left them out.
    pub left_out: usize,
}

/// Counts the outcomes; `of` is the number of all tests, with those that were not run.
pub fn counts(outcomes: &[Outcome<'_>], of: usize) -> Counts {
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    Counts { passed: outcomes.len() - failed, failed, left_out: of.saturating_sub(outcomes.len()) }
}

/// Returns the failures with their details, and the totals as the last line.
pub fn text(outcomes: &[Outcome<'_>], counts: Counts) -> String {
    let mut out = String::new();
    for Outcome { test, failure, .. } in outcomes {
        let Some(failure) = failure else { continue };
        let (file, name) = (escape::path(&test.file), escape::string(test.name.as_bytes()));
        let _ = writeln!(out, "FAILED {file}:{}: {name}: {}", test.line, failure.message);
        for line in failure.details.lines() {
            let _ = writeln!(out, "    {line}");
        }
        out.push('\n');
    }
    // What tests nothing must not look like success.
    let verdict = match (counts.passed, counts.failed) {
        (0, 0) => "NOTHING TESTED",
        (_, 0) => "ok",
        _ => "FAILED",
    };
    let _ = write!(out, "test result: {verdict}. {} passed; {} failed", counts.passed, counts.failed);
    if counts.left_out > 0 {
        let _ = write!(out, "; {} left out", counts.left_out);
    }
    out.push('\n');
    out
}

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    /// Something was tested, and nothing failed.
    ok: bool,
    passed: usize,
    failed: usize,
    left_out: usize,
    tests: Vec<TestReport<'a>>,
}

#[derive(Serialize)]
struct TestReport<'a> {
    name: &'a str,
    file: String,
    line: usize,
    ok: bool,
    took_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
}

/// Returns the report as one JSON object.
pub fn json(outcomes: &[Outcome<'_>], counts: Counts) -> String {
    let tests = outcomes.iter().map(|Outcome { test, failure, took }| TestReport {
        name: &test.name,
        file: escape::path(&test.file),
        line: test.line,
        ok: failure.is_none(),
        took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        message: failure.as_ref().map(|failure| failure.message.as_str()),
        details: failure.as_ref().map(|failure| failure.details.as_str()),
    });
    let Counts { passed, failed, left_out } = counts;
    let ok = failed == 0 && passed > 0;
    let report = Report { kind: "test", ok, passed, failed, left_out, tests: tests.collect() };
    encode_line(&report)
}

/// Returns the outcomes as cases of a JUnit report.
pub fn junit(outcomes: &[Outcome<'_>]) -> Vec<junit::Case> {
    let case = |outcome: &Outcome<'_>| junit::Case {
        name: outcome.test.name.clone(),
        class: outcome.test.file.to_string_lossy().into_owned(),
        outcome: match &outcome.failure {
            None => junit::Outcome::Passed,
            Some(failure) => {
                junit::Outcome::Failed { message: failure.message.clone(), details: failure.details.clone() }
            }
        },
        took: Some(outcome.took),
    };
    outcomes.iter().map(case).collect()
}

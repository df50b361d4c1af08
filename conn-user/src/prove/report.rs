//! What a run of tests says: text for people, an object for programs, and cases for JUnit.

use std::fmt::Write as _;

use serde::Serialize;

use super::Proved;
use crate::event::escape;
use crate::output::junit;
use crate::rules::file::shown;

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

/// Counts.
pub fn counts(proved: &[Proved<'_>], of: usize) -> Counts {
    let failed = proved.iter().filter(|proved| proved.failure.is_some()).count();
    Counts { passed: proved.len() - failed, failed, left_out: of.saturating_sub(proved.len()) }
}

/// The failures with their details, and the sum as the last line.
pub fn text(proved: &[Proved<'_>], counts: Counts) -> String {
    let mut out = String::new();
    for Proved { case, failure, .. } in proved {
        let Some(failure) = failure else { continue };
        let (file, name) = (shown(&case.file), harmless(&case.name));
        let _ = writeln!(out, "FAILED {file}:{}: {name}: {}", case.line, failure.message);
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

/// One JSON object.
pub fn json(proved: &[Proved<'_>], counts: Counts) -> String {
    let tests = proved.iter().map(|Proved { case, failure, took }| TestReport {
        name: &case.name,
        file: shown(&case.file),
        line: case.line,
        ok: failure.is_none(),
        took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        message: failure.as_ref().map(|failure| failure.message.as_str()),
        details: failure.as_ref().map(|failure| failure.details.as_str()),
    });
    let Counts { passed, failed, left_out } = counts;
    let ok = failed == 0 && passed > 0;
    let report = Report { kind: "test", ok, passed, failed, left_out, tests: tests.collect() };
    // Text and numbers alone always become JSON.
    let mut out = escape::json(&serde_json::to_string(&report).unwrap_or_default());
    out.push('\n');
    out
}

/// The cases as JUnit has them.
pub fn junit(proved: &[Proved<'_>]) -> Vec<junit::Case> {
    let case = |proved: &Proved<'_>| junit::Case {
        name: proved.case.name.clone(),
        class: proved.case.file.to_string_lossy().into_owned(),
        outcome: match &proved.failure {
            None => junit::Outcome::Passed,
            Some(failure) => {
                junit::Outcome::Failed { message: failure.message.clone(), details: failure.details.clone() }
            }
        },
        took: Some(proved.took),
    };
    proved.iter().map(case).collect()
}

fn harmless(text: &str) -> String {
    let mut out = Vec::new();
    escape::text(text.as_bytes(), &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

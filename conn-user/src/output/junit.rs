//! Reports in the XML of JUnit, which every CI system shows.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::event::escape;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed {
        /// In one line.
        message: String,
        /// All of it.
        details: String,
    },
    /// It was not judged.
    Skipped {
        /// Why.
        why: String,
    },
}

/// One thing that was tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What it belongs to, as a file or a command.
    pub class: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, where that says something.
    pub took: Option<Duration>,
}

/// The report of one suite of cases. Texts may hold any bytes that were lossily made text: what acts on a terminal is escaped.
///
/// # Errors
/// None that is known: the text is written to memory.
pub fn report(suite: &str, cases: &[Case]) -> io::Result<Vec<u8>> {
    let mut suite = TestSuite::new(shown(suite));
    for case in cases {
        let status = match &case.outcome {
            Outcome::Passed => TestCaseStatus::success(),
            Outcome::Failed { message, details } => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status
                    .set_message(shown(message))
                    .set_description(details.lines().map(shown).collect::<Vec<_>>().join("\n"));
                status
            }
            Outcome::Skipped { why } => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(shown(why));
                status
            }
        };
        let mut written = TestCase::new(shown(&case.name), status);
        written.set_classname(shown(&case.class));
        if let Some(took) = case.took {
            written.set_time(took);
        }
        suite.add_test_case(written);
    }
    let mut report = Report::new("conn");
    report.add_test_suite(suite);
    let mut out = Vec::new();
    report.serialize(&mut out).map_err(io::Error::other)?;
    Ok(out)
}

/// Writes the report of a suite to a file, over what is there.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, suite: &str, cases: &[Case]) -> io::Result<()> {
    fs::write(path, report(suite, cases)?)
}

fn shown(text: &str) -> String {
    let mut out = Vec::new();
    escape::text(text.as_bytes(), &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_escapes_and_keeps_lines() {
        let case = |name: &str, outcome| Case {
            name: name.to_owned(),
            class: "rules/a.toml".to_owned(),
            outcome,
            took: None,
        };
        let cases = [
            case("a <b> & \"c\"", Outcome::Passed),
            case(
                "d\u{1b}[31m",
                Outcome::Failed { message: "no ]]>".to_owned(), details: "one\ntwo \u{202e}".to_owned() },
            ),
            Case {
                took: Some(Duration::from_millis(1500)),
                ..case("e", Outcome::Skipped { why: "no kernel".to_owned() })
            },
        ];
        let text = String::from_utf8(report("tests", &cases).expect("a report")).expect("UTF-8");
        assert!(text.contains(r#"tests="3""#) && text.contains(r#"failures="1""#), "{text}");
        assert!(text.contains("a &lt;b&gt; &amp; &quot;c&quot;"), "{text}");
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}') && text.contains("one\ntwo"),
            "{text}"
        );
        assert!(text.contains(r#"time="1.500""#) && text.contains("no kernel"), "{text}");
    }
}

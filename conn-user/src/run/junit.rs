//! The report as cases of a test suite: one for the command, one for each rule, one for what was lost.

use std::time::Duration;

use super::report::Report;
use crate::output::junit::{Case, Outcome};
use crate::process::info::ExitStatus;

/// Most findings of one rule that its case reports one by one.
const REPORTED_MAX: usize = 100;

/// The cases. `allow_loss`: that something was lost is reported, and no failure.
pub fn cases(report: &Report, allow_loss: bool) -> Vec<Case> {
    let case = |name: &str, outcome| Case {
        name: name.to_owned(),
        class: "conn run".to_owned(),
        outcome,
        took: None,
    };
    let command = match report.ended {
        ExitStatus::Code(0) => Outcome::Passed,
        ExitStatus::Code(code) => failed(format!("it exited with code {code}"), String::new()),
        ExitStatus::Signal(signal) => failed(format!("it was killed by signal {signal}"), String::new()),
    };
    let took = Some(Duration::from_nanos(report.took.0));
    let mut cases = vec![Case { took, ..case("the command", command) }];
    for rule in &report.rules {
        let mut found = report.unexpected.iter().filter(|of| of.alert.rule.id == rule.about.id);
        let outcome = match found.next() {
            None => Outcome::Passed,
            Some(first) => {
                let all = std::iter::once(first).chain(found);
                let lines: Vec<String> =
                    all.take(REPORTED_MAX).map(|one| format!("{} ({})", one.what(), one.rule())).collect();
                failed(format!("unexpected: {}", first.summary()), lines.join("\n"))
            }
        };
        cases.push(case(&rule.about.id, outcome));
    }
    for expectation in &report.expectations {
        let outcome = if expectation.is_met() {
            Outcome::Passed
        } else {
            failed(format!("missing: {}", expectation.what()), expectation.rule_line())
        };
        cases.push(case(&expectation.rule.about.id, outcome));
    }
    if !report.loss.is_none() {
        let why = format!(
            "{} records were lost, {} things were not followed",
            report.loss.records, report.loss.not_followed
        );
        let is_failure = report.is_judged() && !allow_loss;
        let outcome = if is_failure { failed(why, String::new()) } else { Outcome::Skipped { why } };
        cases.push(case("everything was seen", outcome));
    }
    cases
}

fn failed(message: String, details: String) -> Outcome {
    Outcome::Failed { message, details }
}

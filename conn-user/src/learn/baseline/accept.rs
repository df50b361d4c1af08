//! Entries for what alerts of `baseline = true` rules reported.

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use super::Learner;
use super::compare::{Known, items};
use super::text;
use crate::event::read::{ReadError, Reader};
use crate::filter::names::Names;
use crate::learn::write::{comment, exception};
use crate::rules::baseline::Entry;

/// Why an alert is not accepted.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The line is no event.
    #[error("line {line}: {error}; an alert is a line of `conn tail --json` or of the agent's file")]
    Line {
        /// Where, from 1.
        line: u64,
        /// What is wrong.
        error: ReadError,
    },
    /// It is not of a rule that asks the baseline.
    #[error(
        "line {line}: the rule {rule} does not ask the baseline, so no entry suppresses it; write an exception instead:\n{exception}"
    )]
    OtherRule {
        /// Where, from 1.
        line: u64,
        /// Its rule, harmless.
        rule: String,
        /// What suppresses it, as the text of a file.
        exception: String,
    },
    /// There is no alert at all.
    #[error("there is no alert in it; an alert is a line of `conn tail --json` or of the agent's file")]
    None,
}

/// What a line may have of an alert.
#[derive(Deserialize)]
struct Line<'a> {
    kind: String,
    #[serde(borrow, default)]
    alert: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AlertOf {
    rule: String,
    phase: String,
    #[serde(default)]
    evidence: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    suppress: Option<String>,
}

/// What is accepted.
#[derive(Debug, Default)]
pub struct Accepted {
    learner: Learner,
    /// The rules and numbers of alerts, for a comment.
    alerts: Vec<String>,
}

impl Accepted {
    /// Reads alerts, one JSON object a line; other events and later steps of alerts are passed over.
    ///
    /// # Errors
    /// When a line is no event, an alert is of another rule, or there is none. Then nothing is accepted.
    pub fn read(lines: &str) -> Result<Self, AcceptError> {
        let (mut accepted, mut reader) = (Self::default(), Reader::default());
        for (line, number) in lines.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
            let wrong = |error| AcceptError::Line { line: number, error };
            let head: Line<'_> = serde_json::from_str(line).map_err(|error| wrong(error.into()))?;
            let Some(raw) = head.alert.filter(|_| head.kind == "alert") else { continue };
            let alert: AlertOf = serde_json::from_str(raw.get()).map_err(|error| wrong(error.into()))?;
            if alert.phase == "resolved" {
                continue;
            }
            if !alert.evidence.contains_key("baseline") {
                let suppress = alert.suppress.unwrap_or_else(|| "…".to_owned());
                let exception = exception(&alert.rule, &suppress, None).trim_end().to_owned();
                let rule = alert.rule.escape_debug().to_string();
                return Err(AcceptError::OtherRule { line: number, rule, exception });
            }
            let Some(event) = reader.read_subject(line).map_err(wrong)? else { continue };
            accepted.learner.add(&event);
            accepted.alerts.push(alert.rule);
        }
        if accepted.alerts.is_empty() { Err(AcceptError::None) } else { Ok(accepted) }
    }

    /// How many alerts were read.
    pub fn alerts(&self) -> usize {
        self.alerts.len()
    }

    /// What is to be added to a file whose baseline has these entries with these zones, and how many entries that are. `by`:
    /// who accepts and when.
    pub fn addition(&self, known: &[Entry], names: &Names, by: &str) -> (String, usize) {
        let mut out = String::new();
        let entries = self.learner.learnt().entries;
        let known = items(known, names);
        let new = Known::of(&known).new_in(&items(&entries, Names::builtin()));
        for entry in &new {
            out.push('\n');
            comment(&format!("Accepted {by}, from {}", rules(&self.alerts)), &mut out);
            text::write(entry, &mut out);
        }
        (out, new.len())
    }
}

/// How many alerts of which rules.
fn rules(alerts: &[String]) -> String {
    let mut names: Vec<&str> = alerts.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let plural = if alerts.len() == 1 { "an alert" } else { "alerts" };
    format!("{plural} of {}", names.join(", "))
}

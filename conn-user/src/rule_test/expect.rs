//! What a test expects: `raised process.shell high at 1h on c1 with remote=203.0.113.9:443`.

use super::model::{Expected, On};
use super::script::Script;
use super::words::{Word, Words};
use crate::event::alert::{Phase, Severity};
use crate::event::names;
use crate::filter::suggest::nearest;
use crate::filter::{FilterError, amount};

/// The form of an expectation.
pub(super) const FORM: &str =
    "raised|escalated|resolved RULE [SEVERITY] [at TIME] [on NAME] [with KEY=VALUE …]";

const EVIDENCE: &str = "write it as the alert does: with peers=101 window=1m";

impl Expected {
    /// Reads an expectation of the test whose lines were read by `script`.
    ///
    /// # Errors
    /// What is wrong with it, where, and what to write instead.
    pub(super) fn read(line: &str, script: &Script) -> Result<Self, FilterError> {
        let mut words = Words::new(line);
        let word = words.need("an alert", FORM)?;
        let phase = names::from_name(word.text).ok_or_else(|| {
            let help = match nearest(word.text, names::all::<Phase>()) {
                Some(near) => format!("did you mean `{near}`? An expectation is {FORM}"),
                None => format!("an expectation is {FORM}"),
            };
            words.wrong(&word, "is no step of an alert", help)
        })?;
        let rule = words.need("the id of a rule", FORM)?.text.to_owned();
        let (mut severity, mut at, mut on, mut with) = (None, None, None, Vec::new());
        while let Some(word) = words.next() {
            match word.text {
                "at" => {
                    let time = words.need("a time", "such as at 1h: since the test began")?;
                    let help = "write a time since the test began, such as 0s, 30s or 1h30m";
                    at = Some(
                        amount::duration(time.text).ok_or_else(|| words.wrong(&time, "is no time", help))?,
                    );
                }
                "on" => {
                    let name = words.need("a name", "a label of `events`, or a process")?;
                    on = Some(match script.flow(name.text) {
                        Some(flow) => On::Flow(flow),
                        None if script.has_process(name.text) => On::Process(name.text.to_owned()),
                        None => {
                            let help = nearest(name.text, script.names()).map_or_else(
                                || "give the connection a label: c1: open WHO -> REMOTE".to_owned(),
                                |near| format!("did you mean `{near}`?"),
                            );
                            return Err(words.wrong(&name, "is no label and no process of this test", help));
                        }
                    });
                }
                "with" => {
                    let word = words.need("a piece of evidence", EVIDENCE)?;
                    with.push(piece(&word).ok_or_else(|| words.wrong(&word, "is no evidence", EVIDENCE))?);
                }
                _ if !with.is_empty() && piece(&word).is_some() => with.extend(piece(&word)),
                name => {
                    let known = names::all::<Severity>().join(", ");
                    let help = format!("an expectation is {FORM}; severities are {known}");
                    severity = Some(
                        names::from_name(name).ok_or_else(|| words.wrong(&word, "is no severity", help))?,
                    );
                }
            }
        }
        Ok(Self { text: line.trim().to_owned(), phase, rule, severity, at, on, with })
    }
}

/// `KEY=VALUE`.
fn piece(word: &Word<'_>) -> Option<(String, String)> {
    let (name, value) = word.text.split_once('=')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

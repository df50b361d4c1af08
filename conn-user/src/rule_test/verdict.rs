//! Compares the alerts of a test with those that it expects.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::format::duration;
use super::model::{Expected, RuleTest};
use super::run::{Ran, since_begin};
use super::why;
use crate::event::alert::{Alert, Value};
use crate::event::escape;
use crate::event::model::{Event, EventBody};
use crate::event::names::Named as _;
use crate::event::text::{TextFormatter, TextOptions};
use crate::event::words::Words;
use crate::filter::{Names, amount};
use crate::units::{NetNs, WallNs};

/// Most alerts and expectations that are aligned as sequences; beyond it they are compared one by one.
const ORDERED_MAX: usize = 1_000;
/// Most expectations, and most alerts, that are shown.
const SHOWN_MAX: usize = 10;

/// Why a test failed, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The summary, one line.
    pub message: String,
    /// The details, several lines.
    pub details: String,
}

/// Compares alerts and expectations. Returns why the test failed; `None`: it passed.
pub(super) fn judge(test: &RuleTest, ran: &Ran<'_>, names: &Names) -> Option<Failure> {
    let fits = |expected: usize, reported: usize| {
        test.expect
            .get(expected)
            .zip(ran.reported.get(reported))
            .is_some_and(|(expected, reported)| differences(expected, reported, ran).is_empty())
    };
    let (unmet, unexpected) = unmatched(test.expect.len(), ran.reported.len(), fits);
    if unmet.is_empty() && unexpected.is_empty() {
        return None;
    }
    let unmet: Vec<&Expected> = unmet.into_iter().filter_map(|at| test.expect.get(at)).collect();
    let unexpected: Vec<&Alert> = unexpected.into_iter().filter_map(|at| ran.reported.get(at)).collect();
    Some(Failure { message: message(&unmet, &unexpected), details: details(&unmet, &unexpected, ran, names) })
}

/// Returns the expectations and alerts that have no counterpart in their longest common subsequence.
fn unmatched(
    expected: usize,
    reported: usize,
    fits: impl Fn(usize, usize) -> bool,
) -> (Vec<usize>, Vec<usize>) {
    if expected.max(reported) > ORDERED_MAX {
        let wrong = |at: &usize| !fits(*at, *at);
        return ((0..expected).filter(wrong).collect(), (0..reported).filter(wrong).collect());
    }
    // The length of the longest common subsequence from each pair on.
    let width = reported + 1;
    let mut longest = vec![0_u32; (expected + 1) * width];
    let at = |one: usize, other: usize| one * width + other;
    for one in (0..expected).rev() {
        for other in (0..reported).rev() {
            longest[at(one, other)] = if fits(one, other) {
                longest[at(one + 1, other + 1)] + 1
            } else {
                longest[at(one + 1, other)].max(longest[at(one, other + 1)])
            };
        }
    }
    let (mut unmet, mut unexpected, mut one, mut other) = (Vec::new(), Vec::new(), 0, 0);
    while one < expected && other < reported {
        if fits(one, other) {
            (one, other) = (one + 1, other + 1);
        } else if longest[at(one + 1, other)] >= longest[at(one, other + 1)] {
            unmet.push(one);
            one += 1;
        } else {
            unexpected.push(other);
            other += 1;
        }
    }
    unmet.extend(one..expected);
    unexpected.extend(other..reported);
    (unmet, unexpected)
}

/// Returns how an alert differs from the expected one.
fn differences(expected: &Expected, reported: &Alert, ran: &Ran<'_>) -> Vec<String> {
    let mut differences = Vec::new();
    if expected.rule != *reported.rule.id {
        differences.push(format!("it is of {}", reported.rule.id));
    }
    if expected.phase != reported.phase {
        differences.push(format!("it is {}", reported.phase.name()));
    }
    if expected.severity.is_some_and(|severity| severity != reported.severity) {
        differences.push(format!("it is {}", reported.severity.name()));
    }
    let at = since_begin(reported.at);
    if expected.at.is_some_and(|expected| expected != at) {
        differences.push(format!("it is reported at {}", duration(at)));
    }
    if expected.on.as_ref().is_some_and(|on| !ran.is_about(reported, on)) {
        differences.push("it is about something else".to_owned());
    }
    for (name, value) in &expected.with {
        match reported.evidence.iter().find(|evidence| *evidence.name == **name) {
            None => differences.push(format!("it has no evidence {}", escape::string(name.as_bytes()))),
            Some(evidence) if !is_value(&evidence.value, value) => {
                differences.push(format!("its {} is {}", evidence.name, written(&evidence.value)));
            }
            Some(_) => {}
        }
    }
    differences
}

/// Returns whether an alert writes this value so; of a list, whether one of its values is written so.
fn is_value(value: &Value, text: &str) -> bool {
    match value {
        // `1h0m0s` is `1h`.
        Value::Duration(own) if amount::duration(text) == Some(*own) => true,
        Value::List(values) if values.iter().any(|one| is_value(one, text)) => true,
        value => written(value) == text,
    }
}

fn written(value: &Value) -> String {
    let mut words = Words::default();
    words.value(value);
    String::from_utf8_lossy(&words.bytes).into_owned()
}

fn message(unmet: &[&Expected], unexpected: &[&Alert]) -> String {
    let what = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        count => Some(format!("{count} {what}s")),
    };
    let missing = what(unmet.len(), "expected alert").map(|what| format!("{what} not reported"));
    let more = what(unexpected.len(), "alert").map(|what| format!("{what} not expected"));
    [missing, more].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn details(unmet: &[&Expected], unexpected: &[&Alert], ran: &Ran<'_>, names: &Names) -> String {
    let mut out = String::new();
    let mut left = unexpected.to_vec();
    for expected in unmet.iter().take(SHOWN_MAX) {
        let _ = writeln!(out, "expected and not reported: {}", escape::string(expected.text.as_bytes()));
        // An alert of the same rule is most likely the one that was meant.
        if let Some(near) = left.iter().position(|reported| *reported.rule.id == *expected.rule) {
            let near = left.remove(near);
            let differs = differences(expected, near, ran).join(", ");
            let how = if differs.is_empty() {
                "reported in another order".to_owned()
            } else {
                format!("reported instead ({differs})")
            };
            let _ = writeln!(out, "  {how}: {}", line(near));
        }
    }
    more(unmet.len(), &mut out);
    for reported in left.iter().take(SHOWN_MAX) {
        let _ = writeln!(out, "reported and not expected: {}", line(reported));
    }
    more(left.len(), &mut out);
    if ran.reported.is_empty() {
        out.push_str("nothing was reported\n");
    }
    // Each rule is explained once.
    let mut rules = HashSet::new();
    let of_unmet = unmet.iter().map(|expected| expected.rule.as_str());
    for rule in of_unmet
        .chain(unexpected.iter().map(|reported| &*reported.rule.id))
        .filter(|rule| rules.insert(*rule))
    {
        why::explain(rule, ran, names, &mut out);
    }
    let _ = writeln!(out, "the test ended at {}", duration(ran.ended));
    out
}

fn more(count: usize, out: &mut String) {
    if count > SHOWN_MAX {
        let _ = writeln!(out, "and {} more", count - SHOWN_MAX);
    }
}

/// Writes an alert as a test could expect it, and as text output shows it.
fn line(alert: &Alert) -> String {
    let mut formatter = TextFormatter::new(TextOptions {
        color: false,
        width: None,
        netns: Some(NetNs(4_026_531_840)),
        zone: jiff::tz::TimeZone::UTC,
        dated: false,
    });
    let body = EventBody::Alert(Box::new(alert.clone()));
    let mut text = Vec::new();
    formatter.format(&Event { seq: 0, boot: alert.at, wall: WallNs(alert.at.0), body }, &mut text);
    let text = String::from_utf8_lossy(&text);
    // Without the time of day: the test has its own clock.
    let text = text.trim_end().split_once("ALERT").map_or("", |(_, rest)| rest).trim();
    let (phase, id, severity) = (alert.phase.name(), &alert.rule.id, alert.severity.name());
    format!("{phase} {id} {severity} at {}\n    {text}", duration(since_begin(alert.at)))
}

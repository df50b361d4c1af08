//! The text of a rule file that was learnt. `conn check` takes it as it is.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::event::alert::{RuleKind, Severity};
use crate::event::escape;
use crate::event::names::Named as _;

/// A rule to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedRule {
    /// What it comes from, one comment each.
    pub comments: Vec<String>,
    /// Its id; see [`Ids`].
    pub id: String,
    /// Its kind.
    pub kind: RuleKind,
    /// What it asks of its events: `find`, or of the kind `missing` what it expects.
    pub asks: &'static str,
    /// What it finds.
    pub title: String,
    /// Why it exists.
    pub why: String,
    /// How bad it is.
    pub severity: Severity,
    /// Which events it looks at.
    pub matches: String,
    /// Which of these it does not, each a filter.
    pub except: Vec<String>,
    /// Why it is written but not active; `None`: it is active.
    pub off: Option<String>,
}

/// Makes ids of names, no two alike.
#[derive(Debug, Default)]
pub struct Ids(BTreeSet<String>);

impl Ids {
    /// Longest id before its number.
    const LONGEST: usize = 96;

    /// An id of these parts: what no id may have becomes `_`, and a number distinguishs those that are then alike.
    pub fn of(&mut self, parts: &[&str]) -> String {
        let plain =
            |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c) { c } else { '_' };
        let mut id: String = parts.join(".").to_ascii_lowercase().chars().map(plain).collect();
        id.truncate(Self::LONGEST);
        let mut own = id.clone();
        let mut number = 1;
        while !self.0.insert(own.clone()) {
            number += 1;
            own = format!("{id}.{number}");
        }
        own
    }
}

/// An exception of a rule that is active, as the text of a file.
/// `width`: columns that a line should have at most; a longer filter becomes a text of several lines.
pub fn exception(rule: &str, except: &str, width: Option<usize>) -> String {
    let mut out = "[[override]]\n".to_owned();
    key("id", &text(rule), &mut out);
    let before = out.len();
    key("except", &filter(except), &mut out);
    if let Some(width) = width.filter(|width| out.len() - before > width + 1) {
        out.truncate(before);
        key("except", &text_of_lines(except, width), &mut out);
    }
    out
}

/// A text of TOML, on lines of at most this width: a backslash at the end of a line joins it with the next
/// one.
fn text_of_lines(value: &str, width: usize) -> String {
    const INDENT: &str = "  ";
    let single = text(value);
    let words = single[1..single.len() - 1].split_inclusive(' ');
    // What begins a line loses its spaces.
    if words.clone().any(|word| word == " ") {
        return single;
    }
    let mut out = String::from("\"\"\"");
    let mut used = width;
    for word in words {
        // A backslash or the end follows.
        if used + word.len() + 3 > width {
            out.push_str("\\\n");
            out.push_str(INDENT);
            used = INDENT.len();
        }
        out.push_str(word);
        used += word.len();
    }
    out.push_str("\"\"\"");
    out
}

impl LearnedRule {
    /// Adds the rule to the text of a file.
    pub fn write(&self, out: &mut String) {
        for line in &self.comments {
            comment(line, out);
        }
        if let Some(off) = &self.off {
            comment(&format!("Inactive: {off}."), out);
        }
        out.push_str("[[rule]]\n");
        let asks = if self.kind == RuleKind::Missing { "expect" } else { "find" };
        key("id", &text(&self.id), out);
        key("kind", &text(self.kind.name()), out);
        key(asks, &text(self.asks), out);
        key("title", &text(&self.title), out);
        key("why", &text(&self.why), out);
        key("severity", &text(self.severity.name()), out);
        key("match", &filter(&self.matches), out);
        match self.except.as_slice() {
            [] => {}
            [one] => key("except", &filter(one), out),
            several => {
                let several: Vec<String> = several.iter().map(|one| filter(one)).collect();
                key("except", &format!("[{}]", several.join(", ")), out);
            }
        }
        if self.off.is_some() {
            out.push_str("enabled = false\n");
        }
    }
}

/// Adds a key and its value.
pub(super) fn key(name: &str, value: &str, out: &mut String) {
    // Writing to a text cannot fail.
    let _ = writeln!(out, "{name} = {value}");
}

/// A comment; whatever a terminal or TOML would stumble over is escaped.
pub fn comment(line: &str, out: &mut String) {
    let line = format!("# {}", escape::string(line.as_bytes()));
    out.push_str(line.trim_end());
    out.push('\n');
}

/// A text of TOML ("basic string").
pub(super) fn text(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if escape::is_hidden(c) => {
                // Writing to a text cannot fail.
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A filter as the documentation advises: in single quotes, where nothing has a meaning, if it has none itself.
fn filter(value: &str) -> String {
    if value.contains('\'') || value.chars().any(escape::is_hidden) {
        text(value)
    } else {
        format!("'{value}'")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_ids_and_no_two_alike() {
        let mut ids = Ids::default();
        assert_eq!(ids.of(&["unit", "a@B.service", "x"]), "unit.a_b.service.x");
        assert_eq!(ids.of(&["unit", "a:b.service", "x"]), "unit.a_b.service.x.2");
        assert!(ids.of(&["unit", &"é".repeat(500), "x"]).len() <= Ids::LONGEST);
    }

    proptest! {
        #[test]
        fn a_long_exception_comes_back(value in "[a-z:,\\\\\"' ]{0,80}", width in 5..60_usize) {
            let out = exception("a", &value, Some(width));
            let wrong = |error| TestCaseError::fail(format!("{error}: {out}"));
            let read: toml::Table = out.parse().map_err(wrong)?;
            prop_assert_eq!(read["override"][0]["except"].as_str(), Some(value.as_str()));
        }

        /// TOML reads what was written.
        #[test]
        fn texts_come_back(value in "(?s).{0,40}", note in "(?s).{0,40}") {
            let mut out = String::new();
            comment(&note, &mut out);
            prop_assert_eq!(out.lines().count(), 1);
            key("a", &text(&value), &mut out);
            key("b", &filter(&value), &mut out);
            let read: toml::Table = out.parse().map_err(|error| TestCaseError::fail(format!("{error}: {out}")))?;
            for key in ["a", "b"] {
                prop_assert_eq!(read.get(key).and_then(toml::Value::as_str), Some(value.as_str()));
            }
        }
    }
}

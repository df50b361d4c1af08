//! Traces as lines of text, for people.

use super::{RuleTrace, Verdict};
use crate::event::words::Words;
use crate::filter::trace::{Looked, Seen, WordTrace};

/// Most values of one word that are shown.
const VALUES_MAX: usize = 6;
/// Columns beyond which a word moves what follows it instead of the whole column.
const WORD_COLUMNS_MAX: usize = 40;

/// Appends a line for each word: `  no     -dst:internal   dst is 10.0.0.7, in internal`.
pub fn write_words(words: &[WordTrace], indent: usize, out: &mut Vec<u8>) {
    let widest = words.iter().map(|word| cell(&word.word).columns).filter(|width| *width <= WORD_COLUMNS_MAX);
    let widest = widest.max().unwrap_or(0);
    for word in words {
        out.resize(out.len() + indent, b' ');
        out.extend_from_slice(if word.holds { b"holds  " } else { b"no     " });
        let cell = cell(&word.word);
        out.extend_from_slice(&cell.bytes);
        out.resize(out.len() + widest.saturating_sub(cell.columns) + 2, b' ');
        write_seen(word, out);
        out.push(b'\n');
    }
}

/// A word as it was written, escaped and without quotes around it: it has its own.
fn cell(word: &str) -> Words {
    let mut cell = Words::default();
    cell.columns = crate::event::escape::text(word.as_bytes(), &mut cell.bytes);
    cell
}

/// Appends what a word looked at: `unit is not known`.
pub fn write_seen(word: &WordTrace, out: &mut Vec<u8>) {
    let mut words = Words::default();
    let key = word.key.name();
    match &word.seen {
        Seen::Unknown => words.text(&format!("{key} is not known")),
        Seen::Nothing => words.text(&format!("it has no {key}")),
        Seen::Values(values) => {
            words.text(&format!("{key} is "));
            // What fits says most.
            let (fitting, others): (Vec<&Looked>, Vec<&Looked>) = values.iter().partition(|value| value.fits);
            let shown = if fitting.is_empty() { &others } else { &fitting };
            for (at, looked) in shown.iter().take(VALUES_MAX).enumerate() {
                words.text(if at > 0 { ", " } else { "" });
                words.word(&looked.value);
            }
            if shown.len() > VALUES_MAX {
                words.text(&format!(" and {} more", shown.len() - VALUES_MAX));
            }
            if let Some(name) = word.fits_by_name() {
                words.text(&format!(", in {name}"));
            }
        }
    }
    out.append(&mut words.bytes);
}

/// Appends what the filters of a rule say of an event.
pub fn write(trace: &RuleTrace, out: &mut Vec<u8>) {
    let line = |text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    };
    if !trace.is_looked_at() {
        let looks_at: Vec<&str> = trace.looks_at.names().collect();
        line(&format!("the rule does not look at such an event: it looks at {}", looks_at.join(", ")), out);
    }
    let heading = match (&trace.secondary, trace.matches.is_empty()) {
        (Some(of), true) => format!("match, of {}: every one", of.match_selects),
        (Some(of), false) => format!("match, of {}", of.match_selects),
        (None, true) => "match: every event".to_owned(),
        (None, false) => "match".to_owned(),
    };
    line(&heading, out);
    write_words(&trace.matches, 2, out);
    if let Some(of) = &trace.secondary {
        line(&format!("{}, of {}", of.key, of.selects), out);
        write_words(&of.words, 2, out);
    }
    for (at, except) in trace.except.iter().enumerate() {
        let says = match (except.holds(), except.words.len() - except.missing()) {
            (true, _) => "holds".to_owned(),
            (false, holding) => format!("does not hold, {holding} of {} words do", except.words.len()),
        };
        line(&format!("exception {} {says}", at + 1), out);
        write_words(&except.words, 2, out);
    }
    line(
        &match trace.verdict {
            Verdict::NotLookedAt => "so the rule was not asked".to_owned(),
            Verdict::MatchFailed => {
                let what = match trace.deciding_key() {
                    "match" => "the rule does not match".to_owned(),
                    key => format!("its `{key}` does not match"),
                };
                format!("so {what}: {} not", count(super::failing(trace.deciding())))
            }
            Verdict::Excepted(at) => format!("so exception {} lets it be", at + 1),
            Verdict::Selected => "so the rule looks at it".to_owned(),
        },
        out,
    );
}

fn count(words: usize) -> String {
    if words == 1 { "one word does".to_owned() } else { format!("{words} words do") }
}

//! What is wrong with rule files: where, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::event::escape;
use crate::filter::FilterError;
use crate::filter::error::{Harmless, Marked};

/// Most errors that are kept; the others are counted.
const ERRORS_MAX: usize = 100;
/// Most that are kept until they are sorted.
const PROBLEMS_MAX: usize = 1_000;
/// Most characters of a line that are shown before and behind the place.
const BEFORE: usize = 60;
const BEHIND: usize = 100;

/// An error in a rule file, or of a file or folder as a whole. Shown, it is several lines: place and what, the line with
/// the place marked, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct RuleError {
    /// The file or folder.
    pub file: PathBuf,
    /// The place in the file; `None`: it is not about one.
    pub place: Option<Place>,
    /// What is wrong, one line.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters, from 1.
    pub column: usize,
    /// The text of the line, cut where it is long, with blanks for tabs.
    pub text: String,
    /// What of `text` is meant, in bytes.
    pub marked: Range<usize>,
}

/// Everything that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct RuleErrors {
    /// In the order of the files and of the places in them.
    pub errors: Vec<RuleError>,
    /// So many more were found and not kept.
    pub more: usize,
}

/// A place of a value, in one of several texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// Which text.
    pub(crate) text: usize,
    /// The bytes of it.
    pub(crate) span: Range<usize>,
}

/// An error before its place is looked up.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) at: At,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// The errors of a run; beyond the first they are only counted.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len() + self.more
    }

    /// The problems in the order of the texts and of the places in them, and how many more there were.
    pub(super) fn in_order(self) -> (Vec<Problem>, usize) {
        let Self { mut list, more } = self;
        list.sort_by_key(|problem| (problem.at.text, problem.at.span.start));
        (list, more)
    }
}

impl Problem {
    pub(crate) fn new(at: &At, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { at: at.clone(), message: message.into(), help: Some(help.into()) }
    }

    /// An error of a filter that stands at a place.
    pub(crate) fn of_filter(error: FilterError, at: At) -> Self {
        Self { at, message: error.message, help: error.help }
    }
}

impl RuleErrors {
    /// Adds one, or counts it.
    pub(super) fn push(&mut self, error: RuleError) {
        if self.is_full() {
            self.more += 1;
        } else {
            self.errors.push(error);
        }
    }

    /// Whether one more would only be counted.
    pub(super) const fn is_full(&self) -> bool {
        self.errors.len() >= ERRORS_MAX
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }
}

impl RuleError {
    /// An error of a file as a whole.
    pub(super) fn of_file(file: &Path, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { file: file.to_owned(), place: None, message: message.into(), help: Some(help.into()) }
    }
}

/// The place of `span` in a text, which may end before it.
pub(super) fn place(text: &str, span: &Range<usize>) -> Place {
    let start = floor(text, span.start);
    let begin = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[..start].bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = text[begin..start].chars().count() + 1;
    let full = text[begin..end].trim_end_matches('\r');
    let from = (start - begin).min(full.len());
    let to = floor(full, span.end.saturating_sub(begin)).clamp(from, full.len());
    let left = full[..from].char_indices().rev().nth(BEFORE - 1).map_or(0, |(at, _)| at);
    let right = full[from..].char_indices().nth(BEHIND).map_or(full.len(), |(at, _)| from + at);
    Place {
        line,
        column,
        text: full[left..right].replace('\t', " "),
        marked: from - left..to.min(right) - left,
    }
}

/// The last place of a character that is not behind `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", escape::path(&self.file))?;
        match &self.place {
            Some(place) => {
                let marked = Marked { line: &place.text, span: place.marked.clone() };
                write!(f, ":{}:{}: {}\n{marked}", place.line, place.column, Harmless(&self.message))?;
            }
            None => write!(f, ": {}", Harmless(&self.message))?,
        }
        match &self.help {
            Some(help) => write!(f, "\n{}", Harmless(help)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RuleErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            let blank = if at == 0 { "" } else { "\n\n" };
            write!(f, "{blank}{error}")?;
        }
        if self.more > 0 {
            write!(f, "\n\nand {} more errors", self.more)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let text = "one\r\n\ttwo ä three\r\nfour";
        let of = |span: Range<usize>| {
            let place = place(text, &span);
            (place.line, place.column, place.text.clone(), place.text[place.marked].to_owned())
        };
        let two = " two ä three";
        assert_eq!(of(0..3), (1, 1, "one".to_owned(), "one".to_owned()));
        assert_eq!(of(6..9), (2, 2, two.to_owned(), "two".to_owned()));
        assert_eq!(of(13..18), (2, 8, two.to_owned(), "three".to_owned()));
        assert_eq!(of(13..25), (2, 8, two.to_owned(), "three".to_owned()), "to the end of its line");
        assert_eq!(of(11..12), (2, 6, two.to_owned(), "ä".to_owned()), "begins within a character");
        assert_eq!(of(99..999), (3, 5, "four".to_owned(), String::new()));
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("{}here{}", "é".repeat(1_000), "ü".repeat(1_000));
        let place = place(&text, &(2_000..2_004));
        assert_eq!((place.column, place.text.chars().count()), (1_001, BEFORE + BEHIND));
        assert_eq!(&place.text[place.marked], "here");
    }
}

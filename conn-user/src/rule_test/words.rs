//! Splits a line into words with their places. A text in double quotes is one word, as alerts write it.

use std::ops::Range;

use crate::filter::FilterError;

/// A word and its place.
#[derive(Clone, Debug)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) span: Range<usize>,
}

/// The words of a line.
#[derive(Clone, Debug)]
pub(super) struct Words<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    pub(super) const fn new(line: &'a str) -> Self {
        Self { line, at: 0 }
    }

    /// The next word; `None`: the line ends.
    pub(super) fn next(&mut self) -> Option<Word<'a>> {
        let rest = self.line.get(self.at..).unwrap_or_default();
        let start = self.at + rest.len() - rest.trim_start().len();
        let rest = self.line.get(start..).unwrap_or_default();
        let (mut quoted, mut escaped) = (false, false);
        let mut ends = |c: char| {
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            !quoted && c.is_whitespace()
        };
        let length = rest.find(&mut ends).unwrap_or(rest.len());
        self.at = start + length;
        (length > 0).then(|| Word { text: &rest[..length], span: start..start + length })
    }

    /// The next word, which stays to be read.
    pub(super) fn peek(&self) -> Option<Word<'a>> {
        self.clone().next()
    }

    /// The next word.
    pub(super) fn need(&mut self, what: &str, help: &str) -> Result<Word<'a>, FilterError> {
        let end = self.line.trim_end().len();
        self.next()
            .ok_or_else(|| FilterError::new(self.line, end..end, format!("{what} is missing here"), help))
    }

    /// Nothing may follow.
    pub(super) fn end(&mut self, help: &str) -> Result<(), FilterError> {
        match self.next() {
            Some(word) => Err(self.wrong(&word, "is not expected here", help)),
            None => Ok(()),
        }
    }

    /// The word is wrong.
    pub(super) fn wrong(&self, word: &Word<'_>, what: &str, help: impl Into<String>) -> FilterError {
        let message = format!("{} {what}", crate::filter::error::quoted(word.text));
        FilterError::new(self.line, word.span.clone(), message, help)
    }
}

//! What is wrong with a filter, where, and what to write instead.

use std::fmt::{self, Write};

use unicode_width::UnicodeWidthChar;

use super::ast::Span;
use crate::event::escape;

/// An error in a filter. Shown, it is several lines: what, the text with the place marked, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FilterError {
    /// What is wrong, one line.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// The filter.
    pub text: String,
    /// The place in it.
    pub span: Span,
}

impl FilterError {
    /// An error at a place of `text`.
    pub fn new(text: &str, span: Span, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: Some(help.into()), text: text.to_owned(), span }
    }

    /// The part of the text that is wrong.
    pub fn place(&self) -> &str {
        self.text.get(self.span.clone()).unwrap_or_default()
    }
}

/// A word of a filter as error messages quote it.
pub(crate) fn quoted(word: &str) -> String {
    format!("`{}`", short(word))
}

/// A word of a filter, not endless.
pub(super) fn short(word: &str) -> String {
    match word.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &word[..end]),
        None => word.to_owned(),
    }
}

/// The character, or a sign for one that acts on a terminal or has no column of its own for a caret.
fn harmless(c: char) -> char {
    if escape::is_hidden(c) || c.width().unwrap_or(0) == 0 { '\u{fffd}' } else { c }
}

/// A text made harmless for a terminal.
pub(crate) struct Harmless<'a>(pub(crate) &'a str);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| f.write_char(harmless(c)))
    }
}

/// Lines of text made harmless for a terminal.
pub(crate) fn lines(text: &str) -> String {
    text.split('\n').map(|line| Harmless(line).to_string()).collect::<Vec<_>>().join("\n")
}

/// A line of text, and below it a caret under each column of the span, or one behind its start if it is empty.
pub(crate) struct Marked<'a> {
    /// The line.
    pub(crate) line: &'a str,
    /// What is marked of it, in bytes.
    pub(crate) span: Span,
}

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What the caret points at must stand above it: one column each, whatever it is.
        let (mut line, mut marks) = (String::new(), String::new());
        let mut reached = 0;
        for (at, c) in self.line.char_indices() {
            let shown = harmless(c);
            line.push(shown);
            let mark = if self.span.contains(&at) { '^' } else { ' ' };
            marks.extend(std::iter::repeat_n(mark, shown.width().unwrap_or(0)));
            reached = at + c.len_utf8();
        }
        if self.span.is_empty() || self.span.start >= reached {
            let before = self.line.get(..self.span.start).unwrap_or(self.line);
            let column: usize = before.chars().map(|c| harmless(c).width().unwrap_or(0)).sum();
            marks = " ".repeat(column) + "^";
        }
        write!(f, "  {line}\n  {}", marks.trim_end())
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked = Marked { line: &self.text, span: self.span.clone() };
        write!(f, "{}\n{marked}", Harmless(&self.message))?;
        match &self.help {
            Some(help) => write!(f, "\n{}", Harmless(help)),
            None => Ok(()),
        }
    }
}

//! A filter as it was written.

use std::fmt::{self, Write};
use std::ops::Range;

use super::key::Key;

/// A place in the text, in bytes.
pub type Span = Range<usize>;

/// A filter: words that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expr {
    /// The words, in the order of the text.
    pub words: Vec<Word>,
}

/// `key:value,value`, perhaps negated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// It begins with `-`.
    pub negated: bool,
    /// What it looks at.
    pub key: Key,
    /// One of these must fit; there is at least one.
    pub values: Vec<Value>,
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// How it was written.
    pub form: Form,
    /// Its text: without quotes, slashes and `@`.
    pub text: String,
    /// Where it stands, with quotes and slashes.
    pub span: Span,
}

/// How a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// As it is: `nginx`, `*.sock`, `10.0.0.0/8`.
    Bare,
    /// In quotes: `"tmux: server"`; no character has a meaning.
    Quoted,
    /// In slashes: `/^nginx/`, a regular expression.
    Regex,
    /// Behind an `@`: `@shells`, the values of a list.
    List,
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.words.iter().enumerate() {
            if at > 0 {
                f.write_char(' ')?;
            }
            word.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_char('-')?;
        }
        f.write_str(self.key.name())?;
        for (at, value) in self.values.iter().enumerate() {
            f.write_char(if at == 0 { ':' } else { ',' })?;
            value.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Form::Bare => f.write_str(&self.text),
            Form::List => write!(f, "@{}", self.text),
            Form::Regex => write!(f, "/{}/", self.text),
            Form::Quoted => {
                f.write_char('"')?;
                for c in self.text.chars() {
                    if matches!(c, '"' | '\\') {
                        f.write_char('\\')?;
                    }
                    f.write_char(c)?;
                }
                f.write_char('"')
            }
        }
    }
}

//! The filter language: one for `conn tail` and everything else that selects events. Reference: `docs/filter.md`.
//!
//! A filter is a row of words `key:value`, all of which must hold. `-` before a word negates it, a comma between
//! values is OR. A text becomes an [`ast::Expr`] ([`parse`]), which [`compile`] turns into typed matchers once.

pub mod amount;
pub mod anchor;
pub mod ast;
pub mod compile;
pub mod error;
pub mod glob;
pub mod key;
pub mod names;
pub mod parse;
pub mod suggest;
pub mod trace;

mod evaluate;
mod fields;
mod habits;
#[cfg(test)]
mod naive;
mod nets;
#[cfg(test)]
mod properties;
mod ranges;
#[cfg(test)]
mod tests;
mod values;
mod view;

use std::fmt;

pub use self::error::FilterError;
pub use self::names::Names;
pub(crate) use self::ranges::{IpRanges, IpSet, canonical_net};
pub use self::view::HeldSocket;
use self::view::View;
use crate::event::model::{Event, EventKind};
use crate::units::BootNs;

/// A filter that is ready to be asked.
#[derive(Clone, Debug)]
pub struct Filter {
    expr: ast::Expr,
    words: Box<[compile::Word]>,
}

/// Two are the same if they are written alike and were compiled to the same: what they name may have changed in between.
impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words && self.to_string() == other.to_string()
    }
}

impl Filter {
    /// Reads and compiles a filter that may name what [`Names::builtin`] has. The empty text is the filter that
    /// everything passes.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what to write instead.
    pub fn new(text: &str) -> Result<Self, FilterError> {
        Self::with_names(text, Names::builtin())
    }

    /// Reads and compiles a filter that may name these zones and lists; they are looked up now, once.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what to write instead. Of a wrong value in a list
    /// the place is that of the list's name.
    pub fn with_names(text: &str, names: &Names) -> Result<Self, FilterError> {
        let expr = parse::parse(text)?;
        let words = compile::compile(text, &expr, names)?;
        Ok(Self { expr, words })
    }

    /// The same, to be asked about listed sockets.
    ///
    /// # Errors
    /// Also a word that is about events only.
    pub fn for_sockets(text: &str, names: &Names) -> Result<Self, FilterError> {
        let filter = Self::with_names(text, names)?;
        for word in &filter.expr.words {
            if let (true, Some(value)) = (word.key.is_of_events(), word.values.first()) {
                let message = format!("`{}` is about events, and a list has none", word.key.name());
                let help = "a list has state:listen, state:established and the other states";
                return Err(FilterError::new(text, value.span.clone(), message, help));
            }
        }
        Ok(filter)
    }

    /// Whether a listed socket matches: all words hold for one of its holders, and the negated ones for each.
    /// `at` is the time of the list, for ages.
    pub fn matches_socket(&self, listed: &impl HeldSocket, at: BootNs) -> bool {
        let holds = |view: &View<'_>, negated: bool| {
            self.words.iter().filter(|word| word.negated == negated).all(|word| word.holds(view))
        };
        if listed.no_holder().is_some() {
            let nobody = View::of_listed(listed, None, at);
            return holds(&nobody, false) && holds(&nobody, true);
        }
        let views = || listed.holders().map(|holder| View::of_listed(listed, holder, at));
        views().any(|view| holds(&view, false)) && views().all(|view| holds(&view, true))
    }

    /// Whether every word holds for the event. Allocates nothing.
    pub fn matches(&self, event: &Event) -> bool {
        if self.words.is_empty() {
            return true;
        }
        let view = View::of(event);
        self.words.iter().all(|word| word.holds(&view))
    }

    /// Whether every word holds for the event, or may once what is found out in the background is known.
    pub fn may_yet_match(&self, event: &Event) -> bool {
        let view = View::of(event);
        self.words.iter().all(|word| word.may_yet_hold(&view))
    }

    /// Whether a stream with this filter shows the event: what matches, and every gap and `degraded`, because what was lost or
    /// dropped may have matched; only a word about them (`-kind:gap`, `lost:>100`) hides them.
    pub fn passes(&self, event: &Event) -> bool {
        self.is_shown_unasked(event) || self.matches(event)
    }

    /// Whether a stream with this filter shows the event only because it shows every such event: nothing asks for it.
    pub fn is_shown_unasked(&self, event: &Event) -> bool {
        let is_asked = |word: &compile::Word| match event.body.kind() {
            EventKind::Gap => word.is_about_gaps(),
            EventKind::Degraded => word.names_kind(EventKind::Degraded),
            _ => true,
        };
        event.body.kind().is_always_shown() && !self.words.iter().any(is_asked)
    }

    /// Whether a word asks for this kind (`kind:exec`, `code:1`): then it is shown although it is not by default.
    pub fn asks_for(&self, kind: EventKind) -> bool {
        self.words.iter().any(|word| word.asks_for(kind))
    }

    /// The keys of its words, and whether each is negated.
    pub fn keys(&self) -> impl Iterator<Item = (key::Key, bool)> + '_ {
        self.expr.words.iter().map(|word| (word.key, word.negated))
    }

    /// Whether it is the filter that everything passes.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

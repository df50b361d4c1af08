//! Where a setting stands, and lists of settings that systemd merges.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::specifier;
use crate::event::escape;
use crate::process::unit_files::{Setting, Unit};

/// Characters of a value that are shown.
const SHOWN: usize = 200;

/// A setting and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cite {
    path: Arc<Path>,
    line: usize,
    text: String,
}

impl Cite {
    /// Of an assignment of this file.
    pub(super) fn new(path: &Arc<Path>, setting: &Setting) -> Self {
        let mut text = format!("{}={}", setting.key, setting.value);
        if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
            text.truncate(cut);
            text.push('…');
        }
        Self { path: Arc::clone(path), line: setting.line, text }
    }

    /// File and line, without what stands there.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", escape::path(&self.path), self.line)
    }

    /// What stands there.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Cite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.text)
    }
}

/// A list that assignments add to, and an empty one resets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merged<T> {
    /// What it has.
    pub(super) items: Vec<(T, Cite)>,
    /// What stands there and is not known here, with the reason: the list may have more than `items`.
    pub(super) unknown: Vec<(Cite, String)>,
    /// What systemd ignores, with the reason.
    pub(super) ignored: Vec<(Cite, String)>,
}

impl<T> Default for Merged<T> {
    fn default() -> Self {
        Self { items: Vec::new(), unknown: Vec::new(), ignored: Vec::new() }
    }
}

impl<T> Merged<T> {
    /// Takes an assignment: an empty one resets; else its specifiers are replaced, and `read` gives what it has, or why
    /// systemd ignores it.
    pub(super) fn assign(
        &mut self,
        unit: &Unit,
        cite: &Cite,
        value: &str,
        read: impl Fn(&str) -> Vec<Result<T, String>>,
    ) {
        if value.is_empty() {
            *self = Self::default();
            return;
        }
        match specifier::expand(value, &unit.name) {
            Ok(value) => {
                for item in read(&value) {
                    match item {
                        Ok(item) => self.items.push((item, cite.clone())),
                        Err(reason) => self.ignored.push((cite.clone(), reason)),
                    }
                }
            }
            Err(reason) => self.unknown.push((cite.clone(), reason)),
        }
    }

    /// Whether nothing was said, or all that was said is taken back.
    pub(super) const fn is_empty(&self) -> bool {
        self.items.is_empty() && self.unknown.is_empty() && self.ignored.is_empty()
    }

    /// Where its items stand, each assignment once.
    pub(super) fn cites(&self) -> Vec<Cite> {
        let mut cites: Vec<Cite> = Vec::new();
        for (_, cite) in &self.items {
            if cites.last() != Some(cite) {
                cites.push(cite.clone());
            }
        }
        cites
    }
}

/// The assignments of a section, each with its place.
pub(super) fn of_section<'u>(
    unit: &'u Unit,
    section: &'u str,
) -> impl Iterator<Item = (Cite, &'u str, &'u str)> {
    let own = unit.settings.iter().filter(move |(_, setting)| setting.section == section);
    own.map(|(path, setting)| (Cite::new(path, setting), setting.key.as_str(), setting.value.as_str()))
}

//! Which rules a command judges by.

use std::path::PathBuf;
use std::sync::Arc;

use super::exit::Exit;
use super::{emit, note};
use crate::filter::{Filter, FilterError, Names};
use crate::rules::host::Host;
use crate::rules::{RuleSet, defaults, file};
use crate::service::protocol::{RuleFile, RuleSources};

/// Which rules judge what happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleChoice {
    /// None.
    None,
    /// The built-in ones.
    Default,
    /// Those of these folders.
    Folders(Vec<PathBuf>),
}

/// Reads a filter that may name what the rules of this choice define, and else the default rules: their lists, and the zones
/// of this host. The rules are only read for a filter that needs them; what is wrong with them is reported elsewhere.
///
/// # Errors
/// As `make` has them.
pub(super) fn filter(
    choice: &RuleChoice,
    make: impl Fn(&Names) -> Result<Filter, FilterError>,
) -> Result<Filter, FilterError> {
    make(Names::builtin()).or_else(|error| match choice.names() {
        Some(names) => make(&names),
        None => Err(error),
    })
}

impl RuleChoice {
    /// Lists and zones of its rules; without rules, or with wrong ones, those of the default rules.
    fn names(&self) -> Option<Arc<Names>> {
        let host = Host::read();
        let own = match self {
            Self::Folders(folders) => file::read(folders, &host).rules.ok(),
            Self::None | Self::Default => None,
        };
        own.or_else(|| defaults::set(&host).ok()).map(|rules| rules.names)
    }

    /// Those of these folders; without any the built-in ones.
    pub fn of(folders: &[PathBuf]) -> Self {
        if folders.is_empty() { Self::Default } else { Self::Folders(folders.to_vec()) }
    }

    /// Reads them. What is wrong with them is reported here, as is what of this host could not be read.
    pub(super) fn load(&self) -> Result<Option<RuleSet>, Exit> {
        Ok(self.load_with_sources()?.map(|(rules, _)| rules))
    }

    /// Reads them as [`Self::load`] does, and returns also what they were made from.
    pub(super) fn load_with_sources(&self) -> Result<Option<(RuleSet, RuleSources)>, Exit> {
        if *self == Self::None {
            return Ok(None);
        }
        let host = Host::read();
        for text in host.notes() {
            note(text);
        }
        let mut sources = RuleSources::Default;
        let rules = match self {
            Self::None => return Ok(None),
            Self::Default => defaults::set(&host),
            Self::Folders(folders) => {
                let checked = file::read(folders, &host);
                for warning in &checked.warnings {
                    emit(format_args!("warning: {warning}"));
                }
                let files = checked.texts.into_iter();
                let files = files.map(|(path, text)| RuleFile { path: path.display().to_string(), text });
                sources = RuleSources::Files { files: files.collect() };
                checked.rules
            }
        };
        rules.map(|rules| Some((rules, sources))).map_err(|errors| {
            emit(errors);
            Exit::Usage
        })
    }
}

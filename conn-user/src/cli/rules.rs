//! Which rules a command judges by.

use std::path::PathBuf;

use super::args::Exit;
use super::tell;
use crate::rules::host::Host;
use crate::rules::{RuleSet, defaults, file};

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

impl RuleChoice {
    /// Those of these folders; without any the built-in ones.
    pub fn of(folders: &[PathBuf]) -> Self {
        if folders.is_empty() { Self::Default } else { Self::Folders(folders.to_vec()) }
    }

    /// Reads them. What is wrong with them is told here, as is what of this host could not be read.
    pub(super) fn load(&self) -> Result<Option<RuleSet>, Exit> {
        if *self == Self::None {
            return Ok(None);
        }
        let host = Host::read();
        for note in host.notes() {
            tell(format_args!("note: {note}"));
        }
        let rules = match self {
            Self::None => return Ok(None),
            Self::Default => defaults::set(&host),
            Self::Folders(folders) => {
                let checked = file::read(folders, &host);
                for warning in &checked.warnings {
                    tell(format_args!("warning: {warning}"));
                }
                checked.rules
            }
        };
        rules.map(Some).map_err(|errors| {
            tell(errors);
            Exit::Usage
        })
    }
}

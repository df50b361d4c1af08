//! Asks a history: its files are opened for reading alone, also while an agent writes, and what a row says becomes events again.

mod file;
mod rows;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub use self::file::File;
pub use self::rows::Condition;
use super::days;
use super::error::HistoryError;
use super::row::ConnRow;
use crate::event::json::StreamIdentity;
use crate::units::WallNs;

/// A span of the wall clock, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From when.
    pub since: WallNs,
    /// Until when.
    pub until: WallNs,
}

impl Span {
    /// All of time.
    pub const ALL: Self = Self { since: WallNs(0), until: WallNs(i64::MAX.cast_unsigned()) };

    /// Whether an instant is in it.
    pub const fn contains(self, at: WallNs) -> bool {
        self.since.0 <= at.0 && at.0 <= self.until.0
    }
}

/// A connection of the history.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The run that saw it.
    pub run: Arc<StreamIdentity>,
    /// What is kept of it.
    pub row: ConnRow,
}

/// The files of a history.
#[derive(Debug)]
pub struct History {
    files: Vec<File>,
    /// Files that could not be opened, and why.
    pub refused: Vec<HistoryError>,
}

impl History {
    /// Opens the files in a folder. One that is damaged or of a newer version is left out, and reported in `refused`.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: &Path) -> Result<Self, HistoryError> {
        let mut history = Self { files: Vec::new(), refused: Vec::new() };
        for file in days::list(folder)? {
            match File::open(&file.path) {
                Ok(opened) => history.files.push(opened),
                Err(error) => history.refused.push(error),
            }
        }
        Ok(history)
    }

    /// Its files, the oldest first.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Hands out the connections that were open at some time in the span, of each file in the order in which they began. `condition`
    /// leaves out what need not be looked at.
    ///
    /// # Errors
    /// When a file cannot be read on.
    pub fn connections(
        &self,
        span: Span,
        condition: &Condition<'_>,
        each: &mut dyn FnMut(Stored) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        for (at, file) in self.files.iter().enumerate() {
            // What goes on is in a later file, unless that is gone.
            let goes_on = |run: &str| self.files[at + 1..].iter().any(|later| later.has_run(run));
            if file.connections(span, condition, &goes_on, each)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

//! Asks a history: its files are opened for reading alone, also while an agent writes, and what a row says becomes events again.

pub mod count;
pub mod keys;
pub mod lines;
pub mod pick;
pub mod sql;
pub mod tail;

mod file;
mod group;
mod push;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub use self::file::File;
pub use self::group::{GROUPS_MAX, Sum, TooMany, Value, Values};
pub use self::rows::{Condition, Fetch};
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

    /// Opens the files that may have something of a span, as [`Self::open`] does: of those before it none. Later ones say how what was
    /// there then ended.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open_for(folder: &Path, span: Span) -> Result<Self, HistoryError> {
        let mut history = Self { files: Vec::new(), refused: Vec::new() };
        // A clock that was set back writes times of the day before; what is older than that is not looked for.
        let oldest = days::Day::of(WallNs(span.since.0.saturating_sub(days::Day::NANOS)));
        for file in days::list(folder)?.into_iter().filter(|file| !file.is_before(oldest)) {
            match File::open(&file.path) {
                Ok(opened) => history.files.push(opened),
                Err(error) => history.refused.push(error),
            }
        }
        Ok(history)
    }

    /// When each run ended: `None` of one that goes on. One that was killed ended when the next one began, at the latest.
    fn run_ends(&self) -> HashMap<String, Option<WallNs>> {
        let mut runs: HashMap<&str, (i64, Option<i64>)> = HashMap::new();
        for run in self.files.iter().flat_map(|file| file.runs.values()) {
            let known = runs.entry(&run.name).or_insert((run.began, None));
            // A later file knows better: in an earlier one it ended with the day.
            *known = (known.0.min(run.began), run.ended);
        }
        let mut begins: Vec<i64> = runs.values().map(|(began, _)| *began).collect();
        begins.sort_unstable();
        let end = |(began, ended): (i64, Option<i64>)| {
            let next = begins.get(begins.partition_point(|other| *other <= began)).copied();
            ended.or(next).map(|at| WallNs(at.cast_unsigned()))
        };
        runs.into_iter().map(|(name, of)| (name.to_owned(), end(of))).collect()
    }

    /// Whether what goes on of a run in this file is in a later one: not if that is gone.
    fn is_later(&self, file: usize, run: &str) -> bool {
        self.files.iter().skip(file + 1).any(|later| later.has_run(run))
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
            let goes_on = |run: &str| self.is_later(at, run);
            if file.connections(span, condition, &goes_on, each)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

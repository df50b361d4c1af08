//! The history of an agent, as its clients see it and as it reports what becomes of it.

use std::path::{Path, PathBuf};

use super::emit;
use crate::agent::health::{Condition, HealthReport};
use crate::event::time::Rfc3339;
use crate::history::writer::{Commits, HistoryNotice, HistoryWriter};
use crate::service::Keeper;
use crate::service::status::History;
use crate::units::WallNs;

/// What clients of the socket can ask of the history.
pub(super) struct Kept {
    commits: Commits,
    folder: PathBuf,
}

impl Kept {
    /// Of the history that is written in this folder. Clients may be in another one.
    pub(super) fn new(commits: Commits, folder: PathBuf) -> Self {
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        Self { commits, folder }
    }
}

impl Keeper for Kept {
    fn commit(&self) -> Result<(), String> {
        self.commits.commit().map_err(|error| error.to_string())
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn state(&self) -> History {
        let stats = self.commits.stats();
        let time = |at: WallNs| {
            let mut text = Vec::new();
            Rfc3339::default().write(at, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        History {
            folder: self.folder.display().to_string(),
            files: stats.files as u64,
            bytes: stats.bytes,
            first: stats.first.map(time),
            last: stats.last.map(time),
            rows: stats.rows,
            dropped: stats.dropped,
        }
    }
}

/// The name of the history among the outputs.
pub(super) const HISTORY: &str = "history";

/// Reports what happened to the history.
pub(super) fn emit_notices(history: &HistoryWriter, health: &mut Vec<HealthReport>) {
    for notice in history.notices() {
        match notice {
            HistoryNotice::Fails(error) => {
                health.push(HealthReport::fails(Condition::History, &HISTORY.into(), &error));
                emit(format_args!(
                    "cannot write the history: {error}; what it would keep is dropped until it can be written"
                ));
            }
            HistoryNotice::Works { dropped } => {
                health.push(HealthReport::works(Condition::History, &HISTORY.into(), dropped));
                emit(format_args!("the history is written again; rows that were dropped: {dropped}"));
            }
            HistoryNotice::Overflows => {
                emit(
                    "events come faster than the history is written: some are not kept, alerts and gaps are",
                );
            }
            HistoryNotice::Note(text) => emit(text),
        }
    }
}

//! What may be wrong with a history.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::schema::VERSION;
use crate::event::escape;
use crate::event::read::ReadError;

/// Why a file of the history cannot be read or written.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The directory or a file cannot be read or made.
    #[error("{}: {error}{}", escape::path(.path), remedy(.error))]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// SQLite reports an error.
    #[error("{}: {error}", escape::path(.path))]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
    /// It is no history.
    #[error("{}: not a history of conn: move it away", escape::path(.0))]
    NotHistory(PathBuf),
    /// It is damaged.
    #[error(
        "{}: damaged ({error}); `sqlite3 FILE .recover` may save what is left of it",
        escape::path(.path)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite reports.
        error: rusqlite::Error,
    },
    /// A newer conn wrote it.
    #[error("{}: schema version {version}; this conn knows versions up to {VERSION}: read it with a newer conn", escape::path(.path))]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i32,
    },
    /// Its log cannot be read without writing beside it.
    #[error(
        "{}: its agent did not close it, and its directory cannot be written: start the agent again, run conn as a user who may write \
         there, or copy the file and its -wal to a directory of your own",
        escape::path(.0)
    )]
    Unfinished(PathBuf),
    /// A row is not as conn writes it.
    #[error("{}: {what} of row {row} is not as conn writes it", escape::path(.path))]
    Row {
        /// The file.
        path: PathBuf,
        /// Which row.
        row: i64,
        /// Which value.
        what: &'static str,
    },
    /// A line or a process in it cannot be read.
    #[error("{}: {error}", escape::path(.path))]
    Line {
        /// The file.
        path: PathBuf,
        /// Why.
        error: ReadError,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": members of the group conn may read a history (usermod -aG conn USER)"
        }
        _ => "",
    }
}

impl HistoryError {
    /// An error of SQLite with this file.
    pub(super) fn sqlite(path: &std::path::Path, error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Self::Damaged { path, error },
            _ => Self::Sqlite { path, error },
        }
    }

    /// Whether there is no room on the disk.
    pub fn is_full(&self) -> bool {
        let Self::Sqlite { error, .. } = self else { return false };
        error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }
}

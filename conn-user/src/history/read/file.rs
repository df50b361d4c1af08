//! One file, open for reading.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, ToSql};

use crate::event::json::StreamIdentity;
use crate::history::days;
use crate::history::error::HistoryError;
use crate::history::schema::{self, VERSION};
use crate::units::{BootNs, WallNs};

/// How long a reader waits for a file that is locked: its log is being taken into it, or a new version's tables are made.
const LOCKED: Duration = Duration::from_secs(5);

/// A file of a history.
#[derive(Debug)]
pub struct File {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    pub(super) runs: HashMap<i64, Run>,
    uri: Option<String>,
}

/// A run of the agent, as a file has it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) identity: Arc<StreamIdentity>,
    /// Wall clock minus boot clock, in nanoseconds.
    pub(super) offset: i64,
    /// When it began in this file.
    pub(super) began: i64,
    /// When it ended in this file.
    pub(super) ended: Option<i64>,
}

impl File {
    /// Opens it. One of an older version is brought up to date in memory, and stays as it is.
    ///
    /// # Errors
    /// When it cannot be opened, is no history, damaged, or of a newer version.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let failed = |error| HistoryError::sqlite(path, error);
        let (mut db, suffix) = open(path)?;
        let version = schema::version(&db, path)?;
        if version == 0 {
            // An agent is making it.
            return Err(HistoryError::NotHistory(path.to_owned()));
        }
        if version < VERSION {
            let mut copy = Connection::open_in_memory().map_err(failed)?;
            {
                let backup = rusqlite::backup::Backup::new(&db, &mut copy).map_err(failed)?;
                backup.run_to_completion(i32::MAX, Duration::ZERO, None).map_err(failed)?;
            }
            schema::migrate(&mut copy, path)?;
            db = copy;
        }
        let runs = runs(&db).map_err(failed)?;
        let uri = (version == VERSION).then(|| uri(path, suffix));
        Ok(Self { db, path: path.to_owned(), runs, uri })
    }

    /// What another connection opens to read it; `None`: it is of an older version and was brought up to date in memory.
    pub(super) fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has_run(&self, name: &str) -> bool {
        self.runs.values().any(|run| run.name == name)
    }

    /// The whole lines that a query for `run`, `seq` and `line` selects, with the run that wrote them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn lines(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        each: &mut dyn FnMut(&Arc<StreamIdentity>, u64, &str),
    ) -> Result<(), HistoryError> {
        let mut read = || {
            let mut statement = self.db.prepare_cached(sql)?;
            let mut rows = statement.query(values)?;
            while let Some(row) = rows.next()? {
                let line = row.get_ref(2)?.as_str()?;
                if let Some(run) = self.runs.get(&row.get(0)?) {
                    each(&run.identity, row.get::<_, i64>(1)?.cast_unsigned(), line);
                }
            }
            Ok(())
        };
        read().map_err(|error| HistoryError::sqlite(&self.path, error))
    }

    /// About when it begins: when the first run in it did. `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn first(&self) -> Result<Option<WallNs>, HistoryError> {
        let first = self.db.query_row("SELECT min(began) FROM run", [], |row| row.get::<_, Option<i64>>(0));
        let first = first.map_err(|error| HistoryError::sqlite(&self.path, error))?;
        Ok(first.map(|at| WallNs(at.cast_unsigned())))
    }

    /// The connection to SQLite, which writes nothing.
    pub const fn sqlite(&self) -> &Connection {
        &self.db
    }
}

/// Opens a file for reading. Who may not write beside it reads it as well: SQLite then needs what is beside it to be there, or to be
/// to know that nobody writes, which is so where there is no log.
fn open(path: &Path) -> Result<(Connection, &'static str), HistoryError> {
    let failed = |error| HistoryError::sqlite(path, error);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let try_open = |suffix: &'static str| {
        let db = Connection::open_with_flags(uri(path, suffix), flags)?;
        db.busy_timeout(LOCKED)?;
        db.pragma_update(None, "query_only", true)?;
        // The first access to the file itself.
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        Ok((db, suffix))
    };
    // Why it cannot be opened, SQLite does not report.
    std::fs::File::open(path).map_err(|error| HistoryError::Io { path: path.to_owned(), error })?;
    match try_open("?mode=ro") {
        Err(error) if is_out_of_reach(&error) && !has_log(path) => {
            try_open("?mode=ro&immutable=1").map_err(failed)
        }
        Err(error) if is_out_of_reach(&error) => Err(HistoryError::Unfinished(path.to_owned())),
        opened => opened.map_err(failed),
    }
}

fn has_log(path: &Path) -> bool {
    days::beside(path, "-wal").metadata().is_ok_and(|meta| meta.len() > 0)
}

fn is_out_of_reach(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, ReadOnly};
    matches!(error.sqlite_error_code(), Some(CannotOpen | ReadOnly))
}

/// A path as SQLite's URI: everything that means something there is escaped.
fn uri(path: &Path, suffix: &str) -> String {
    use std::fmt::Write as _;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(*byte));
            }
            // Writing to a text cannot fail.
            _ => drop(write!(uri, "%{byte:02x}")),
        }
    }
    uri + suffix
}

fn runs(db: &Connection) -> rusqlite::Result<HashMap<i64, Run>> {
    let mut statement =
        db.prepare("SELECT id, name, host, boot_id, agent_start, wall_minus_boot, began, ended FROM run")?;
    let rows = statement.query_map([], |row| {
        let identity = StreamIdentity {
            host: row.get(2)?,
            boot_id: row.get(3)?,
            agent_start: BootNs(row.get::<_, i64>(4)?.cast_unsigned()),
        };
        let run = Run {
            name: row.get(1)?,
            identity: Arc::new(identity),
            offset: row.get(5)?,
            began: row.get(6)?,
            ended: row.get(7)?,
        };
        Ok((row.get(0)?, run))
    })?;
    rows.collect()
}

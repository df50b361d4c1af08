//! SQL of people over the files of several days.

use std::path::PathBuf;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Statement};
use thiserror::Error;

use super::files::{self, DayFile, OpenError};

/// The most files that one statement reads: what SQLite attaches.
pub const DAYS_MAX: usize = 10;

/// Tables and views that are the same in each file.
const TABLES: [&str; 8] = ["run", "addr", "process", "conn", "listener", "alert", "note", "connection"];

/// Why a statement was not run.
#[derive(Debug, Error)]
pub enum SqlError {
    /// It would write, or it returns no rows.
    #[error("only statements that read are run: SELECT, or a PRAGMA that returns something")]
    NotReading,
    /// There are several.
    #[error("one statement at a time")]
    Several,
    /// What SQLite says.
    #[error("{}", text(.0))]
    Sqlite(#[from] rusqlite::Error),
}

fn text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, sql, offset, .. } => {
            let at = usize::try_from(*offset).ok().and_then(|offset| sql.get(offset..)).unwrap_or_default();
            let near: String = at.chars().take(24).collect();
            if near.is_empty() { msg.clone() } else { format!("{msg}, at: {near}") }
        }
        error => error.to_string(),
    }
}

/// The files of some days as one database: each table and the view `connection` have the rows of all of them, and a column `day`.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    /// Days that are in it, the oldest first.
    pub days: Vec<String>,
    /// Files that could not be read.
    pub skipped: Vec<OpenError>,
}

impl Database {
    /// Attaches the files, at most [`DAYS_MAX`].
    ///
    /// # Errors
    /// When SQLite cannot attach what it could open.
    pub fn attach(found: &[DayFile]) -> Result<Self, SqlError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_MEMORY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(":memory:", flags)?;
        let mut database = Self { connection, days: Vec::new(), skipped: Vec::new() };
        for file in found.iter().take(DAYS_MAX) {
            match files::open(&file.path).and_then(|_| files::uri_of(&file.path)) {
                Ok(uri) => database.attach_one(file, &uri)?,
                Err(error) => database.skipped.push(error),
            }
        }
        database.make_views()?;
        database.connection.pragma_update(None, "query_only", true)?;
        Ok(database)
    }

    fn attach_one(&mut self, file: &DayFile, uri: &PathBuf) -> Result<(), SqlError> {
        let name = format!("d{}", self.days.len());
        let uri = uri.to_str().ok_or(rusqlite::Error::InvalidPath(uri.clone()))?;
        self.connection.execute(&format!("ATTACH ?1 AS {name}"), [uri])?;
        self.days.push(file.day.clone());
        Ok(())
    }

    fn make_views(&self) -> Result<(), SqlError> {
        for table in TABLES {
            let parts: Vec<String> = self
                .days
                .iter()
                .enumerate()
                .map(|(at, day)| format!("SELECT *, '{day}' AS day FROM d{at}.{table}"))
                .collect();
            if !parts.is_empty() {
                let view = format!("CREATE TEMP VIEW \"{table}\" AS {}", parts.join(" UNION ALL "));
                self.connection.execute(&view, [])?;
            }
        }
        Ok(())
    }

    /// Runs a statement. `head` gets the names of its columns, then `row` each row; `false` from it ends the statement.
    ///
    /// # Errors
    /// When it does not only read, or SQLite refuses it.
    pub fn run(
        &self,
        sql: &str,
        head: impl FnOnce(&[String]),
        mut row: impl FnMut(&[ValueRef<'_>]) -> bool,
    ) -> Result<(), SqlError> {
        let mut statement = self.prepare(sql)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        head(&names);
        let mut rows = statement.query([])?;
        while let Some(found) = rows.next()? {
            let values = (0..names.len()).map(|at| found.get_ref(at)).collect::<Result<Vec<_>, _>>()?;
            if !row(&values) {
                break;
            }
        }
        Ok(())
    }

    fn prepare(&self, sql: &str) -> Result<Statement<'_>, SqlError> {
        let statement = self.connection.prepare(sql).map_err(|error| match error {
            rusqlite::Error::MultipleStatement => SqlError::Several,
            error => error.into(),
        })?;
        // SQLite calls those that set the connection up reading ones too, but they return nothing.
        let is_reading = statement.readonly() && statement.column_count() > 0;
        if is_reading { Ok(statement) } else { Err(SqlError::NotReading) }
    }
}

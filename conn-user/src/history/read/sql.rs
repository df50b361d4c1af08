//! SQL of people over the files of several days.

use std::ops::ControlFlow;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Statement};
use thiserror::Error;

use super::History;

/// The most files that one statement reads: what SQLite attaches.
pub const FILES_MAX: usize = 10;

/// Tables and views that are the same in each file.
const TABLES: [&str; 10] =
    ["run", "addr", "process", "opened", "closed", "conn", "listener", "alert", "note", "connection"];

/// Gets the names of the columns, and the values of a row.
pub type EachRow<'e> = dyn FnMut(&[String], Option<&[ValueRef<'_>]>) -> ControlFlow<()> + 'e;

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

/// The files of some days as one database: each table and the view `connection` have the rows of all of them, and a column `file` with
/// the name of the file that a row is from, for the numbers by which tables refer to each other are those of a file.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    /// Names of the files that are in it, the oldest first.
    pub files: Vec<String>,
    /// How many older ones are not.
    pub left_out: usize,
}

impl Database {
    /// Attaches the newest files, at most [`FILES_MAX`].
    ///
    /// # Errors
    /// When SQLite cannot attach one.
    pub fn attach(history: &History) -> Result<Self, SqlError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_MEMORY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(":memory:", flags)?;
        // One of an older version has not all tables.
        let current: Vec<_> = history.files().iter().filter_map(|file| Some((file, file.uri()?))).collect();
        let left_out = current.len().saturating_sub(FILES_MAX);
        let mut database = Self {
            connection,
            files: Vec::new(),
            left_out: left_out + history.files().len() - current.len(),
        };
        for (file, uri) in &current[left_out..] {
            let name = format!("f{}", database.files.len());
            database.connection.execute(&format!("ATTACH ?1 AS {name}"), [uri])?;
            let name = file.path().file_name().map(|name| name.to_string_lossy().into_owned());
            database.files.push(name.unwrap_or_default());
        }
        database.make_views()?;
        database.connection.pragma_update(None, "query_only", true)?;
        Ok(database)
    }

    fn make_views(&self) -> Result<(), SqlError> {
        for table in TABLES {
            let parts: Vec<String> = self
                .files
                .iter()
                .enumerate()
                .map(|(at, file)| {
                    format!("SELECT *, '{}' AS file FROM f{at}.{table}", file.replace('\'', "''"))
                })
                .collect();
            if !parts.is_empty() {
                let view = format!("CREATE TEMP VIEW \"{table}\" AS {}", parts.join(" UNION ALL "));
                self.connection.execute(&view, [])?;
            }
        }
        Ok(())
    }

    /// Runs a statement. `each` gets the names of its columns, first without and then with the values of each row.
    ///
    /// # Errors
    /// When it does not only read, or SQLite refuses it.
    pub fn run(&self, sql: &str, each: &mut EachRow<'_>) -> Result<(), SqlError> {
        let mut statement = self.prepare(sql)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        if each(&names, None).is_break() {
            return Ok(());
        }
        let mut rows = statement.query([])?;
        while let Some(found) = rows.next()? {
            let values = (0..names.len()).map(|at| found.get_ref(at)).collect::<Result<Vec<_>, _>>()?;
            if each(&names, Some(&values)).is_break() {
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

//! The tables: a file is made, and an older one brought up to date, by the same steps.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::error::HistoryError;

/// `application_id` of a file: "conn".
pub const APPLICATION_ID: i32 = 0x636f_6e6e;

/// Each step makes the next version; a step that was released never changes.
const STEPS: [&str; VERSION as usize] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// The version of the schema that this conn writes: `user_version` of a file.
pub const VERSION: i32 = 2;

/// Which version a file is of; 0: a new one.
///
/// # Errors
/// When it is no history, or a newer one.
pub fn version(db: &Connection, path: &Path) -> Result<i32, HistoryError> {
    let ask = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let failed = |error| HistoryError::sqlite(path, error);
    let (id, version) = (ask("application_id").map_err(failed)?, ask("user_version").map_err(failed)?);
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    match version {
        0 if tables == 0 => Ok(0),
        _ if id != APPLICATION_ID => Err(HistoryError::NotHistory(path.to_owned())),
        1.. if version <= VERSION => Ok(version),
        _ => Err(HistoryError::Newer { path: path.to_owned(), version }),
    }
}

/// Makes the tables, or those that an older version lacks.
///
/// # Errors
/// As [`version()`], and when the file cannot be written.
pub fn migrate(db: &mut Connection, path: &Path) -> Result<(), HistoryError> {
    migrate_to(db, path, VERSION)
}

pub(super) fn migrate_to(db: &mut Connection, path: &Path, to: i32) -> Result<(), HistoryError> {
    let from = version(db, path)?;
    let steps = STEPS.iter().zip(1..=to).filter(|(_, version)| *version > from);
    for (step, version) in steps {
        let mut run = || {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            change.execute_batch(step)?;
            change.pragma_update(None, "application_id", APPLICATION_ID)?;
            change.pragma_update(None, "user_version", version)?;
            change.commit()
        };
        run().map_err(|error| HistoryError::sqlite(path, error))?;
    }
    Ok(())
}

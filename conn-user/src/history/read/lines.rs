//! What is kept as the lines of its events: listeners, alerts and notes.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::pick::within;
use super::{File, History, Span};
use crate::event::json::StreamIdentity;
use crate::event::model::Event;
use crate::event::read::{Reader, Recorded};
use crate::filter::Filter;
use crate::history::error::HistoryError;
use crate::units::WallNs;

/// An event that is kept as its line.
#[derive(Debug)]
pub struct StoredLine {
    /// The run that wrote it.
    pub run: Arc<StreamIdentity>,
    /// The line, without its end.
    pub line: String,
    /// What it says.
    pub event: Event,
    /// Of a listener that is still there: since when.
    pub open_since: Option<WallNs>,
    /// When its run ended, of a listener that was there then; `None`: the run goes on.
    pub run_ended: Option<WallNs>,
}

impl History {
    /// Hands out the alerts in a span that match, the oldest first.
    ///
    /// # Errors
    /// When a file cannot be read, or a line is no event.
    pub fn alerts(
        &self,
        span: Span,
        filter: &Filter,
        each: &mut dyn FnMut(StoredLine) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let sql = format!(
            "SELECT run, seq, line FROM alert WHERE ts BETWEEN {} AND {} ORDER BY ts, run, seq",
            span.since.0.min(Span::ALL.until.0),
            span.until.0.min(Span::ALL.until.0)
        );
        for file in &self.files {
            let mut all = Vec::new();
            file.lines(&sql, &[], &mut |run, _, line| all.push((Arc::clone(run), line.to_owned())))?;
            for (run, line) in all {
                let Some(event) = event(file, &line)? else { continue };
                if !filter.matches(&event) {
                    continue;
                }
                let found = StoredLine { run, line, event, open_since: None, run_ended: None };
                if each(found).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Hands out the listeners that were there at some time in a span and match, in the order in which they began: each as its last
    /// event.
    ///
    /// # Errors
    /// When a file cannot be read, or a line is no event.
    pub fn listeners(
        &self,
        span: Span,
        filter: &Filter,
        each: &mut dyn FnMut(StoredLine) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let ends = self.run_ends();
        let sql = format!(
            "SELECT id, began, ended, goes_on, listen, unlisten FROM listener WHERE {} ORDER BY began, id",
            within(span, "")
        );
        for (at, file) in self.files.iter().enumerate() {
            for row in rows(file, &sql)? {
                let Some(run) = file.runs.get(&(row.id >> 40)) else { continue };
                let run_ended = ends.get(&run.name).copied().flatten().filter(|_| row.ended.is_none());
                let is_over = run_ended.is_some_and(|end| end.0 < span.since.0);
                if is_over || (row.goes_on && self.is_later(at, &run.name)) {
                    continue;
                }
                let mut lines = row.lines.iter().rev().flatten();
                let Some(last) = lines.next() else { continue };
                let Some(event) = event(file, last)? else { continue };
                let mut is_asked = filter.matches(&event);
                for line in lines {
                    is_asked =
                        is_asked || self::event(file, line)?.is_some_and(|event| filter.matches(&event));
                }
                if !is_asked {
                    continue;
                }
                let open_since = row.ended.is_none().then_some(WallNs(row.began.cast_unsigned()));
                let run = Arc::clone(&run.identity);
                let found = StoredLine { run, line: last.clone(), event, open_since, run_ended };
                if each(found).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A row of `listener`.
struct Listener {
    id: i64,
    began: i64,
    ended: Option<i64>,
    goes_on: bool,
    lines: [Option<String>; 2],
}

fn rows(file: &File, sql: &str) -> Result<Vec<Listener>, HistoryError> {
    let read = || {
        let mut statement = file.db.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(Listener {
                id: row.get(0)?,
                began: row.get(1)?,
                ended: row.get(2)?,
                goes_on: row.get::<_, Option<i64>>(3)?.is_some(),
                lines: [row.get(4)?, row.get(5)?],
            })
        })?;
        rows.collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error| HistoryError::sqlite(&file.path, error))
}

/// The event of a line; `None`: it is of a kind that is only in recordings.
pub(super) fn event(file: &File, line: &str) -> Result<Option<Event>, HistoryError> {
    match Reader::default().with_alerts().read(line) {
        Ok(Recorded::Event(event)) => Ok(Some(event)),
        Ok(_) => Ok(None),
        Err(error) => Err(HistoryError::Line { path: file.path.clone(), error }),
    }
}

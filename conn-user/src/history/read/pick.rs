//! Which connections of a history match, in the order in which they are shown.
//!
//! First the row of each is found with what it is sorted by, 32 bytes each; then they are read one by one ([`Picked::read`]). So memory
//! is bounded however many match, and whoever wants ten reads ten.

use std::ops::ControlFlow;

use super::file::File;
use super::keys::{Sort, SortKey};
use super::{Condition, Fetch, History, Span, Stored, push};
use crate::filter::Filter;
use crate::history::error::HistoryError;
use crate::history::row::{ConnRow, Outcome};
use crate::units::WallNs;

/// Most connections that are shown: 640 MB.
pub const PICKED_MAX: usize = 20_000_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A file cannot be read on.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Too many match.
    #[error(
        "more than {PICKED_MAX} connections match: choose a filter or a shorter span, or count them (--by)"
    )]
    Many,
    /// There are too many groups.
    #[error(transparent)]
    Groups(#[from] super::TooMany),
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The connections that were open at some time in it.
    pub span: Span,
    /// One of the events of a connection matches it.
    pub filter: &'a Filter,
}

/// A row that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// What has no key comes last.
    is_unknown: bool,
    key: i64,
    file: u32,
    id: i64,
}

/// Rows that match, in order.
#[derive(Debug)]
pub struct Picked<'h> {
    history: &'h History,
    places: Vec<Place>,
}

/// Whether a connection matches: one of its events does, or its beginning with what became known later.
pub fn matches(row: &ConnRow, filter: &Filter) -> bool {
    filter.is_empty() || row.events().any(|event| filter.matches(&event))
}

impl History {
    /// Finds the connections, sorted, at most `limit`.
    ///
    /// # Errors
    /// When a file cannot be read on, or more than [`PICKED_MAX`] match.
    pub fn pick(&self, ask: Ask<'_>, sort: Sort, limit: Option<u64>) -> Result<Picked<'_>, QueryError> {
        let mut places = Vec::new();
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        // Where few are wanted no more than some are kept.
        let room = limit.saturating_mul(2).clamp(1 << 16, PICKED_MAX + 1);
        self.visit(ask, sort.key, &mut |file, id, key| {
            let key = key.map(|key| if sort.reverse { !key } else { key });
            places.push(Place { is_unknown: key.is_none(), key: key.unwrap_or(0), file, id });
            if places.len() >= room {
                places.sort_unstable();
                places.truncate(limit);
                if places.len() > PICKED_MAX {
                    return Err(QueryError::Many);
                }
            }
            Ok(())
        })?;
        places.sort_unstable();
        places.truncate(limit);
        Ok(Picked { history: self, places })
    }

    /// Hands out the file and row of each connection that matches, with what it is sorted by.
    pub(super) fn visit(
        &self,
        ask: Ask<'_>,
        key: SortKey,
        each: &mut dyn FnMut(u32, i64, Option<i64>) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let ends = self.run_ends();
        for (at, file) in self.files.iter().enumerate() {
            let number = u32::try_from(at).unwrap_or(u32::MAX);
            let sql = push::condition(file, ask.filter)?;
            let is_left_out = |run: i64, is_open: bool, goes_on: bool| {
                let Some(run) = file.runs.get(&run) else { return false };
                // What was open at the end of its run was open until then.
                let end = ends.get(&run.name).copied().flatten().filter(|_| is_open);
                (goes_on && self.is_later(at, &run.name)) || end.is_some_and(|end| end.0 < ask.span.since.0)
            };
            if push::is_exact(ask.filter) {
                rows(file, ask.span, &sql, key, &mut |id, key, is_open, goes_on| {
                    if is_left_out(id >> 40, is_open, goes_on) { Ok(()) } else { each(number, id, key) }
                })?;
                continue;
            }
            let mut failed = Ok(());
            let condition = Condition { sql, values: Vec::new() };
            let goes_on = |run: &str| self.is_later(at, run);
            let _ = file.connections_with_ids(ask.span, &condition, &goes_on, &mut |id, stored| {
                let row = &stored.row;
                if !is_left_out(id >> 40, row.ended().is_none(), false) && matches(row, ask.filter) {
                    failed = each(number, id, key_of(row, key));
                }
                if failed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            failed?;
        }
        Ok(())
    }
}

/// What a connection is sorted by, as [`column()`] has it.
fn key_of(row: &ConnRow, key: SortKey) -> Option<i64> {
    let outcome = row.end.as_ref().map(|(_, outcome)| outcome);
    let traffic = match outcome {
        Some(Outcome::Closed(ending)) => ending.traffic,
        _ => None,
    };
    let number = match key {
        SortKey::Time => Some(row.last_event().wall.0),
        SortKey::Duration => match outcome? {
            Outcome::Closed(ending) => ending.duration.map(|duration| duration.0),
            Outcome::Failed(failure) => failure.after.map(|after| after.0),
        },
        SortKey::Bytes => traffic.map(|traffic| traffic.bytes_in.saturating_add(traffic.bytes_out)),
        SortKey::BytesIn => traffic.map(|traffic| traffic.bytes_in),
        SortKey::BytesOut => traffic.map(|traffic| traffic.bytes_out),
        SortKey::Count => Some(row.count),
    };
    number.map(u64::cast_signed)
}

const fn column(key: SortKey) -> &'static str {
    match key {
        SortKey::Time => {
            "ifnull(ended, CASE WHEN seq_established IS NULL THEN began \
             ELSE began + ifnull(established_after, 0) + ifnull(skew_established, 0) END)"
        }
        SortKey::Duration => "duration",
        SortKey::Bytes => "bytes_in + bytes_out",
        SortKey::BytesIn => "bytes_in",
        SortKey::BytesOut => "bytes_out",
        SortKey::Count => "ifnull(count, 1)",
    }
}

/// The rows of a file in a span, with what they are sorted by, whether they are open, and whether they go on.
fn rows(
    file: &File,
    span: Span,
    condition: &str,
    key: SortKey,
    each: &mut dyn FnMut(i64, Option<i64>, bool, bool) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    let sql = format!(
        "SELECT id, {}, ended IS NULL, goes_on IS NOT NULL FROM conn WHERE {}",
        column(key),
        within(span, condition)
    );
    let failed = |error| HistoryError::sqlite(&file.path, error);
    let mut statement = file.db.prepare(&sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let read = || Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let (id, key, is_open, goes_on) = read().map_err(failed)?;
        each(id, key, is_open, goes_on)?;
    }
    Ok(())
}

/// The condition that a row was there at some time in the span, and another one.
pub(super) fn within(span: Span, condition: &str) -> String {
    let instant = |at: WallNs| at.0.min(i64::MAX.cast_unsigned());
    let mut all = Vec::new();
    if span.until.0 < Span::ALL.until.0 {
        all.push(format!("began <= {}", instant(span.until)));
    }
    if span.since.0 > 0 {
        all.push(format!("(ended IS NULL OR ended >= {})", instant(span.since)));
    }
    if !condition.is_empty() {
        all.push(format!("({condition})"));
    }
    if all.is_empty() { "TRUE".to_owned() } else { all.join(" AND ") }
}

/// A connection as it is shown.
#[derive(Debug)]
pub struct Shown {
    /// The connection.
    pub stored: Stored,
    /// When its run ended, of one that was open then; `None`: the run goes on, or it ended itself.
    pub run_ended: Option<WallNs>,
}

impl Picked<'_> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Reads them in their order. What was removed since is left out.
    ///
    /// # Errors
    /// When a file cannot be read on.
    pub fn read(&self, each: &mut dyn FnMut(&Shown) -> ControlFlow<()>) -> Result<(), HistoryError> {
        let fetches: Vec<Fetch<'_>> = self.history.files.iter().map(Fetch::new).collect();
        let ends = self.history.run_ends();
        for place in &self.places {
            let Some(fetch) = fetches.get(place.file as usize) else { continue };
            let Some(stored) = fetch.connection(place.id)? else { continue };
            let run = self.history.files[place.file as usize].runs.get(&(place.id >> 40));
            let run_ended = run.and_then(|run| ends.get(&run.name).copied().flatten());
            let run_ended = run_ended.filter(|_| stored.row.ended().is_none());
            if each(&Shown { stored, run_ended }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

//! The events of a history in the order in which they were emitted: what `conn tail` shows of the past.
//!
//! First the places of all events are collected and sorted, 24 bytes each, then they are read one by one. exec and exit events are not
//! kept, and of connections that have one row together only those of the row.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::lines;
use super::{Fetch, File, History, Span, pick::within};
use crate::event::json::StreamIdentity;
use crate::event::model::Event;
use crate::history::error::HistoryError;
use crate::units::WallNs;

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// From this time on; `None`: from the beginning.
    pub since: Option<WallNs>,
    /// Only the last so many.
    pub last: Option<u64>,
    /// Of this run those up to this number, and none of later runs: what comes next is read elsewhere.
    pub up_to: Option<(String, u64)>,
}

/// Where an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Runs in the order in which they began.
    run: u32,
    seq: u64,
    /// The later file knows more of what goes on.
    file: u32,
    of: Of,
    /// The row, where it has a number of its own.
    id: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Conn,
    Listen,
    Unlisten,
    Alert,
    Note,
}

impl History {
    /// Hands out events in their order: of the run that began first, by number. Those without one (`seq` 0), of what was there when a
    /// run began, are left out.
    ///
    /// # Errors
    /// When a file cannot be read, or a line in it is no event.
    pub fn events(
        &self,
        past: &Past,
        each: &mut dyn FnMut(&Arc<StreamIdentity>, &Event) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let runs = self.runs_in_order();
        let last_run = past.up_to.as_ref().and_then(|(name, _)| runs.iter().position(|run| run == name));
        let mut places = Vec::new();
        for (at, file) in self.files.iter().enumerate() {
            collect(file, past.since, &mut |run, seq, of, id| {
                let Some(run) =
                    file.runs.get(&run).and_then(|run| runs.iter().position(|name| *name == run.name))
                else {
                    return;
                };
                let is_later = last_run.is_some_and(|last| {
                    run > last || (run == last && past.up_to.as_ref().is_some_and(|(_, up_to)| seq > *up_to))
                });
                if seq > 0 && !is_later {
                    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                    places.push(Place { run: number(run), seq, file: number(at), of, id });
                }
            })?;
        }
        places.sort_unstable();
        // What went on over midnight is in both files.
        places.dedup_by(|later, earlier| {
            let is_same = (later.run, later.seq) == (earlier.run, earlier.seq);
            if is_same {
                *earlier = *later;
            }
            is_same
        });
        let wanted = past.last.map_or(usize::MAX, |last| usize::try_from(last).unwrap_or(usize::MAX));
        let skipped = places.len().saturating_sub(wanted);
        self.read(&places[skipped..], each)
    }

    fn runs_in_order(&self) -> Vec<String> {
        let mut runs: Vec<(i64, &str)> = self
            .files
            .iter()
            .flat_map(|file| file.runs.values())
            .map(|run| (run.began, &*run.name))
            .collect();
        runs.sort_unstable();
        let mut names: Vec<String> = Vec::new();
        for (_, name) in runs {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    fn read(
        &self,
        places: &[Place],
        each: &mut dyn FnMut(&Arc<StreamIdentity>, &Event) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let fetches: Vec<Fetch<'_>> = self.files.iter().map(Fetch::new).collect();
        for place in places {
            let (file, fetch) = (&self.files[place.file as usize], &fetches[place.file as usize]);
            let found = if place.of == Of::Conn {
                let stored = fetch.connection(place.id)?;
                stored.and_then(|stored| {
                    let event = stored.row.events().find(|event| event.seq == place.seq)?;
                    Some((stored.run, event))
                })
            } else {
                line(file, place)?
            };
            if let Some((run, event)) = found
                && each(&run, &event).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

/// Hands out run, number, kind of place and row of the events of a file from an instant on.
fn collect(
    file: &File,
    since: Option<WallNs>,
    each: &mut dyn FnMut(i64, u64, Of, i64),
) -> Result<(), HistoryError> {
    let since = since.unwrap_or(WallNs(0));
    let from = since.0.min(Span::ALL.until.0).cast_signed();
    let span = Span { since, ..Span::ALL };
    let mut read = || {
        let sql = format!(
            "SELECT id, seq, began, seq_established, began + ifnull(established_after, 0) + ifnull(skew_established, 0), \
             seq_ended, ended FROM conn WHERE {}",
            within(span, "")
        );
        let mut statement = file.db.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let mut before = None;
            for at in [1, 3, 5] {
                let (seq, wall) = (row.get::<_, Option<i64>>(at)?, row.get::<_, Option<i64>>(at + 1)?);
                // One that began with its end has one event.
                if let (Some(seq), Some(wall)) = (seq, wall)
                    && wall >= from
                    && before != Some(seq)
                {
                    before = Some(seq);
                    each(id >> 40, seq.cast_unsigned(), Of::Conn, id);
                }
            }
        }
        let sql = format!(
            "SELECT id, seq, began, seq_ended, ended, listen IS NOT NULL FROM listener WHERE {}",
            within(span, "")
        );
        let mut statement = file.db.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if row.get(5)? && row.get::<_, i64>(2)? >= from {
                each(id >> 40, row.get::<_, i64>(1)?.cast_unsigned(), Of::Listen, id);
            }
            if let (Some(seq), Some(wall)) = (row.get::<_, Option<i64>>(3)?, row.get::<_, Option<i64>>(4)?)
                && wall >= from
            {
                each(id >> 40, seq.cast_unsigned(), Of::Unlisten, id);
            }
        }
        for (of, table) in [(Of::Alert, "alert"), (Of::Note, "note")] {
            let mut statement = file.db.prepare(&format!("SELECT run, seq FROM {table} WHERE ts >= ?1"))?;
            let mut rows = statement.query([from])?;
            while let Some(row) = rows.next()? {
                let run: i64 = row.get(0)?;
                each(run, row.get::<_, i64>(1)?.cast_unsigned(), of, run);
            }
        }
        Ok(())
    };
    read().map_err(|error| HistoryError::sqlite(&file.path, error))
}

/// The event of a line.
fn line(file: &File, place: &Place) -> Result<Option<(Arc<StreamIdentity>, Event)>, HistoryError> {
    let sql = match place.of {
        Of::Conn => return Ok(None),
        Of::Listen => "SELECT id >> 40, seq, listen FROM listener WHERE id = ?1",
        Of::Unlisten => "SELECT id >> 40, seq, unlisten FROM listener WHERE id = ?1",
        Of::Alert => "SELECT run, seq, line FROM alert WHERE run = ?1 AND seq = ?2",
        Of::Note => "SELECT run, seq, line FROM note WHERE run = ?1 AND seq = ?2",
    };
    let seq = place.seq.cast_signed();
    let both: [&dyn rusqlite::ToSql; 2] = [&place.id, &seq];
    let values = if matches!(place.of, Of::Listen | Of::Unlisten) { &both[..1] } else { &both[..] };
    let mut found = None;
    file.lines(sql, values, &mut |run, _, line| found = Some((Arc::clone(run), line.to_owned())))?;
    let Some((run, line)) = found else { return Ok(None) };
    Ok(lines::event(file, &line)?.map(|event| (run, event)))
}

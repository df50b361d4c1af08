//! The file of a day, as it is written: events are collected, and a commit writes the rows that they make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};

use super::collapse::Collapse;
use super::error::HistoryError;
use super::intern::Interned;
use super::more::More;
use super::row::{Closed, ConnRow, Opened, Outcome, Stamp};
use super::schema;
use crate::event::alert::Alert;
use crate::event::json::{JsonEncoder, StreamIdentity};
use crate::event::model::{Event, EventBody, EventKind};
use crate::event::names::Named as _;
use crate::flow::model::{Actor, Change, ListenEvent, Method, canonical_ip};
use crate::units::{BootNs, WallNs};

/// Bits of a row's id that are the number of the connection in its run.
const NUMBER_BITS: u32 = 40;
/// The number in a row's id.
pub(super) const NUMBER_MASK: i64 = (1 << NUMBER_BITS) - 1;
/// In `listener` and `closer`: the owner.
pub(super) const THE_OWNER: i64 = 0;
/// In `tid` and `closer_tid`: no thread is known, of an actor that a hook named.
pub(super) const NO_THREAD: i64 = -1;
/// Pages of the file that are kept in memory, in KiB.
const CACHE_KIB: i64 = 16 << 10;
/// After so many pages the log is written into the file.
const CHECKPOINT_PAGES: i64 = 4_000;
/// What is left of the log afterwards, in bytes.
const LOG_BYTES: i64 = 32 << 20;

/// A file that is written.
pub struct Store {
    db: Connection,
    path: PathBuf,
    run: i64,
    boot8: String,
    /// `run.wall_minus_boot`.
    offset: i64,
    json: JsonEncoder,
    interned: Interned,
    batch: Batch,
    collapse: Collapse,
}

/// What waits to be written.
#[derive(Default)]
struct Batch {
    /// By number.
    conns: BTreeMap<u64, Pending>,
    /// Rows of many connections each.
    collapsed: u64,
    lines: Vec<Event>,
}

/// A connection of which something is to be written.
struct Pending {
    row: ConnRow,
    /// Its first event is in an earlier batch: there may be a row.
    is_later: bool,
}

/// What a commit wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows of connections, listeners, alerts and notes, new or completed.
    pub rows: u64,
    /// Connections that are not in rows of their own.
    pub collapsed: u64,
}

impl Store {
    /// Opens the file, which is made if it is not there, and begins a run in it, or goes on with one.
    ///
    /// # Errors
    /// When it cannot be opened or written, is damaged, no history, or a newer one.
    pub fn open(
        path: &Path,
        of: &StreamIdentity,
        at: (BootNs, WallNs),
        rate: u32,
    ) -> Result<Self, HistoryError> {
        let failed = |error| HistoryError::sqlite(path, error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags).map_err(failed)?;
        schema::version(&db, path)?;
        let set_up = |db: &Connection| {
            db.pragma_update(None, "journal_mode", "WAL")?;
            // A crash of the machine may lose the last commits, never the file.
            db.pragma_update(None, "synchronous", "NORMAL")?;
            db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            db.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
            db.pragma_update(None, "cache_size", -CACHE_KIB)?;
            db.set_prepared_statement_cache_capacity(32);
            Ok(())
        };
        set_up(&db).map_err(failed)?;
        schema::migrate(&mut db, path)?;
        let name = format!("{}-{:x}", of.boot8(), of.agent_start.0);
        let offset = at.1.0.cast_signed().wrapping_sub(at.0.0.cast_signed());
        let begin = |db: &Connection| {
            db.execute(
                "INSERT INTO run (name, host, boot_id, agent_start, wall_minus_boot, began) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (name) DO UPDATE SET ended = NULL",
                params![
                    name,
                    of.host,
                    of.boot_id,
                    of.agent_start.0.cast_signed(),
                    offset,
                    at.1.0.cast_signed()
                ],
            )?;
            db.query_row("SELECT id, wall_minus_boot FROM run WHERE name = ?1", [&name], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        };
        let (run, offset) = begin(&db).map_err(failed)?;
        Ok(Self {
            db,
            path: path.to_owned(),
            run,
            boot8: of.boot8(),
            offset,
            json: JsonEncoder::new(of),
            interned: Interned::default(),
            batch: Batch::default(),
            collapse: Collapse::new(rate),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a history keeps events of this kind.
    pub const fn keeps(kind: EventKind) -> bool {
        !kind.is_of_recording() && !matches!(kind, EventKind::Exec | EventKind::Exit)
    }

    /// Takes an event, to be written with the next commit.
    pub fn apply(&mut self, event: &Event) {
        let number = match &event.body {
            EventBody::Flow(change) => change.connection().map(|conn| conn.id.0),
            body if Self::keeps(body.kind()) => None,
            _ => return,
        };
        let Some(number) = number else {
            self.batch.lines.push(event.clone());
            return;
        };
        if let Some(pending) = self.batch.conns.get_mut(&number) {
            pending.row.add(event);
        } else if let Some(row) = ConnRow::of(event) {
            let is_later = !matches!(row.first, EventKind::Connect | EventKind::Accept) && event.seq != 0;
            self.batch.conns.insert(number, Pending { row, is_later });
        }
        // A connection that began and ended within a batch may be one of many.
        let is_short = |pending: &Pending| !pending.is_later && pending.row.end.is_some();
        if self.batch.conns.get(&number).is_some_and(is_short)
            && let Some(pending) = self.batch.conns.remove(&number)
        {
            match self.collapse.take(pending.row) {
                Some(row) => drop(self.batch.conns.insert(number, Pending { row, is_later: false })),
                None => self.batch.collapsed += 1,
            }
        }
    }

    /// Takes a connection that goes on from the file of an earlier day.
    pub(super) fn carry(&mut self, row: ConnRow) {
        self.batch.conns.insert(row.conn.id.0, Pending { row, is_later: false });
    }

    /// How many rows wait for the next commit.
    pub fn waiting(&self) -> usize {
        self.batch.conns.len() + self.batch.lines.len() + self.collapse.waiting()
    }

    /// Writes what was taken, all or nothing. What cannot be written is dropped.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn commit(&mut self) -> Result<Written, HistoryError> {
        let mut batch = std::mem::take(&mut self.batch);
        for row in self.collapse.drain() {
            batch.conns.insert(row.conn.id.0, Pending { row, is_later: false });
        }
        let rows = (batch.conns.len() + batch.lines.len()) as u64;
        if rows == 0 && !self.interned.has_news() {
            return Ok(Written::default());
        }
        let result = self.write(&batch);
        if result.is_err() {
            // SQLite may have rolled back already, which is an error then.
            let _ = self.db.execute_batch("ROLLBACK");
            // They may have been in what was rolled back.
            self.interned = Interned::default();
        }
        result.map_err(|error| HistoryError::sqlite(&self.path, error))?;
        Ok(Written { rows, collapsed: batch.collapsed })
    }

    /// Whether something may become known that rows lack.
    pub const fn is_unsettled(&self) -> bool {
        self.interned.is_unsettled()
    }

    fn write(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        for pending in batch.conns.values() {
            if !pending.is_later || !self.complete(&pending.row)? {
                self.insert(&pending.row)?;
            }
        }
        for event in &batch.lines {
            self.line(event)?;
        }
        self.interned.update_processes(&self.db, &self.boot8)?;
        self.db.execute_batch("COMMIT")
    }

    fn row_id(&self, number: u64) -> i64 {
        (self.run << NUMBER_BITS) | (number.cast_signed() & NUMBER_MASK)
    }

    fn process(&mut self, actor: &Actor) -> rusqlite::Result<Option<i64>> {
        let of = (self.run, self.boot8.as_str());
        actor.process.as_ref().map(|process| self.interned.process(&self.db, of, process)).transpose()
    }

    fn insert(&mut self, row: &ConnRow) -> rusqlite::Result<()> {
        let later = self.later(row)?;
        let conn = &row.conn;
        let remote = self.interned.address(&self.db, conn.remote.ip())?;
        let opened = self.interned.opened(&self.db, &Opened::of(row))?;
        let more = More::of(row).and_then(|more| serde_json::to_string(&more).ok());
        let offset = row.begin.offset();
        let mut insert = self.db.prepare_cached(
            "INSERT OR REPLACE INTO conn (id, began, ended, raddr, rport, process, bytes_in, bytes_out, laddr, lport, opened, closed, \
             duration, retransmits, srtt_us, seq, seq_established, seq_ended, skew, skew_established, skew_ended, established_after, \
             listener, closer, tid, closer_tid, more, count) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, \
             ?25, ?26, ?27, ?28)",
        )?;
        let stamp = row.established;
        insert
            .execute(params![
                self.row_id(conn.id.0),
                row.begin.wall.0.cast_signed(),
                later.ended,
                remote,
                conn.remote.port(),
                later.process,
                later.bytes_in,
                later.bytes_out,
                later.laddr,
                conn.local.port(),
                opened,
                later.closed,
                later.duration,
                later.retransmits,
                later.srtt_us,
                row.begin.seq.cast_signed(),
                stamp.map(|stamp| stamp.seq.cast_signed()),
                later.seq_ended,
                offset.wrapping_sub(self.offset),
                skew(stamp, offset),
                skew(later.end, offset),
                conn.established.map(|at| at.0.wrapping_sub(row.begin.boot.0).cast_signed()),
                later.listener,
                later.closer,
                later.tid,
                later.closer_tid,
                more,
                (row.count > 1).then_some(row.count.cast_signed()),
            ])
            .map(drop)
    }

    /// Adds later events to a row; false: there is none.
    fn complete(&mut self, row: &ConnRow) -> rusqlite::Result<bool> {
        let id = self.row_id(row.conn.id.0);
        let mut known = self.db.prepare_cached(
            "SELECT began, skew, (SELECT first FROM opened WHERE id = conn.opened) FROM conn WHERE id = ?1",
        )?;
        let mut rows = known.query([id])?;
        let Some(found) = rows.next()? else { return Ok(false) };
        let (began, skew_begun, first): (i64, i64, String) = (found.get(0)?, found.get(1)?, found.get(2)?);
        drop(rows);
        drop(known);
        let later = self.later(row)?;
        let conn = &row.conn;
        let first = EventKind::ALL.into_iter().find(|kind| kind.name() == first).unwrap_or(row.first);
        let opened = self.interned.opened(&self.db, &Opened { first, ..Opened::of(row) })?;
        let offset = self.offset.wrapping_add(skew_begun);
        let began_boot = began.wrapping_sub(offset);
        // The event that is the first of this batch.
        let established =
            row.established.or_else(|| (row.first == EventKind::Established).then_some(row.begin));
        let mut update = self.db.prepare_cached(
            "UPDATE conn SET ended = ?2, process = ?3, bytes_in = ?4, bytes_out = ?5, laddr = ?6, lport = ?7, opened = ?8, closed = ?9, \
             duration = ?10, retransmits = ?11, srtt_us = ?12, seq_established = ifnull(?13, seq_established), seq_ended = ?14, \
             skew_established = ifnull(?15, skew_established), skew_ended = ?16, established_after = ifnull(?17, established_after), \
             listener = ifnull(?18, listener), closer = ?19, tid = ?20, closer_tid = ?21, rport = ?22 WHERE id = ?1",
        )?;
        let changed = update.execute(params![
            id,
            later.ended,
            later.process,
            later.bytes_in,
            later.bytes_out,
            later.laddr,
            conn.local.port(),
            opened,
            later.closed,
            later.duration,
            later.retransmits,
            later.srtt_us,
            established.map(|stamp| stamp.seq.cast_signed()),
            later.seq_ended,
            skew(established, offset),
            skew(later.end, offset),
            conn.established.map(|at| at.0.cast_signed().wrapping_sub(began_boot)),
            later.listener,
            later.closer,
            later.tid,
            later.closer_tid,
            conn.remote.port(),
        ])?;
        Ok(changed > 0)
    }

    /// The columns that later events change.
    fn later(&mut self, row: &ConnRow) -> rusqlite::Result<Later> {
        let conn = &row.conn;
        let process = self.process(&conn.owner)?;
        let mut later = Later {
            process,
            tid: thread(&conn.owner),
            laddr: self.interned.address(&self.db, conn.local.ip())?,
            ..Later::default()
        };
        let or_owner = |id: Option<i64>| if id.is_some() && id == process { Some(THE_OWNER) } else { id };
        if let Some(listener) = &conn.listener {
            later.listener = or_owner(self.process(listener)?);
        }
        let Some((stamp, outcome)) = &row.end else { return Ok(later) };
        later.closed = Some(self.interned.closed(&self.db, Closed::of(outcome))?);
        later.ended = Some(stamp.wall.0.cast_signed());
        later.seq_ended = Some(stamp.seq.cast_signed());
        later.end = Some(*stamp);
        match outcome {
            Outcome::Failed(failure) => later.duration = failure.after.map(|after| after.0.cast_signed()),
            Outcome::Closed(ending) => {
                later.duration = ending.duration.map(|duration| duration.0.cast_signed());
                later.closer = or_owner(self.process(&ending.closer)?);
                later.closer_tid = thread(&ending.closer);
                if let Some(traffic) = ending.traffic {
                    later.bytes_in = Some(traffic.bytes_in.cast_signed());
                    later.bytes_out = Some(traffic.bytes_out.cast_signed());
                    later.retransmits = traffic.retransmits;
                    later.srtt_us = Some(traffic.srtt_us);
                }
            }
        }
        Ok(later)
    }

    /// Writes an event that is kept as its line.
    fn line(&mut self, event: &Event) -> rusqlite::Result<()> {
        let mut line = Vec::new();
        self.json.encode(event, &mut line);
        let line = String::from_utf8_lossy(line.trim_ascii_end());
        match &event.body {
            EventBody::Flow(Change::Listen(listener)) => self.listener(event, listener, Some(&line), None),
            EventBody::Flow(Change::Unlisten(listener, _)) => {
                self.listener(event, listener, None, Some(&line))
            }
            EventBody::Alert(alert) => self.alert(event, alert, &line),
            _ => self
                .db
                .prepare_cached(
                    "INSERT OR REPLACE INTO note (run, seq, ts, kind, line) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    self.run,
                    event.seq.cast_signed(),
                    event.wall.0.cast_signed(),
                    event.body.kind().name(),
                    line
                ])
                .map(drop),
        }
    }

    fn listener(
        &mut self,
        event: &Event,
        listener: &ListenEvent,
        listen: Option<&str>,
        unlisten: Option<&str>,
    ) -> rusqlite::Result<()> {
        let process = self.process(&listener.owner)?;
        let (at, seq) = (event.wall.0.cast_signed(), event.seq.cast_signed());
        let ended = unlisten.map(|_| at);
        self.db
            .prepare_cached(
                "INSERT INTO listener (id, began, ended, laddr, lport, process, seq, seq_ended, listen, unlisten) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
                 ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, seq_ended = excluded.seq_ended, process = excluded.process, \
                 lport = excluded.lport, listen = ifnull(listen, excluded.listen), unlisten = excluded.unlisten",
            )?
            .execute(params![
                self.row_id(listener.id.0),
                at,
                ended,
                canonical_ip(listener.local.ip()).0.to_string(),
                listener.local.port(),
                process,
                seq,
                ended.map(|_| seq),
                listen,
                unlisten,
            ])
            .map(drop)
    }

    fn alert(&mut self, event: &Event, alert: &Alert, line: &str) -> rusqlite::Result<()> {
        let of = (self.run, self.boot8.as_str());
        let process = alert.subject.process();
        let process = process.map(|process| self.interned.process(&self.db, of, process)).transpose()?;
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO alert (run, seq, ts, name, phase, severity, rule, process, line) \
                 VALUES (?1, ?2, ?3, (SELECT name FROM run WHERE id = ?1) || ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                self.run,
                event.seq.cast_signed(),
                event.wall.0.cast_signed(),
                format!("-a{}", alert.id.0),
                alert.phase.name(),
                alert.severity.name(),
                &*alert.rule.id,
                process,
                line,
            ])
            .map(drop)
    }

    /// Bounds the file, as a full disk does.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: Option<i64>) {
        self.db.pragma_update(None, "max_page_count", pages.unwrap_or(0xffff_fffe)).expect("a bound");
    }

    /// Ends the run in this file and makes one file of it, which needs no other and can be read anywhere. `goes_on`: what is open is in
    /// the next file.
    ///
    /// # Errors
    /// When it cannot be written. What was committed is in it, whatever happens.
    pub fn finish(mut self, at: WallNs, goes_on: bool) -> Result<Written, HistoryError> {
        let written = self.commit()?;
        let path = self.path.clone();
        let finish = || {
            if goes_on {
                let mark =
                    |table| format!("UPDATE {table} SET goes_on = 1 WHERE ended IS NULL AND id >> 40 = ?1");
                self.db.execute(&mark("conn"), [self.run])?;
                self.db.execute(&mark("listener"), [self.run])?;
            }
            self.db
                .execute("UPDATE run SET ended = ?2 WHERE id = ?1", params![self.run, at.0.cast_signed()])?;
            self.db.flush_prepared_statement_cache();
            // Somebody may be reading: then the log stays beside the file, which is as good.
            match self.db.pragma_update(None, "journal_mode", "DELETE") {
                Err(error) if error.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseBusy) => {
                    Err(error)
                }
                _ => Ok(()),
            }
        };
        finish().map_err(|error| HistoryError::sqlite(&path, error))?;
        Ok(written)
    }
}

/// The columns that later events change.
#[derive(Default)]
struct Later {
    end: Option<Stamp>,
    ended: Option<i64>,
    seq_ended: Option<i64>,
    process: Option<i64>,
    listener: Option<i64>,
    closer: Option<i64>,
    tid: Option<i64>,
    closer_tid: Option<i64>,
    laddr: i64,
    closed: Option<i64>,
    duration: Option<i64>,
    bytes_in: Option<i64>,
    bytes_out: Option<i64>,
    retransmits: Option<u32>,
    srtt_us: Option<u32>,
}

/// By how much the clocks' difference at an event differs from that at the first one; `None`: by nothing.
fn skew(stamp: Option<Stamp>, offset: i64) -> Option<i64> {
    stamp.map(|stamp| stamp.offset().wrapping_sub(offset)).filter(|skew| *skew != 0)
}

/// The thread of an actor as its column has it.
fn thread(actor: &Actor) -> Option<i64> {
    let usual = match (actor.method, &actor.process) {
        (Method::Hook(_), Some(process)) => Some(process.pid),
        _ => None,
    };
    match actor.tid {
        tid if tid == usual => None,
        Some(tid) => Some(i64::from(tid.0)),
        None => Some(NO_THREAD),
    }
}

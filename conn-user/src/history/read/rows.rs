//! Rows of connections, read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use rusqlite::{Row, ToSql};

use super::file::{File, Run};
use super::{Span, Stored};
use crate::event::model::EventKind;
use crate::event::names::from_name;
use crate::event::read;
use crate::flow::model::{Actor, ConnEvent, ConnId, EndedHow, Ending, Failure, Method, Traffic};
use crate::history::error::HistoryError;
use crate::history::more::More;
use crate::history::row::{Closed, ConnRow, Opened, Outcome, Stamp};
use crate::history::store::{NO_THREAD, NUMBER_MASK, THE_OWNER};
use crate::history::words;
use crate::host::interfaces::Device;
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, DurationNs, NetNs, Pid, WallNs};

/// Most processes that are kept at once while rows are read.
const PROCESSES_MAX: usize = 65_536;

const COLUMNS: &str = "id, began, ended, raddr, rport, process, bytes_in, bytes_out, laddr, lport, opened, closed, duration, \
                       retransmits, srtt_us, seq, seq_established, seq_ended, skew, skew_established, skew_ended, established_after, \
                       listener, closer, tid, closer_tid, more, count, goes_on";

/// What rows must have to be looked at, in SQL over the columns of `conn`.
#[derive(Default)]
pub struct Condition<'c> {
    /// `TRUE` where it is empty.
    pub sql: String,
    /// The values of its parameters, which are named `:1`, `:2`, …
    pub values: Vec<&'c dyn ToSql>,
}

/// What rows of a file refer to, read when it is needed.
#[derive(Default)]
struct Rows {
    addresses: RefCell<HashMap<i64, IpAddr>>,
    processes: RefCell<HashMap<i64, Arc<ProcessInfo>>>,
    opened: RefCell<HashMap<i64, Opened>>,
    closed: RefCell<HashMap<i64, Closed>>,
}

/// Reads rows of a file one by one, in any order.
pub struct Fetch<'f> {
    file: &'f File,
    of: Rows,
    sql: String,
}

impl<'f> Fetch<'f> {
    /// Of this file.
    pub fn new(file: &'f File) -> Self {
        Self { file, of: Rows::default(), sql: format!("SELECT {COLUMNS} FROM conn WHERE id = ?1") }
    }

    /// The connection in a row; `None`: the row is gone.
    ///
    /// # Errors
    /// When it cannot be read, or is not as conn writes it.
    pub fn connection(&self, id: i64) -> Result<Option<Stored>, HistoryError> {
        let file = self.file;
        let failed = |error| HistoryError::sqlite(&file.path, error);
        let mut statement = file.db.prepare_cached(&self.sql).map_err(failed)?;
        let mut rows = statement.query([id]).map_err(failed)?;
        let Some(row) = rows.next().map_err(failed)? else { return Ok(None) };
        let run = file.runs.get(&(id >> 40)).ok_or_else(|| file.wrong(id, "the run"))?;
        let row = file.row(&self.of, run, id, row)?;
        Ok(Some(Stored { run: Arc::clone(&run.identity), row }))
    }
}

impl File {
    /// Hands out the connections that were open at some time in the span, by run in the order in which they began; `goes_on` says of
    /// a run whether what of it goes on is to be left out.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub fn connections(
        &self,
        span: Span,
        condition: &Condition<'_>,
        goes_on: &dyn Fn(&str) -> bool,
        each: &mut dyn FnMut(Stored) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, HistoryError> {
        self.connections_with_ids(span, condition, goes_on, &mut |_, stored| each(stored))
    }

    /// The same, each with its row.
    pub(super) fn connections_with_ids(
        &self,
        span: Span,
        condition: &Condition<'_>,
        goes_on: &dyn Fn(&str) -> bool,
        each: &mut dyn FnMut(i64, Stored) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, HistoryError> {
        let failed = |error| HistoryError::sqlite(&self.path, error);
        let more = if condition.sql.is_empty() { "TRUE" } else { &condition.sql };
        let sql = format!(
            "SELECT {COLUMNS} FROM conn WHERE began <= ?1 AND (ended IS NULL OR ended >= ?2) AND ({more}) ORDER BY id"
        );
        let (until, since) =
            (span.until.0.min(i64::MAX.cast_unsigned()).cast_signed(), span.since.0.cast_signed());
        let mut values: Vec<&dyn ToSql> = vec![&until, &since];
        values.extend(&condition.values);
        let mut statement = self.db.prepare(&sql).map_err(failed)?;
        let mut rows = statement.query(&*values).map_err(failed)?;
        let of = Rows::default();
        let mut skipped: HashMap<i64, bool> = HashMap::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let id: i64 = row.get(0).map_err(failed)?;
            let Some(run) = self.runs.get(&(id >> 40)) else { return Err(self.wrong(id, "the run")) };
            if row.get::<_, Option<i64>>(28).map_err(failed)?.is_some()
                && *skipped.entry(id >> 40).or_insert_with(|| goes_on(&run.name))
            {
                continue;
            }
            let row = self.row(&of, run, id, row)?;
            if each(id, Stored { run: Arc::clone(&run.identity), row }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn wrong(&self, row: i64, what: &'static str) -> HistoryError {
        HistoryError::Row { path: self.path.clone(), row, what }
    }

    fn row(&self, of: &Rows, run: &Run, id: i64, row: &Row<'_>) -> Result<ConnRow, HistoryError> {
        let failed = |error| HistoryError::sqlite(&self.path, error);
        let number = |at: usize| row.get::<_, Option<i64>>(at).map_err(failed);
        let need = |at: usize, what| number(at)?.ok_or_else(|| self.wrong(id, what));
        let opened = self.opened(of, need(10, "opened")?)?;
        let skew = need(18, "skew")?.wrapping_add(run.offset);
        let stamp = |wall: i64, skew: i64, seq: i64| Stamp {
            seq: seq.cast_unsigned(),
            wall: WallNs(wall.cast_unsigned()),
            boot: BootNs(wall.wrapping_sub(skew).cast_unsigned()),
        };
        let begin = stamp(need(1, "began")?, skew, need(15, "seq")?);
        let after = number(21)?;
        let established = after.map(|after| BootNs(begin.boot.0.wrapping_add(after.cast_unsigned())));
        let established_event = match (number(16)?, established) {
            (Some(seq), Some(at)) => {
                let skew = skew.wrapping_add(number(19)?.unwrap_or(0));
                let wall = at.0.cast_signed().wrapping_add(skew);
                Some(stamp(wall, skew, seq))
            }
            _ => None,
        };
        let owner_row = number(5)?;
        let process = |row: Option<i64>| match row {
            Some(THE_OWNER) => owner_row.map(|row| self.process(of, row)).transpose(),
            row => row.map(|row| self.process(of, row)).transpose(),
        };
        let actor = |row: Option<i64>, method: Method, tid: Option<i64>| {
            let process = process(row)?;
            let usual = match (method, &process) {
                (Method::Hook(_), Some(process)) => Some(process.pid),
                _ => None,
            };
            let tid = match tid {
                None => usual,
                Some(NO_THREAD) => None,
                Some(tid) => Some(Pid(u32::try_from(tid).map_err(|_| self.wrong(id, "tid"))?)),
            };
            Ok::<_, HistoryError>(Actor { process, tid, method })
        };
        let owner = actor(owner_row, opened.method, number(24)?)?;
        let listener = opened
            .listener
            .map(|method| Ok::<_, HistoryError>(Actor { process: process(number(22)?)?, tid: None, method }));
        let more: Option<String> = row.get(26).map_err(failed)?;
        let more: More = match more {
            Some(text) => serde_json::from_str(&text).map_err(|_| self.wrong(id, "more"))?,
            None => More::default(),
        };
        let port = |at, what| u16::try_from(need(at, what)?).map_err(|_| self.wrong(id, what));
        let end = |at: usize, port: u16, what| Ok(SocketAddr::new(self.address(of, need(at, what)?)?, port));
        let conn = ConnEvent {
            transport: opened.transport,
            mapped: opened.mapped,
            device: opened.device.clone(),
            source: opened.source,
            born: more.born().map_err(|()| self.wrong(id, "more"))?,
            kernel_socket: opened.kernel_socket,
            listener: listener.transpose()?,
            begun: more.begun(opened.first, begin.boot),
            established,
            ..ConnEvent::new(
                ConnId((id & NUMBER_MASK).cast_unsigned()),
                opened.direction,
                (end(8, port(9, "lport")?, "laddr")?, end(3, port(4, "rport")?, "raddr")?),
                opened.netns,
                owner,
            )
        };
        let end = match (number(2)?, number(11)?) {
            (Some(ended), Some(closed)) => {
                let closed = self.closed(of, closed)?;
                let duration = number(12)?.map(|duration| DurationNs(duration.cast_unsigned()));
                let outcome = match (closed.how, closed.closer) {
                    (Some(how), Some(method)) => Outcome::Closed(Ending {
                        how,
                        errno: closed.errno,
                        closer: actor(number(23)?, method, number(25)?)?,
                        duration,
                        traffic: match (number(6)?, number(7)?) {
                            (Some(bytes_in), Some(bytes_out)) => Some(Traffic {
                                bytes_in: bytes_in.cast_unsigned(),
                                bytes_out: bytes_out.cast_unsigned(),
                                retransmits: row.get(13).map_err(failed)?,
                                srtt_us: row.get::<_, Option<u32>>(14).map_err(failed)?.unwrap_or(0),
                            }),
                            _ => None,
                        },
                    }),
                    _ => Outcome::Failed(Failure { errno: closed.errno, after: duration }),
                };
                let skew = skew.wrapping_add(number(20)?.unwrap_or(0));
                Some((stamp(ended, skew, number(17)?.unwrap_or(0)), outcome))
            }
            _ => None,
        };
        Ok(ConnRow {
            first: opened.first,
            begin,
            established: established_event,
            conn,
            end,
            count: number(27)?.map_or(1, i64::cast_unsigned),
        })
    }

    fn address(&self, of: &Rows, row: i64) -> Result<IpAddr, HistoryError> {
        if let Some(ip) = of.addresses.borrow().get(&row) {
            return Ok(*ip);
        }
        let ask = || {
            let mut ask = self.db.prepare_cached("SELECT text FROM addr WHERE id = ?1")?;
            ask.query_row([row], |row| row.get::<_, String>(0))
        };
        let text = ask().map_err(|error| HistoryError::sqlite(&self.path, error))?;
        let ip = text.parse().map_err(|_| self.wrong(row, "the address"))?;
        of.addresses.borrow_mut().insert(row, ip);
        Ok(ip)
    }

    fn process(&self, of: &Rows, row: i64) -> Result<Arc<ProcessInfo>, HistoryError> {
        if let Some(process) = of.processes.borrow().get(&row) {
            return Ok(Arc::clone(process));
        }
        let ask = || {
            let mut ask = self.db.prepare_cached("SELECT json FROM process WHERE id = ?1")?;
            ask.query_row([row], |row| row.get::<_, String>(0))
        };
        let json = ask().map_err(|error| HistoryError::sqlite(&self.path, error))?;
        let process = read::process(&json)
            .map_err(|error| HistoryError::Line { path: self.path.clone(), error })
            .map(Arc::new)?;
        let mut known = of.processes.borrow_mut();
        if known.len() >= PROCESSES_MAX {
            known.clear();
        }
        known.insert(row, Arc::clone(&process));
        Ok(process)
    }

    fn opened(&self, of: &Rows, row: i64) -> Result<Opened, HistoryError> {
        if let Some(opened) = of.opened.borrow().get(&row) {
            return Ok(opened.clone());
        }
        let ask = || {
            let mut ask = self.db.prepare_cached(
                "SELECT first, dir, proto, netns, source, method, hook, reason, listener_method, listener_hook, listener_reason, \
                 mapped, kernel_socket, device FROM opened WHERE id = ?1",
            )?;
            ask.query_row([row], |row| {
                let text = |at: usize| row.get::<_, Option<String>>(at);
                let method = |at: usize| {
                    let (method, hook, reason) = (text(at)?, text(at + 1)?, text(at + 2)?);
                    Ok::<_, rusqlite::Error>(
                        method.map(|method| words::method(&method, hook.as_deref(), reason.as_deref())),
                    )
                };
                let (owner, listener) = (method(5)?, method(8)?);
                let device: Option<String> = text(13)?;
                let listener = match listener {
                    Some(None) => return Ok(None),
                    listener => listener.flatten(),
                };
                let read = || {
                    Some(Opened {
                        first: from_name::<EventKind>(&text(0).ok()??)?,
                        direction: from_name(&text(1).ok()??)?,
                        transport: from_name(&text(2).ok()??)?,
                        netns: NetNs(row.get(3).ok()?),
                        source: from_name(&text(4).ok()??)?,
                        method: owner??,
                        listener,
                        mapped: row.get(11).ok()?,
                        kernel_socket: row.get(12).ok()?,
                        device: device.as_deref().map(|name| Arc::new(Device::new(name))),
                    })
                };
                Ok(read())
            })
        };
        let opened = ask().map_err(|error| HistoryError::sqlite(&self.path, error))?;
        let opened = opened.ok_or_else(|| self.wrong(row, "the table `opened`"))?;
        of.opened.borrow_mut().insert(row, opened.clone());
        Ok(opened)
    }

    fn closed(&self, of: &Rows, row: i64) -> Result<Closed, HistoryError> {
        if let Some(closed) = of.closed.borrow().get(&row) {
            return Ok(*closed);
        }
        let ask = || {
            let mut ask = self
                .db
                .prepare_cached("SELECT how, errno, method, hook, reason FROM closed WHERE id = ?1")?;
            ask.query_row([row], |row| {
                let text = |at: usize| row.get::<_, Option<String>>(at);
                let (how, method, hook, reason) =
                    (text(0)?.unwrap_or_default(), text(2)?, text(3)?, text(4)?);
                let closer = method.map(|method| words::method(&method, hook.as_deref(), reason.as_deref()));
                let errno = row.get(1)?;
                if how == "failed" {
                    return Ok(Some(Closed { how: None, errno, closer: None }));
                }
                let read = || {
                    Some(Closed { how: Some(from_name::<EndedHow>(&how)?), errno, closer: Some(closer??) })
                };
                Ok(read())
            })
        };
        let closed = ask().map_err(|error| HistoryError::sqlite(&self.path, error))?;
        let closed = closed.ok_or_else(|| self.wrong(row, "the table `closed`"))?;
        of.closed.borrow_mut().insert(row, closed);
        Ok(closed)
    }
}

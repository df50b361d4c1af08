//! Values that many rows share, each written once a file.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Result, params};

use super::row::{Closed, Opened};
use super::words;
use crate::event::json::process::{hex, shape, shown, shown_option};
use crate::event::names::Named as _;
use crate::event::wire::encode;
use crate::process::info::ProcessInfo;

/// Most addresses whose rows are known without asking the file.
const ADDRESSES_MAX: usize = 65_536;
/// Processes of a generation: those of the last two are known. One that is forgotten gets another row when it comes again. What is known is
/// held, and what is held is not forgotten by the process table either.
const GENERATION: usize = 1_024;
/// Most combinations that are known.
const SHAPES_MAX: usize = 16_384;
/// Processes of which more may become known after their last event.
const UNSETTLED_MAX: usize = 4_096;

/// The rows of shared values, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Interned {
    addresses: HashMap<IpAddr, i64>,
    opened: HashMap<Opened, i64>,
    closed: HashMap<Closed, i64>,
    processes: Processes,
    unsettled: Vec<usize>,
}

/// The rows of processes, by the address of the `Arc`, which is held.
#[derive(Debug, Default)]
struct Processes {
    young: HashMap<usize, Known>,
    old: HashMap<usize, Known>,
}

impl Processes {
    /// One that is asked for is young again.
    fn get_mut(&mut self, at: usize) -> Option<&mut Known> {
        if let Some(known) = self.old.remove(&at) {
            self.insert(at, known);
        }
        self.young.get_mut(&at)
    }

    fn get(&self, at: usize) -> Option<&Known> {
        self.young.get(&at).or_else(|| self.old.get(&at))
    }

    fn insert(&mut self, at: usize, known: Known) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(at, known);
    }
}

#[derive(Debug)]
struct Known {
    process: Arc<ProcessInfo>,
    row: i64,
    /// What of its facts the row has.
    version: u16,
}

impl Interned {
    pub(super) fn address(&mut self, db: &Connection, ip: IpAddr) -> Result<i64> {
        if let Some(row) = self.addresses.get(&ip) {
            return Ok(*row);
        }
        let text = ip.to_string();
        let known = db
            .prepare_cached("SELECT id FROM addr WHERE text = ?1")?
            .query_row([&text], |row| row.get(0))
            .optional()?;
        let row = match known {
            Some(row) => row,
            None => db.prepare_cached("INSERT INTO addr (text) VALUES (?1)")?.insert([&text])?,
        };
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.clear();
        }
        self.addresses.insert(ip, row);
        Ok(row)
    }

    pub(super) fn opened(&mut self, db: &Connection, opened: &Opened) -> Result<i64> {
        if let Some(row) = self.opened.get(opened) {
            return Ok(*row);
        }
        let (method, hook, reason) = words::of_method(opened.method);
        let (by, by_hook, by_reason) = opened
            .listener
            .map(words::of_method)
            .map_or((None, None, None), |(method, hook, reason)| (Some(method), hook, reason));
        let row = db
            .prepare_cached(
                "INSERT INTO opened (first, dir, proto, netns, source, method, hook, reason, listener_method, listener_hook, \
                 listener_reason, mapped, kernel_socket, device) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            )?
            .insert(params![
                opened.first.name(),
                opened.direction.name(),
                opened.transport.name(),
                opened.netns.0,
                opened.source.name(),
                method,
                hook,
                reason,
                by,
                by_hook,
                by_reason,
                opened.mapped,
                opened.kernel_socket,
                opened.device.as_ref().map(|device| device.name()),
            ])?;
        if self.opened.len() >= SHAPES_MAX {
            self.opened.clear();
        }
        self.opened.insert(opened.clone(), row);
        Ok(row)
    }

    pub(super) fn closed(&mut self, db: &Connection, closed: Closed) -> Result<i64> {
        if let Some(row) = self.closed.get(&closed) {
            return Ok(*row);
        }
        let (method, hook, reason) = closed
            .closer
            .map(words::of_method)
            .map_or((None, None, None), |(method, hook, reason)| (Some(method), hook, reason));
        let how = closed.how.map_or("failed", |how| how.name());
        let row = db
            .prepare_cached(
                "INSERT INTO closed (how, errno, method, hook, reason) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .insert(params![how, closed.errno, method, hook, reason])?;
        if self.closed.len() >= SHAPES_MAX {
            self.closed.clear();
        }
        self.closed.insert(closed, row);
        Ok(row)
    }

    /// The row of a process, which has what is known of it now.
    pub(super) fn process(
        &mut self,
        db: &Connection,
        (run, boot8): (i64, &str),
        process: &Arc<ProcessInfo>,
    ) -> Result<i64> {
        let at = Arc::as_ptr(process).addr();
        // Read before it is rendered: what becomes known meanwhile renders it anew the next time.
        let version = process.identity.version();
        if let Some(known) = self.processes.get_mut(at) {
            if known.version != version {
                update(db, boot8, known.row, process)?;
                known.version = version;
            }
            return Ok(known.row);
        }
        let row = insert(db, run, boot8, process)?;
        if !process.identity.is_settled() && self.unsettled.len() < UNSETTLED_MAX {
            self.unsettled.push(at);
        }
        self.processes.insert(at, Known { process: Arc::clone(process), row, version });
        Ok(row)
    }

    /// Whether more may become known of a process whose row is written.
    pub(super) const fn is_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Whether more has become known of a process than its row has.
    pub(super) fn has_news(&self) -> bool {
        let is_news = |known: &Known| {
            known.process.identity.version() != known.version || known.process.identity.is_settled()
        };
        self.unsettled.iter().filter_map(|at| self.processes.get(*at)).any(is_news)
    }

    /// Writes what has become known of processes since their rows were written.
    pub(super) fn update_processes(&mut self, db: &Connection, boot8: &str) -> Result<()> {
        let mut left = Vec::new();
        for at in std::mem::take(&mut self.unsettled) {
            let Some(known) = self.processes.get_mut(at) else { continue };
            // Asked before the version: what comes before it is settled is in that.
            let is_settled = known.process.identity.is_settled();
            let version = known.process.identity.version();
            if known.version != version {
                update(db, boot8, known.row, &known.process)?;
                known.version = version;
            }
            if !is_settled {
                left.push(at);
            }
        }
        self.unsettled = left;
        Ok(())
    }
}

fn json(boot8: &str, process: &ProcessInfo) -> String {
    let mut out = Vec::new();
    encode(&shape(boot8, process), &mut out);
    // JSON is UTF-8.
    String::from_utf8(out).unwrap_or_default()
}

fn insert(db: &Connection, run: i64, boot8: &str, process: &ProcessInfo) -> Result<i64> {
    let place = process.placement.as_deref();
    let args: Vec<_> = process.args.iter().map(|arg| shown(arg).0.0).collect();
    let ancestors: Vec<_> = process.ancestors.iter().map(|above| shown(&above.comm).0.0).collect();
    let text = |bytes: Option<&[u8]>| shown_option(bytes).0.map(|text| text.0.into_owned());
    db.prepare_cached(
        "INSERT INTO process (run, name, pid, ppid, comm, exe, args, sha256, uid, user, unit, container, ancestors, json) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .insert(params![
        run,
        format!("{boot8}-{}-{}", process.pid.0, process.start_ticks()),
        process.pid.0,
        process.ppid.map(|pid| pid.0),
        shown(&process.comm).0.0,
        text(process.exe.as_deref()),
        args.join(" "),
        process.identity.sha256().map(hex),
        process.uid,
        text(process.user.as_deref()),
        text(place.and_then(|place| place.unit.as_deref())),
        text(place.and_then(|place| place.container.as_ref()).map(|container| &*container.id)),
        ancestors.join(" < "),
        json(boot8, process),
    ])
}

fn update(db: &Connection, boot8: &str, row: i64, process: &ProcessInfo) -> Result<()> {
    let hash = process.identity.sha256().map(hex);
    db.prepare_cached("UPDATE process SET sha256 = ?2, json = ?3 WHERE id = ?1")?
        .execute(params![row, hash, json(boot8, process)])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::samples;

    /// What is asked for again stays; what is not is let go, so that the process table can forget it.
    #[test]
    fn processes_are_held_for_two_generations() {
        let mut processes = Processes::default();
        let one = samples::curl();
        let held = Arc::strong_count(&one);
        let known = |process: &Arc<ProcessInfo>| Known { process: Arc::clone(process), row: 7, version: 0 };
        processes.insert(1, known(&one));
        processes.insert(2, known(&samples::nginx()));
        for at in 0..3 * GENERATION {
            processes.insert(1_000_000 + at, known(&samples::memfd()));
            assert_eq!(processes.get_mut(1).map(|known| known.row), Some(7));
            assert!(processes.young.len() + processes.old.len() <= 2 * GENERATION);
        }
        assert!(processes.get(2).is_none());
        drop(processes);
        assert_eq!(Arc::strong_count(&one), held);
    }
}

//! Identical short connections that come too fast are one row with a count: a scan or a flood costs no disk.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::row::{Closed, ConnRow, Outcome};
use crate::flow::model::{Direction, Transport};
use crate::units::NetNs;

/// The second in which the rate is counted, in nanoseconds of the boot clock.
const SECOND: u64 = 1_000_000_000;
/// Most kinds of connections that are counted in a second; what comes beyond keeps its own rows.
const KEYS_MAX: usize = 16_384;

/// What makes connections identical.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    exe: Option<Arc<[u8]>>,
    comm: Option<Box<[u8]>>,
    uid: Option<u32>,
    cgroup: Option<u64>,
    direction: Direction,
    transport: Transport,
    netns: NetNs,
    remote: IpAddr,
    local: IpAddr,
    service: u16,
    closed: Closed,
}

impl Key {
    fn of(row: &ConnRow, outcome: &Outcome) -> Self {
        let conn = &row.conn;
        let process = conn.owner.process.as_ref();
        Self {
            exe: process.and_then(|process| process.exe.clone()),
            comm: process.map(|process| process.comm.clone()),
            uid: process.map(|process| process.uid),
            cgroup: process.map(|process| process.cgroup_id),
            direction: conn.direction,
            transport: conn.transport,
            netns: conn.netns,
            remote: conn.remote.ip(),
            local: conn.local.ip(),
            service: conn.service_port(),
            closed: Closed::of(outcome),
        }
    }
}

/// Counts connections of a kind.
#[derive(Debug)]
pub(super) struct Collapse {
    /// So many of a kind in a second keep rows of their own; 0: all do.
    rate: u32,
    second: u64,
    seen: HashMap<Key, u32>,
    /// Rows of those beyond.
    rows: HashMap<Key, ConnRow>,
}

impl Collapse {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, second: 0, seen: HashMap::new(), rows: HashMap::new() }
    }

    /// Takes a connection that began and ended; back comes the one that keeps a row of its own.
    pub(super) fn take(&mut self, row: ConnRow) -> Option<ConnRow> {
        let (Some((end, outcome)), true) = (&row.end, self.rate > 0) else { return Some(row) };
        let second = end.boot.0 / SECOND;
        if second != self.second {
            self.second = second;
            self.seen.clear();
        }
        let key = Key::of(&row, outcome);
        match self.seen.get_mut(&key) {
            Some(seen) if *seen < self.rate => {
                *seen += 1;
                return Some(row);
            }
            Some(_) => {}
            None => {
                if self.seen.len() < KEYS_MAX {
                    self.seen.insert(key, 1);
                }
                return Some(row);
            }
        }
        match self.rows.get_mut(&key) {
            Some(many) => add(many, row),
            None => drop(self.rows.insert(key, row)),
        }
        None
    }

    /// How many rows wait.
    pub(super) fn waiting(&self) -> usize {
        self.rows.len()
    }

    /// The rows of many connections each.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = ConnRow> {
        self.rows.drain().map(|(_, row)| row)
    }
}

/// Adds a connection to a row: its bytes are summed, its end is the last one's, and its duration the longest.
fn add(many: &mut ConnRow, row: ConnRow) {
    let Some((at, outcome)) = row.end else { return };
    many.count += 1;
    let Some((last, sum)) = &mut many.end else { return };
    *last = at;
    match (sum, outcome) {
        (Outcome::Closed(sum), Outcome::Closed(ending)) => {
            sum.duration = sum.duration.max(ending.duration);
            if let (Some(sum), Some(more)) = (&mut sum.traffic, ending.traffic) {
                sum.bytes_in = sum.bytes_in.saturating_add(more.bytes_in);
                sum.bytes_out = sum.bytes_out.saturating_add(more.bytes_out);
                sum.retransmits = sum.retransmits.zip(more.retransmits).map(|(a, b)| a.saturating_add(b));
                sum.srtt_us = sum.srtt_us.max(more.srtt_us);
            }
        }
        (Outcome::Failed(sum), Outcome::Failed(failure)) => sum.after = sum.after.max(failure.after),
        // They have the same key.
        _ => {}
    }
}

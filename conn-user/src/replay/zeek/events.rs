//! From connections that a sensor saw to events of the hosts that had them, in the order of time.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use super::record::{Record, Reported, Side, State};
use crate::event::model::{Event, EventBody, Start};
use crate::event::read::Recorded;
use crate::filter::Names;
use crate::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, Source, Traffic, UnknownReason,
};
use crate::process::hash::IntMap;
use crate::units::{BootNs, DurationNs, NetNs, WallNs};

/// Most connections that are sorted at once: some 1.8 GB.
const RECORDS_MAX: usize = 1 << 24;
/// Most protocols that are reported by name.
const PROTOCOLS_MAX: usize = 16;
/// The zone that says which side is of the network that is watched, where Zeek does not.
const INTERNAL: &str = "internal";

/// There are more connections than are sorted at once.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("more than {RECORDS_MAX} TCP connections; replay fewer logs at once, e.g. day by day")]
pub struct TooMany;

/// What was read of the logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkStats {
    /// Lines.
    pub lines: u64,
    /// Lines of other protocols than TCP, by protocol.
    pub others: BTreeMap<String, u64>,
    /// Lines of open connections that another line reports more of.
    pub repeated: u64,
    /// Attempts from outside that failed: the host that is asked has no event of them.
    pub failed_in: u64,
}

/// The connections of a network, while its logs are read.
#[derive(Debug, Default)]
pub struct Network {
    records: Vec<Record>,
    stats: NetworkStats,
}

impl Network {
    /// Adds what a line reports.
    ///
    /// # Errors
    /// When there is no room.
    pub fn add(&mut self, reported: Reported) -> Result<(), TooMany> {
        if let Reported::Elsewhere(_) = reported {
            return Ok(());
        }
        self.stats.lines += 1;
        match reported {
            Reported::Elsewhere(_) => {}
            Reported::Tcp(_) if self.records.len() >= RECORDS_MAX => return Err(TooMany),
            Reported::Tcp(record) => self.records.push(record),
            Reported::Other(protocol) => {
                let others = &mut self.stats.others;
                let is_known = others.len() < PROTOCOLS_MAX || others.contains_key(&protocol);
                *others.entry(if is_known { protocol } else { "others".to_owned() }).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Whether nothing was read.
    pub const fn is_empty(&self) -> bool {
        self.stats.lines == 0
    }

    /// The events, once everything is read. `names` says what is internal.
    pub fn into_events(mut self, names: &Names) -> Events<'_> {
        self.drop_repeated();
        self.records.sort_unstable_by_key(|record| (record.ts, record.uid, record.orig_port));
        Events {
            names,
            records: self.records,
            next: 0,
            ends: BinaryHeap::new(),
            queued: None,
            has_begun: false,
            seq: 0,
            stats: self.stats,
        }
    }

    /// A log of open connections has the same one again and again, and `conn.log` has it once it ended. The last reports all.
    fn drop_repeated(&mut self) {
        let mut best: IntMap<u64, usize> = IntMap::default();
        for (at, record) in self.records.iter().enumerate() {
            if record.is_open && record.uid != 0 {
                let kept = best.entry(record.uid).or_insert(at);
                if self.records[*kept].duration < record.duration {
                    *kept = at;
                }
            }
        }
        if best.is_empty() {
            return;
        }
        for record in &self.records {
            if !record.is_open {
                best.remove(&record.uid);
            }
        }
        let (mut at, before) = (0, self.records.len());
        self.records.retain(|record| {
            let is_kept = !record.is_open || record.uid == 0 || best.get(&record.uid) == Some(&at);
            at += 1;
            is_kept
        });
        self.stats.repeated = (before - self.records.len()) as u64;
    }
}

/// Events in the order of time, the first of which is the start.
pub struct Events<'n> {
    names: &'n Names,
    records: Vec<Record>,
    next: usize,
    /// Ends that are to come, with the places of their records: one for each connection that is open.
    ends: BinaryHeap<Reverse<(WallNs, usize)>>,
    /// What comes at the same instant as the event before.
    queued: Option<(WallNs, Change)>,
    has_begun: bool,
    seq: u64,
    stats: NetworkStats,
}

impl Events<'_> {
    /// What was read, and so far left out.
    pub const fn stats(&self) -> &NetworkStats {
        &self.stats
    }

    /// Connections.
    pub fn connections(&self) -> usize {
        self.records.len()
    }

    fn event(&mut self, at: WallNs, change: Change) -> Recorded {
        self.seq += 1;
        Recorded::Event(Event { seq: self.seq, boot: BootNs(at.0), wall: at, body: EventBody::Flow(change) })
    }

    /// The first event of a connection. Its further ones are put where they are found when their time comes.
    fn begin(&mut self, place: usize) -> Option<Recorded> {
        let record = self.records[place];
        let sides = Sides::of(&record, self.names);
        let has_failed = record.has_failed();
        if has_failed && sides.direction == Direction::In {
            self.stats.failed_in += 1;
            return None;
        }
        self.ends.push(Reverse((record.end(), place)));
        let conn = connection(&record, place, &sides);
        let change = match (record.state, sides.direction) {
            (State::Oth, _) => Change::Established(conn),
            (_, Direction::In) => Change::Accept(conn),
            _ => {
                if !has_failed {
                    self.queued = Some((record.ts, Change::Established(conn.clone())));
                }
                Change::Connect(ConnEvent { established: None, ..conn })
            }
        };
        Some(self.event(record.ts, change))
    }

    fn end(&mut self, place: usize) -> Recorded {
        let record = self.records[place];
        if record.is_open {
            return Recorded::Time(BootNs(record.end().0));
        }
        let sides = Sides::of(&record, self.names);
        let conn = connection(&record, place, &sides);
        let change = if record.has_failed() {
            Change::Failed(conn, Failure { errno: record.errno(), after: record.duration })
        } else {
            let traffic = record.bytes.map(|(orig, resp)| {
                let (bytes_out, bytes_in) = if sides.is_orig_local { (orig, resp) } else { (resp, orig) };
                Traffic { bytes_in, bytes_out, retransmits: None, srtt_us: 0 }
            });
            let how = record.how(sides.is_orig_local);
            let reset = matches!(how, EndedHow::PeerReset);
            let ending = Ending {
                how,
                errno: if reset { libc::ECONNRESET as u16 } else { 0 },
                closer: nobody(),
                duration: record.duration.filter(|_| record.state != State::Oth),
                traffic,
            };
            Change::Close(conn, ending)
        };
        self.event(record.end(), change)
    }
}

impl Iterator for Events<'_> {
    type Item = Recorded;

    fn next(&mut self) -> Option<Recorded> {
        if !self.has_begun {
            self.has_begun = true;
            let at = self.records.first()?.ts;
            let start = EventBody::Start(Start { attached: BootNs(at.0), has_facts: false });
            return Some(Recorded::Event(Event { seq: 0, boot: BootNs(at.0), wall: at, body: start }));
        }
        if let Some((at, change)) = self.queued.take() {
            return Some(self.event(at, change));
        }
        loop {
            let begins = self.records.get(self.next).map(|record| record.ts);
            if let Some(Reverse((at, place))) = self.ends.peek().copied()
                && begins.is_none_or(|begins| at <= begins)
            {
                self.ends.pop();
                return Some(self.end(place));
            }
            begins?;
            self.next += 1;
            if let Some(event) = self.begin(self.next - 1) {
                return Some(event);
            }
        }
    }
}

/// Which of the two is this host.
struct Sides {
    is_orig_local: bool,
    direction: Direction,
}

impl Sides {
    /// The side that Zeek says is local, where it says so of one only; else the internal one, where only one is; else the
    /// originator.
    fn of(record: &Record, names: &Names) -> Self {
        let is_internal = |ip: IpAddr| names.is_in(INTERNAL, ip);
        let is_orig_local = match (record.local_orig, record.local_resp) {
            (Some(orig), Some(resp)) if orig != resp => orig,
            _ => is_internal(record.orig) || !is_internal(record.resp),
        };
        Self { is_orig_local, direction: if is_orig_local { Direction::Out } else { Direction::In } }
    }
}

fn connection(record: &Record, place: usize, sides: &Sides) -> ConnEvent {
    let orig = SocketAddr::new(record.orig, record.orig_port);
    let resp = SocketAddr::new(record.resp, record.resp_port);
    let (local, remote) = if sides.is_orig_local { (orig, resp) } else { (resp, orig) };
    let was_there = record.state == State::Oth;
    ConnEvent {
        source: if was_there { Source::Late } else { Source::Live },
        established: (!was_there && !record.has_failed()).then_some(BootNs(record.ts.0)),
        ..ConnEvent::new(ConnId(place as u64 + 1), sides.direction, (local, remote), NetNs(0), nobody())
    }
}

fn nobody() -> Actor {
    Actor::unknown(UnknownReason::NoProcesses)
}

impl Record {
    fn end(&self) -> WallNs {
        WallNs(self.ts.0.saturating_add(self.duration.map_or(0, |DurationNs(ns)| ns)))
    }

    /// It was never established.
    const fn has_failed(&self) -> bool {
        matches!(self.state, State::S0 | State::Rej | State::Rstos0 | State::Rstrh | State::Sh | State::Shr)
    }

    /// Why, for the originator. What it gave up itself is cancelled: 0.
    const fn errno(&self) -> u16 {
        match self.state {
            State::S0 => libc::ETIMEDOUT as u16,
            State::Rej => libc::ECONNREFUSED as u16,
            State::Rstrh => libc::ECONNRESET as u16,
            _ => 0,
        }
    }

    fn how(&self, is_orig_local: bool) -> EndedHow {
        let closed = |by: Side| {
            if (by == Side::Originator) == is_orig_local { EndedHow::LocalFin } else { EndedHow::PeerFin }
        };
        let reset = |by: Side| {
            if (by == Side::Originator) == is_orig_local { EndedHow::LocalReset } else { EndedHow::PeerReset }
        };
        match self.state {
            State::Sf => self.closed_first.map_or(EndedHow::Unseen, closed),
            State::S2 => closed(Side::Originator),
            State::S3 => closed(Side::Responder),
            State::Rsto => reset(Side::Originator),
            State::Rstr => reset(Side::Responder),
            // The last packet is the last that is known.
            _ => EndedHow::Unseen,
        }
    }
}

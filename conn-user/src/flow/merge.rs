//! Snapshots meet the stream: what was there before the attach, and what a loss of records left wrong.
//!
//! At the start the snapshot is merged before any record is handled. A record from before its end may report the beginning
//! of what the snapshot has: then the record wins, see [`SnapshotKeys::may_have`]. After a loss it is the other way round:
//! first the records from before the snapshot's end are handled, then the snapshot is right about everything.

mod repair;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::connection_table::ConnectionTable;
use super::emitter::Emitter;
use super::ends::Ends;
use super::listener_table::ListenerTable;
use super::listeners::{Listener, Narrows};
use super::model::{Actor, ConnId, Direction, Method, Source};
use super::snapshot::model::{Holder, NoHolder, SnapSocket, Snapshot, TcpState};
use super::stdio::StdioTable;
use super::store::{Conn, Found, What};
use crate::process::ProcessTable;
use crate::units::BootNs;

/// Calls `pause` after every 1,024th of what is handled one after the other: that takes some milliseconds, for which a ring has
/// room.
pub fn pause_at(index: usize, pause: &mut dyn FnMut()) {
    if index % 1024 == 1023 {
        pause();
    }
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Connections and listeners that were new.
    pub added: usize,
    /// Connections and listeners whose end had been missed.
    pub ended: usize,
    /// Connections of which an establishment or an accept had been missed.
    pub advanced: usize,
    /// Sockets for which there was no room.
    pub not_kept: usize,
}

/// Beyond any cookie (they are counted from 1) and below any kernel address.
const SYNTHETIC: u64 = 1 << 62;

/// By which keys the sockets of snapshots are known, and until when the start-up snapshot counts.
#[derive(Debug)]
pub(super) struct SnapshotKeys {
    /// When the start-up snapshot was complete: records until then may report what it has.
    until: BootNs,
    /// Records carry cookies; else kernel addresses, which no snapshot has.
    by_cookie: bool,
    /// Sockets of snapshots that came without a cookie: how many keys were made up.
    synthetic: u64,
}

impl Default for SnapshotKeys {
    fn default() -> Self {
        Self::new(true)
    }
}

impl SnapshotKeys {
    /// The keys, where records carry cookies or do not.
    pub(super) const fn new(by_cookie: bool) -> Self {
        Self { until: BootNs(0), by_cookie, synthetic: 0 }
    }

    /// Whether the start-up snapshot may have what a record of this time reports the beginning of.
    #[inline]
    pub(super) fn may_have(&self, boot: BootNs) -> bool {
        boot <= self.until
    }

    /// Whether records may have other keys than the snapshots for the same sockets.
    #[inline]
    pub(super) const fn may_differ(&self) -> bool {
        !self.by_cookie || self.synthetic > 0
    }

    /// Whether the records of this socket have another key than the snapshot, so that it is found by its ends.
    fn is_by_ends(&self, socket: &SnapSocket) -> bool {
        !self.by_cookie || socket.key().is_none()
    }

    fn key(&mut self, socket: &SnapSocket) -> u64 {
        socket.key().unwrap_or_else(|| {
            self.synthetic += 1;
            SYNTHETIC + self.synthetic
        })
    }
}

/// Merges a snapshot into the tables.
pub(super) struct Merge<'a> {
    pub(super) connections: &'a mut ConnectionTable,
    pub(super) listeners: &'a mut ListenerTable,
    pub(super) emitter: Emitter<'a>,
    pub(super) snapshots: &'a mut SnapshotKeys,
    pub(super) stdio: &'a mut StdioTable,
    pub(super) procs: &'a mut ProcessTable,
    pub(super) merged: Merged,
}

impl Merge<'_> {
    /// Takes in the start-up snapshot.
    pub(super) fn start(mut self, mut snapshot: Snapshot) -> Merged {
        /// Sockets after which the snapshot gives its memory back: it and the table would not be small together.
        const PIECE: usize = 4096;
        self.snapshots.until = snapshot.ended;
        for socket in &snapshot.sockets {
            if socket.state == TcpState::Listen {
                self.add_listener(socket, Source::Snapshot);
            }
        }
        snapshot.sockets.reverse();
        while let Some(socket) = snapshot.sockets.pop() {
            if is_followed(&socket)
                && let Some(place) = self.add_connection(&socket, Source::Snapshot)
                && let Some(id) = self.connections.store.get(place).map(|conn| ConnId(conn.id))
            {
                self.stdio.found(&socket.holders, id, |_| true);
            }
            if snapshot.sockets.len().is_multiple_of(PIECE) {
                snapshot.sockets.shrink_to_fit();
            }
        }
        for found in snapshot.peers {
            self.stdio.found_peers(found);
        }
        self.merged
    }

    /// The place of the new connection; `None`: there is no room, or it is known.
    fn add_connection(&mut self, socket: &SnapSocket, source: Source) -> Option<u32> {
        let key = self.snapshots.key(socket);
        if self.connections.store.find_key(key) != Found::Unknown {
            return None;
        }
        if !self.connections.has_room() {
            self.merged.not_kept += 1;
            return None;
        }
        let owner = owner(socket, self.procs);
        let ends = ends_of(socket);
        let (netns, device) = (socket.netns.0, socket.device_index);
        let direction = socket.direction.unwrap_or(Direction::Unknown);
        let listener = match direction {
            Direction::In => self.listeners.one_owner(netns, socket.local, device, owner.process.as_deref()),
            Direction::Out | Direction::Unknown => None,
        };
        let what = What { key, netns, ends, device, transport: socket.transport, kernel: false };
        let conn = Conn {
            owner,
            listener,
            born: socket.born.filter(|_| socket.state != TcpState::SynSent),
            under_way: is_under_way(socket),
            ..Conn::of(self.emitter.next_id(), what, direction, source)
        };
        self.merged.added += 1;
        let place = self.connections.store.insert(conn);
        if self.snapshots.is_by_ends(socket) {
            self.connections.store.rename(netns, ends, key);
        }
        Some(place)
    }

    fn add_listener(&mut self, socket: &SnapSocket, source: Source) -> Option<u64> {
        let key = self.snapshots.key(socket);
        let is_known = self.listeners.known.get(key).is_some();
        if is_known || self.connections.store.find_key(key) != Found::Unknown {
            return None;
        }
        if !self.listeners.has_room() {
            self.merged.not_kept += 1;
            return None;
        }
        let listener = Listener {
            id: self.emitter.next_id(),
            key,
            netns: socket.netns.0,
            addr: socket.local.ip(),
            port: socket.local.port(),
            transport: socket.transport,
            since: BootNs(0),
            source,
            born: socket.born,
            kernel: false,
            owner: Arc::new(owner(socket, self.procs)),
            narrows: socket
                .shows_scope()
                .then_some(Narrows { device: socket.device_index, v6only: socket.v6only }),
            reported: true,
        };
        self.merged.added += 1;
        self.listeners.known.insert(listener);
        Some(key)
    }
}

/// What the table follows: an orphan's close and what TIME_WAIT is left of were before; a request has no full socket yet,
/// its handshake is reported when it completes.
fn is_followed(socket: &SnapSocket) -> bool {
    !matches!(socket.state, TcpState::Listen | TcpState::TimeWait | TcpState::SynRecv | TcpState::Close)
        && socket.no_holder != Some(NoHolder::Orphan)
}

fn is_under_way(socket: &SnapSocket) -> bool {
    socket.state != TcpState::SynSent && socket.no_holder != Some(NoHolder::NotAccepted)
}

fn ends_of(socket: &SnapSocket) -> Ends {
    Ends {
        laddr: socket.local.ip(),
        raddr: socket.remote.ip(),
        lport: socket.local.port(),
        rport: socket.remote.port(),
        mapped: socket.mapped,
    }
}

/// Who holds the socket. Of several processes the one that started first: it opened the socket, or was there when its
/// parent did, and the others have it from it. One that has exited since is passed over.
fn owner(socket: &SnapSocket, procs: &mut ProcessTable) -> Actor {
    let mut holders: Vec<&Holder> = socket.holders.iter().collect();
    holders.sort_unstable_by_key(|holder| (holder.start, holder.pid));
    let process = holders.iter().find_map(|holder| procs.seen(holder.pid, holder.start));
    let why = socket.no_holder.unwrap_or(NoHolder::NotFound);
    let method = if process.is_some() { Method::FdTable } else { Method::Unknown(why.reason()) };
    Actor { process, tid: None, method }
}

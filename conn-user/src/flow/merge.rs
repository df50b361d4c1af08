//! Snapshots meet the stream: what was there before the attach, and what a loss of records left wrong.
//!
//! At the start the snapshot is merged before any record is handled. A record from before its end may report the beginning
//! of what the snapshot has: then the record wins, see [`FlowTable::is_superseded`]. After a loss it is the other way round:
//! first the records from before the snapshot's end are handled, then the snapshot is right about everything.

mod repair;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use conn_common::record::Sock;

use super::ends::Ends;
use super::listeners::{Listener, Narrows};
use super::model::{Actor, ConnId, Direction, Method, Source};
use super::snapshot::model::{Holder, NoHolder, SnapSocket, Snapshot, TcpState};
use super::store::{Conn, Found, What};
use super::table::FlowTable;
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

impl FlowTable {
    /// Takes in what was there when the agent started. Nothing is reported: none of it happens now. To be called after the
    /// attach and before the first record.
    pub fn merge_start(&mut self, mut snapshot: Snapshot, procs: &mut ProcessTable) -> Merged {
        /// Sockets after which the snapshot gives its memory back: it and the table would not be small together.
        const PIECE: usize = 4096;
        self.snapshot_until = snapshot.ended;
        self.take_devices(&snapshot);
        let mut merged = Merged::default();
        for socket in &snapshot.sockets {
            if socket.state == TcpState::Listen {
                self.add_listener(socket, Source::Snapshot, procs, &mut merged);
            }
        }
        snapshot.sockets.reverse();
        while let Some(socket) = snapshot.sockets.pop() {
            if is_followed(&socket)
                && let Some(place) = self.add_connection(&socket, Source::Snapshot, procs, &mut merged)
                && let Some(id) = self.store.get(place).map(|conn| ConnId(conn.id))
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
        merged
    }

    /// Takes the names of the interfaces that sockets are bound to.
    fn take_devices(&mut self, snapshot: &Snapshot) {
        for socket in &snapshot.sockets {
            if let Some(device) = &socket.device {
                self.devices.found((socket.netns.0, socket.device_index), device, snapshot.ended);
            }
        }
    }

    /// Whether a record of this time may report the beginning of this connection, which the start-up snapshot has and
    /// of which no record has reported yet.
    pub(super) fn is_superseded(&self, place: u32, boot: BootNs) -> bool {
        let untold =
            |conn: &Conn| conn.source == Source::Snapshot && conn.established.0 == 0 && conn.accepted.0 == 0;
        boot <= self.snapshot_until && self.store.get(place).is_some_and(untold)
    }

    /// Whether a snapshot found the attempt that a connect record reports, and which one: `tcp_v4_connect` makes the socket
    /// visible (`inet_hash_connect`) before it calls `tcp_connect`, where the record is written; a preemption between the
    /// two may be longer than the rest of the snapshot.
    pub(super) fn found_first(&self, place: u32, sock: &Sock) -> Option<Source> {
        let found = |conn: &&Conn| {
            matches!(conn.source, Source::Snapshot | Source::Resync)
                && conn.connecting()
                && conn.begun.0 == 0
                && conn.netns == sock.netns
                && conn.ends == Ends::of(sock)
        };
        self.store.get(place).filter(found).map(|conn| conn.source)
    }

    /// The record of an attempt that a repair has reported already.
    pub(super) fn adopt_connect(&mut self, place: u32, owner: Actor, boot: BootNs) {
        if let Some(conn) = self.store.get_mut(place) {
            conn.begun = boot;
            conn.owner = owner;
        }
    }

    fn key(&mut self, socket: &SnapSocket) -> u64 {
        socket.key().unwrap_or_else(|| {
            self.synthetic_keys += 1;
            SYNTHETIC + self.synthetic_keys
        })
    }

    /// The place of the new connection; `None`: there is no room, or it is known.
    fn add_connection(
        &mut self,
        socket: &SnapSocket,
        source: Source,
        procs: &mut ProcessTable,
        merged: &mut Merged,
    ) -> Option<u32> {
        let key = self.key(socket);
        if self.store.find_key(key) != Found::Unknown {
            return None;
        }
        if self.store.is_full() {
            self.stats.connections_not_kept += 1;
            merged.not_kept += 1;
            return None;
        }
        let owner = owner(socket, procs);
        let ends = ends_of(socket);
        let direction = socket.direction.unwrap_or(Direction::Unknown);
        let listener = match direction {
            Direction::In => {
                self.listener_of(socket.netns.0, socket.local, socket.device_index, owner.process.as_deref())
            }
            Direction::Out | Direction::Unknown => None,
        };
        let (netns, device) = (socket.netns.0, socket.device_index);
        let what = What { key, netns, ends, device, transport: socket.transport, kernel: false };
        let conn = Conn {
            owner,
            listener,
            born: socket.born.filter(|_| socket.state != TcpState::SynSent),
            under_way: is_under_way(socket),
            ..Conn::of(self.next_id(), what, direction, source)
        };
        merged.added += 1;
        let place = self.store.insert(conn);
        if !self.by_cookie || socket.key().is_none() {
            self.store.rename(socket.netns.0, ends, key);
        }
        Some(place)
    }

    fn add_listener(
        &mut self,
        socket: &SnapSocket,
        source: Source,
        procs: &mut ProcessTable,
        merged: &mut Merged,
    ) -> Option<u64> {
        let key = self.key(socket);
        if self.listeners.get(key).is_some() || self.store.find_key(key) != Found::Unknown {
            return None;
        }
        if self.listeners.len() >= self.limits.listeners {
            self.stats.listeners_not_kept += 1;
            merged.not_kept += 1;
            return None;
        }
        let listener = Listener {
            id: self.next_id(),
            key,
            netns: socket.netns.0,
            addr: socket.local.ip(),
            port: socket.local.port(),
            transport: socket.transport,
            since: BootNs(0),
            source,
            born: socket.born,
            kernel: false,
            owner: Arc::new(owner(socket, procs)),
            narrows: socket
                .shows_scope()
                .then_some(Narrows { device: socket.device_index, v6only: socket.v6only }),
            reported: true,
        };
        merged.added += 1;
        self.listeners.insert(listener);
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

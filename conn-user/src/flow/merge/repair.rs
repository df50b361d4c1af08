//! After a loss: what a new snapshot has and the table has not was opened meanwhile, and the other way round.

use std::collections::{HashMap, HashSet};

use super::{Merge, Merged, SnapshotKeys, ends_of, is_followed, is_under_way, owner, pause_at};
use crate::flow::actors::LOST;
use crate::flow::emitter::Emitter;
use crate::flow::ending::End;
use crate::flow::ends::Ends;
use crate::flow::model::{Change, ConnId, Direction, Source};
use crate::flow::snapshot::model::{Note, SnapSocket, Snapshot, TcpState};
use crate::flow::store::{Conn, Found};
use crate::units::BootNs;

/// What the snapshot has, by what the table may know it by.
#[derive(Debug, Default)]
struct Present {
    keys: HashSet<u64>,
    /// Of sockets whose records have another key: all where records come without cookies, else those of MPTCP
    /// connections.
    ends: HashSet<(u32, Ends)>,
    /// Network namespaces that were not seen, or only by /proc/net/tcp.
    unseen: HashSet<u32>,
}

impl Present {
    fn of(snapshot: &Snapshot, keys: &SnapshotKeys) -> Self {
        let mut present = Self::default();
        for note in &snapshot.notes {
            if let Note::NetNs { netns, .. } | Note::ProcNet { netns, .. } = note {
                present.unseen.insert(netns.0);
            }
        }
        for socket in snapshot.sockets.iter().filter(|socket| is_followed(socket) || is_listener(socket)) {
            present.keys.extend(socket.key());
            if keys.is_by_ends(socket) {
                let ends =
                    if is_listener(socket) { Ends::of_listener(socket.local) } else { ends_of(socket) };
                present.ends.insert((socket.netns.0, ends));
            }
        }
        present
    }

    fn has(&self, key: u64, netns: u32, ends: &Ends) -> bool {
        self.unseen.contains(&netns) || self.keys.contains(&key) || self.ends.contains(&(netns, *ends))
    }
}

fn is_listener(socket: &SnapSocket) -> bool {
    socket.state == TcpState::Listen
}

impl Merge<'_> {
    /// Compares the tables with a snapshot, and reports what was missed. `pause` is called now and then.
    pub(in crate::flow) fn repair(mut self, snapshot: &Snapshot, pause: &mut dyn FnMut()) -> Merged {
        let present = Present::of(snapshot, self.snapshots);
        pause();
        self.end_absent(&present, snapshot);
        pause();
        self.add_missed_listeners(snapshot);
        self.add_missed_connections(snapshot, pause);
        for found in &snapshot.peers {
            if self.procs.is_unreported(found.process.0, found.process.1) {
                self.stdio.found_peers(found.clone());
            }
        }
        self.merged
    }

    fn add_missed_listeners(&mut self, snapshot: &Snapshot) {
        for socket in snapshot.sockets.iter().filter(|socket| is_listener(socket)) {
            let is_known =
                !self.snapshots.by_cookie && self.listeners.known.is_at(socket.netns.0, socket.local);
            if !is_known
                && let Some(key) = self.add_listener(socket, Source::Resync)
                && let Some(listener) = self.listeners.known.get(key)
            {
                self.emitter.listener(snapshot.ended, listener, Change::Listen);
            }
        }
    }

    fn add_missed_connections(&mut self, snapshot: &Snapshot, pause: &mut dyn FnMut()) {
        let has_others = snapshot.sockets.iter().any(|socket| self.snapshots.is_by_ends(socket));
        let known_ends: HashMap<(u32, Ends), u64> = if has_others {
            let store = &self.connections.store;
            store.iter().map(|(_, conn)| ((conn.netns, conn.ends), conn.id)).collect()
        } else {
            HashMap::new()
        };
        for (index, socket) in snapshot.sockets.iter().filter(|socket| is_followed(socket)).enumerate() {
            pause_at(index, pause);
            let known = known_ends
                .get(&(socket.netns.0, ends_of(socket)))
                .filter(|_| self.snapshots.is_by_ends(socket));
            if let Some(id) = known {
                self.find_stdio(socket, ConnId(*id));
                continue;
            }
            let found = socket.key().map_or(Found::Unknown, |cookie| self.connections.store.find_key(cookie));
            let place = match found {
                Found::Live(place) => {
                    self.take_holder(place, socket);
                    self.advance_missed(place, socket, snapshot.ended);
                    Some(place)
                }
                Found::Ended { .. } => None,
                Found::Unknown => {
                    let place = self.add_connection(socket, Source::Resync);
                    if let Some(conn) = place.and_then(|place| self.connections.store.get(place)) {
                        emit_beginning(conn, snapshot.ended, &mut self.emitter);
                    }
                    place
                }
            };
            let conn = place.and_then(|place| self.connections.store.get(place));
            if let Some(id) = conn.map(|conn| ConnId(conn.id)) {
                self.find_stdio(socket, id);
            }
        }
    }

    /// Remembers whose standard input or output a connection is, of programs whose exec has no record; of others it was read at the exec.
    fn find_stdio(&mut self, socket: &SnapSocket, conn: ConnId) {
        let procs = &mut *self.procs;
        self.stdio.found(&socket.holders, conn, |holder| procs.is_unreported(holder.pid, holder.start));
    }

    /// What lived before the snapshot began and is not in it has ended.
    fn end_absent(&mut self, present: &Present, snapshot: &Snapshot) {
        let is_older = |conn: &Conn| {
            conn.begun.max(conn.established).max(conn.accepted) < snapshot.began && conn.dead.is_none()
        };
        let store = &mut self.connections.store;
        let gone: Vec<u32> = store
            .iter()
            .filter(|(_, conn)| is_older(conn) && !present.has(conn.key, conn.netns, &conn.ends))
            .map(|(place, _)| place)
            .collect();
        for place in gone {
            self.merged.ended += 1;
            if self.connections.store.get(place).is_some_and(Conn::waits) {
                // Neither its accept nor its beginning was reported.
                self.connections.store.forget(place);
            } else {
                self.connections.finish(place, End::unseen(snapshot.ended), &mut self.emitter);
            }
        }
        let listeners = self.listeners.known.iter();
        let gone: Vec<(u64, Ends)> = listeners
            .filter(|listener| listener.since < snapshot.began)
            .map(|listener| (listener.key, listener.netns, Ends::of_listener(listener.local())))
            .filter(|(key, netns, ends)| !present.has(*key, *netns, ends))
            .map(|(key, _, ends)| (key, ends))
            .collect();
        for (key, ends) in gone {
            self.merged.ended += 1;
            let (at, keys) = (snapshot.ended, &mut self.connections.store);
            self.listeners.end((key, ends.local()), LOST, at, keys, &mut self.emitter);
        }
    }

    /// Of a connection whose beginning was lost, and more of it not, the snapshot knows who holds it. No event reports an
    /// owner that becomes known later; the next one of this connection names it.
    fn take_holder(&mut self, place: u32, socket: &SnapSocket) {
        let Some(conn) = self.connections.store.get_mut(place) else { return };
        if conn.source == Source::Late && conn.owner.process.is_none() && !socket.holders.is_empty() {
            conn.owner = owner(socket, self.procs);
        }
    }

    /// The snapshot knows a connection further than the table does.
    fn advance_missed(&mut self, place: u32, socket: &SnapSocket, at: BootNs) {
        let Some(conn) = self.connections.store.get(place) else { return };
        if !is_under_way(socket) || !(conn.connecting() || conn.waits()) || conn.dead.is_some() {
            return;
        }
        self.connections.emit_connect(place, &mut self.emitter);
        let holder = owner(socket, self.procs);
        let Some(conn) = self.connections.store.get_mut(place) else { return };
        conn.under_way = true;
        conn.source = Source::Resync;
        conn.born = socket.born;
        if conn.direction == Direction::In {
            conn.owner = holder;
        }
        self.merged.advanced += 1;
        emit_beginning(conn, at, &mut self.emitter);
    }
}

/// Reports the beginning of a connection, which was missed.
fn emit_beginning(conn: &Conn, at: BootNs, emitter: &mut Emitter<'_>) {
    let change = match conn.direction {
        Direction::In if conn.under_way => Change::Accept,
        // It is reported when it is accepted.
        Direction::In => return,
        Direction::Out | Direction::Unknown if conn.under_way => Change::Established,
        Direction::Out | Direction::Unknown => Change::Connect,
    };
    emitter.conn(at, conn, change);
}

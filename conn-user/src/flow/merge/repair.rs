//! After a loss: what a new snapshot has and the table has not was opened meanwhile, and the other way round.

use std::collections::{HashMap, HashSet};

use super::{Merged, ends_of, is_followed, is_under_way, owner, pause_at};
use crate::flow::devices::Devices;
use crate::flow::ends::Ends;
use crate::flow::life::End;
use crate::flow::model::{Change, ConnId, Direction, FlowEvent, Source};
use crate::flow::snapshot::model::{Note, SnapSocket, Snapshot, TcpState};
use crate::flow::store::{Conn, Found};
use crate::flow::table::{FlowTable, LOST};
use crate::process::ProcessTable;
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
    fn of(snapshot: &Snapshot, by_cookie: bool) -> Self {
        let mut present = Self::default();
        for note in &snapshot.notes {
            if let Note::NetNs { netns, .. } | Note::ProcNet { netns, .. } = note {
                present.unseen.insert(netns.0);
            }
        }
        for socket in snapshot.sockets.iter().filter(|socket| is_followed(socket) || is_listener(socket)) {
            present.keys.extend(socket.key());
            if !by_cookie || socket.key().is_none() {
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

impl FlowTable {
    /// Repairs the table after records were lost, and reports what was missed, marked [`Source::Resync`]. To be called when
    /// the records from before the end of the snapshot are handled. `pause` is called now and then, for what must not wait for
    /// all of it.
    pub fn merge_repair(
        &mut self,
        snapshot: &Snapshot,
        procs: &mut ProcessTable,
        pause: &mut dyn FnMut(),
        out: &mut Vec<FlowEvent>,
    ) -> Merged {
        let mut merged = Merged::default();
        let first = out.len();
        self.take_devices(snapshot);
        let by_cookie = self.by_cookie;
        let present = Present::of(snapshot, by_cookie);
        pause();
        self.end_absent(&present, snapshot, &mut merged, out);
        pause();
        let by_ends = |socket: &SnapSocket| !by_cookie || socket.key().is_none();
        let known_ends: HashMap<(u32, Ends), u64> = if snapshot.sockets.iter().any(by_ends) {
            self.store.iter().map(|(_, conn)| ((conn.netns, conn.ends), conn.id)).collect()
        } else {
            HashMap::new()
        };
        for socket in snapshot.sockets.iter().filter(|socket| is_listener(socket)) {
            let known = !by_cookie && self.listeners.is_at(socket.netns.0, socket.local);
            if !known
                && let Some(key) = self.add_listener(socket, Source::Resync, procs, &mut merged)
                && let Some(listener) = self.listeners.get(key)
            {
                out.push(FlowEvent {
                    boot: snapshot.ended,
                    change: Change::Listen(listener.event(&self.devices)),
                });
            }
        }
        for (index, socket) in snapshot.sockets.iter().filter(|socket| is_followed(socket)).enumerate() {
            pause_at(index, pause);
            let known = known_ends.get(&(socket.netns.0, ends_of(socket))).filter(|_| by_ends(socket));
            if let Some(id) = known {
                self.find_stdio(socket, ConnId(*id), procs);
                continue;
            }
            let place = match socket.key().map_or(Found::Unknown, |cookie| self.store.find_key(cookie)) {
                Found::Live(place) => {
                    self.take_holder(place, socket, procs);
                    self.advance_missed(place, socket, snapshot.ended, procs, &mut merged, out);
                    Some(place)
                }
                Found::Ended { .. } => None,
                Found::Unknown => {
                    let place = self.add_connection(socket, Source::Resync, procs, &mut merged);
                    out.extend(
                        place
                            .and_then(|place| self.store.get(place))
                            .and_then(|conn| beginning(conn, &self.devices, snapshot.ended)),
                    );
                    place
                }
            };
            if let Some(id) = place.and_then(|place| self.store.get(place)).map(|conn| ConnId(conn.id)) {
                self.find_stdio(socket, id, procs);
            }
        }
        for found in &snapshot.peers {
            if procs.is_unreported(found.process.0, found.process.1) {
                self.stdio.found_peers(found.clone());
            }
        }
        self.keep_back(first, out);
        merged
    }

    /// Remembers whose standard input or output a connection is, of programs whose exec has no record; of others it was read at the exec.
    fn find_stdio(&mut self, socket: &SnapSocket, conn: ConnId, procs: &mut ProcessTable) {
        self.stdio.found(&socket.holders, conn, |holder| procs.is_unreported(holder.pid, holder.start));
    }

    /// What lived before the snapshot began and is not in it has ended.
    fn end_absent(
        &mut self,
        present: &Present,
        snapshot: &Snapshot,
        merged: &mut Merged,
        out: &mut Vec<FlowEvent>,
    ) {
        let is_older = |conn: &Conn| {
            conn.begun.max(conn.established).max(conn.accepted) < snapshot.began && conn.dead.is_none()
        };
        let gone: Vec<u32> = self
            .store
            .iter()
            .filter(|(_, conn)| is_older(conn) && !present.has(conn.key, conn.netns, &conn.ends))
            .map(|(place, _)| place)
            .collect();
        for place in gone {
            merged.ended += 1;
            if self.store.get(place).is_some_and(Conn::waits) {
                // Neither its accept nor its beginning was reported.
                self.store.forget(place);
            } else {
                self.finish(place, End::unseen(snapshot.ended), out);
            }
        }
        let gone: Vec<(u64, Ends)> = self
            .listeners
            .iter()
            .filter(|listener| listener.since < snapshot.began)
            .map(|listener| (listener.key, listener.netns, Ends::of_listener(listener.local())))
            .filter(|(key, netns, ends)| !present.has(*key, *netns, ends))
            .map(|(key, _, ends)| (key, ends))
            .collect();
        for (key, ends) in gone {
            merged.ended += 1;
            self.unlisten(key, ends.local(), LOST, snapshot.ended, out);
        }
    }

    /// Of a connection whose beginning was lost, and more of it not, the snapshot knows who holds it. No event reports an
    /// owner that becomes known later; the next one of this connection names it.
    fn take_holder(&mut self, place: u32, socket: &SnapSocket, procs: &mut ProcessTable) {
        let Some(conn) = self.store.get_mut(place) else { return };
        if conn.source == Source::Late && conn.owner.process.is_none() && !socket.holders.is_empty() {
            conn.owner = owner(socket, procs);
        }
    }

    /// The snapshot knows a connection further than the table does.
    fn advance_missed(
        &mut self,
        place: u32,
        socket: &SnapSocket,
        at: BootNs,
        procs: &mut ProcessTable,
        merged: &mut Merged,
        out: &mut Vec<FlowEvent>,
    ) {
        let Some(conn) = self.store.get(place) else { return };
        if !is_under_way(socket) || !(conn.connecting() || conn.waits()) || conn.dead.is_some() {
            return;
        }
        self.emit_connect(place, out);
        let holder = owner(socket, procs);
        let Some(conn) = self.store.get_mut(place) else { return };
        conn.under_way = true;
        conn.source = Source::Resync;
        conn.born = socket.born;
        if conn.direction == Direction::In {
            conn.owner = holder;
        }
        merged.advanced += 1;
        out.extend(beginning(conn, &self.devices, at));
    }
}

/// What a connection's beginning, which was missed, is reported as.
fn beginning(conn: &Conn, devices: &Devices, at: BootNs) -> Option<FlowEvent> {
    let change = match conn.direction {
        Direction::In if conn.under_way => Change::Accept(conn.event(devices)),
        // It is reported when it is accepted.
        Direction::In => return None,
        Direction::Out | Direction::Unknown if conn.under_way => Change::Established(conn.event(devices)),
        Direction::Out | Direction::Unknown => Change::Connect(conn.event(devices)),
    };
    Some(FlowEvent { boot: at, change })
}

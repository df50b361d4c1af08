//! The flow table: records in, events of connections and listeners out.
//!
//! Its parts have their own state: the connections and the listeners with what
//! waits of them, the names of interfaces, the keys of snapshots, the look-ups of
//! ports, and the standard input and output of processes. What a record means to them is said in
//! `connection_records` and `listener_records`.

use std::net::SocketAddr;

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{RecordHeader, Sock, Task};

use super::actors::At;
use super::born::Born;
use super::connection_records::{ConnectionRecords, is_active};
use super::connection_table::ConnectionTable;
use super::devices::Devices;
use super::emitter::{Context, Emitter, Ids};
use super::limits::{FlowLimits, FlowStats};
use super::listener_records::ListenerRecords;
use super::listener_table::ListenerTable;
use super::lookups::{PortLookups, SHARE};
use super::merge::{Merge, Merged, SnapshotKeys};
use super::model::{Change, ConnEvent, ConnId, Direction, FlowEvent};
use super::resolve::PortResolver;
use super::snapshot::model::Snapshot;
use super::stdio::StdioTable;
use super::store::{Found, known};
use crate::process::ProcessTable;
use crate::units::{BootNs, Pid};

/// When something began that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// When.
    pub born: Born,
    /// The remote end of a connection: one socket may have several, one after the other. `None`: it is a listener.
    pub remote: Option<SocketAddr>,
}

/// All connections and listeners: it takes records and gives their events.
#[derive(Debug)]
pub struct FlowTable {
    pub(super) connections: ConnectionTable,
    listeners: ListenerTable,
    devices: Devices,
    snapshots: SnapshotKeys,
    lookups: PortLookups,
    ids: Ids,
    /// Standard input and output of processes.
    pub stdio: StdioTable,
    /// Records of hooks that nobody knows.
    ignored: u64,
}

impl Default for FlowTable {
    fn default() -> Self {
        Self::new(FlowLimits::default())
    }
}

impl FlowTable {
    /// An empty table.
    pub fn new(limits: FlowLimits) -> Self {
        Self {
            connections: ConnectionTable::new(limits),
            listeners: ListenerTable::new(limits),
            devices: Devices::new(limits.held),
            snapshots: SnapshotKeys::default(),
            lookups: PortLookups::default(),
            ids: Ids::default(),
            stdio: StdioTable::default(),
            ignored: 0,
        }
    }

    /// Whether the records carry the cookies of sockets; without it they do.
    #[must_use]
    pub fn with_cookies(mut self, by_cookie: bool) -> Self {
        self.snapshots = SnapshotKeys::new(by_cookie);
        self
    }

    /// The counters.
    pub fn stats(&self) -> FlowStats {
        let (connections, listeners) = (&self.connections.stats, &self.listeners.stats);
        FlowStats {
            live: self.connections.store.live(),
            ended: self.connections.store.ended(),
            listeners: self.listeners.known.len(),
            held: self.connections.held() + self.listeners.held() + self.devices.waiting(),
            evicted: connections.evicted,
            connections_not_kept: connections.not_kept,
            listeners_not_kept: listeners.not_kept,
            released_early: connections.released_early
                + listeners.released_early
                + self.devices.released_early(),
            ends_missed: connections.ends_missed + listeners.ends_missed,
            second_ends: connections.second_ends,
            accepts_ignored: connections.accepts_ignored,
            accepts_inferred: connections.accepts_inferred,
            ignored: connections.ignored + listeners.ignored + self.ignored,
        }
    }

    /// The connection with this number, while it lives.
    pub fn connection(&self, id: ConnId) -> Option<ConnEvent> {
        self.connections.store.by_id(id.0).map(|conn| conn.event(&self.devices))
    }

    /// The connection of the socket with this key (`Sock::key`), while it lives.
    pub fn connection_of(&self, key: u64) -> Option<ConnEvent> {
        let store = &self.connections.store;
        match store.find_key(key) {
            Found::Live(place) if key != 0 => store.get(place).map(|conn| conn.event(&self.devices)),
            _ => None,
        }
    }

    /// When the connection or listener of the socket with this key (`Sock::key`) began, as lists have it: a connection when it was
    /// established. `None`: it is not followed, or not established yet.
    pub fn begun(&self, key: u64) -> Option<Begun> {
        if key == 0 {
            return None;
        }
        if let Some(listener) = self.listeners.known.get(key) {
            let born = listener.born.or_else(|| known(listener.since).map(Born::seen))?;
            return Some(Begun { born, remote: None });
        }
        let Found::Live(place) = self.connections.store.find_key(key) else { return None };
        let conn = self.connections.store.get(place).filter(|conn| conn.dead.is_none())?;
        let born = conn.born.or_else(|| known(conn.established).map(Born::seen))?;
        Some(Begun { born, remote: Some(conn.ends.remote()) })
    }

    /// Connections that are not followed any more although nothing reported their end: there was no room, or a record reported
    /// the beginning of one that the start-up snapshot had. Since the last call; at most about a thousand.
    pub fn take_forgotten(&mut self) -> Vec<ConnEvent> {
        self.connections.store.take_forgotten().iter().map(|conn| conn.event(&self.devices)).collect()
    }

    /// What is there now, as the change that made it so. Of a connection that nobody accepted yet there is nothing to
    /// report.
    pub fn existing(&self) -> impl Iterator<Item = Change> {
        let listeners =
            self.listeners.known.iter().map(|listener| Change::Listen(listener.event(&self.devices)));
        let connections =
            self.connections.store.iter().filter(|(_, conn)| !conn.waits() && conn.dead.is_none());
        listeners.chain(connections.map(|(_, conn)| match conn.direction {
            Direction::In => Change::Accept(conn.event(&self.devices)),
            Direction::Out if conn.connecting() => Change::Connect(conn.event(&self.devices)),
            Direction::Out | Direction::Unknown => Change::Established(conn.event(&self.devices)),
        }))
    }

    /// The ids of the processes that own connections.
    pub fn owners(&self) -> impl Iterator<Item = Pid> {
        self.connections.store.iter().filter_map(|(_, conn)| Some(conn.owner.process.as_ref()?.pid))
    }

    /// Follows one record and appends what it reports. Records must come in the order of the ring. Process records are
    /// the process table's: they are ignored here.
    #[inline]
    pub fn on_record(&mut self, record: &Record<'_>, procs: &mut ProcessTable, out: &mut Vec<FlowEvent>) {
        let first = out.len();
        match record {
            Record::Connect(sock) => {
                let Some(at) = self.begins(&sock.header, &sock.sock, &sock.task, procs) else { return };
                self.of_connection(at, procs, out).connect(sock);
            }
            Record::Accept(sock) => {
                let Some(at) = self.begins(&sock.header, &sock.sock, &sock.task, procs) else { return };
                self.of_connection(at, procs, out).accept(sock);
            }
            Record::Established(sock) => {
                let Some(at) = self.at(&sock.header) else { return };
                // No event of an incoming one comes before its accept, whose record says whom to ask.
                if is_active(sock) {
                    self.devices.seen_later(&sock.sock, None, at.boot);
                }
                self.of_connection(at, procs, out).established(sock);
            }
            Record::Close(sock) => {
                let Some(at) = self.goes_on(&sock.header, &sock.sock, &sock.task) else { return };
                self.of_connection(at, procs, out).close(sock);
            }
            Record::End(sock) => {
                let Some(at) = self.goes_on(&sock.header, &sock.sock, &sock.task) else { return };
                self.of_connection(at, procs, out).end(sock);
            }
            Record::Listen(sock) => {
                let Some(at) = self.begins(&sock.header, &sock.sock, &sock.task, procs) else { return };
                self.of_listener(at, procs, out).listen(sock);
            }
            Record::Unlisten(sock) => {
                let Some(at) = self.goes_on(&sock.header, &sock.sock, &sock.task) else { return };
                self.of_listener(at, procs, out).unlisten(sock);
            }
            Record::Fork(_) | Record::Exec(..) | Record::Exit(_) => return,
        }
        self.devices.keep_back(first, out);
    }

    fn of_connection<'a>(
        &'a mut self,
        at: At,
        procs: &'a mut ProcessTable,
        out: &'a mut Vec<FlowEvent>,
    ) -> ConnectionRecords<'a> {
        let emitter = Emitter::new(&mut self.ids, &self.devices, out);
        let cx = Context { listeners: &mut self.listeners, emitter };
        ConnectionRecords { at, connections: &mut self.connections, cx, snapshots: &self.snapshots, procs }
    }

    fn of_listener<'a>(
        &'a mut self,
        at: At,
        procs: &'a mut ProcessTable,
        out: &'a mut Vec<FlowEvent>,
    ) -> ListenerRecords<'a> {
        ListenerRecords {
            at,
            listeners: &mut self.listeners,
            emitter: Emitter::new(&mut self.ids, &self.devices, out),
            keys: &mut self.connections.store,
            snapshots: &self.snapshots,
            procs,
        }
    }

    /// When and where a record was written that begins something; takes note of the interface that its socket is bound to.
    #[inline]
    fn begins(
        &mut self,
        header: &RecordHeader,
        sock: &Sock,
        task: &Task,
        procs: &mut ProcessTable,
    ) -> Option<At> {
        let at = self.at(header)?;
        self.devices.seen_first(sock, task, at.boot, procs);
        Some(at)
    }

    /// When and where a record was written that begins nothing; takes note of the interface that its socket is bound to.
    #[inline]
    fn goes_on(&mut self, header: &RecordHeader, sock: &Sock, task: &Task) -> Option<At> {
        let at = self.at(header)?;
        self.devices.seen_later(sock, Some(task), at.boot);
        Some(at)
    }

    #[inline]
    fn at(&mut self, header: &RecordHeader) -> Option<At> {
        let hook = HookId::from_number(header.hook);
        if hook.is_none() {
            self.ignored += 1;
        }
        Some(At { boot: BootNs(header.boot_ns), hook: hook? })
    }

    /// When [`FlowTable::poll_pending`] has something to do, at the latest. `None`: nothing waits.
    pub fn next_deadline(&self) -> Option<BootNs> {
        let lookup =
            [self.connections.next_lookup(), self.listeners.next_lookup()].into_iter().flatten().min();
        let lookup = lookup.map(|due| self.lookups.at(due));
        [lookup, self.connections.next_end(), self.devices.due()].into_iter().flatten().min()
    }

    /// Reports what has waited long enough by `now`, with the ports that the resolver finds. To be called when
    /// [`FlowTable::next_deadline`] has come and the ring is drained: a record that is still in it may be the answer.
    pub fn poll_pending(&mut self, now: BootNs, resolver: &mut dyn PortResolver, out: &mut Vec<FlowEvent>) {
        let first = out.len();
        if self.devices.due().is_some_and(|due| due <= now) {
            let answers = resolver.devices(&self.devices.queries());
            self.devices.took(now, resolver.took(), SHARE);
            self.devices.settle(answers, out);
        }
        let emitter = Emitter::new(&mut self.ids, &self.devices, out);
        let mut cx = Context { listeners: &mut self.listeners, emitter };
        self.lookups.run(now, resolver, &mut self.connections, &mut cx);
        self.connections.release_ends(now, &mut cx);
        self.devices.keep_back(first, out);
    }

    /// Takes in what was there when the agent started. Nothing is reported: none of it happens now. To be called after the
    /// attach and before the first record.
    pub fn merge_start(&mut self, snapshot: Snapshot, procs: &mut ProcessTable) -> Merged {
        self.devices.found_all(&snapshot);
        self.merge(procs, &mut Vec::new()).start(snapshot)
    }

    /// Repairs the table after records were lost, and reports what was missed, marked [`Source::Resync`](super::model::Source::Resync).
    /// To be called when the records from before the end of the snapshot are handled. `pause` is called now and then, for what must
    /// not wait for all of it.
    pub fn merge_repair(
        &mut self,
        snapshot: &Snapshot,
        procs: &mut ProcessTable,
        pause: &mut dyn FnMut(),
        out: &mut Vec<FlowEvent>,
    ) -> Merged {
        let first = out.len();
        self.devices.found_all(snapshot);
        let merged = self.merge(procs, out).repair(snapshot, pause);
        self.devices.keep_back(first, out);
        merged
    }

    fn merge<'a>(&'a mut self, procs: &'a mut ProcessTable, out: &'a mut Vec<FlowEvent>) -> Merge<'a> {
        Merge {
            connections: &mut self.connections,
            listeners: &mut self.listeners,
            emitter: Emitter::new(&mut self.ids, &self.devices, out),
            snapshots: &mut self.snapshots,
            stdio: &mut self.stdio,
            procs,
            merged: Merged::default(),
        }
    }
}

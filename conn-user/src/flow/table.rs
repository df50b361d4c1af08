//! The flow table: records in, events of connections and listeners out.
//!
//! What each record means, and why, is in kernel.md sections 3 to 6. In short: a socket is named by its key and may
//! carry one connection after the other; the first end of each counts; who acts is known only where the kernel ran
//! the hook in the actor's context.

use std::net::SocketAddr;
use std::sync::Arc;

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{
    EstablishedRecord, RecordHeader, Sock, SockEndRecord, SockFlags, SockRecord, Task,
};

use super::devices::Devices;
use super::ends::{AF_INET6, Ends, transport};
use super::how::{self, state};
use super::life::{End, EndState};
use super::listeners::{Listeners, Owners};
use super::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, FlowEvent, Method, Source, Transport,
    UnknownReason,
};
use super::pending::{HeldConnect, HeldDeath, Pending};
use super::resolve::PortQuery;
use super::stdio::StdioTable;
use super::store::{Conn, Found, Store};
use crate::process::ProcessTable;
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, DurationNs, NetNs, Pid};

/// Bounds and hold times of a [`FlowTable`].
#[derive(Clone, Copy, Debug)]
pub struct FlowLimits {
    /// Most connections that are followed at once.
    pub connections: usize,
    /// Most ended connections whose keys are remembered, so that a second end is dropped.
    pub ended: usize,
    /// Most listeners.
    pub listeners: usize,
    /// Most events that wait, of each kind.
    pub held: usize,
    /// How long a connect or listen waits for its port.
    pub port_hold: DurationNs,
    /// How long an end waits for the accept of a connection that died in the accept queue.
    pub accept_hold: DurationNs,
}

impl FlowLimits {
    /// Listeners that wait are looked through one by one: few.
    pub(super) fn held_listens(&self) -> usize {
        self.held.min(1024)
    }
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            connections: 1 << 20,
            ended: 1 << 16,
            listeners: 1 << 16,
            held: 1 << 16,
            port_hold: DurationNs(20_000_000),
            accept_hold: DurationNs(100_000_000),
        }
    }
}

/// Counters of a [`FlowTable`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Connections that live.
    pub live: usize,
    /// Ended connections whose keys are remembered.
    pub ended: usize,
    /// Listeners.
    pub listeners: usize,
    /// Events that wait.
    pub held: usize,
    /// Connections that were dropped because a limit was reached; what comes of them later is reported as late.
    pub evicted: u64,
    /// Connections of snapshots that are not followed: limit reached.
    pub connections_not_kept: u64,
    /// Listeners that were reported or found but not remembered: limit reached.
    pub listeners_not_kept: u64,
    /// Events that were reported before their hold time was over: limit reached.
    pub released_early: u64,
    /// Connections whose end was never seen: another one began under their key.
    pub ends_missed: u64,
    /// Ends of connections that had ended before: expected, a connection ends at several hooks.
    pub second_ends: u64,
    /// Accept records that named no connection that waits.
    pub accepts_ignored: u64,
    /// Accepts that no hook named, inferred when the connection ended.
    pub accepts_inferred: u64,
    /// Records that say nothing new or cannot be.
    pub ignored: u64,
}

/// All connections and listeners: it takes records and gives their events.
#[derive(Debug)]
pub struct FlowTable {
    pub(super) store: Store,
    pub(super) listeners: Listeners,
    pub(super) pending: Pending,
    pub(super) devices: Devices,
    pub(super) limits: FlowLimits,
    pub(super) stats: FlowStats,
    /// When the start-up snapshot was complete: records until then may report what it has.
    pub(super) snapshot_until: BootNs,
    /// Records carry cookies; else kernel addresses, which no snapshot has.
    pub(super) by_cookie: bool,
    /// Sockets of snapshots that came without a cookie: how many keys were made up.
    pub(super) synthetic_keys: u64,
    /// Standard input and output of processes.
    pub stdio: StdioTable,
    last_id: u64,
}

impl Default for FlowTable {
    fn default() -> Self {
        Self::new(FlowLimits::default())
    }
}

pub(super) const KERNEL: Actor =
    Actor { process: None, tid: None, method: Method::Unknown(UnknownReason::Kernel) };
pub(super) const BEFORE_ATTACH: Actor =
    Actor { process: None, tid: None, method: Method::Unknown(UnknownReason::BeforeAttach) };
pub(super) const NEVER_ACCEPTED: Actor =
    Actor { process: None, tid: None, method: Method::Unknown(UnknownReason::NeverAccepted) };
pub(super) const BACKEND: Actor =
    Actor { process: None, tid: None, method: Method::Unknown(UnknownReason::Backend) };
pub(super) const LOST: Actor =
    Actor { process: None, tid: None, method: Method::Unknown(UnknownReason::Lost) };

/// When and where a record was written.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) boot: BootNs,
    pub(super) hook: HookId,
}

impl FlowTable {
    /// An empty table.
    pub fn new(limits: FlowLimits) -> Self {
        Self {
            store: Store::new(limits.connections, limits.ended),
            listeners: Listeners::default(),
            pending: Pending::default(),
            devices: Devices::default(),
            limits,
            stats: FlowStats::default(),
            snapshot_until: BootNs(0),
            by_cookie: true,
            synthetic_keys: 0,
            stdio: StdioTable::default(),
            last_id: 0,
        }
    }

    /// Whether the records carry the cookies of sockets; without it they do.
    #[must_use]
    pub const fn with_cookies(mut self, by_cookie: bool) -> Self {
        self.by_cookie = by_cookie;
        self
    }

    /// The counters.
    pub fn stats(&self) -> FlowStats {
        FlowStats {
            live: self.store.live(),
            ended: self.store.ended(),
            listeners: self.listeners.len(),
            held: self.pending.len() + self.devices.waiting(),
            ..self.stats
        }
    }

    /// The connection with this number, while it lives.
    pub fn connection(&self, id: ConnId) -> Option<ConnEvent> {
        self.store.by_id(id.0).map(|conn| conn.event(&self.devices))
    }

    /// The connection of the socket with this key (`Sock::key`), while it lives.
    pub fn connection_of(&self, key: u64) -> Option<ConnEvent> {
        match self.store.find_key(key) {
            Found::Live(place) if key != 0 => self.store.get(place).map(|conn| conn.event(&self.devices)),
            _ => None,
        }
    }

    /// Connections that are not followed any more although nothing reported their end: there was no room, or a record reported
    /// the beginning of one that the start-up snapshot had. Since the last call; at most about a thousand.
    pub fn take_forgotten(&mut self) -> Vec<ConnEvent> {
        self.store.take_forgotten().iter().map(|conn| conn.event(&self.devices)).collect()
    }

    /// What is there now, as the change that made it so. Of a connection that nobody accepted yet there is nothing to
    /// report.
    pub fn existing(&self) -> impl Iterator<Item = Change> {
        let listeners = self.listeners.iter().map(|listener| Change::Listen(listener.event(&self.devices)));
        let connections =
            self.store.iter().filter(|(_, conn)| !conn.waits() && conn.dead.is_none()).map(|(_, conn)| {
                match conn.direction {
                    Direction::In => Change::Accept(conn.event(&self.devices)),
                    Direction::Out if conn.connecting() => Change::Connect(conn.event(&self.devices)),
                    Direction::Out | Direction::Unknown => Change::Established(conn.event(&self.devices)),
                }
            });
        listeners.chain(connections)
    }

    /// The ids of the processes that own connections.
    pub fn owners(&self) -> impl Iterator<Item = Pid> {
        self.store.iter().filter_map(|(_, conn)| Some(conn.owner.process.as_ref()?.pid))
    }

    /// Follows one record and appends what it reports. Records must come in the order of the ring. Process records are
    /// the process table's: they are ignored here.
    #[inline]
    pub fn on_record(&mut self, record: &Record<'_>, procs: &mut ProcessTable, out: &mut Vec<FlowEvent>) {
        let first = out.len();
        match record {
            Record::Connect(record) => self.on_connect(record, procs, out),
            Record::Established(record) => self.on_established(record, out),
            Record::Accept(record) => self.on_accept(record, procs, out),
            Record::Close(record) => self.on_close(record, procs, out),
            Record::End(record) => self.on_end(record, procs, out),
            Record::Listen(record) => self.on_listen(record, procs, out),
            Record::Unlisten(record) => self.on_unlisten(record, procs, out),
            Record::Fork(_) | Record::Exec(..) | Record::Exit(_) => {}
        }
        self.keep_back(first, out);
    }

    /// Takes note of the interface that the socket of a beginning is bound to, if it is.
    #[inline]
    pub(super) fn note_device(&mut self, sock: &Sock, task: &Task, at: At, procs: &mut ProcessTable) {
        if sock.device != 0 {
            // The process may be gone soon; in a container its ancestors are in the same namespace.
            let pids = || {
                let process = procs.resolve(task, at.boot);
                [process.pid].into_iter().chain(process.ancestors.iter().map(|above| above.pid)).collect()
            };
            self.devices.seen((sock.netns, sock.device), at.boot, true, pids);
        }
    }

    /// Takes note of the interface in a record that begins nothing.
    #[inline]
    pub(super) fn note_device_later(&mut self, sock: &Sock, task: Option<&Task>, at: At) {
        if sock.device != 0 {
            let pids = || task.map(|task| Pid(task.tgid)).into_iter().collect();
            self.devices.seen((sock.netns, sock.device), at.boot, false, pids);
        }
    }

    /// The connection of this socket. Where the key is an address, one whose end was lost may be found with the ends of another:
    /// it is over.
    #[inline]
    fn find(&mut self, sock: &Sock, boot: BootNs, out: &mut Vec<FlowEvent>) -> Found {
        let found = self.store.find(sock);
        if sock.flags & SockFlags::ADDRESS_KEY == 0 {
            return found;
        }
        let Found::Live(place) = found else { return found };
        if !self.store.get(place).is_some_and(|conn| conn.ends.contradict(&Ends::of(sock))) {
            return found;
        }
        self.supersede(place, boot, out);
        match self.store.find(sock) {
            // A repair has found the one that is there now.
            Found::Live(place) => Found::Live(place),
            Found::Ended { .. } | Found::Unknown => Found::Unknown,
        }
    }

    fn on_connect(&mut self, record: &SockRecord, procs: &mut ProcessTable, out: &mut Vec<FlowEvent>) {
        let Some(at) = self.at(&record.header) else { return };
        let sock = &record.sock;
        self.note_device(sock, &record.task, at, procs);
        if let Found::Live(place) = self.find(sock, at.boot, out) {
            // A backup program repeats what was reported when a preemption came between the two programs.
            if at.hook.is_backup() {
                return;
            }
            if self.is_superseded(place, at.boot) {
                self.store.forget(place);
            } else if let Some(source) = self.found_first(place, sock) {
                if source == Source::Resync {
                    self.adopt_connect(place, hook_actor(at, &record.task, procs), at.boot);
                    return;
                }
                self.store.forget(place);
            } else {
                self.supersede(place, at.boot, out);
            }
        }
        let mut ends = Ends::of(sock);
        if sock.flags & SockFlags::PORT_PENDING != 0 {
            ends.lport = 0;
        }
        let pending = ends.lport == 0 || ends.laddr.is_unspecified();
        let id = self.next_id();
        let conn = Conn {
            begun: at.boot,
            owner: hook_actor(at, &record.task, procs),
            held: pending,
            ends,
            ..Conn::new(id, sock, Direction::Out, Source::Live)
        };
        let place = self.insert(conn, out);
        if pending {
            let query = PortQuery {
                pid: Pid(record.task.tgid),
                netns: NetNs(sock.netns),
                cookie: 0,
                inode: sock.inode,
                v6: sock.family == AF_INET6,
                local: None,
                remote: Some(ends.remote()),
            };
            self.hold_connect(HeldConnect { until: self.after_hold(at.boot), place, id, query }, out);
        } else if let Some(conn) = self.store.get(place) {
            out.push(FlowEvent { boot: at.boot, change: Change::Connect(conn.event(&self.devices)) });
        }
    }

    fn on_established(&mut self, record: &EstablishedRecord, out: &mut Vec<FlowEvent>) {
        let Some(at) = self.at(&record.header) else { return };
        let sock = &record.sock;
        let active = sock.old_state == state::SYN_SENT;
        // No event of an incoming one comes before its accept, whose record says whom to ask.
        if active {
            self.note_device_later(sock, None, at);
        }
        let found = self.find(sock, at.boot, out);
        if at.hook.is_backup() && matches!(found, Found::Ended { .. }) {
            // It repeats, late, what was reported a connection that is over.
            self.stats.ignored += 1;
            return;
        }
        if let Found::Live(place) = found {
            let superseded = self.is_superseded(place, at.boot);
            let Some(conn) = self.store.get_mut(place) else { return };
            // Of one that is superseded the connect was before the attach.
            if conn.connecting() || (superseded && active) {
                conn.ends.overwrite(&Ends::of(sock));
                conn.bind(sock);
                self.emit_connect(place, out);
                if let Some(conn) = self.store.get_mut(place) {
                    conn.established = at.boot;
                    conn.born = None;
                    out.push(FlowEvent {
                        boot: at.boot,
                        change: Change::Established(conn.event(&self.devices)),
                    });
                }
                return;
            }
            if superseded {
                self.store.forget(place);
            } else {
                if conn.direction == Direction::In && !active && conn.established.0 == 0 {
                    // Accepted with data in the SYN (TCP Fast Open), before the handshake was complete.
                    if conn.source == Source::Live {
                        conn.established = at.boot;
                    }
                    return;
                }
                let repeats = conn.waits() && !active && sock.flags & SockFlags::ADDRESS_KEY == 0;
                if repeats || at.hook.is_backup() {
                    self.stats.ignored += 1;
                    return;
                }
                self.supersede(place, at.boot, out);
            }
        }
        let id = self.next_id();
        let direction = if active { Direction::Out } else { Direction::In };
        let source = if active { Source::Late } else { Source::Live };
        let owner = if active { BEFORE_ATTACH } else { NEVER_ACCEPTED };
        let listener = if active {
            None
        } else {
            self.listener_of(sock.netns, Ends::of(sock).local(), sock.device, None)
        };
        let conn = Conn { established: at.boot, owner, listener, ..Conn::new(id, sock, direction, source) };
        let place = self.insert(conn, out);
        if active && let Some(conn) = self.store.get(place) {
            out.push(FlowEvent { boot: at.boot, change: Change::Established(conn.event(&self.devices)) });
        }
    }

    fn on_accept(&mut self, record: &SockRecord, procs: &mut ProcessTable, out: &mut Vec<FlowEvent>) {
        let Some(at) = self.at(&record.header) else { return };
        let sock = &record.sock;
        self.note_device(sock, &record.task, at, procs);
        // The first two read the descriptor after the call, when another thread may have replaced it; a backup program may
        // repeat what was reported.
        let doubtful =
            matches!(at.hook, HookId::SysExitAccept | HookId::SysExitAccept4) || at.hook.is_backup();
        let by_address = sock.flags & SockFlags::ADDRESS_KEY != 0;
        let begins_anew = by_address && !doubtful;
        match self.find(sock, at.boot, out) {
            Found::Live(place) => {
                if self.store.get(place).is_some_and(Conn::waits) || self.is_superseded(place, at.boot) {
                    self.accept(place, sock, hook_actor(at, &record.task, procs), at.boot, out);
                    return;
                }
                if !begins_anew {
                    self.stats.accepts_ignored += 1;
                    return;
                }
                self.supersede(place, at.boot, out);
            }
            Found::Ended { id, acceptable: true } => {
                // It died in the accept queue, its end is reported, and now somebody takes it.
                let owner = hook_actor(at, &record.task, procs);
                self.accept_ended(id, sock, owner, at.boot, out);
                return;
            }
            // A child of TCP Fast Open is accepted in SYN_RECV, which none that has ended is in: its address is that of an
            // earlier socket.
            Found::Ended { .. } if !begins_anew && sock.old_state != state::SYN_RECV => {
                self.stats.accepts_ignored += 1;
                return;
            }
            Found::Ended { .. } => {}
            Found::Unknown => {
                if doubtful && matches!(sock.old_state, state::SYN_SENT | state::LISTEN | state::CLOSE) {
                    self.stats.accepts_ignored += 1;
                    return;
                }
            }
        }
        let owner = hook_actor(at, &record.task, procs);
        // With TCP Fast Open an accept comes before the handshake is complete; else it was complete before the attach.
        let source = if sock.old_state == state::SYN_RECV { Source::Live } else { Source::Late };
        let id = self.next_id();
        let place = self.insert(Conn::new(id, sock, Direction::In, source), out);
        self.store.alias(sock);
        self.accept(place, sock, owner, at.boot, out);
        if sock.old_state == state::CLOSE {
            // Its end was before the attach or was lost.
            let how = how::closed(sock);
            self.finish(place, End { at: at.boot, how, errno: sock.err, closer: KERNEL, traffic: None }, out);
        }
    }

    fn on_close(&mut self, record: &SockEndRecord, procs: &mut ProcessTable, out: &mut Vec<FlowEvent>) {
        let Some(at) = self.at(&record.header) else { return };
        let sock = &record.sock;
        self.note_device_later(sock, Some(&record.task), at);
        let traffic = how::traffic(sock, &record.counters);
        match self.find(sock, at.boot, out) {
            Found::Ended { .. } => self.stats.second_ends += 1,
            Found::Unknown => match sock.old_state {
                state::CLOSE | state::LISTEN => self.stats.ignored += 1,
                state::SYN_SENT => {
                    let mut owner = hook_actor(at, &record.task, procs);
                    owner.method = Method::Closer;
                    self.fail_unseen(sock, owner, 0, at.boot, out);
                }
                _ => {
                    let closer = hook_actor(at, &record.task, procs);
                    let end =
                        End { at: at.boot, how: how::closed(sock), errno: errno_of(sock), closer, traffic };
                    self.finish_unseen(sock, end, out);
                }
            },
            Found::Live(place) => {
                let closer = hook_actor(at, &record.task, procs);
                let Some(conn) = self.store.get_mut(place) else { return };
                conn.learn(sock);
                if conn.connecting() && matches!(sock.old_state, state::SYN_SENT | state::SYN_RECV) {
                    self.fail(place, 0, at.boot, out);
                    return;
                }
                self.infer_accept(place, closer.process.as_ref(), at.boot, out);
                if !self.finish_dead(place, out) {
                    let end =
                        End { at: at.boot, how: how::closed(sock), errno: errno_of(sock), closer, traffic };
                    self.finish(place, end, out);
                }
            }
        }
    }

    fn on_end(&mut self, record: &SockEndRecord, procs: &mut ProcessTable, out: &mut Vec<FlowEvent>) {
        let Some(at) = self.at(&record.header) else { return };
        let sock = &record.sock;
        self.note_device_later(sock, Some(&record.task), at);
        match self.find(sock, at.boot, out) {
            Found::Ended { .. } => self.stats.second_ends += 1,
            Found::Unknown => self.end_unseen(record, at, procs, out),
            Found::Live(place) => {
                let Some(conn) = self.store.get_mut(place) else { return };
                conn.learn(sock);
                if conn.connecting() && matches!(sock.old_state, state::SYN_SENT | state::SYN_RECV) {
                    self.fail(place, sock.err, at.boot, out);
                } else if sock.old_state == state::SYN_SENT {
                    self.supersede(place, at.boot, out);
                    self.end_unseen(record, at, procs, out);
                } else if conn.waits() {
                    self.end_waiting(place, record, at, procs, out);
                } else {
                    let end = end_of(record, at, procs);
                    self.finish(place, end, out);
                }
            }
        }
    }

    /// The end of an incoming connection of which no accept is known.
    fn end_waiting(
        &mut self,
        place: u32,
        record: &SockEndRecord,
        at: At,
        procs: &mut ProcessTable,
        out: &mut Vec<FlowEvent>,
    ) {
        let sock = &record.sock;
        let had_socket = sock.flags & SockFlags::HAS_SOCKET != 0;
        let end = end_of(record, at, procs);
        if sock.err != 0 {
            // A connection that is reset in the accept queue stays there: accept() returns it all the same. And where
            // accepts are reported by the system call's return, the reset may come before it.
            let Some(conn) = self.store.get_mut(place) else { return };
            if conn.dead.is_some() {
                self.stats.second_ends += 1;
                return;
            }
            let id = conn.id;
            conn.dead = Some(Box::new(EndState { end, had_socket }));
            let until = BootNs(at.boot.0.saturating_add(self.limits.accept_hold.0));
            self.hold_death(HeldDeath { until, place, id }, out);
        } else if had_socket {
            self.infer_accept(place, end.closer.process.as_ref(), at.boot, out);
            self.finish(place, end, out);
        } else {
            self.finish(place, End { how: EndedHow::NeverAccepted, closer: KERNEL, ..end }, out);
        }
    }

    /// An end on a socket of which nothing is known.
    fn end_unseen(
        &mut self,
        record: &SockEndRecord,
        at: At,
        procs: &mut ProcessTable,
        out: &mut Vec<FlowEvent>,
    ) {
        let sock = &record.sock;
        let whole = sock.shutdown == how::SHUTDOWN_BOTH;
        if sock.old_state == state::SYN_SENT {
            let owner = if sock.err == 0 {
                // In the actor's context: shut down whole, it is a close of perhaps another one's attempt; else the
                // attempt failed in its own system call, before a SYN (`tcp_v4_connect`).
                let mut owner = hook_actor(at, &record.task, procs);
                if whole {
                    owner.method = Method::Closer;
                }
                owner
            } else {
                BEFORE_ATTACH
            };
            self.fail_unseen(sock, owner, sock.err, at.boot, out);
            return;
        }
        let end = end_of(record, at, procs);
        if sock.flags & SockFlags::HAS_SOCKET == 0 {
            // An orphan whose close was reported, or was before the attach; or a handshake that never completed.
            if whole || sock.old_state == state::SYN_RECV {
                self.stats.second_ends += 1;
                return;
            }
            self.finish_unseen(sock, End { how: EndedHow::NeverAccepted, closer: KERNEL, ..end }, out);
            return;
        }
        if sock.flags & SockFlags::IN_CLOSE != 0 || end.how == EndedHow::LocalReset {
            // Inside a close, which has its own record.
            self.stats.second_ends += 1;
            return;
        }
        self.finish_unseen(sock, end, out);
    }

    pub(super) fn at(&mut self, header: &RecordHeader) -> Option<At> {
        let hook = HookId::from_number(header.hook);
        if hook.is_none() {
            self.stats.ignored += 1;
        }
        Some(At { boot: BootNs(header.boot_ns), hook: hook? })
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn after_hold(&self, boot: BootNs) -> BootNs {
        BootNs(boot.0.saturating_add(self.limits.port_hold.0))
    }

    /// The owner of the listener, where it is one.
    pub(super) fn listener_of(
        &self,
        netns: u32,
        local: SocketAddr,
        device: u32,
        prefer: Option<&ProcessInfo>,
    ) -> Option<Arc<Actor>> {
        match self.listeners.owners(netns, local, device, prefer) {
            Owners::One(owner) => Some(owner),
            Owners::None | Owners::Several => None,
        }
    }
}

pub(super) fn hook_actor(at: At, task: &Task, procs: &mut ProcessTable) -> Actor {
    Actor {
        process: Some(procs.resolve(task, at.boot)),
        tid: Some(Pid(task.tid)),
        method: Method::Hook(at.hook),
    }
}

/// The error of a close: before the last transition it is the application's to read, not how the connection ended.
fn errno_of(sock: &Sock) -> u16 {
    if sock.new_state == state::CLOSE { sock.err } else { 0 }
}

fn end_of(record: &SockEndRecord, at: At, procs: &mut ProcessTable) -> End {
    let sock = &record.sock;
    let ended = how::ended(sock);
    // A worker of the kernel, or whoever gives up the lock, ends an MPTCP connection for the network, and sets the error
    // afterwards (`mptcp_worker`, `mptcp_release_cb`, `__mptcp_subflow_error_report` in net/mptcp/protocol.c).
    let closer = match (ended.by_task, transport(sock)) {
        (true, Transport::Mptcp) => BACKEND,
        (true, Transport::Tcp) => hook_actor(at, &record.task, procs),
        (false, _) => KERNEL,
    };
    End {
        at: at.boot,
        how: ended.how,
        errno: sock.err,
        closer,
        traffic: how::traffic(sock, &record.counters),
    }
}

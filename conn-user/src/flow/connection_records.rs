//! What the records of connections mean.
//!
//! Why is in kernel.md sections 3 to 6. In short: a socket is named by its key and may carry one connection after the other; the
//! first end of each counts; who acts is known only where the kernel ran the hook in the actor's context.

use conn_common::hook::HookId;
use conn_common::record::{EstablishedRecord, Sock, SockEndRecord, SockFlags, SockRecord};

use super::actors::{At, BEFORE_ATTACH, KERNEL, NEVER_ACCEPTED, hook_actor};
use super::connection_table::ConnectionTable;
use super::emitter::Context;
use super::ending::{End, EndState};
use super::ends::{AF_INET6, Ends};
use super::how::{self, state};
use super::merge::SnapshotKeys;
use super::model::{Change, Direction, EndedHow, Method, Source};
use super::resolve::PortQuery;
use super::store::{Conn, Found};
use crate::process::ProcessTable;
use crate::units::{NetNs, Pid};

/// Follows one record of a connection: the tables that it concerns, and when and where it was written.
pub(super) struct ConnectionRecords<'a> {
    pub(super) at: At,
    pub(super) connections: &'a mut ConnectionTable,
    pub(super) cx: Context<'a>,
    pub(super) snapshots: &'a SnapshotKeys,
    pub(super) procs: &'a mut ProcessTable,
}

impl ConnectionRecords<'_> {
    /// The connection of this socket. Where the key is an address, one whose end was lost may be found with the ends of another:
    /// it is over.
    #[inline]
    fn find(&mut self, sock: &Sock) -> Found {
        let found = self.connections.store.find(sock);
        if sock.flags & SockFlags::ADDRESS_KEY == 0 {
            return found;
        }
        let Found::Live(place) = found else { return found };
        let contradicts = |conn: &Conn| conn.ends.contradict(&Ends::of(sock));
        if !self.connections.store.get(place).is_some_and(contradicts) {
            return found;
        }
        self.supersede(place);
        match self.connections.store.find(sock) {
            // A repair has found the one that is there now.
            Found::Live(place) => Found::Live(place),
            Found::Ended { .. } | Found::Unknown => Found::Unknown,
        }
    }

    fn supersede(&mut self, place: u32) {
        self.connections.supersede(place, self.at.boot, &mut self.cx);
    }

    /// Whether this record may report the beginning of a connection that the start-up snapshot has, and of which no record has
    /// reported yet.
    fn is_superseded(&self, place: u32) -> bool {
        let is_unreported =
            |conn: &Conn| conn.source == Source::Snapshot && conn.established.0 == 0 && conn.accepted.0 == 0;
        self.snapshots.may_have(self.at.boot) && self.connections.store.get(place).is_some_and(is_unreported)
    }

    /// Whether a snapshot found the attempt that a connect record reports, and which one: `tcp_v4_connect` makes the socket
    /// visible (`inet_hash_connect`) before it calls `tcp_connect`, where the record is written; a preemption between the
    /// two may be longer than the rest of the snapshot.
    fn found_first(&self, place: u32, sock: &Sock) -> Option<Source> {
        let is_found = |conn: &&Conn| {
            matches!(conn.source, Source::Snapshot | Source::Resync)
                && conn.connecting()
                && conn.begun.0 == 0
                && conn.netns == sock.netns
                && conn.ends == Ends::of(sock)
        };
        self.connections.store.get(place).filter(is_found).map(|conn| conn.source)
    }

    pub(super) fn connect(&mut self, record: &SockRecord) {
        let (at, sock) = (self.at, &record.sock);
        if let Found::Live(place) = self.find(sock) {
            // A backup program repeats what was reported when a preemption came between the two programs.
            if at.hook.is_backup() {
                return;
            }
            if self.is_superseded(place) {
                self.connections.store.forget(place);
            } else if let Some(source) = self.found_first(place, sock) {
                if source == Source::Resync {
                    // A repair has reported the attempt already.
                    let owner = hook_actor(at, &record.task, self.procs);
                    if let Some(conn) = self.connections.store.get_mut(place) {
                        conn.begun = at.boot;
                        conn.owner = owner;
                    }
                    return;
                }
                self.connections.store.forget(place);
            } else {
                self.supersede(place);
            }
        }
        let mut ends = Ends::of(sock);
        if sock.flags & SockFlags::PORT_PENDING != 0 {
            ends.lport = 0;
        }
        let pending = ends.lport == 0 || ends.laddr.is_unspecified();
        let id = self.cx.emitter.next_id();
        let conn = Conn {
            begun: at.boot,
            owner: hook_actor(at, &record.task, self.procs),
            held: pending,
            ends,
            ..Conn::new(id, sock, Direction::Out, Source::Live)
        };
        let place = self.connections.insert(conn, &mut self.cx);
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
            self.connections.hold_connect(place, id, at.boot, query, &mut self.cx.emitter);
        } else if let Some(conn) = self.connections.store.get(place) {
            self.cx.emitter.conn(at.boot, conn, Change::Connect);
        }
    }

    pub(super) fn established(&mut self, record: &EstablishedRecord) {
        let (at, sock) = (self.at, &record.sock);
        let active = is_active(record);
        let found = self.find(sock);
        if at.hook.is_backup() && matches!(found, Found::Ended { .. }) {
            // It repeats, late, what was reported a connection that is over.
            self.connections.stats.ignored += 1;
            return;
        }
        if let Found::Live(place) = found {
            let superseded = self.is_superseded(place);
            let Some(conn) = self.connections.store.get_mut(place) else { return };
            // Of one that is superseded the connect was before the attach.
            if conn.connecting() || (superseded && active) {
                conn.ends.overwrite(&Ends::of(sock));
                conn.bind(sock);
                self.connections.emit_connect(place, &mut self.cx.emitter);
                if let Some(conn) = self.connections.store.get_mut(place) {
                    conn.established = at.boot;
                    conn.born = None;
                    self.cx.emitter.conn(at.boot, conn, Change::Established);
                }
                return;
            }
            if superseded {
                self.connections.store.forget(place);
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
                    self.connections.stats.ignored += 1;
                    return;
                }
                self.supersede(place);
            }
        }
        let id = self.cx.emitter.next_id();
        let (direction, source, owner, listener) = if active {
            (Direction::Out, Source::Late, BEFORE_ATTACH, None)
        } else {
            let local = Ends::of(sock).local();
            let listener = self.cx.listeners.one_owner(sock.netns, local, sock.device, None);
            (Direction::In, Source::Live, NEVER_ACCEPTED, listener)
        };
        let conn = Conn { established: at.boot, owner, listener, ..Conn::new(id, sock, direction, source) };
        let place = self.connections.insert(conn, &mut self.cx);
        if active && let Some(conn) = self.connections.store.get(place) {
            self.cx.emitter.conn(at.boot, conn, Change::Established);
        }
    }

    pub(super) fn accept(&mut self, record: &SockRecord) {
        let (at, sock) = (self.at, &record.sock);
        // The first two read the descriptor after the call, when another thread may have replaced it; a backup program may
        // repeat what was reported.
        let doubtful =
            matches!(at.hook, HookId::SysExitAccept | HookId::SysExitAccept4) || at.hook.is_backup();
        let by_address = sock.flags & SockFlags::ADDRESS_KEY != 0;
        let begins_anew = by_address && !doubtful;
        match self.find(sock) {
            Found::Live(place) => {
                if self.connections.store.get(place).is_some_and(Conn::waits) || self.is_superseded(place) {
                    let owner = hook_actor(at, &record.task, self.procs);
                    self.connections.accept(place, sock, owner, at.boot, &mut self.cx);
                    return;
                }
                if !begins_anew {
                    self.connections.stats.accepts_ignored += 1;
                    return;
                }
                self.supersede(place);
            }
            Found::Ended { id, acceptable: true } => {
                // It died in the accept queue, its end is reported, and now somebody takes it.
                let owner = hook_actor(at, &record.task, self.procs);
                self.connections.accept_ended(id, sock, owner, at.boot, &mut self.cx);
                return;
            }
            // A child of TCP Fast Open is accepted in SYN_RECV, which none that has ended is in: its address is that of an
            // earlier socket.
            Found::Ended { .. } if !begins_anew && sock.old_state != state::SYN_RECV => {
                self.connections.stats.accepts_ignored += 1;
                return;
            }
            Found::Ended { .. } => {}
            Found::Unknown => {
                if doubtful && matches!(sock.old_state, state::SYN_SENT | state::LISTEN | state::CLOSE) {
                    self.connections.stats.accepts_ignored += 1;
                    return;
                }
            }
        }
        let owner = hook_actor(at, &record.task, self.procs);
        // With TCP Fast Open an accept comes before the handshake is complete; else it was complete before the attach.
        let source = if sock.old_state == state::SYN_RECV { Source::Live } else { Source::Late };
        let id = self.cx.emitter.next_id();
        let place = self.connections.insert(Conn::new(id, sock, Direction::In, source), &mut self.cx);
        self.connections.store.alias(sock);
        self.connections.accept(place, sock, owner, at.boot, &mut self.cx);
        if sock.old_state == state::CLOSE {
            // Its end was before the attach or was lost.
            let how = how::closed(sock);
            let end = End { at: at.boot, how, errno: sock.err, closer: KERNEL, traffic: None };
            self.connections.finish(place, end, &mut self.cx.emitter);
        }
    }

    pub(super) fn close(&mut self, record: &SockEndRecord) {
        let (at, sock) = (self.at, &record.sock);
        match self.find(sock) {
            Found::Ended { .. } => self.connections.stats.second_ends += 1,
            Found::Unknown => match sock.old_state {
                state::CLOSE | state::LISTEN => self.connections.stats.ignored += 1,
                state::SYN_SENT => {
                    let mut owner = hook_actor(at, &record.task, self.procs);
                    owner.method = Method::Closer;
                    self.connections.fail_unseen(sock, owner, 0, at.boot, &mut self.cx.emitter);
                }
                _ => {
                    let closer = hook_actor(at, &record.task, self.procs);
                    let end = End::of_close(record, at.boot, closer);
                    self.connections.finish_unseen(sock, end, &mut self.cx);
                }
            },
            Found::Live(place) => {
                let closer = hook_actor(at, &record.task, self.procs);
                let Some(conn) = self.connections.store.get_mut(place) else { return };
                conn.learn(sock);
                if conn.connecting() && matches!(sock.old_state, state::SYN_SENT | state::SYN_RECV) {
                    self.connections.fail(place, 0, at.boot, &mut self.cx.emitter);
                    return;
                }
                self.connections.infer_accept(place, closer.process.as_ref(), at.boot, &mut self.cx);
                if !self.connections.finish_held(place, &mut self.cx) {
                    let end = End::of_close(record, at.boot, closer);
                    self.connections.finish(place, end, &mut self.cx.emitter);
                }
            }
        }
    }

    pub(super) fn end(&mut self, record: &SockEndRecord) {
        let (at, sock) = (self.at, &record.sock);
        match self.find(sock) {
            Found::Ended { .. } => self.connections.stats.second_ends += 1,
            Found::Unknown => self.end_unseen(record),
            Found::Live(place) => {
                let Some(conn) = self.connections.store.get_mut(place) else { return };
                conn.learn(sock);
                if conn.connecting() && matches!(sock.old_state, state::SYN_SENT | state::SYN_RECV) {
                    self.connections.fail(place, sock.err, at.boot, &mut self.cx.emitter);
                } else if sock.old_state == state::SYN_SENT {
                    self.supersede(place);
                    self.end_unseen(record);
                } else if conn.waits() {
                    self.end_waiting(place, record);
                } else {
                    let end = End::of_transition(record, at, self.procs);
                    self.connections.finish(place, end, &mut self.cx.emitter);
                }
            }
        }
    }

    /// The end of an incoming connection of which no accept is known.
    fn end_waiting(&mut self, place: u32, record: &SockEndRecord) {
        let sock = &record.sock;
        let had_socket = sock.flags & SockFlags::HAS_SOCKET != 0;
        let end = End::of_transition(record, self.at, self.procs);
        if sock.err != 0 {
            // A connection that is reset in the accept queue stays there: accept() returns it all the same. And where
            // accepts are reported by the system call's return, the reset may come before it.
            if self.connections.store.get(place).is_some_and(|conn| conn.dead.is_some()) {
                self.connections.stats.second_ends += 1;
                return;
            }
            self.connections.hold_end(place, EndState { end, had_socket }, &mut self.cx);
        } else if had_socket {
            self.connections.infer_accept(place, end.closer.process.as_ref(), end.at, &mut self.cx);
            self.connections.finish(place, end, &mut self.cx.emitter);
        } else {
            let end = End { how: EndedHow::NeverAccepted, closer: KERNEL, ..end };
            self.connections.finish(place, end, &mut self.cx.emitter);
        }
    }

    /// An end on a socket of which nothing is known.
    fn end_unseen(&mut self, record: &SockEndRecord) {
        let (at, sock) = (self.at, &record.sock);
        let whole = sock.shutdown == how::SHUTDOWN_BOTH;
        if sock.old_state == state::SYN_SENT {
            let owner = if sock.err == 0 {
                // In the actor's context: shut down whole, it is a close of perhaps another one's attempt; else the
                // attempt failed in its own system call, before a SYN (`tcp_v4_connect`).
                let mut owner = hook_actor(at, &record.task, self.procs);
                if whole {
                    owner.method = Method::Closer;
                }
                owner
            } else {
                BEFORE_ATTACH
            };
            self.connections.fail_unseen(sock, owner, sock.err, at.boot, &mut self.cx.emitter);
            return;
        }
        let end = End::of_transition(record, at, self.procs);
        if sock.flags & SockFlags::HAS_SOCKET == 0 {
            // An orphan whose close was reported, or was before the attach; or a handshake that never completed.
            if whole || sock.old_state == state::SYN_RECV {
                self.connections.stats.second_ends += 1;
                return;
            }
            let end = End { how: EndedHow::NeverAccepted, closer: KERNEL, ..end };
            self.connections.finish_unseen(sock, end, &mut self.cx);
            return;
        }
        if sock.flags & SockFlags::IN_CLOSE != 0 || end.how == EndedHow::LocalReset {
            // Inside a close, which has its own record.
            self.connections.stats.second_ends += 1;
            return;
        }
        self.connections.finish_unseen(sock, end, &mut self.cx);
    }
}

/// Whether this end has begun the connection.
pub(super) const fn is_active(record: &EstablishedRecord) -> bool {
    record.sock.old_state == state::SYN_SENT
}

//! The connections, those that wait to be reported, and what happens to one: it is reported, accepted, failed, ended, superseded,
//! evicted.
//!
//! What waits: connects for their port, ends of connections in the accept queue for an accept. Each queue has one hold time, so its
//! order is that of its deadlines.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use conn_common::record::Sock;

use super::actors::{BACKEND, NEVER_ACCEPTED};
use super::emitter::{Context, Emitter};
use super::ending::{End, EndState};
use super::limits::{ConnectionStats, FlowLimits};
use super::listeners::Owners;
use super::model::{Actor, Change, Direction, EndedHow, Failure, Method, Source};
use super::resolve::PortQuery;
use super::store::{Conn, Store, known};
use crate::process::info::ProcessInfo;
use crate::units::BootNs;

/// A connect that is not reported yet.
#[derive(Clone, Debug)]
pub(super) struct HeldConnect {
    until: BootNs,
    place: u32,
    id: u64,
    pub(super) query: PortQuery,
}

/// A connection that ended unaccepted and is not reported yet.
#[derive(Clone, Copy, Debug)]
struct HeldEnd {
    until: BootNs,
    place: u32,
    id: u64,
}

/// All connections.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    pub(super) store: Store,
    connects: VecDeque<HeldConnect>,
    ends: VecDeque<HeldEnd>,
    limits: FlowLimits,
    pub(super) stats: ConnectionStats,
}

impl ConnectionTable {
    pub(super) fn new(limits: FlowLimits) -> Self {
        Self {
            store: Store::new(limits.connections, limits.ended),
            connects: VecDeque::new(),
            ends: VecDeque::new(),
            limits,
            stats: ConnectionStats::default(),
        }
    }

    /// How many events wait.
    pub(super) fn held(&self) -> usize {
        self.connects.len() + self.ends.len()
    }

    /// When the port of a connect has to be looked up, at the latest.
    pub(super) fn next_lookup(&self) -> Option<BootNs> {
        self.connects.front().map(|held| held.until)
    }

    /// When an end has waited long enough for an accept.
    pub(super) fn next_end(&self) -> Option<BootNs> {
        self.ends.front().map(|held| held.until)
    }

    /// Whether there is room for another connection of a snapshot. If not, that is counted: it is not followed.
    pub(super) fn has_room(&mut self) -> bool {
        let has_room = !self.store.is_full();
        if !has_room {
            self.stats.not_kept += 1;
        }
        has_room
    }

    /// Adds a connection, if need be in the place of another one.
    pub(super) fn insert(&mut self, conn: Conn, cx: &mut Context<'_>) -> u32 {
        if let Some(place) = self.store.eviction_candidate() {
            self.emit_connect(place, &mut cx.emitter);
            if !self.finish_held(place, cx) {
                self.store.forget(place);
            }
            self.stats.evicted += 1;
        }
        self.store.insert(conn)
    }

    /// Holds the connect of a connection until its port is known.
    pub(super) fn hold_connect(
        &mut self,
        place: u32,
        id: u64,
        at: BootNs,
        query: PortQuery,
        emitter: &mut Emitter<'_>,
    ) {
        self.connects.push_back(HeldConnect { until: self.limits.port_until(at), place, id, query });
        if self.connects.len() > self.limits.held
            && let Some(oldest) = self.connects.pop_front()
            && self.store.get_same(oldest.place, oldest.id).is_some_and(|conn| conn.held)
        {
            self.stats.released_early += 1;
            self.emit_connect(oldest.place, emitter);
        }
    }

    /// Takes out the connects whose port has to be looked up now.
    pub(super) fn take_lookups(&mut self, now: BootNs) -> Vec<HeldConnect> {
        let mut due = Vec::new();
        while let Some(held) = self.connects.pop_front_if(|held| held.until <= now) {
            if self.store.get_same(held.place, held.id).is_some_and(|conn| conn.held) {
                due.push(held);
            }
        }
        due
    }

    /// Reports a connect that was looked up, with its port if it was found.
    pub(super) fn looked_up(
        &mut self,
        held: &HeldConnect,
        found: Option<SocketAddr>,
        emitter: &mut Emitter<'_>,
    ) {
        let Some(conn) = self.store.get_same(held.place, held.id) else { return };
        if let Some(local) = found {
            conn.ends.lport = local.port();
            if conn.ends.laddr.is_unspecified() {
                conn.ends.laddr = local.ip();
            }
        }
        self.emit_connect(held.place, emitter);
    }

    /// Reports a connect that waited for its port, with what is known now.
    pub(super) fn emit_connect(&mut self, place: u32, emitter: &mut Emitter<'_>) {
        let Some(conn) = self.store.get_mut(place).filter(|conn| conn.held) else { return };
        conn.held = false;
        emitter.conn(conn.begun, conn, Change::Connect);
        self.drop_reported();
    }

    /// Holds the end of a connection that is in the accept queue until it is accepted.
    pub(super) fn hold_end(&mut self, place: u32, end: EndState, cx: &mut Context<'_>) {
        let Some(conn) = self.store.get_mut(place) else { return };
        let until = self.limits.accept_until(end.end.at);
        let id = conn.id;
        conn.dead = Some(Box::new(end));
        self.ends.push_back(HeldEnd { until, place, id });
        if self.ends.len() > self.limits.held
            && let Some(oldest) = self.ends.pop_front()
            && self.store.get_same(oldest.place, oldest.id).is_some()
            && self.finish_held(oldest.place, cx)
        {
            self.stats.released_early += 1;
        }
    }

    /// Reports the ends that have waited long enough for an accept.
    pub(super) fn release_ends(&mut self, now: BootNs, cx: &mut Context<'_>) {
        while let Some(held) = self.ends.pop_front_if(|held| held.until <= now) {
            if self.store.get_same(held.place, held.id).is_some() {
                self.finish_held(held.place, cx);
            }
        }
        self.drop_reported();
    }

    /// Forgets, at the front, what does not wait any more: the deadline is that of something that does.
    fn drop_reported(&mut self) {
        let store = &mut self.store;
        while self
            .connects
            .pop_front_if(|held| !store.get_same(held.place, held.id).is_some_and(|conn| conn.held))
            .is_some()
        {}
        while self
            .ends
            .pop_front_if(|held| store.get_same(held.place, held.id).is_none_or(|conn| conn.dead.is_none()))
            .is_some()
        {}
    }

    /// An accept that a hook named.
    pub(super) fn accept(
        &mut self,
        place: u32,
        sock: &Sock,
        owner: Actor,
        boot: BootNs,
        cx: &mut Context<'_>,
    ) {
        let Some(conn) = self.store.get_mut(place) else { return };
        conn.learn(sock);
        conn.owner = owner;
        conn.accepted = boot;
        let end = (conn.netns, conn.ends.local(), conn.device);
        let process = conn.owner.process.clone();
        let owners = cx.listeners.owners_of_accepted(end, process.as_deref(), &mut cx.emitter);
        let Some(conn) = self.store.get_mut(place) else { return };
        if let Owners::One(owner) = owners {
            conn.listener = Some(owner);
        }
        cx.emitter.conn(boot, conn, Change::Accept);
        self.finish_held(place, cx);
    }

    /// An accept of a connection that was reported as never accepted: it died in the accept queue.
    pub(super) fn accept_ended(
        &mut self,
        id: u64,
        sock: &Sock,
        owner: Actor,
        boot: BootNs,
        cx: &mut Context<'_>,
    ) {
        let mut conn = Conn::new(id, sock, Direction::In, Source::Live);
        conn.owner = owner;
        let prefer = conn.owner.process.as_deref();
        conn.listener = cx.listeners.one_owner(conn.netns, conn.ends.local(), conn.device, prefer);
        cx.emitter.conn(boot, &conn, Change::Accept);
        self.store.mark_ended(sock.key, id, false);
    }

    /// Reports the accept of an incoming connection that no hook named, but that had an owner when it ended.
    pub(super) fn infer_accept(
        &mut self,
        place: u32,
        closer: Option<&Arc<ProcessInfo>>,
        boot: BootNs,
        cx: &mut Context<'_>,
    ) {
        let Some(conn) = self.store.get(place).filter(|conn| conn.waits()) else { return };
        let owners = match &conn.listener {
            Some(owner) => Owners::One(Arc::clone(owner)),
            None => {
                let closer = closer.map(|process| &**process);
                cx.listeners.owners(conn.netns, conn.ends.local(), conn.device, closer)
            }
        };
        let (owner, listener) = infer_owner(owners, closer);
        // The kernel's own are accepted by whichever of its threads is free, not by who made it listen.
        let owner = if conn.kernel { BACKEND } else { owner };
        let Some(conn) = self.store.get_mut(place) else { return };
        conn.owner = owner;
        conn.listener = listener;
        conn.accepted = boot;
        self.stats.accepts_inferred += 1;
        cx.emitter.conn(boot, conn, Change::Accept);
    }

    /// An attempt failed.
    pub(super) fn fail(&mut self, place: u32, errno: u16, boot: BootNs, emitter: &mut Emitter<'_>) {
        self.emit_connect(place, emitter);
        let Some(conn) = self.store.end(place, false) else { return };
        let after = known(conn.begun).map(|begun| boot.since(begun));
        emitter.conn(boot, &conn, |event| Change::Failed(event, Failure { errno, after }));
    }

    /// An attempt failed of which no connect was reported.
    pub(super) fn fail_unseen(
        &mut self,
        sock: &Sock,
        owner: Actor,
        errno: u16,
        boot: BootNs,
        emitter: &mut Emitter<'_>,
    ) {
        let id = emitter.next_id();
        let conn = Conn { owner, ..Conn::new(id, sock, Direction::Out, Source::Late) };
        emitter.conn(boot, &conn, |event| Change::Failed(event, Failure { errno, after: None }));
        self.store.mark_ended(sock.key, id, false);
    }

    /// A connection ended.
    pub(super) fn finish(&mut self, place: u32, end: End, emitter: &mut Emitter<'_>) {
        self.emit_connect(place, emitter);
        let acceptable = end.how == EndedHow::NeverAccepted && end.errno != 0;
        let Some(conn) = self.store.end(place, acceptable) else { return };
        emitter.conn(end.at, &conn, end.change(&conn));
    }

    /// A connection ended that nothing had reported.
    pub(super) fn finish_unseen(&mut self, sock: &Sock, end: End, cx: &mut Context<'_>) {
        let id = cx.emitter.next_id();
        let mut conn = Conn::new(id, sock, Direction::Unknown, Source::Late);
        conn.listener = cx.listeners.one_owner(conn.netns, conn.ends.local(), conn.device, None);
        if end.how == EndedHow::NeverAccepted {
            conn.owner = NEVER_ACCEPTED;
            conn.direction = Direction::In;
        } else if conn.listener.is_some() {
            conn.direction = Direction::In;
        }
        self.store.mark_ended(sock.key, id, false);
        self.store.alias(sock);
        cx.emitter.conn(end.at, &conn, end.change(&conn));
    }

    /// Reports the end that waits for an accept, if there is one.
    pub(super) fn finish_held(&mut self, place: u32, cx: &mut Context<'_>) -> bool {
        let Some(conn) = self.store.get_mut(place) else { return false };
        let Some(held) = conn.dead.take() else { return false };
        let mut end = held.end;
        if conn.waits() {
            if held.had_socket {
                self.infer_accept(place, None, end.at, cx);
            } else {
                end.how = EndedHow::NeverAccepted;
            }
        }
        self.finish(place, end, &mut cx.emitter);
        self.drop_reported();
        true
    }

    /// Another connection begins under the key of this one: its end was lost. How it ended cannot be reported from that: the kernel
    /// gives the address of a socket that is gone to the next one.
    pub(super) fn supersede(&mut self, place: u32, boot: BootNs, cx: &mut Context<'_>) {
        self.stats.ends_missed += 1;
        if self.finish_held(place, cx) {
            return;
        }
        let Some(conn) = self.store.get(place) else { return };
        if conn.waits() {
            // Nothing of it was reported.
            self.store.forget(place);
        } else {
            self.finish(place, End::unseen(boot), &mut cx.emitter);
        }
    }
}

/// Who accepted a connection that no hook saw accepted, and whose listener it was. The closer of a connection need not
/// be its owner (fork, SCM_RIGHTS), so the listener's owner comes first.
fn infer_owner(owners: Owners, closer: Option<&Arc<ProcessInfo>>) -> (Actor, Option<Arc<Actor>>) {
    let by_closer = |closer: &Arc<ProcessInfo>| Actor {
        process: Some(Arc::clone(closer)),
        tid: None,
        method: Method::Closer,
    };
    match (owners, closer) {
        (Owners::One(listener), closer) => {
            let same =
                closer.filter(|closer| listener.process.as_ref().is_some_and(|owner| owner.is_same(closer)));
            let owner = match same {
                Some(closer) => by_closer(closer),
                None => Actor { process: listener.process.clone(), tid: None, method: Method::Listener },
            };
            (owner, Some(listener))
        }
        (Owners::None, Some(closer)) => (by_closer(closer), None),
        (Owners::None | Owners::Several, _) => (BACKEND, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::devices::Devices;
    use crate::flow::emitter::Ids;
    use crate::flow::listener_table::ListenerTable;
    use crate::flow::model::FlowEvent;
    use crate::flow::testing::{MS, port_query, sock, text};

    /// The table, and what it is called with.
    struct Rig {
        table: ConnectionTable,
        listeners: ListenerTable,
        devices: Devices,
        ids: Ids,
        out: Vec<FlowEvent>,
    }

    impl Rig {
        fn new(limits: FlowLimits) -> Self {
            Self {
                table: ConnectionTable::new(limits),
                listeners: ListenerTable::new(limits),
                devices: Devices::new(limits.held),
                ids: Ids::default(),
                out: Vec::new(),
            }
        }

        fn with<T>(&mut self, act: impl FnOnce(&mut ConnectionTable, &mut Context<'_>) -> T) -> T {
            let emitter = Emitter::new(&mut self.ids, &self.devices, &mut self.out);
            act(&mut self.table, &mut Context { listeners: &mut self.listeners, emitter })
        }

        /// A connect at this instant whose port is not known.
        fn held(&mut self, key: u64, at: u64) -> u32 {
            self.with(|table, cx| {
                let sock = sock(key, "10.0.0.1:0", "10.0.0.2:80");
                let conn = Conn::new(cx.emitter.next_id(), &sock, Direction::Out, Source::Live);
                let place = table.insert(Conn { held: true, begun: BootNs(at), ..conn }, cx);
                let query = port_query();
                table.hold_connect(place, key, BootNs(at), query, &mut cx.emitter);
                place
            })
        }

        fn reported(&mut self) -> Vec<String> {
            self.out.drain(..).map(|event| text(&event)).collect()
        }
    }

    #[test]
    fn a_held_connect_is_reported_with_the_port_that_was_found() {
        let mut rig = Rig::new(FlowLimits::default());
        rig.held(1, 5 * MS);
        rig.held(2, 6 * MS);
        assert_eq!((rig.table.held(), rig.table.next_lookup()), (2, Some(BootNs(25 * MS))));
        let due = rig.table.take_lookups(BootNs(25 * MS));
        assert_eq!((due.len(), rig.table.next_lookup()), (1, Some(BootNs(26 * MS))));
        rig.with(|table, cx| table.looked_up(&due[0], "10.0.0.1:4711".parse().ok(), &mut cx.emitter));
        assert_eq!(rig.reported(), ["connect 1 Out 10.0.0.1:4711>10.0.0.2:80 by ?(Unknown(BeforeAttach))"]);
    }

    #[test]
    fn what_ended_does_not_wait() {
        let mut rig = Rig::new(FlowLimits::default());
        let place = rig.held(1, 5 * MS);
        rig.with(|table, cx| table.fail(place, 111, BootNs(6 * MS), &mut cx.emitter));
        assert_eq!(rig.reported().len(), 2, "the connect, and its failure");
        assert_eq!((rig.table.held(), rig.table.next_lookup()), (0, None));
    }

    #[test]
    fn beyond_the_limit_the_oldest_connect_is_reported_early() {
        let mut rig = Rig::new(FlowLimits { held: 1, ..FlowLimits::default() });
        rig.held(1, 5 * MS);
        rig.held(2, 6 * MS);
        assert_eq!((rig.reported().len(), rig.table.held(), rig.table.stats.released_early), (1, 1, 1));
    }

    #[test]
    fn an_end_waits_for_an_accept() {
        let mut rig = Rig::new(FlowLimits::default());
        rig.with(|table, cx| {
            let sock = sock(1, "10.0.0.1:80", "10.0.0.2:4711");
            let place = table.insert(Conn::new(1, &sock, Direction::In, Source::Live), cx);
            table.hold_end(place, EndState { end: End::unseen(BootNs(MS)), had_socket: false }, cx);
            assert_eq!((table.held(), table.next_end()), (1, Some(BootNs(101 * MS))));
            table.release_ends(BootNs(100 * MS), cx);
            assert_eq!(table.held(), 1);
            table.release_ends(BootNs(101 * MS), cx);
            assert_eq!((table.held(), table.store.live(), table.store.ended()), (0, 0, 1));
        });
        let [closed] = &rig.reported()[..] else { panic!("one event") };
        assert!(closed.starts_with("close 1 In") && closed.contains("NeverAccepted"), "{closed}");
    }

    #[test]
    fn a_full_table_counts_what_it_does_not_follow() {
        let mut rig = Rig::new(FlowLimits { connections: 1, ..FlowLimits::default() });
        assert!(rig.table.has_room());
        rig.held(1, MS);
        assert!(!rig.table.has_room());
        rig.held(2, MS);
        assert_eq!((rig.table.stats.not_kept, rig.table.stats.evicted, rig.table.store.live()), (1, 1, 1));
    }
}

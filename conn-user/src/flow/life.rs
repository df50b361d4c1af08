//! What happens to one connection: it is reported, accepted, failed, ended, superseded, evicted.

use std::sync::Arc;

use conn_common::record::Sock;

use super::listeners::Owners;
use super::model::{
    Actor, Change, ConnEvent, Direction, EndedHow, Ending, Failure, FlowEvent, Method, Source, Traffic,
};
use super::store::{Conn, known};
use super::table::{BACKEND, FlowTable, LOST, NEVER_ACCEPTED};
use crate::process::info::ProcessInfo;
use crate::units::BootNs;

/// How and when a connection ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) at: BootNs,
    pub(super) how: EndedHow,
    pub(super) errno: u16,
    pub(super) closer: Actor,
    pub(super) traffic: Option<Traffic>,
}

impl End {
    /// The end of a connection whose last records were lost, found out at this time.
    pub(super) const fn unseen(at: BootNs) -> Self {
        Self { at, how: EndedHow::Unseen, errno: 0, closer: LOST, traffic: None }
    }
}

/// The end of a connection that may still be accepted.
#[derive(Clone, Debug)]
pub(super) struct EndState {
    pub(super) end: End,
    /// A file belonged to the socket: somebody had accepted it.
    pub(super) had_socket: bool,
}

impl FlowTable {
    /// Adds a connection, if need be in the place of another one.
    pub(super) fn insert(&mut self, conn: Conn, out: &mut Vec<FlowEvent>) -> u32 {
        if let Some(place) = self.store.eviction_candidate() {
            self.emit_connect(place, out);
            if !self.finish_dead(place, out) {
                self.store.forget(place);
            }
            self.stats.evicted += 1;
        }
        self.store.insert(conn)
    }

    /// Reports a connect that waited for its port, with what is known now.
    pub(super) fn emit_connect(&mut self, place: u32, out: &mut Vec<FlowEvent>) {
        let Some(conn) = self.store.get_mut(place).filter(|conn| conn.held) else { return };
        conn.held = false;
        out.push(FlowEvent { boot: conn.begun, change: Change::Connect(conn.event(&self.devices)) });
        self.drop_reported();
    }

    /// An accept that a hook named.
    pub(super) fn accept(
        &mut self,
        place: u32,
        sock: &Sock,
        owner: Actor,
        boot: BootNs,
        out: &mut Vec<FlowEvent>,
    ) {
        let Some(conn) = self.store.get_mut(place) else { return };
        conn.learn(sock);
        conn.owner = owner;
        conn.accepted = boot;
        let (netns, local, device) = (conn.netns, conn.ends.local(), conn.device);
        let process = conn.owner.process.clone();
        let mut owners = self.listeners.owners(netns, local, device, process.as_deref());
        if let (Owners::None, Some(process)) = (&owners, &process)
            && let Some(key) = self.listeners.portless_of(netns, (local.ip(), device), process)
        {
            // Its own listener, whose port nothing has reported: the child shows it.
            let addr = self.listeners.get(key).map_or(local.ip(), |listener| listener.addr);
            self.settle_listener(key, (addr, local.port()).into(), out);
            owners = self.listeners.owners(netns, local, device, Some(process));
        }
        let Some(conn) = self.store.get_mut(place) else { return };
        if let Owners::One(owner) = owners {
            conn.listener = Some(owner);
        }
        out.push(FlowEvent { boot, change: Change::Accept(conn.event(&self.devices)) });
        self.finish_dead(place, out);
    }

    /// An accept of a connection that was reported as never accepted: it died in the accept queue.
    pub(super) fn accept_ended(
        &mut self,
        id: u64,
        sock: &Sock,
        owner: Actor,
        boot: BootNs,
        out: &mut Vec<FlowEvent>,
    ) {
        let mut conn = Conn::new(id, sock, Direction::In, Source::Live);
        conn.owner = owner;
        conn.listener =
            self.listener_of(conn.netns, conn.ends.local(), conn.device, conn.owner.process.as_deref());
        out.push(FlowEvent { boot, change: Change::Accept(conn.event(&self.devices)) });
        self.store.mark_ended(sock.key, id, false);
    }

    /// Reports the accept of an incoming connection that no hook named, but that had an owner when it ended.
    pub(super) fn infer_accept(
        &mut self,
        place: u32,
        closer: Option<&Arc<ProcessInfo>>,
        boot: BootNs,
        out: &mut Vec<FlowEvent>,
    ) {
        let Some(conn) = self.store.get(place).filter(|conn| conn.waits()) else { return };
        let owners = match &conn.listener {
            Some(owner) => Owners::One(Arc::clone(owner)),
            None => {
                let closer = closer.map(|process| &**process);
                self.listeners.owners(conn.netns, conn.ends.local(), conn.device, closer)
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
        out.push(FlowEvent { boot, change: Change::Accept(conn.event(&self.devices)) });
    }

    /// An attempt failed.
    pub(super) fn fail(&mut self, place: u32, errno: u16, boot: BootNs, out: &mut Vec<FlowEvent>) {
        self.emit_connect(place, out);
        let Some(conn) = self.store.end(place, false) else { return };
        let after = known(conn.begun).map(|begun| boot.since(begun));
        out.push(FlowEvent {
            boot,
            change: Change::Failed(conn.event(&self.devices), Failure { errno, after }),
        });
    }

    /// An attempt failed of which no connect was reported.
    pub(super) fn fail_unseen(
        &mut self,
        sock: &Sock,
        owner: Actor,
        errno: u16,
        boot: BootNs,
        out: &mut Vec<FlowEvent>,
    ) {
        let id = self.next_id();
        let conn = Conn { owner, ..Conn::new(id, sock, Direction::Out, Source::Late) };
        out.push(FlowEvent {
            boot,
            change: Change::Failed(conn.event(&self.devices), Failure { errno, after: None }),
        });
        self.store.mark_ended(sock.key, id, false);
    }

    /// A connection ended.
    pub(super) fn finish(&mut self, place: u32, end: End, out: &mut Vec<FlowEvent>) {
        self.emit_connect(place, out);
        let acceptable = end.how == EndedHow::NeverAccepted && end.errno != 0;
        let Some(conn) = self.store.end(place, acceptable) else { return };
        out.push(close_event(conn.event(&self.devices), &conn, end));
    }

    /// A connection ended that nothing had reported.
    pub(super) fn finish_unseen(&mut self, sock: &Sock, end: End, out: &mut Vec<FlowEvent>) {
        let id = self.next_id();
        let mut conn = Conn::new(id, sock, Direction::Unknown, Source::Late);
        conn.listener = self.listener_of(conn.netns, conn.ends.local(), conn.device, None);
        if end.how == EndedHow::NeverAccepted {
            conn.owner = NEVER_ACCEPTED;
            conn.direction = Direction::In;
        } else if conn.listener.is_some() {
            conn.direction = Direction::In;
        }
        self.store.mark_ended(sock.key, id, false);
        self.store.alias(sock);
        out.push(close_event(conn.event(&self.devices), &conn, end));
    }

    /// Reports the end that waited for an accept, if there is one.
    pub(super) fn finish_dead(&mut self, place: u32, out: &mut Vec<FlowEvent>) -> bool {
        let Some(conn) = self.store.get_mut(place) else { return false };
        let Some(death) = conn.dead.take() else { return false };
        let mut end = death.end;
        if conn.waits() {
            if death.had_socket {
                self.infer_accept(place, None, end.at, out);
            } else {
                end.how = EndedHow::NeverAccepted;
            }
        }
        self.finish(place, end, out);
        self.drop_reported();
        true
    }

    /// Another connection begins under the key of this one: its end was lost. How it ended cannot be reported from that: the kernel
    /// gives the address of a socket that is gone to the next one.
    pub(super) fn supersede(&mut self, place: u32, boot: BootNs, out: &mut Vec<FlowEvent>) {
        self.stats.ends_missed += 1;
        if self.finish_dead(place, out) {
            return;
        }
        let Some(conn) = self.store.get(place) else { return };
        if conn.waits() {
            // Nothing of it was reported.
            self.store.forget(place);
        } else {
            self.finish(place, End::unseen(boot), out);
        }
    }
}

fn close_event(event: ConnEvent, conn: &Conn, end: End) -> FlowEvent {
    let begun = known(conn.established).or(known(conn.accepted));
    let ending = Ending {
        how: end.how,
        errno: end.errno,
        closer: end.closer,
        duration: begun.map(|begun| end.at.since(begun)),
        traffic: end.traffic,
    };
    FlowEvent { boot: end.at, change: Change::Close(event, ending) }
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

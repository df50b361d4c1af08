//! What the records of listeners mean.

use std::net::SocketAddr;
use std::sync::Arc;

use conn_common::record::{Sock, SockFlags, SockRecord};

use super::actors::{At, BEFORE_ATTACH, KERNEL, hook_actor};
use super::emitter::Emitter;
use super::ends::{AF_INET6, address, transport};
use super::listener_table::ListenerTable;
use super::listeners::{Listener, Narrows};
use super::merge::SnapshotKeys;
use super::model::{Actor, Change, ConnId, ListenEvent, Source, Transport, Unlisten, canonical_ip};
use super::resolve::PortQuery;
use super::store::{Found, Store};
use crate::process::ProcessTable;
use crate::units::{NetNs, Pid};

/// Follows one record of a listener: the tables that it concerns, and when and where it was written.
pub(super) struct ListenerRecords<'a> {
    pub(super) at: At,
    pub(super) listeners: &'a mut ListenerTable,
    pub(super) emitter: Emitter<'a>,
    /// The keys of what ended.
    pub(super) keys: &'a mut Store,
    pub(super) snapshots: &'a SnapshotKeys,
    pub(super) procs: &'a mut ProcessTable,
}

impl ListenerRecords<'_> {
    pub(super) fn listen(&mut self, record: &SockRecord) {
        let (at, sock) = (self.at, &record.sock);
        let addr = canonical_ip(address(sock.family, sock.laddr)).0;
        let port = if sock.flags & SockFlags::PORT_PENDING != 0 { 0 } else { sock.lport };
        self.adopt_listener(sock);
        if self.repeats_ended_listener(sock) {
            return;
        }
        if let Some(old) = self.listeners.known.get(sock.key)
            && old.source == Source::Snapshot
            && self.snapshots.may_have(at.boot)
        {
            // It began after the attach and before the snapshot.
            self.listeners.known.remove(sock.key);
        }
        let by_cookie = sock.flags & SockFlags::ADDRESS_KEY == 0;
        if let Some(old) = self.listeners.known.get(sock.key) {
            let same = old.netns == sock.netns && old.addr == addr && (old.port == port || port == 0);
            if same || by_cookie {
                if old.port == 0 && port != 0 {
                    self.listeners.settle(sock.key, SocketAddr::new(addr, port), &mut self.emitter);
                } else {
                    self.listeners.stats.ignored += 1;
                }
                return;
            }
            self.listeners.stats.ends_missed += 1;
            self.end_listener(sock.key, SocketAddr::new(addr, 0), KERNEL);
        }
        let waits = port == 0;
        let listener = Listener {
            id: self.emitter.next_id(),
            key: sock.key,
            netns: sock.netns,
            addr,
            port,
            transport: transport(sock),
            since: at.boot,
            source: Source::Live,
            born: None,
            kernel: sock.flags & SockFlags::KERNEL != 0,
            owner: Arc::new(hook_actor(at, &record.task, self.procs)),
            narrows: Some(Narrows { device: sock.device, v6only: sock.flags & SockFlags::V6ONLY != 0 }),
            reported: !waits,
        };
        let has_room = self.listeners.has_room();
        if !waits || !has_room {
            self.emitter.listener(at.boot, &listener, Change::Listen);
        }
        if !has_room {
            return;
        }
        let id = listener.id;
        self.listeners.known.insert(listener);
        if waits {
            // The cookie of an MPTCP socket is not that of its subflow, which is what TCP shows.
            let has_cookie = by_cookie && transport(sock) == Transport::Tcp;
            let query = PortQuery {
                pid: Pid(record.task.tgid),
                netns: NetNs(sock.netns),
                cookie: if has_cookie { sock.key } else { 0 },
                inode: sock.inode,
                v6: sock.family == AF_INET6,
                local: Some(SocketAddr::new(addr, port)),
                remote: None,
            };
            self.listeners.hold(sock.key, id, at.boot, query, &mut self.emitter);
        }
    }

    pub(super) fn unlisten(&mut self, record: &SockRecord) {
        let (at, sock) = (self.at, &record.sock);
        let closer = hook_actor(at, &record.task, self.procs);
        let addr = canonical_ip(address(sock.family, sock.laddr)).0;
        let local = SocketAddr::new(addr, sock.lport);
        self.adopt_listener(sock);
        if let Some(listener) = self.listeners.known.get_mut(sock.key) {
            // A snapshot does not report it.
            listener.kernel |= sock.flags & SockFlags::KERNEL != 0;
            self.end_listener(sock.key, local, closer);
            return;
        }
        if at.hook.is_backup() && matches!(self.keys.find(sock), Found::Ended { .. }) {
            // It repeats what was reported.
            self.listeners.stats.ignored += 1;
            return;
        }
        let id = self.emitter.next_id();
        self.keys.mark_ended(sock.key, id, false);
        let event = ListenEvent {
            id: ConnId(id),
            transport: transport(sock),
            local,
            netns: NetNs(sock.netns),
            source: Source::Late,
            born: None,
            kernel_socket: sock.flags & SockFlags::KERNEL != 0,
            owner: BEFORE_ATTACH,
            socket_unit: None,
            scope: None,
        };
        self.emitter.late_listener(at.boot, Change::Unlisten(event, Unlisten { closer, duration: None }));
    }

    /// Whether a backup program repeats what was reported, of a listener that has ended since.
    fn repeats_ended_listener(&mut self, sock: &Sock) -> bool {
        let repeats = self.at.hook.is_backup()
            && sock.flags & SockFlags::ADDRESS_KEY == 0
            && matches!(self.keys.find(sock), Found::Ended { .. });
        if repeats {
            self.listeners.stats.ignored += 1;
        }
        repeats
    }

    fn end_listener(&mut self, key: u64, local: SocketAddr, closer: Actor) {
        self.listeners.end((key, local), closer, self.at.boot, self.keys, &mut self.emitter);
    }

    /// A listener of the snapshot gets the key that its records have, where that is not the cookie.
    fn adopt_listener(&mut self, sock: &Sock) {
        if self.snapshots.may_differ() {
            let addr = canonical_ip(address(sock.family, sock.laddr)).0;
            self.listeners.known.adopt(sock.netns, SocketAddr::new(addr, sock.lport), sock.key);
        }
    }
}

//! What happens to a listener.

use std::net::SocketAddr;
use std::sync::Arc;

use conn_common::record::{Sock, SockFlags, SockRecord};

use super::ends::{AF_INET6, address, transport};
use super::listeners::{Listener, Narrows};
use super::model::{
    Actor, Change, ConnId, FlowEvent, ListenEvent, Source, Transport, Unlisten, canonical_ip,
};
use super::pending::HeldListen;
use super::resolve::PortQuery;
use super::store::{Found, known};
use super::table::{BEFORE_ATTACH, FlowTable, KERNEL, hook_actor};
use crate::process::ProcessTable;
use crate::units::{BootNs, NetNs, Pid};

impl FlowTable {
    pub(super) fn on_listen(
        &mut self,
        record: &SockRecord,
        procs: &mut ProcessTable,
        out: &mut Vec<FlowEvent>,
    ) {
        let Some(at) = self.at(&record.header) else { return };
        let sock = &record.sock;
        self.note_device(sock, &record.task, at, procs);
        let addr = canonical_ip(address(sock.family, sock.laddr)).0;
        let port = if sock.flags & SockFlags::PORT_PENDING != 0 { 0 } else { sock.lport };
        self.adopt_listener(sock);
        let by_cookie = sock.flags & SockFlags::ADDRESS_KEY == 0;
        if at.hook.is_backup() && by_cookie && matches!(self.store.find(sock), Found::Ended { .. }) {
            // It repeats what was reported, of a listener that has ended since.
            self.stats.ignored += 1;
            return;
        }
        if let Some(old) = self.listeners.get(sock.key)
            && old.source == Source::Snapshot
            && at.boot <= self.snapshot_until
        {
            // It began after the attach and before the snapshot.
            self.listeners.remove(sock.key);
        }
        if let Some(old) = self.listeners.get(sock.key) {
            let same = old.netns == sock.netns && old.addr == addr && (old.port == port || port == 0);
            if same || sock.flags & SockFlags::ADDRESS_KEY == 0 {
                if old.port == 0 && port != 0 {
                    self.settle_listener(sock.key, SocketAddr::new(addr, port), out);
                } else {
                    self.stats.ignored += 1;
                }
                return;
            }
            self.stats.ends_missed += 1;
            self.unlisten(sock.key, SocketAddr::new(addr, 0), KERNEL, at.boot, out);
        }
        let waits = port == 0;
        let listener = Listener {
            id: self.next_id(),
            key: sock.key,
            netns: sock.netns,
            addr,
            port,
            transport: transport(sock),
            since: at.boot,
            source: Source::Live,
            born: None,
            kernel: sock.flags & SockFlags::KERNEL != 0,
            owner: Arc::new(hook_actor(at, &record.task, procs)),
            narrows: Some(Narrows { device: sock.device, v6only: sock.flags & SockFlags::V6ONLY != 0 }),
            reported: !waits,
        };
        let full = self.listeners.len() >= self.limits.listeners;
        if !waits || full {
            out.push(FlowEvent { boot: at.boot, change: Change::Listen(listener.event(&self.devices)) });
        }
        if full {
            self.stats.listeners_not_kept += 1;
            return;
        }
        let id = listener.id;
        self.listeners.insert(listener);
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
            let until = self.after_hold(at.boot);
            self.hold_listen(HeldListen { until, next: at.boot, key: sock.key, id, query }, out);
        }
    }

    pub(super) fn on_unlisten(
        &mut self,
        record: &SockRecord,
        procs: &mut ProcessTable,
        out: &mut Vec<FlowEvent>,
    ) {
        let Some(at) = self.at(&record.header) else { return };
        let sock = &record.sock;
        self.note_device_later(sock, Some(&record.task), at);
        let closer = hook_actor(at, &record.task, procs);
        let addr = canonical_ip(address(sock.family, sock.laddr)).0;
        let local = SocketAddr::new(addr, sock.lport);
        self.adopt_listener(sock);
        if let Some(listener) = self.listeners.get_mut(sock.key) {
            // A snapshot does not report it.
            listener.kernel |= sock.flags & SockFlags::KERNEL != 0;
            self.unlisten(sock.key, local, closer, at.boot, out);
            return;
        }
        if at.hook.is_backup() && matches!(self.store.find(sock), Found::Ended { .. }) {
            // It repeats what was reported.
            self.stats.ignored += 1;
            return;
        }
        let id = self.next_id();
        self.store.mark_ended(sock.key, id, false);
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
        out.push(FlowEvent {
            boot: at.boot,
            change: Change::Unlisten(event, Unlisten { closer, duration: None }),
        });
    }

    /// A listener of the snapshot gets the key that its records have, where that is not the cookie.
    fn adopt_listener(&mut self, sock: &Sock) {
        if !self.by_cookie || self.synthetic_keys > 0 {
            let addr = canonical_ip(address(sock.family, sock.laddr)).0;
            self.listeners.adopt(sock.netns, SocketAddr::new(addr, sock.lport), sock.key);
        }
    }

    pub(super) fn unlisten(
        &mut self,
        key: u64,
        local: SocketAddr,
        closer: Actor,
        boot: BootNs,
        out: &mut Vec<FlowEvent>,
    ) {
        let Some(mut listener) = self.listeners.remove(key) else { return };
        self.store.mark_ended(key, listener.id, false);
        if listener.port == 0 {
            listener.port = local.port();
        }
        if !listener.reported {
            out.push(FlowEvent {
                boot: listener.since,
                change: Change::Listen(listener.event(&self.devices)),
            });
            self.pending.listens.retain(|held| held.id != listener.id);
        }
        let duration = known(listener.since).map(|since| boot.since(since));
        let change = Change::Unlisten(listener.event(&self.devices), Unlisten { closer, duration });
        out.push(FlowEvent { boot, change });
    }
}

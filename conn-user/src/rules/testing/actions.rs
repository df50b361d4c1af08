//! What tests let happen on the machine of a rig: connections, listeners, processes and losses.

use std::net::SocketAddr;
use std::sync::Arc;

use conn_common::hook::HookId;

use super::Rig;
use crate::event::model::{EventBody, ProcEvent};
use crate::flow::born::{Born, BornBy};
use crate::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, ListenEvent, Source, Traffic,
    UnknownReason, Unlisten,
};
use crate::kernel::gap::{Gap, GapCause};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::{BootNs, NetNs};

impl Rig {
    /// A process opens a connection from 10.0.0.1 (or ::1), which is not established yet.
    pub(crate) fn connect(&mut self, process: &Arc<ProcessInfo>, remote: &str) -> ConnId {
        self.connect_as(Some(process), remote)
    }

    /// A process, which may be unknown, opens a connection that is not established yet.
    pub(crate) fn connect_as(&mut self, process: Option<&Arc<ProcessInfo>>, remote: &str) -> ConnId {
        let conn = self.connection(Direction::Out, process, None, remote, Source::Live);
        self.opens(conn, Change::Connect)
    }

    /// The connection is established.
    pub(crate) fn established(&mut self, id: ConnId) {
        self.settle();
        let now = self.now;
        let conn = self.session.flows.0.get_mut(&id.0).expect("a connection that lives");
        conn.established = Some(now);
        let conn = conn.clone();
        self.emit(Change::Established(conn));
    }

    /// A process opens a connection, which is established at once.
    pub(crate) fn open(&mut self, process: &Arc<ProcessInfo>, remote: &str) -> ConnId {
        let id = self.connect(process, remote);
        self.established(id);
        id
    }

    /// A process opens a connection, which is established at once, and closes it.
    pub(crate) fn open_and_close(
        &mut self,
        process: &Arc<ProcessInfo>,
        remote: &str,
        traffic: Option<Traffic>,
    ) {
        let id = self.open(process, remote);
        self.close(id, EndedHow::LocalFin, traffic);
    }

    /// A process accepts a connection on `local` from `remote`.
    pub(crate) fn accept(&mut self, process: &Arc<ProcessInfo>, local: &str, remote: &str) -> ConnId {
        let mut conn = self.connection(Direction::In, Some(process), Some(local), remote, Source::Live);
        conn.established = Some(self.now);
        conn.begun = BootNs(0);
        conn.listener = Some(conn.owner.clone());
        self.opens(conn, Change::Accept)
    }

    /// A connection that was there before, at most as old as its process. `local`: as of an incoming one.
    pub(crate) fn existing(
        &mut self,
        direction: Direction,
        process: &Arc<ProcessInfo>,
        local: Option<&str>,
        remote: &str,
    ) -> ConnId {
        let mut conn = self.connection(direction, Some(process), local, remote, Source::Snapshot);
        conn.begun = BootNs(0);
        conn.born = Some(Born {
            earliest: process.start,
            latest: self.now,
            earliest_by: BornBy::OwnerStart,
            latest_by: BornBy::Snapshot,
        });
        self.opens(conn, Change::Established)
    }

    /// The attempt fails.
    pub(crate) fn fail(&mut self, id: ConnId, errno: i32) {
        self.settle();
        let conn = self.session.flows.0.remove(&id.0).expect("a connection that lives");
        let after = Some(self.now.since(conn.begun));
        let errno = u16::try_from(errno).expect("an errno");
        self.emit(Change::Failed(conn, Failure { errno, after }));
    }

    /// The connection ends; its owner is who closed it.
    pub(crate) fn close(&mut self, id: ConnId, how: EndedHow, traffic: Option<Traffic>) {
        self.settle();
        let conn = self.session.flows.0.remove(&id.0).expect("a connection that lives");
        let duration = conn.established.map(|since| self.now.since(since));
        let ending = Ending { how, errno: 0, closer: conn.owner.clone(), duration, traffic };
        self.emit(Change::Close(conn, ending));
    }

    /// A process begins to listen.
    pub(crate) fn listen(&mut self, process: &Arc<ProcessInfo>, local: &str) -> ConnId {
        self.listen_as(process, local, |_| {})
    }

    /// A process begins to listen, on a listener that `change` changes before it is reported.
    pub(crate) fn listen_as(
        &mut self,
        process: &Arc<ProcessInfo>,
        local: &str,
        change: impl FnOnce(&mut ListenEvent),
    ) -> ConnId {
        let mut listener = ListenEvent {
            source: if self.existing.is_some() { Source::Snapshot } else { Source::Live },
            ..ListenEvent::new(
                self.next_id(),
                local.parse().expect("an address"),
                NetNs(1),
                Actor::by(process, HookId::FexitListenStart),
            )
        };
        change(&mut listener);
        let id = listener.id;
        self.listeners.insert(id.0, listener.clone());
        self.emit(Change::Listen(listener));
        id
    }

    /// The listener ends, by its owner.
    pub(crate) fn unlisten(&mut self, id: ConnId) {
        let closer = self.listeners.get(&id.0).expect("a listener").owner.clone();
        self.unlisten_by(id, closer.process.as_ref());
    }

    /// The listener ends; `None`: it is not known by whom.
    pub(crate) fn unlisten_by(&mut self, id: ConnId, closer: Option<&Arc<ProcessInfo>>) {
        let listener = self.listeners.remove(&id.0).expect("a listener");
        let closer = closer
            .map_or(Actor::unknown(UnknownReason::Lost), |closer| Actor::by(closer, HookId::FentryTcpClose));
        self.emit(Change::Unlisten(listener, Unlisten { closer, duration: None }));
    }

    /// A process executes a program: it is as given after it.
    pub(crate) fn exec(&mut self, process: &Arc<ProcessInfo>) {
        self.body(EventBody::Exec(ProcEvent::new(Arc::clone(process))));
    }

    /// A process exits.
    pub(crate) fn exit(&mut self, process: &Arc<ProcessInfo>, status: ExitStatus) {
        self.body(EventBody::Exit(ProcEvent::new(Arc::clone(process)), status));
    }

    /// So many records are lost since then.
    pub(crate) fn gap(&mut self, from: BootNs, lost: u64) {
        let (cause, hook, to) = (GapCause::RingFull, HookId::State, self.now);
        self.body(EventBody::Gap(Gap { hook, cause, cpu: Some(0), lost, from, to }));
    }

    /// A connection as it may be changed before [`Self::opens`] reports it.
    pub(crate) fn connection(
        &mut self,
        direction: Direction,
        process: Option<&Arc<ProcessInfo>>,
        local: Option<&str>,
        remote: &str,
        source: Source,
    ) -> ConnEvent {
        let id = self.next_id();
        let remote: SocketAddr = remote.parse().expect("an address");
        let host = if remote.is_ipv4() { "10.0.0.1" } else { "::1" };
        let ephemeral = SocketAddr::new(host.parse().expect("an address"), 32_768 + (id.0 % 28_000) as u16);
        ConnEvent {
            source,
            begun: self.now,
            ..ConnEvent::new(
                id,
                direction,
                (local.map_or(ephemeral, |local| local.parse().expect("an address")), remote),
                NetNs(1),
                process.map_or(Actor::unknown(UnknownReason::Lost), |process| {
                    Actor::by(process, HookId::FentryTcpConnect)
                }),
            )
        }
    }

    /// A connection begins to live and is reported.
    pub(crate) fn opens(&mut self, conn: ConnEvent, as_change: impl FnOnce(ConnEvent) -> Change) -> ConnId {
        self.settle();
        let id = conn.id;
        self.session.flows.0.insert(id.0, conn.clone());
        self.emit(as_change(conn));
        id
    }

    fn emit(&mut self, change: Change) {
        self.body(EventBody::Flow(change));
    }

    fn next_id(&mut self) -> ConnId {
        self.last_id += 1;
        ConnId(self.last_id)
    }
}

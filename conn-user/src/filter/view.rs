//! What a filter looks at in an event or a listed socket.

use std::net::SocketAddr;

use crate::event::alert::Subject;
use crate::event::model::{Event, EventBody, EventKind};
use crate::flow::model::{
    Change, ConnEvent, Direction, EndedHow, Ending, Failure, ListenEvent, Method, Source, Transport,
    canonical_ip,
};
use crate::flow::snapshot::model::{NoHolder, SnapSocket, TcpState};
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, NetNs};

/// Who opened a connection, and who was connected to.
fn roles(
    direction: Direction,
    local: SocketAddr,
    remote: SocketAddr,
) -> (Option<SocketAddr>, Option<SocketAddr>) {
    match direction {
        Direction::Out => (Some(local), Some(remote)),
        Direction::In => (Some(remote), Some(local)),
        Direction::Unknown => (None, None),
    }
}

/// A socket of a list, and who holds it.
pub trait HeldSocket {
    /// The socket.
    fn socket(&self) -> &SnapSocket;
    /// The socket unit for which systemd listens.
    fn socket_unit(&self) -> Option<&str>;
    /// Its holders; `None`: one whose process is not known.
    fn holders(&self) -> impl Iterator<Item = Option<&ProcessInfo>>;
    /// Why nobody holds it, if nobody does.
    fn no_holder(&self) -> Option<NoHolder>;
}

/// What is looked at.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    Event(&'a Event),
    /// At the time of its list.
    Listed(&'a SnapSocket, BootNs),
}

/// An event or a listed socket by what filters ask for; `None`: it has no such thing. What few ask for is read from
/// the origin when it is ([`super::fields`]).
pub(super) struct View<'a> {
    pub(super) origin: Origin<'a>,
    /// `None`: a listed socket.
    pub(super) kind: Option<EventKind>,
    /// Opener, acceptor, listener; the process of an exec or exit.
    pub(super) owner: Option<&'a ProcessInfo>,
    pub(super) closer: Option<&'a ProcessInfo>,
    /// The unit for which systemd listens.
    pub(super) socket_unit: Option<&'a str>,
    pub(super) socket: Option<Socket>,
    pub(super) end: Option<EndedHow>,
    pub(super) errno: Option<u16>,
}

pub(super) struct Socket {
    pub(super) local: SocketAddr,
    pub(super) remote: Option<SocketAddr>,
    pub(super) initiator: Option<SocketAddr>,
    pub(super) responder: Option<SocketAddr>,
    pub(super) direction: Option<Direction>,
    pub(super) transport: Transport,
    pub(super) state: Option<TcpState>,
    pub(super) netns: NetNs,
    pub(super) source: Source,
    pub(super) method: Method,
}

impl<'a> View<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        let nothing = Self {
            origin: Origin::Event(event),
            kind: Some(event.body.kind()),
            owner: None,
            closer: None,
            socket_unit: None,
            socket: None,
            end: None,
            errno: None,
        };
        match &event.body {
            EventBody::Flow(change) => nothing.with_flow(change),
            EventBody::Exec(of) | EventBody::Exit(of, _) => Self { owner: Some(&of.process), ..nothing },
            EventBody::Alert(alert) => match &alert.subject {
                Subject::Connection(conn) => nothing.with_conn(conn),
                Subject::Listener(listener) => nothing.with_listener(listener),
                Subject::Process(process) => Self { owner: Some(process), ..nothing },
                Subject::Absence => nothing,
            },
            EventBody::Facts(of) => Self { owner: Some(&of.process), ..nothing },
            EventBody::Gap(_)
            | EventBody::Repair(_)
            | EventBody::Degraded(_)
            | EventBody::Heartbeat(_)
            | EventBody::Start(_)
            | EventBody::Sample(_)
            | EventBody::Clock => nothing,
        }
    }

    /// A listed socket as one of its holders sees it, whose process may not be known; if nobody holds it: as
    /// nobody does. `at` is the time of the list.
    pub(super) fn of_listed(listed: &'a impl HeldSocket, owner: Option<&'a ProcessInfo>, at: BootNs) -> Self {
        let socket = listed.socket();
        let (remote, (initiator, responder)) = match socket.direction {
            Some(direction) => (Some(socket.remote), roles(direction, socket.local, socket.remote)),
            None => (None, (None, Some(socket.local))),
        };
        let method = match listed.no_holder() {
            Some(why) => Method::Unknown(why.reason()),
            None => Method::FdTable,
        };
        let seen = Socket {
            local: socket.local,
            remote,
            initiator,
            responder,
            // What a listener takes comes in.
            direction: Some(socket.direction.unwrap_or(Direction::In)),
            transport: socket.transport,
            state: Some(socket.state),
            netns: socket.netns,
            source: Source::Snapshot,
            method,
        };
        Self {
            origin: Origin::Listed(socket, at),
            kind: None,
            owner,
            closer: None,
            socket_unit: listed.socket_unit(),
            socket: Some(seen),
            end: None,
            errno: None,
        }
    }

    fn with_flow(self, change: &'a Change) -> Self {
        match change {
            Change::Connect(conn) | Change::Accept(conn) | Change::Established(conn) => self.with_conn(conn),
            Change::Failed(conn, Failure { errno, .. }) => {
                Self { errno: Some(*errno), ..self.with_conn(conn) }
            }
            Change::Close(conn, Ending { how, errno, closer, .. }) => Self {
                closer: closer.process.as_deref(),
                end: Some(*how),
                errno: Some(*errno),
                ..self.with_conn(conn)
            },
            Change::Listen(listener) => self.with_listener(listener),
            Change::Unlisten(listener, end) => {
                Self { closer: end.closer.process.as_deref(), ..self.with_listener(listener) }
            }
        }
    }

    fn with_conn(self, conn: &'a ConnEvent) -> Self {
        let (initiator, responder) = roles(conn.direction, conn.local, conn.remote);
        let socket = Socket {
            local: conn.local,
            remote: Some(conn.remote),
            initiator,
            responder,
            direction: Some(conn.direction),
            transport: conn.transport,
            state: None,
            netns: conn.netns,
            source: conn.source,
            method: conn.owner.method,
        };
        Self { owner: conn.owner.process.as_deref(), socket: Some(socket), ..self }
    }

    fn with_listener(self, listener: &'a ListenEvent) -> Self {
        let local = SocketAddr::new(canonical_ip(listener.local.ip()).0, listener.local.port());
        let socket = Socket {
            local,
            remote: None,
            initiator: None,
            responder: Some(local),
            direction: None,
            transport: listener.transport,
            state: None,
            netns: listener.netns,
            source: listener.source,
            method: listener.owner.method,
        };
        let socket_unit = listener.socket_unit.as_deref().filter(|_| listener.is_systemds());
        Self { owner: listener.owner.process.as_deref(), socket_unit, socket: Some(socket), ..self }
    }
}

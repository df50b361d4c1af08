//! What a filter looks at in an event.

use std::net::SocketAddr;

use crate::event::model::{Event, EventBody, EventKind};
use crate::flow::model::{
    Change, ConnEvent, Direction, EndedHow, Ending, Failure, ListenEvent, Method, Source, Transport,
    canonical_ip,
};
use crate::process::info::ProcessInfo;
use crate::units::NetNs;

/// An event by what filters ask for; `None`: the event has no such thing.
pub(super) struct View<'a> {
    pub(super) kind: EventKind,
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
    pub(super) netns: NetNs,
    pub(super) source: Source,
    pub(super) method: Method,
}

impl<'a> View<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        let nothing = Self {
            kind: event.body.kind(),
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
            EventBody::Gap(_) => nothing,
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
        let (initiator, responder) = match conn.direction {
            Direction::Out => (Some(conn.local), Some(conn.remote)),
            Direction::In => (Some(conn.remote), Some(conn.local)),
            Direction::Unknown => (None, None),
        };
        let socket = Socket {
            local: conn.local,
            remote: Some(conn.remote),
            initiator,
            responder,
            direction: Some(conn.direction),
            transport: conn.transport,
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
            netns: listener.netns,
            source: listener.source,
            method: listener.owner.method,
        };
        let socket_unit = listener.socket_unit.as_deref().filter(|_| listener.is_systemds());
        Self { owner: listener.owner.process.as_deref(), socket_unit, socket: Some(socket), ..self }
    }
}

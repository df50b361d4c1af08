//! The fields of an event or a listed socket that few filters ask for: read when they are asked for.

use super::view::{Origin, View};
use crate::event::age::Age;
use crate::event::alert::Subject;
use crate::event::community;
use crate::event::model::{Event, EventBody};
use crate::flow::model::{
    Actor, Change, ConnEvent, Ending, ListenEvent, Traffic, UnknownReason, Unlisten, canonical_ip,
};
use crate::flow::model::{Method, Source};
use crate::flow::snapshot::model::TcpState;
use crate::kernel::gap::Gap;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::DurationNs;

/// A number, by the name of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    Duration,
    ConnectTime,
    After,
    BytesIn,
    BytesOut,
    Retransmits,
    Srtt,
    Code,
    Signal,
    Cpu,
    Lost,
}

/// What is so or is not, by the name of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    Mapped,
    V6only,
    KernelSocket,
    /// Of a process: it is a kernel thread.
    Kernel,
    /// Of a process.
    ArgsTruncated,
    MntNsHost,
    ParentHost,
}

/// Who took part in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opener, acceptor, listener.
    Owner,
    /// Who ended it.
    Closer,
    /// Owner of the listener, reported at an accept.
    Listener,
}

fn change<'a>(view: &View<'a>) -> Option<&'a Change> {
    match view.origin {
        Origin::Event(Event { body: EventBody::Flow(change), .. }) => Some(change),
        _ => None,
    }
}

/// The connection, also that of an alert.
fn conn<'a>(view: &View<'a>) -> Option<&'a ConnEvent> {
    let Origin::Event(event) = view.origin else { return None };
    match &event.body {
        EventBody::Flow(change) => change.connection(),
        EventBody::Alert(alert) => match &alert.subject {
            Subject::Connection(conn) => Some(conn),
            _ => None,
        },
        _ => None,
    }
}

/// The listener, also that of an alert.
fn listener<'a>(view: &View<'a>) -> Option<&'a ListenEvent> {
    let Origin::Event(event) = view.origin else { return None };
    match &event.body {
        EventBody::Flow(change) => change.listener(),
        EventBody::Alert(alert) => match &alert.subject {
            Subject::Listener(listener) => Some(listener),
            _ => None,
        },
        _ => None,
    }
}

/// The loss, of a gap.
pub(super) fn gap<'a>(view: &View<'a>) -> Option<&'a Gap> {
    match view.origin {
        Origin::Event(Event { body: EventBody::Gap(gap), .. }) => Some(gap),
        _ => None,
    }
}

fn ending<'a>(view: &View<'a>) -> Option<&'a Ending> {
    match change(view) {
        Some(Change::Close(_, ending)) => Some(ending),
        _ => None,
    }
}

fn traffic(view: &View<'_>) -> Option<Traffic> {
    match view.origin {
        Origin::Listed(socket, _) => socket.traffic,
        Origin::Event(_) => ending(view)?.traffic,
    }
}

fn status(view: &View<'_>) -> Option<ExitStatus> {
    match view.origin {
        Origin::Event(Event { body: EventBody::Exit(_, status), .. }) => Some(*status),
        _ => None,
    }
}

impl Amount {
    pub(super) fn of(self, view: &View<'_>) -> Option<u64> {
        let ns = |duration: DurationNs| duration.0;
        match self {
            Self::Duration => match change(view)? {
                Change::Close(_, ending) => ending.duration.map(ns),
                Change::Unlisten(_, Unlisten { duration, .. }) => duration.map(ns),
                _ => None,
            },
            Self::ConnectTime => match change(view)? {
                Change::Established(conn) => conn.connect_time().map(ns),
                _ => None,
            },
            Self::After => match change(view)? {
                Change::Failed(_, failure) => failure.after.map(ns),
                _ => None,
            },
            Self::BytesIn => traffic(view).map(|traffic| traffic.bytes_in),
            Self::BytesOut => traffic(view).map(|traffic| traffic.bytes_out),
            Self::Retransmits => traffic(view)?.retransmits.map(u64::from),
            // 0: not measured.
            Self::Srtt => match traffic(view)?.srtt_us {
                0 => None,
                micros => Some(u64::from(micros) * 1_000),
            },
            Self::Code => match status(view)? {
                ExitStatus::Code(code) => Some(code.into()),
                ExitStatus::Signal(_) => None,
            },
            Self::Signal => match status(view)? {
                ExitStatus::Signal(signal) => Some(signal.into()),
                ExitStatus::Code(_) => None,
            },
            Self::Cpu => gap(view)?.cpu.map(u64::from),
            Self::Lost => gap(view).map(|gap| gap.lost),
        }
    }
}

/// The bounds of the age, where the beginning was not seen.
pub(super) fn age(view: &View<'_>) -> Option<(u64, u64)> {
    let age = match view.origin {
        Origin::Listed(socket, at) => socket.born.as_ref().map(|born| Age::of(born, at)),
        Origin::Event(event) => {
            let (born, source) = match (conn(view), listener(view)) {
                (Some(conn), _) => (conn.born.as_ref(), conn.source),
                (_, Some(listener)) => (listener.born.as_ref(), listener.source),
                (None, None) => return None,
            };
            born.filter(|_| source != Source::Live).map(|born| Age::of(born, event.boot))
        }
    }?;
    let (one, other) = (age.at_least.0, age.at_most.map_or(u64::MAX, |at_most| at_most.0));
    // Bounds from different sources may contradict each other.
    Some((one.min(other), one.max(other)))
}

impl Flag {
    /// Of the socket; of processes see [`Self::of_process`].
    pub(super) fn of(self, view: &View<'_>) -> Option<bool> {
        match (self, view.origin) {
            (Self::Mapped, Origin::Listed(socket, _)) => Some(socket.mapped),
            (Self::Mapped, Origin::Event(_)) => {
                let listens = |listener: &ListenEvent| canonical_ip(listener.local.ip()).1;
                conn(view).map(|conn| conn.mapped).or_else(|| listener(view).map(listens))
            }
            (Self::V6only, Origin::Listed(socket, _)) => {
                let listens = socket.state == TcpState::Listen;
                socket.scope().filter(|_| listens).map(|scope| scope.v6only)
            }
            (Self::V6only, Origin::Event(_)) => {
                listener(view).and_then(|listener| listener.scope.as_ref()).map(|scope| scope.v6only)
            }
            (Self::KernelSocket, Origin::Event(_)) => {
                let conn = conn(view).map(|conn| conn.kernel_socket);
                conn.or_else(|| listener(view).map(|listener| listener.kernel_socket))
            }
            (Self::KernelSocket, Origin::Listed(..))
            | (Self::Kernel | Self::ArgsTruncated | Self::MntNsHost | Self::ParentHost, _) => None,
        }
    }

    /// Of a process.
    pub(super) fn of_process(self, process: &ProcessInfo) -> Option<bool> {
        match self {
            Self::Kernel => Some(process.kernel),
            Self::ArgsTruncated => Some(process.args_truncated),
            Self::ParentHost => process.ancestors.first()?.exe_is_host,
            Self::MntNsHost => process.mount_ns.map(|mount_ns| mount_ns.is_host),
            Self::Mapped | Self::V6only | Self::KernelSocket => None,
        }
    }
}

impl Role {
    /// Who it is in the event.
    pub(super) fn of<'a>(self, view: &View<'a>) -> Option<&'a Actor> {
        match self {
            Self::Owner => {
                let conn = conn(view).map(|conn| &conn.owner);
                conn.or_else(|| listener(view).map(|listener| &listener.owner))
            }
            Self::Closer => match change(view)? {
                Change::Close(_, ending) => Some(&ending.closer),
                Change::Unlisten(_, end) => Some(&end.closer),
                _ => None,
            },
            Self::Listener => match change(view)? {
                Change::Accept(conn) => conn.listener.as_ref(),
                _ => None,
            },
        }
    }

    /// How it is known.
    pub(super) fn method(self, view: &View<'_>) -> Option<Method> {
        match self {
            Self::Owner => view.socket.as_ref().map(|socket| socket.method),
            Self::Closer | Self::Listener => self.of(view).map(|actor| actor.method),
        }
    }

    /// Why it is not known.
    pub(super) fn reason(self, view: &View<'_>) -> Option<UnknownReason> {
        match self.method(view)? {
            Method::Unknown(reason) => Some(reason),
            _ => None,
        }
    }
}

/// The interface that it is bound to.
pub(super) fn device<'a>(view: &View<'a>) -> Option<&'a str> {
    let device = match view.origin {
        Origin::Listed(socket, _) => socket.device.as_ref(),
        Origin::Event(_) => match conn(view) {
            Some(conn) => conn.device.as_ref(),
            None => listener(view)?.scope.as_ref()?.device.as_ref(),
        },
    };
    device.map(|device| device.name())
}

/// The Community ID of a connection both of whose ends are known.
pub(super) fn community_id(view: &View<'_>) -> Option<[u8; community::LEN]> {
    let socket = view.socket.as_ref()?;
    community::id(socket.local, socket.remote?)
}

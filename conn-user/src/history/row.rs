//! A connection as a row has it: when each of its events was, and what is known of it. Events make a row, and a row makes them
//! again.

use std::sync::Arc;

use crate::event::model::{Event, EventBody, EventKind};
use crate::flow::model::{Change, ConnEvent, EndedHow, Ending, Failure};
use crate::flow::model::{Direction, Method, Source, Transport};
use crate::host::interfaces::Device;
use crate::units::{BootNs, NetNs, WallNs};

/// When an event was, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) seq: u64,
    pub(super) boot: BootNs,
    pub(super) wall: WallNs,
}

impl Stamp {
    pub(super) const fn of(event: &Event) -> Self {
        Self { seq: event.seq, boot: event.boot, wall: event.wall }
    }

    /// By how much the wall clock was ahead of the boot clock then, in nanoseconds.
    pub(super) const fn offset(self) -> i64 {
        self.wall.0.cast_signed().wrapping_sub(self.boot.0.cast_signed())
    }

    const fn event(self, change: Change) -> Event {
        Event { seq: self.seq, boot: self.boot, wall: self.wall, body: EventBody::Flow(change) }
    }
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Failed(Failure),
    Closed(Ending),
}

/// A connection so far.
#[derive(Clone, Debug)]
pub struct ConnRow {
    /// The kind of its first event.
    pub(super) first: EventKind,
    pub(super) begin: Stamp,
    /// Its `established` event, if that was not the first.
    pub(super) established: Option<Stamp>,
    /// As it is known last.
    pub(super) conn: ConnEvent,
    pub(super) end: Option<(Stamp, Outcome)>,
    /// It stands for so many ([`super::collapse`]): it began with the first of them and ended with the last one.
    pub(super) count: u64,
}

impl ConnRow {
    /// The row that begins with this event; `None`: it is about no connection.
    pub(super) fn of(event: &Event) -> Option<Self> {
        let EventBody::Flow(change) = &event.body else { return None };
        let at = Stamp::of(event);
        let mut row = Self {
            first: event.body.kind(),
            begin: at,
            established: None,
            conn: change.connection()?.clone(),
            end: None,
            count: 1,
        };
        row.end = outcome(change).map(|outcome| (at, outcome));
        Some(row)
    }

    /// Adds a later event of the same connection.
    pub(super) fn add(&mut self, event: &Event) {
        let EventBody::Flow(change) = &event.body else { return };
        let Some(conn) = change.connection() else { return };
        let at = Stamp::of(event);
        let begun = self.conn.begun;
        self.conn = conn.clone();
        if self.conn.begun.0 == 0 {
            self.conn.begun = begun;
        }
        if let Change::Established(_) = change {
            self.established = Some(at);
        }
        if let Some(outcome) = outcome(change) {
            self.end = Some((at, outcome));
        }
    }

    /// How many connections it stands for: identical short ones that came too fast have one row.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// When its first event was.
    pub const fn began(&self) -> WallNs {
        self.begin.wall
    }

    /// When it ended; `None`: it is open.
    pub fn ended(&self) -> Option<WallNs> {
        self.end.as_ref().map(|(at, _)| at.wall)
    }

    /// The connection as it is known last.
    pub const fn connection(&self) -> &ConnEvent {
        &self.conn
    }

    /// Its last event.
    pub fn last_event(&self) -> Event {
        let (end, established) = (&self.end, self.established);
        match (end, established) {
            (Some((at, Outcome::Closed(ending))), _) => {
                at.event(Change::Close(self.conn.clone(), ending.clone()))
            }
            (Some((at, Outcome::Failed(failure))), _) => {
                at.event(Change::Failed(self.conn.clone(), *failure))
            }
            (None, Some(at)) => at.event(Change::Established(self.conn.clone())),
            (None, None) => self.first_event(),
        }
    }

    /// Its events, in their order.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        let first = (!self.ends_with_first()).then(|| self.first_event());
        let is_between = self.established.is_some() && self.end.is_some();
        let between = self.established.filter(|_| is_between);
        let between = between.map(|at| at.event(Change::Established(self.conn.clone())));
        let last = (self.ends_with_first() || self.end.is_some() || self.established.is_some())
            .then(|| self.last_event());
        [first, between, last].into_iter().flatten()
    }

    fn ends_with_first(&self) -> bool {
        matches!(self.first, EventKind::Close | EventKind::Failed)
    }

    fn first_event(&self) -> Event {
        let mut conn = self.conn.clone();
        let change = match self.first {
            EventKind::Accept => Change::Accept(conn),
            EventKind::Established => Change::Established(conn),
            _ => {
                // The handshake was to come.
                conn.established = conn.established.filter(|at| at.0 <= self.begin.boot.0);
                Change::Connect(conn)
            }
        };
        self.begin.event(change)
    }
}

fn outcome(change: &Change) -> Option<Outcome> {
    match change {
        Change::Failed(_, failure) => Some(Outcome::Failed(*failure)),
        Change::Close(_, ending) => Some(Outcome::Closed(ending.clone())),
        _ => None,
    }
}

/// What many connections share of how they were opened: a row of `opened`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Opened {
    pub(super) first: EventKind,
    pub(super) direction: Direction,
    pub(super) transport: Transport,
    pub(super) netns: NetNs,
    pub(super) source: Source,
    pub(super) method: Method,
    pub(super) listener: Option<Method>,
    pub(super) mapped: bool,
    pub(super) kernel_socket: bool,
    pub(super) device: Option<Arc<Device>>,
}

impl Opened {
    pub(super) fn of(row: &ConnRow) -> Self {
        let conn = &row.conn;
        Self {
            first: row.first,
            direction: conn.direction,
            transport: conn.transport,
            netns: conn.netns,
            source: conn.source,
            method: conn.owner.method,
            listener: conn.listener.as_ref().map(|listener| listener.method),
            mapped: conn.mapped,
            kernel_socket: conn.kernel_socket,
            device: conn.device.clone(),
        }
    }
}

/// What many connections share of how they ended: a row of `closed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Closed {
    /// `None`: it failed.
    pub(super) how: Option<EndedHow>,
    pub(super) errno: u16,
    /// How the closer is known, of one that did not fail.
    pub(super) closer: Option<Method>,
}

impl Closed {
    pub(super) const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Failed(failure) => Self { how: None, errno: failure.errno, closer: None },
            Outcome::Closed(ending) => {
                Self { how: Some(ending.how), errno: ending.errno, closer: Some(ending.closer.method) }
            }
        }
    }
}

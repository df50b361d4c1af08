//! The connections that live, by the events of a stream.

use crate::event::model::{Event, EventBody};
use crate::flow::model::{Change, ConnEvent, ConnId};
use crate::process::hash::IntMap;
use crate::rules::detector::Flows;

/// Most connections that are followed. An agent has no more, so that more of them are of lost ends.
const KEPT_MAX: usize = 1 << 20;

/// Connections that were opened and have not ended, as the events so far describe them.
#[derive(Debug, Default)]
pub struct Living {
    by_id: IntMap<u64, ConnEvent>,
    not_kept: u64,
}

impl Living {
    /// Follows an event, and adds to it what only earlier ones of the connection report.
    pub fn follow(&mut self, mut event: Event) -> Event {
        match &mut event.body {
            EventBody::Flow(Change::Connect(conn) | Change::Accept(conn) | Change::Established(conn)) => {
                if let Some(known) = self.by_id.get_mut(&conn.id.0) {
                    complete(conn, known);
                    known.clone_from(conn);
                } else if self.by_id.len() < KEPT_MAX {
                    self.by_id.insert(conn.id.0, conn.clone());
                } else {
                    self.not_kept += 1;
                }
            }
            EventBody::Flow(Change::Failed(conn, _) | Change::Close(conn, _)) => {
                if let Some(known) = self.by_id.remove(&conn.id.0) {
                    complete(conn, &known);
                    // The end reports the duration from the accept where nothing else is known.
                    conn.established = known.established;
                }
            }
            EventBody::Exec(exec) => {
                for conn in [&mut exec.stdio, &mut exec.parent_stdio].into_iter().flatten() {
                    if let Some(known) = self.by_id.get(&conn.id.0) {
                        (**conn).clone_from(known);
                    }
                }
            }
            EventBody::Flow(Change::Listen(_) | Change::Unlisten(..))
            | EventBody::Exit(..)
            | EventBody::Gap(_)
            | EventBody::Repair(_)
            | EventBody::Degraded(_)
            | EventBody::Heartbeat(_)
            | EventBody::Alert(_)
            | EventBody::Start(_)
            | EventBody::Facts(_)
            | EventBody::Sample(_)
            | EventBody::Clock => {}
        }
        event
    }

    /// Connections for which there was no room.
    pub const fn not_kept(&self) -> u64 {
        self.not_kept
    }
}

/// Only the event that begins a connection reports all of its beginning.
fn complete(conn: &mut ConnEvent, known: &ConnEvent) {
    if conn.begun.0 == 0 {
        conn.begun = known.begun;
    }
    conn.established = conn.established.or(known.established);
    if conn.listener.is_none() {
        conn.listener.clone_from(&known.listener);
    }
}

impl Flows for Living {
    fn connection(&self, id: ConnId) -> Option<ConnEvent> {
        self.by_id.get(&id.0).cloned()
    }
}

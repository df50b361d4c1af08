//! Where the events of connections and listeners go.

use super::devices::Devices;
use super::listener_table::ListenerTable;
use super::listeners::Listener;
use super::model::{Change, ConnEvent, FlowEvent, ListenEvent};
use super::store::Conn;
use crate::units::BootNs;

/// The numbers of connections and listeners, in the order in which they were seen.
#[derive(Debug, Default)]
pub(super) struct Ids {
    last: u64,
}

impl Ids {
    pub(super) const fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// Appends events, with the names of their interfaces, and numbers what they are of.
pub(super) struct Emitter<'a> {
    ids: &'a mut Ids,
    devices: &'a Devices,
    out: &'a mut Vec<FlowEvent>,
}

impl<'a> Emitter<'a> {
    pub(super) const fn new(ids: &'a mut Ids, devices: &'a Devices, out: &'a mut Vec<FlowEvent>) -> Self {
        Self { ids, devices, out }
    }

    /// The number of a new connection or listener.
    pub(super) const fn next_id(&mut self) -> u64 {
        self.ids.next()
    }

    /// Appends an event of a connection.
    #[inline]
    pub(super) fn conn(&mut self, boot: BootNs, conn: &Conn, change: impl FnOnce(ConnEvent) -> Change) {
        self.out.push(FlowEvent { boot, change: change(conn.event(self.devices)) });
    }

    /// Appends an event of a listener.
    #[inline]
    pub(super) fn listener(
        &mut self,
        boot: BootNs,
        listener: &Listener,
        change: impl FnOnce(ListenEvent) -> Change,
    ) {
        self.out.push(FlowEvent { boot, change: change(listener.event(self.devices)) });
    }

    /// Appends an event of a listener of which only its end is known.
    pub(super) fn late_listener(&mut self, boot: BootNs, change: Change) {
        self.out.push(FlowEvent { boot, change });
    }
}

/// What a connection's handling may change beside the connections: listeners, and the events.
pub(super) struct Context<'a> {
    pub(super) listeners: &'a mut ListenerTable,
    pub(super) emitter: Emitter<'a>,
}

//! What waits: connects and listeners for their port, dead connections for an accept. Each queue has one hold time,
//! so its order is that of its deadlines.

use std::collections::VecDeque;

use super::resolve::PortQuery;
use crate::units::BootNs;

/// A connect that is not reported yet.
#[derive(Clone, Debug)]
pub(super) struct HeldConnect {
    pub(super) until: BootNs,
    pub(super) place: u32,
    pub(super) id: u64,
    pub(super) query: PortQuery,
}

/// A listener that is not reported yet.
#[derive(Clone, Debug)]
pub(super) struct HeldListen {
    /// When it is reported without its port.
    pub(super) until: BootNs,
    /// When it is looked up next.
    pub(super) next: BootNs,
    pub(super) key: u64,
    pub(super) id: u64,
    pub(super) query: PortQuery,
}

/// A connection that ended unaccepted and is not reported yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldDeath {
    pub(super) until: BootNs,
    pub(super) place: u32,
    pub(super) id: u64,
}

/// The queues of what waits, with their hold times.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) connects: VecDeque<HeldConnect>,
    pub(super) listens: VecDeque<HeldListen>,
    pub(super) deaths: VecDeque<HeldDeath>,
    /// Before this no port is looked up: look-ups take a bounded share of the time.
    pub(super) rest_until: BootNs,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.connects.len() + self.listens.len() + self.deaths.len()
    }

    /// When something has to be looked at, at the latest.
    pub(super) fn next(&self) -> Option<BootNs> {
        let connect = self.connects.front().map(|held| held.until);
        let death = self.deaths.front().map(|held| held.until);
        let listen = self.listens.iter().map(|held| held.next).min();
        let port = [connect, listen].into_iter().flatten().min().map(|due| due.max(self.rest_until));
        [port, death].into_iter().flatten().min()
    }
}

//! Bounds of the flow table, and what it counts.

use crate::units::{BootNs, DurationNs};

/// Bounds and hold times of a [`FlowTable`](super::FlowTable).
#[derive(Clone, Copy, Debug)]
pub struct FlowLimits {
    /// Most connections that are followed at once.
    pub connections: usize,
    /// Most ended connections whose keys are remembered, so that a second end is dropped.
    pub ended: usize,
    /// Most listeners.
    pub listeners: usize,
    /// Most events that wait, of each kind.
    pub held: usize,
    /// How long a connect or listen waits for its port.
    pub port_hold: DurationNs,
    /// How long an end waits for the accept of a connection that died in the accept queue.
    pub accept_hold: DurationNs,
}

impl FlowLimits {
    /// Most listeners that wait: they are looked through one by one, so few.
    pub(super) fn held_listens(&self) -> usize {
        self.held.min(1024)
    }

    /// Until when a connect or listen of this instant waits for its port.
    pub(super) const fn port_until(&self, boot: BootNs) -> BootNs {
        BootNs(boot.0.saturating_add(self.port_hold.0))
    }

    /// Until when an end of this instant waits for an accept.
    pub(super) const fn accept_until(&self, boot: BootNs) -> BootNs {
        BootNs(boot.0.saturating_add(self.accept_hold.0))
    }
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            connections: 1 << 20,
            ended: 1 << 16,
            listeners: 1 << 16,
            held: 1 << 16,
            port_hold: DurationNs(20_000_000),
            accept_hold: DurationNs(100_000_000),
        }
    }
}

/// Counters of a [`FlowTable`](super::FlowTable).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Connections that live.
    pub live: usize,
    /// Ended connections whose keys are remembered.
    pub ended: usize,
    /// Listeners.
    pub listeners: usize,
    /// Events that wait.
    pub held: usize,
    /// Connections that were dropped because a limit was reached; what comes of them later is reported as late.
    pub evicted: u64,
    /// Connections of snapshots that are not followed: limit reached.
    pub connections_not_kept: u64,
    /// Listeners that were reported or found but not remembered: limit reached.
    pub listeners_not_kept: u64,
    /// Events that were reported before their hold time was over: limit reached.
    pub released_early: u64,
    /// Connections whose end was never seen: another one began under their key.
    pub ends_missed: u64,
    /// Ends of connections that had ended before: expected, a connection ends at several hooks.
    pub second_ends: u64,
    /// Accept records that named no connection that waits.
    pub accepts_ignored: u64,
    /// Accepts that no hook named, inferred when the connection ended.
    pub accepts_inferred: u64,
    /// Records that say nothing new or cannot be.
    pub ignored: u64,
}

/// What the connection table counts; the fields are those of [`FlowStats`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConnectionStats {
    pub(super) evicted: u64,
    pub(super) not_kept: u64,
    pub(super) released_early: u64,
    pub(super) ends_missed: u64,
    pub(super) second_ends: u64,
    pub(super) accepts_ignored: u64,
    pub(super) accepts_inferred: u64,
    pub(super) ignored: u64,
}

/// What the listener table counts; the fields are those of [`FlowStats`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ListenerStats {
    pub(super) not_kept: u64,
    pub(super) released_early: u64,
    pub(super) ends_missed: u64,
    pub(super) ignored: u64,
}

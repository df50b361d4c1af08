//! Since when a connection exists that was there before the agent. A socket has no time of birth.

use crate::units::BootNs;

/// When a connection began: somewhere between two instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Born {
    /// Not before; `None`: no bound but the boot.
    pub earliest: Option<BootNs>,
    /// Not after.
    pub latest: BootNs,
    /// How `earliest` is known; without it [`BornBy::Boot`].
    pub earliest_by: BornBy,
    /// How `latest` is known.
    pub latest_by: BornBy,
}

/// How a bound of [`Born`] is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BornBy {
    /// The machine was not up before.
    Boot,
    /// conntrack's time stamp (`nf_conntrack_timestamp`).
    Conntrack,
    /// A socket that never sent: `tcpi_last_data_sent` counts from the handshake (`tcp_finish_connect`,
    /// `tcp_create_openreq_child`).
    NeverSent,
    /// The last data that was sent or received.
    LastActivity,
    /// The start of the process that holds it; it may have inherited the socket, so the earliest of its holders and
    /// their common ancestors counts.
    OwnerStart,
    /// It was there when the snapshot was taken.
    Snapshot,
    /// An earlier snapshot of the same agent did not have it.
    EarlierSnapshot,
}

//! Loss: found from the sequence numbers, exact to the record.

use conn_common::hook::HookId;

use crate::units::BootNs;

/// Lost records of one hook on one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which hook.
    pub hook: HookId,
    /// Which CPU.
    pub cpu: u16,
    /// How many records.
    pub lost: u64,
    /// Time of the last record before the loss (the attach, if there is none).
    pub from: BootNs,
    /// Time of the first record after it (the end of the run, if there is none).
    pub to: BootNs,
}

//! The agent is alive: whoever gets its events knows by the next one that is missing that it is not.

use crate::units::DurationNs;

/// How the agent is, now and then. Counts are since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// How long after this one the next comes.
    pub every: DurationNs,
    /// For how long everything has been seen.
    pub uptime: DurationNs,
    /// Records that were lost.
    pub lost: u64,
    /// Lines and rows that outputs dropped.
    pub dropped: u64,
    /// Alerts that are open.
    pub open_alerts: u64,
}

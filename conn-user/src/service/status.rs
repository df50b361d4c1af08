//! How an agent is: what `status` answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::protocol::About;

/// The state of an agent. Counts are since it began, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Who answers.
    pub agent: About,
    /// Since when it sees everything, RFC 3339, UTC.
    pub since: String,
    /// For how long, nanoseconds, suspend included.
    pub running_for_ns: u64,
    /// The backend of its hooks.
    pub backend: String,
    /// Events by kind; kinds without one are not there.
    pub events: BTreeMap<String, u64>,
    /// The number of the last event.
    pub seq: u64,
    /// Events a second over the last minute; `None`: it does not run that long.
    pub events_per_second: Option<f64>,
    /// Gaps, and records lost in them.
    pub gaps: Gaps,
    /// Repairs of the tables after a loss.
    pub repairs: Repairs,
    /// What was dropped or not followed: by what it was, and of outputs by their names. What was never dropped is not there.
    pub dropped: Vec<Dropped>,
    /// The rules.
    pub rules: Rules,
    /// Open alerts by severity; severities without one are not there.
    pub open_alerts: BTreeMap<String, u64>,
    /// Clients of the socket, and what they lost.
    pub clients: Clients,
    /// Resident memory, bytes; `None`: /proc does not say.
    pub memory_bytes: Option<u64>,
    /// The history; `None`: there is none.
    pub history: Option<History>,
}

/// Losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps {
    /// Gap events.
    pub count: u64,
    /// Records for which the ring had no room.
    pub lost: u64,
    /// Records that could not be decoded.
    pub undecoded: u64,
}

/// Repairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repairs {
    /// Repairs.
    pub done: u64,
    /// Snapshots for one that could not be taken.
    pub failed: u64,
}

/// Something that was dropped, in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The way, as in `degraded` events: `output`, `connections`, …
    pub what: String,
    /// Where: the name of an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// How much.
    pub count: u64,
}

/// The rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Active ones.
    pub active: u64,
    /// The folders that they are from; empty: the default rules.
    pub folders: Vec<String>,
}

/// The clients of the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// Clients at present, the one that asks among them.
    pub now: u64,
    /// Of them those that get events.
    pub tails: u64,
    /// Clients so far.
    pub total: u64,
    /// Clients that were refused because there were too many.
    pub refused: u64,
    /// Events that clients lost because they read too slowly.
    pub dropped: u64,
}

/// The history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The folder of its files.
    pub folder: String,
    /// How many files.
    pub files: u64,
    /// Their size, bytes.
    pub bytes: u64,
    /// The earliest event, RFC 3339, UTC; `None`: it is empty.
    pub first: Option<String>,
    /// The latest event.
    pub last: Option<String>,
    /// Rows that were written.
    pub rows: u64,
    /// Rows that were dropped.
    pub dropped: u64,
}

/// What only the thread of the agent knows: the rest is added where the question is answered.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// See [`Status::events`].
    pub events: BTreeMap<String, u64>,
    /// See [`Status::seq`].
    pub seq: u64,
    /// See [`Status::events_per_second`].
    pub events_per_second: Option<f64>,
    /// See [`Status::gaps`].
    pub gaps: Gaps,
    /// See [`Status::repairs`].
    pub repairs: Repairs,
    /// See [`Status::dropped`].
    pub dropped: Vec<Dropped>,
    /// Active rules.
    pub rules: u64,
    /// See [`Status::open_alerts`].
    pub open_alerts: BTreeMap<String, u64>,
    /// See [`Clients::tails`].
    pub tails: u64,
    /// See [`Clients::dropped`].
    pub client_dropped: u64,
}

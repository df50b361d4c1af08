//! The report as it is written, and what its schema is made from.

use std::net::IpAddr;

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

#[cfg(test)]
use super::schema::AlertEvent;
#[cfg(test)]
use crate::event::wire::schema::{Name, Time, True, Version};
use crate::event::wire::{Process, Text, is_unset};
#[cfg(test)]
use crate::flow::model::Direction;

/// The report of `conn run`.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "run"))]
pub(super) struct Run<'a> {
    /// Version of this schema. It grows when a field changes its meaning or goes away; a new field does not
    /// change it.
    #[cfg_attr(test, schemars(with = "Version"))]
    pub(super) schema: u32,
    /// End of the run, RFC 3339, UTC, nanoseconds.
    #[cfg_attr(test, schemars(with = "Time"))]
    pub(super) ts: Text<'a>,
    /// Host name.
    pub(super) host: Text<'a>,
    /// Id of this boot (`/proc/sys/kernel/random/boot_id`).
    pub(super) boot_id: Text<'a>,
    /// What it is.
    #[cfg_attr(test, schemars(extend("enum" = ["run"])))]
    pub(super) kind: Text<'a>,
    /// The program and its arguments.
    pub(super) command: Vec<Text<'a>>,
    /// As `comm_escaped` of a process, for `command`.
    #[serde(skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(super) command_escaped: bool,
    /// The command's own exit code; null: it was killed.
    pub(super) exit_code: Option<u8>,
    /// The signal that killed the command; null: it exited.
    pub(super) signal: Option<u8>,
    /// How long the command ran, in nanoseconds.
    pub(super) duration_ns: u64,
    /// How many processes the run had, the command's own among them.
    pub(super) processes: u64,
    /// `passed`: all is as expected; `failed`: something is unexpected or missing; `inconclusive`: all that
    /// was seen is as expected, but not everything was seen; null: there are no rules.
    #[cfg_attr(test, schemars(extend("enum" = ["passed", "failed", "inconclusive", null])))]
    pub(super) verdict: Option<Text<'a>>,
    /// What it connected to and accepted, sorted.
    pub(super) connections: Vec<ConnectionRow<'a>>,
    /// Where it listened, sorted.
    pub(super) listeners: Vec<ListenerRow<'a>>,
    /// Ids of the active rules that are no expectations.
    pub(super) rules: Vec<Text<'a>>,
    /// What they found, as alerts (see [events.md](events.md#alert)), with the severity that each came to;
    /// `seq` counts them.
    #[cfg_attr(test, schemars(with = "Vec<AlertEvent>"))]
    pub(super) unexpected: Vec<Box<RawValue>>,
    /// What they found beyond a thousand; the first finding of each rule is among `unexpected` in any case.
    pub(super) more_unexpected: u64,
    /// What must happen: the rules of kind `missing`.
    pub(super) expected: Vec<Expected<'a>>,
    /// Ids of the rules among them that were not met.
    pub(super) missing: Vec<Text<'a>>,
    /// Processes of the run that had not ended when the report was made.
    pub(super) still_running: Vec<Process<'a>>,
    /// Records that were lost while it ran, whosever they were; at most so many where the kernel skipped a
    /// program.
    pub(super) lost: u64,
    /// Processes, connections, listeners and judgements for which there was no room.
    pub(super) not_followed: u64,
}

/// Connections of a sort.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "connections"))]
pub(super) struct ConnectionRow<'a> {
    /// Path of the executable, or the process's name where that is not known; null: the process is not known.
    pub(super) program: Option<Text<'a>>,
    /// As `comm_escaped` of a process, for `program`.
    #[serde(skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(super) program_escaped: bool,
    /// `out`: it connected; `in`: it was connected to; `unknown`: it was there before, or nobody saw it begin.
    #[cfg_attr(test, schemars(with = "Name<Direction>"))]
    pub(super) dir: Text<'a>,
    /// Address of the other side.
    pub(super) raddr: IpAddr,
    /// Port of the side that was connected to; null: not known.
    #[cfg_attr(test, schemars(extend("minimum" = 1)))]
    pub(super) port: Option<u16>,
    /// How many were opened or accepted.
    pub(super) count: u64,
    /// Of these, how many were established.
    pub(super) established: u64,
    /// Of these, how many failed.
    pub(super) failed: u64,
    /// Of these, how many were open at the end.
    pub(super) open: u64,
    /// Payload received on those that were closed.
    pub(super) bytes_in: u64,
    /// Payload sent on those that were closed.
    pub(super) bytes_out: u64,
    /// Error of the last that failed: its name, `errno N` where it has none here, `cancelled`; null: none
    /// failed.
    pub(super) error: Option<Text<'a>>,
}

/// Listeners of a sort.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "listeners"))]
pub(super) struct ListenerRow<'a> {
    /// Path of the executable, or the process's name where that is not known; null: the process is not known.
    pub(super) program: Option<Text<'a>>,
    /// As `comm_escaped` of a process, for `program`.
    #[serde(skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(super) program_escaped: bool,
    /// Address.
    pub(super) laddr: IpAddr,
    /// Port; null: not known.
    #[cfg_attr(test, schemars(extend("minimum" = 1)))]
    pub(super) lport: Option<u16>,
    /// How many.
    pub(super) count: u64,
    /// Of these, how many listened still at the end.
    pub(super) open: u64,
}

/// A rule of kind `missing`, and what the run did of it.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "expected"))]
pub(super) struct Expected<'a> {
    /// Id of the rule.
    pub(super) rule: Text<'a>,
    /// Title of the rule.
    pub(super) title: Text<'a>,
    /// What it is about.
    #[cfg_attr(test, schemars(extend("enum" = ["connection", "listener"])))]
    pub(super) expect: Text<'a>,
    /// The filter that says which.
    pub(super) r#match: Text<'a>,
    /// Which of these do not count, each a filter.
    pub(super) except: Vec<Text<'a>>,
    /// How many there must be.
    pub(super) at_least: u32,
    /// How many there were; more than `at_least` are not counted.
    pub(super) seen: u32,
    /// Attempts that match and failed, until there were enough.
    pub(super) failed: u64,
    /// Error of the last that failed: its name, `errno N` where it has none here, `cancelled`; null: none
    /// failed.
    pub(super) error: Option<Text<'a>>,
}

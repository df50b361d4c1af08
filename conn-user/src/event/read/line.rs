//! What a line of a recording may have.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Deref;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A text, borrowed where it has no escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// What a line may have, by its key. Only what an event of its kind needs must be there.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    pub(super) schema: u32,
    pub(super) seq: u64,
    pub(super) ts_ns: u64,
    pub(super) boot_ns: u64,
    #[serde(borrow, default)]
    pub(super) host: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) boot_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(super) conn_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) dir: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) proto: Option<Text<'a>>,
    #[serde(default)]
    pub(super) mapped: bool,
    #[serde(default)]
    pub(super) laddr: Option<IpAddr>,
    #[serde(default)]
    pub(super) lport: Option<u16>,
    #[serde(borrow, default)]
    pub(super) device: Option<Text<'a>>,
    #[serde(default)]
    pub(super) v6only: Option<bool>,
    #[serde(default)]
    pub(super) raddr: Option<IpAddr>,
    #[serde(default)]
    pub(super) rport: Option<u16>,
    #[serde(default)]
    pub(super) netns: Option<u64>,
    #[serde(borrow, default)]
    pub(super) source: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) age: Option<Age<'a>>,
    #[serde(default)]
    pub(super) kernel_socket: bool,
    #[serde(borrow, default)]
    pub(super) socket_unit: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) process: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) tid: Option<u32>,
    #[serde(borrow, default)]
    pub(super) method: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) hook: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) listener: Option<Who<'a>>,
    #[serde(borrow, default)]
    pub(super) closer: Option<Who<'a>>,
    #[serde(default)]
    pub(super) connect_ns: Option<u64>,
    #[serde(default)]
    pub(super) queued_ns: Option<u64>,
    #[serde(default)]
    pub(super) after_ns: Option<u64>,
    #[serde(default)]
    pub(super) duration_ns: Option<u64>,
    #[serde(borrow, default)]
    pub(super) end: Option<Text<'a>>,
    #[serde(default)]
    pub(super) errno: Option<u16>,
    #[serde(default)]
    pub(super) bytes_in: Option<u64>,
    #[serde(default)]
    pub(super) bytes_out: Option<u64>,
    #[serde(default)]
    pub(super) retransmits: Option<u32>,
    #[serde(default)]
    pub(super) srtt_us: Option<u32>,
    #[serde(default)]
    pub(super) code: Option<u8>,
    #[serde(default)]
    pub(super) signal: Option<u8>,
    #[serde(borrow, default)]
    pub(super) what: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) place: Option<Text<'a>>,
    #[serde(default)]
    pub(super) count: Option<u64>,
    #[serde(default)]
    pub(super) total: Option<u64>,
    #[serde(borrow, default)]
    pub(super) cause: Option<Text<'a>>,
    #[serde(default)]
    pub(super) cpu: Option<u16>,
    #[serde(default)]
    pub(super) lost: Option<u64>,
    #[serde(default)]
    pub(super) from_boot_ns: Option<u64>,
    #[serde(default)]
    pub(super) to_boot_ns: Option<u64>,
    #[serde(borrow, default)]
    pub(super) run: Option<Text<'a>>,
    #[serde(default)]
    pub(super) attached_boot_ns: Option<u64>,
    pub(super) seen_boot_ns: Option<u64>,
    #[serde(default)]
    pub(super) asked_boot_ns: Option<u64>,
    #[serde(default)]
    pub(super) received_boot_ns: Option<u64>,
    #[serde(default)]
    pub(super) sent_boot_ns: Option<u64>,
    #[serde(default)]
    pub(super) has_facts: bool,
    #[serde(default)]
    pub(super) settled: bool,
    #[serde(borrow, default)]
    pub(super) stdio: Option<Ends<'a>>,
    #[serde(borrow, default)]
    pub(super) parent_stdio: Option<Ends<'a>>,
    #[serde(default)]
    pub(super) stdio_peers: Vec<Peer>,
    #[serde(borrow, default)]
    pub(super) alert: Option<&'a RawValue>,
}

/// A process at the other end of standard input and output.
#[derive(Deserialize)]
pub(super) struct Peer {
    pub(super) pid: u32,
    pub(super) start_ns: u64,
}

/// What a rule said.
#[derive(Deserialize)]
pub(super) struct AlertPart<'a> {
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) phase: Text<'a>,
    #[serde(borrow)]
    pub(super) severity: Text<'a>,
    #[serde(borrow)]
    pub(super) rule: Text<'a>,
    #[serde(borrow)]
    pub(super) title: Text<'a>,
    #[serde(borrow)]
    pub(super) evidence: &'a RawValue,
    #[serde(borrow)]
    pub(super) coverage: &'a RawValue,
    #[serde(borrow, default)]
    pub(super) suppress: Option<Text<'a>>,
    #[serde(default)]
    pub(super) repeats: u64,
}

/// The evidence that is a process which the rule looked at in the place of the subject's.
#[derive(Deserialize)]
pub(super) struct Started<'a> {
    #[serde(borrow, default)]
    pub(super) started: Option<&'a RawValue>,
}

/// A process in a role.
#[derive(Deserialize)]
pub(super) struct Who<'a> {
    #[serde(borrow, default)]
    pub(super) process: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) tid: Option<u32>,
    #[serde(borrow, default)]
    pub(super) method: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) hook: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[allow(clippy::struct_field_names, reason = "the names of the keys")]
pub(super) struct Age<'a> {
    pub(super) at_least_ns: u64,
    pub(super) at_most_ns: Option<u64>,
    #[serde(borrow)]
    pub(super) at_least_by: Text<'a>,
    #[serde(borrow)]
    pub(super) at_most_by: Text<'a>,
}

/// A connection that an exec names.
#[derive(Deserialize)]
pub(super) struct Ends<'a> {
    #[serde(borrow)]
    pub(super) dir: Text<'a>,
    pub(super) laddr: IpAddr,
    pub(super) lport: Option<u16>,
    pub(super) raddr: IpAddr,
    pub(super) rport: Option<u16>,
    #[serde(borrow, default)]
    pub(super) device: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) conn_id: Text<'a>,
}

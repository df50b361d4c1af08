//! What a line of an event may have, by its key.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[cfg(test)]
use super::{
    AlertPart, CommunityId, ConnectionId, Hook, JsonSchema, Method, Name, ProcessOrId, Time, True, Version,
};
use super::{Instant, Text};
#[cfg(test)]
use crate::event::degraded::Degradation;
#[cfg(test)]
use crate::event::model::EventKind;
#[cfg(test)]
use crate::flow::born::BornBy;
#[cfg(test)]
use crate::flow::model::{Direction, EndedHow, Source, Transport, UnknownReason};
#[cfg(test)]
use crate::kernel::gap::GapCause;

/// What a line may have. Only what an event of its kind needs must be there: [`crate::event::schema`] says
/// which that is.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[allow(dead_code, reason = "some keys are for other readers")]
pub(crate) struct Line<'a> {
    /// Version of this schema. It grows when a field changes its meaning or goes away; a new field does not
    /// change it.
    #[cfg_attr(test, schemars(with = "Version"))]
    pub(crate) schema: u32,
    /// Number of the event in this run of the agent, from 1; 0: it reports the start of a recording, or what
    /// was there then, or is `facts` or `clock`. Filters hide events, so a filtered stream has holes; lost
    /// records are reported by `gap` events, dropped lines by `degraded`.
    pub(crate) seq: u64,
    /// Time of the event, RFC 3339, UTC, nanoseconds.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Time"))]
    pub(crate) ts: Text<'a>,
    /// The same instant, nanoseconds since boot, suspend included (CLOCK_BOOTTIME). Differences are exact
    /// where `ts` follows a clock that is set.
    pub(crate) boot_ns: Instant,
    /// Host name.
    #[serde(borrow, default)]
    pub(crate) host: Option<Text<'a>>,
    /// Id of this boot (`/proc/sys/kernel/random/boot_id`).
    #[serde(borrow, default)]
    pub(crate) boot_id: Option<Text<'a>>,
    /// What happened.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<EventKind>"))]
    pub(crate) kind: Text<'a>,
    /// Names the connection or listener for good: boot id (8 digits), start of the agent (hex), number.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "ConnectionId"))]
    pub(crate) conn_id: Option<Text<'a>>,
    /// Transport. The subflows of an MPTCP connection are not shown apart.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Name<Transport>"))]
    pub(crate) proto: Option<Text<'a>>,
    /// Family of the addresses as shown.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(extend("enum" = ["ipv4", "ipv6"])))]
    pub(crate) family: Option<Text<'a>>,
    /// The socket is IPv6 and its addresses are IPv4-mapped (::ffff:a.b.c.d): they are shown as IPv4.
    #[serde(default)]
    pub(crate) mapped: bool,
    /// Local address.
    #[serde(default)]
    pub(crate) laddr: Option<IpAddr>,
    /// Local port; null: not known (yet).
    #[serde(default)]
    pub(crate) lport: Option<u16>,
    /// Inode number of the network namespace, as in `/proc/PID/ns/net`.
    #[serde(default)]
    pub(crate) netns: Option<u64>,
    /// `live`: seen from its beginning; `snapshot`: it was there when the agent started; `resync`: records
    /// were lost, and the snapshot after the loss had it; `late`: its beginning was not seen and no snapshot
    /// had it.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Name<Source>"))]
    pub(crate) source: Option<Text<'a>>,
    /// How old it is at the time of the event (a connection since it was established); null: not known.
    /// Absent if it was seen from its beginning (source `live`).
    #[serde(borrow, default)]
    pub(crate) age: Option<Age<'a>>,
    /// The socket is the kernel's own (NFS, RDS, ...): no process ever holds it. `process` is a kernel
    /// thread, or in whose system call the kernel did it.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) kernel_socket: bool,
    /// Community ID version 1, seed 0: the same for both ends and in other network monitors. Absent while a
    /// port is not known.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "CommunityId"))]
    pub(crate) community_id: Option<Text<'a>>,
    /// `out`: this side sent the SYN; `in`: it received it; `unknown`: the connection is older than the
    /// agent's knowledge.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Name<Direction>"))]
    pub(crate) dir: Option<Text<'a>>,
    /// Remote address.
    #[serde(default)]
    pub(crate) raddr: Option<IpAddr>,
    /// Remote port; null: not known (yet).
    #[serde(default)]
    pub(crate) rport: Option<u16>,
    /// Interface that the socket is bound to (SO_BINDTODEVICE, its listener, or a link-local address): only
    /// where it is bound to one. Its index where it has no name any more.
    #[serde(borrow, default)]
    pub(crate) device: Option<Text<'a>>,
    /// The process; null: not known, see `reason`.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "ProcessOrId"))]
    pub(crate) process: Option<&'a RawValue>,
    /// The thread that acted, where a hook named it.
    #[serde(default)]
    pub(crate) tid: Option<u32>,
    /// How the process is known: `hook`: the kernel ran `hook` in its context, so it is certain; `listener`:
    /// the owner of the listener; `closer`: who closed it; `fd_table`: it held a descriptor of the socket
    /// when the snapshot was taken; `unknown`.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Method"))]
    pub(crate) method: Option<Text<'a>>,
    /// The hook that named it (method `hook`).
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Hook"))]
    pub(crate) hook: Option<Text<'a>>,
    /// Why it is not known (method `unknown`): `before_attach`: it began before the agent attached;
    /// `never_accepted`: nobody accepted it; `backend`: this backend cannot name it; `kernel`: the kernel
    /// acted for nobody. From a snapshot: `not_accepted`: it waits in the accept queue; `orphan`: its last
    /// descriptor is closed; `time_wait`: what is left of an ended connection; `no_holder`: no process that
    /// could be read holds it. `no_processes`: a network sensor saw it (Zeek). After a loss: `lost`: the
    /// records that reported it.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Name<UnknownReason>"))]
    pub(crate) reason: Option<Text<'a>>,
    /// Owner of the listener, where it is known.
    #[serde(borrow, default)]
    pub(crate) listener: Option<Who<'a>>,
    /// How long it waited to be accepted, from the end of the handshake; null: that was not seen.
    #[serde(default)]
    pub(crate) queued_ns: Option<u64>,
    /// From the SYN to the end of the handshake; null: not known.
    #[serde(default)]
    pub(crate) connect_ns: Option<u64>,
    /// Error number; 0: its owner cancelled it (close, shutdown or disconnect before the answer).
    #[serde(default)]
    pub(crate) errno: Option<u16>,
    /// Name of the error, e.g. `ECONNREFUSED`; `cancelled` for 0; `E` and the number where it has no name.
    #[serde(borrow, default)]
    pub(crate) error: Option<Text<'a>>,
    /// From the SYN to the failure; null: not known.
    #[serde(default)]
    pub(crate) after_ns: Option<u64>,
    /// How: this side closed first, in order; the peer did; this side reset it (linger 0, or unread data);
    /// the peer reset it; no answer; killed from outside (`ss -K`); dissolved by connect(AF_UNSPEC) or with
    /// its listener; nobody accepted it before the listener went; another error; not known, it ended in a gap
    /// (the time is that of the repair, or of the next connection that has its key in the kernel).
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Name<EndedHow>"))]
    pub(crate) end: Option<Text<'a>>,
    /// From established to the end; null: not known.
    #[serde(default)]
    pub(crate) duration_ns: Option<u64>,
    /// Payload bytes received; null: not known, as the next three.
    #[serde(default)]
    pub(crate) bytes_in: Option<u64>,
    /// Payload bytes sent, retransmissions not counted.
    #[serde(default)]
    pub(crate) bytes_out: Option<u64>,
    /// Segments retransmitted.
    #[serde(default)]
    pub(crate) retransmits: Option<u32>,
    /// Smoothed round trip time, microseconds; 0: not measured.
    #[serde(default)]
    pub(crate) srtt_us: Option<u32>,
    /// Who ended it; method `unknown` with reason `kernel`: the network did.
    #[serde(borrow, default)]
    pub(crate) closer: Option<Who<'a>>,
    /// It takes IPv6 only: without this flag a listener on `::` takes IPv4 too. Only where that is known.
    #[serde(default)]
    pub(crate) v6only: Option<bool>,
    /// Only where process 1 is the owner (socket activation): the `.socket` unit that listens here; null: the
    /// unit files name none, or several.
    #[serde(borrow, default)]
    pub(crate) socket_unit: Option<Text<'a>>,
    /// Its standard input or output is a TCP connection: this one. Absent where neither is.
    #[serde(borrow, default)]
    pub(crate) stdio: Option<Stdio<'a>>,
    /// Standard input or output of its parent is a TCP connection: this one. Absent where its own is one.
    #[serde(borrow, default)]
    pub(crate) parent_stdio: Option<Stdio<'a>>,
    /// Only of a program that was executed before conn began: the processes that exchange data with its
    /// standard input and output over pipes, FIFOs, pseudo-terminals or socket pairs, also through processes
    /// between. Absent where there are none.
    #[serde(default)]
    pub(crate) stdio_peers: Vec<Peer>,
    /// Its exit code.
    #[serde(default)]
    pub(crate) code: Option<u8>,
    /// The signal that ended it.
    #[serde(default)]
    pub(crate) signal: Option<u8>,
    /// `ring_full`: the ring buffer had no room; `skipped`: the kernel skipped the program, because it was
    /// running on that CPU already.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Name<GapCause>"))]
    pub(crate) cause: Option<Text<'a>>,
    /// The CPU on which they were lost; null: the kernel does not report it (`skipped`).
    #[serde(default)]
    pub(crate) cpu: Option<u16>,
    /// How many; with `skipped` runs of the program, of which some may have had nothing to report: at least
    /// so many where the hook has a backup program (`backup`).
    #[serde(default)]
    pub(crate) lost: Option<u64>,
    /// Time of the last record before the loss (the attach, if there is none), nanoseconds since boot.
    #[serde(default)]
    pub(crate) from_boot_ns: Option<Instant>,
    /// Time of the first record after it (or when the kernel's counts were read, if there is none).
    #[serde(default)]
    pub(crate) to_boot_ns: Option<Instant>,
    /// Losses until then are repaired (`gap`, `to_boot_ns`), nanoseconds since boot. What began and ended in
    /// one stays missing.
    pub(crate) seen_boot_ns: Option<Instant>,
    /// In what way: lines of an output were not written (it cannot be, or takes them more slowly than they
    /// come); records came that could not be understood (a bug); processes were forgotten early or not
    /// remembered; connections are not followed to their end; listeners are not remembered; events were
    /// reported before what they waited for could come; processes and executables were not looked at in the
    /// background; files were not looked at because their file systems do not answer; arguments were not read
    /// because /proc does not answer for their processes; alerts were ended early, or repeats may be reported
    /// again; rules did not remember what they need.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Name<Degradation>"))]
    pub(crate) what: Option<Text<'a>>,
    /// Of `output`: which one.
    #[serde(borrow, default)]
    pub(crate) place: Option<Text<'a>>,
    /// How many, since the last event of this `what` and `place`.
    #[serde(default)]
    pub(crate) count: Option<u64>,
    /// How many in this run.
    #[serde(default)]
    pub(crate) total: Option<u64>,
    /// What the rule says.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "AlertPart<'static>"))]
    pub(crate) alert: Option<&'a RawValue>,
    /// What the ids of this run's connections and alerts begin with.
    #[serde(borrow, default)]
    pub(crate) run: Option<Text<'a>>,
    /// Since when everything is seen, nanoseconds since boot: the programs were attached. The event's own
    /// time is that at which the rules began.
    #[serde(default)]
    pub(crate) attached_boot_ns: Option<Instant>,
    /// Facts that the agent finds in the background become known at the `facts` events; absent in older
    /// recordings.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) has_facts: bool,
    /// Nothing more is being found out of it.
    #[serde(default)]
    pub(crate) settled: bool,
    /// The kernel was asked then, nanoseconds since boot. The next four are only there with it.
    #[serde(default)]
    pub(crate) asked_boot_ns: Option<Instant>,
    /// Data were last received then or before, nanoseconds since boot; without any, the connection was
    /// established then.
    #[serde(default)]
    pub(crate) received_boot_ns: Option<Instant>,
    /// The same of data sent, by the same clock: not less than `received_boot_ns` if data were sent after the
    /// last were received, or within the same tick of the kernel.
    #[serde(default)]
    pub(crate) sent_boot_ns: Option<Instant>,
}

/// Who did it, and how that is known.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "actor"))]
pub(crate) struct Who<'a> {
    /// The process; null: not known, see `reason`. Its `id` alone where it is written out before: in the same line (a
    /// closer that is the owner), or with `--compact` in an earlier one.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Option<ProcessOrId>"))]
    pub(crate) process: Option<&'a RawValue>,
    /// The thread that acted; null: no hook named it. Absent of the owner of a listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("nullable" = true)))]
    pub(crate) tid: Option<u32>,
    /// How the process is known, as in a socket.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Method"))]
    pub(crate) method: Option<Text<'a>>,
    /// The hook that named it (method `hook`).
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Hook"))]
    pub(crate) hook: Option<Text<'a>>,
    /// Why it is not known (method `unknown`), as in a socket.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Name<UnknownReason>"))]
    pub(crate) reason: Option<Text<'a>>,
}

/// An age between two bounds, and how each is known. A socket has no time of birth, so the age of what was there
/// before it was seen is an interval; where both bounds are equal it is exact.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "age"))]
#[allow(clippy::struct_field_names, reason = "the names of the keys")]
pub(crate) struct Age<'a> {
    /// It is at least so old, nanoseconds.
    pub(crate) at_least_ns: u64,
    /// It is at most so old; null: no bound but the boot.
    pub(crate) at_most_ns: Option<u64>,
    /// How `at_least_ns` is known: `conntrack`: the kernel's connection tracking has its start; `never_sent`,
    /// `never_received`: it never did, and the kernel's counter of that idle time counts from the handshake;
    /// `last_activity`: data was sent or received so long ago; `snapshot`: it was there when the snapshot was
    /// taken; `seen`: a running agent saw it begin.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<BornBy>"))]
    pub(crate) at_least_by: Text<'a>,
    /// How `at_most_ns` is known: `conntrack`, `never_sent` and `never_received` as above; `owner_start`: the
    /// process that holds it (or, as it may be inherited, an ancestor) started then; `boot`: the machine
    /// started then; `seen`: a running agent saw it begin.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<BornBy>"))]
    pub(crate) at_most_by: Text<'a>,
}

/// A connection, by its ends.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "stdio"))]
pub(crate) struct Stdio<'a> {
    /// `out`: this side sent the SYN; `in`: it received it; `unknown`: the connection is older than the
    /// agent's knowledge.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<Direction>"))]
    pub(crate) dir: Text<'a>,
    /// Local address.
    pub(crate) laddr: IpAddr,
    /// Local port; null: not known (yet).
    pub(crate) lport: Option<u16>,
    /// Remote address.
    pub(crate) raddr: IpAddr,
    /// Remote port; null: not known (yet).
    pub(crate) rport: Option<u16>,
    /// Interface that the socket is bound to; absent: to none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<Text<'a>>,
    /// Names the connection for good: boot id (8 digits), start of the agent (hex), number.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "ConnectionId"))]
    pub(crate) conn_id: Text<'a>,
}

/// A process that exchanges data with another one.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "stdio_peer"))]
pub(crate) struct Peer {
    /// Process id.
    pub(crate) pid: u32,
    /// When it started, nanoseconds since boot; from /proc in steps of 10 ms.
    pub(crate) start_ns: Instant,
}

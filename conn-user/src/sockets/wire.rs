//! The lines of a list: what writes them, what reads them, and what the schema is made from.

use std::net::IpAddr;

#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(test)]
use crate::event::wire::schema::{CommunityId, Name, Time, Version};
use crate::event::wire::{Age, Instant, Process, Text, present};
#[cfg(test)]
use crate::flow::model::{Direction, Transport};
#[cfg(test)]
use crate::flow::snapshot::model::TcpState;

/// What every line has.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "head"))]
pub(super) struct Head<'a> {
    /// Version of this schema. It grows when a field changes its meaning or goes away; a new field does not
    /// change it.
    #[cfg_attr(test, schemars(with = "Version"))]
    pub(super) schema: u32,
    /// Time of the list, when its last answer had come: RFC 3339, UTC, nanoseconds. The same in every line.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Time"))]
    pub(super) ts: Text<'a>,
    /// The same instant, nanoseconds since boot, suspend included (CLOCK_BOOTTIME). Differences are exact
    /// where `ts` follows a clock that is set.
    pub(super) boot_ns: Instant,
    /// Host name.
    #[serde(borrow)]
    pub(super) host: Text<'a>,
    /// Id of this boot (`/proc/sys/kernel/random/boot_id`).
    #[serde(borrow)]
    pub(super) boot_id: Text<'a>,
}

/// The first line: about the list itself. With it a reader knows whether the list is whole.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "list"))]
pub(super) struct List<'a> {
    #[serde(flatten, borrow)]
    pub(super) head: Head<'a>,
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("const" = "list")))]
    pub(super) kind: Text<'a>,
    /// When the first socket was asked for, nanoseconds since boot: what was there from then to `boot_ns` is
    /// in the list.
    pub(super) began_boot_ns: Instant,
    /// Which sockets were asked for: connections, listeners (`-l`), everything (`-a`).
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("enum" = ["connected", "listening", "all"])))]
    pub(super) selection: Text<'a>,
    /// The filter, empty without one.
    #[serde(borrow)]
    pub(super) filter: Text<'a>,
    /// How many lines of connections and listeners follow.
    pub(super) sockets: u64,
    /// How many notes follow.
    pub(super) notes: u64,
}

/// What could not be seen. The same is said on standard error.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "note"))]
pub(super) struct Note<'a> {
    #[serde(flatten, borrow)]
    pub(super) head: Head<'a>,
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("const" = "note")))]
    pub(super) kind: Text<'a>,
    /// For people.
    #[serde(borrow)]
    pub(super) text: Text<'a>,
}

/// What connections and listeners have.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "socket"))]
pub(super) struct Socket<'a> {
    /// Names the socket for this boot, hexadecimal, as `ss -e` shows it (`sk:`); an accepted MPTCP connection
    /// may have that of its listener; null: not known (read from /proc/net/tcp).
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("pattern" = "^[0-9a-f]+$")))]
    pub(super) cookie: Option<Text<'a>>,
    /// Inode number of the socket's file, as in `/proc/PID/fd`; null: it has none (not accepted yet, orphan,
    /// TIME_WAIT).
    pub(super) inode: Option<u64>,
    /// TCP state.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<TcpState>"))]
    pub(super) state: Text<'a>,
    /// Transport. The subflows of an MPTCP connection are not shown apart.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<Transport>"))]
    pub(super) proto: Text<'a>,
    /// Family of the addresses as shown.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("enum" = ["ipv4", "ipv6"])))]
    pub(super) family: Text<'a>,
    /// The socket is IPv6 and its addresses are IPv4-mapped (::ffff:a.b.c.d): they are shown as IPv4.
    pub(super) mapped: bool,
    /// Local address.
    pub(super) laddr: IpAddr,
    /// Local port; null: none.
    pub(super) lport: Option<u16>,
    /// Interface that the socket is bound to (SO_BINDTODEVICE, its listener, or a link-local address): only
    /// where it is bound to one. Its index where it has no name any more.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<Text<'a>>,
    /// Inode number of the network namespace, as in `/proc/PID/ns/net`.
    pub(super) netns: u32,
    /// As in events: a list is a snapshot.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("const" = "snapshot")))]
    pub(super) source: Text<'a>,
    /// How old it is: a connection since it was established, a listener since it listens; null: not known.
    #[serde(borrow)]
    pub(super) age: Option<Age<'a>>,
    /// User id of the socket's file.
    pub(super) uid: u32,
    /// How the holders are known: `fd_table`: they hold descriptors of the socket; `unknown`: there are none,
    /// see `reason`.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("enum" = ["fd_table", "unknown"])))]
    pub(super) method: Text<'a>,
    /// Why nobody holds it (method `unknown`): `not_accepted`: it waits in the accept queue; `orphan`: its
    /// last descriptor is closed; `time_wait`: what is left of an ended connection; `no_holder`: no process
    /// that could be read holds it: it is the kernel's own, in flight between two processes, or of a process
    /// that may not be read.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("enum" = ["not_accepted", "orphan", "time_wait", "no_holder"])))]
    pub(super) reason: Option<Text<'a>>,
    /// The processes that hold it, the oldest first.
    #[serde(borrow)]
    pub(super) holders: Vec<Holder<'a>>,
}

/// A process that holds the socket.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "holder"))]
pub(super) struct Holder<'a> {
    /// Its id in the initial pid namespace.
    pub(super) pid: u32,
    /// Its descriptors of the socket.
    pub(super) fds: Vec<u32>,
    /// The process; null: it was gone before it could be looked at.
    #[serde(borrow)]
    pub(super) process: Option<Process<'a>>,
}

/// A socket that is no listener.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "connection"))]
pub(super) struct Connection<'a> {
    #[serde(flatten, borrow)]
    pub(super) head: Head<'a>,
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("const" = "connection")))]
    pub(super) kind: Text<'a>,
    #[serde(flatten, borrow)]
    pub(super) socket: Socket<'a>,
    /// Community ID version 1, seed 0: the same for both ends and in other network monitors. Absent while a
    /// port is not known.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "CommunityId"))]
    pub(super) community_id: Option<Text<'a>>,
    /// `out`: this side sent the SYN; `in`: it received it; inferred from the listeners of its namespace.
    /// `unknown`: it cannot be inferred.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<Direction>"))]
    pub(super) dir: Text<'a>,
    /// Remote address.
    pub(super) raddr: IpAddr,
    /// Remote port; null: none.
    pub(super) rport: Option<u16>,
    /// Bytes received and not yet read.
    pub(super) recv_queue: u32,
    /// Bytes sent and not yet acknowledged.
    pub(super) send_queue: u32,
    /// Payload bytes received; null: not known, as the next three.
    pub(super) bytes_in: Option<u64>,
    /// Payload bytes sent, retransmissions not counted.
    pub(super) bytes_out: Option<u64>,
    /// Segments retransmitted.
    pub(super) retransmits: Option<u32>,
    /// Smoothed round trip time, microseconds; 0: not measured.
    pub(super) srtt_us: Option<u32>,
}

/// A socket that listens.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "listener"))]
pub(super) struct Listener<'a> {
    #[serde(flatten, borrow)]
    pub(super) head: Head<'a>,
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("const" = "listener")))]
    pub(super) kind: Text<'a>,
    #[serde(flatten, borrow)]
    pub(super) socket: Socket<'a>,
    /// It takes IPv6 only: without this flag a listener on `::` takes IPv4 too.
    pub(super) v6only: bool,
    /// Only where process 1 is the owner (socket activation): the `.socket` unit that listens here; null: the
    /// unit files name none, or several.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<Text<'static>>", extend("nullable" = true)))]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    pub(super) socket_unit: Option<Option<Text<'a>>>,
    /// Connections that wait to be accepted.
    pub(super) accept_queue: u32,
    /// How many may wait.
    pub(super) backlog: u32,
}

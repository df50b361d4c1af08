//! Ground truth: what the workload did, one JSON line each, written by the process that did it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// One line on the workload's standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// A process image that takes part.
    Process(ProcessFact),
    /// Something that the agent must report.
    Fact(Fact),
    /// Everything that must exist before the agent starts exists; the workload waits for a line on its input.
    Ready,
    /// This kernel cannot do the scenario.
    Skip {
        /// What it lacks.
        reason: String,
    },
    /// An alert that the agent must raise, escalate or resolve.
    Alert(AlertFact),
    /// Rules that a workload violates.
    Rules {
        /// In the form of a rule file.
        toml: String,
    },
    /// A storm is over.
    Storm(StormFact),
    /// A scenario, as `conn-scenario list` describes it.
    Scenario {
        /// Its name.
        name: String,
        /// What it does.
        about: String,
        /// Why this kernel cannot do it, if so.
        skip: Option<String>,
    },
}

/// A process image: the same pid has a new one after exec, a change of its name or of its user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFact {
    /// Process id.
    pub pid: u32,
    /// Parent, where it does not change meanwhile.
    pub ppid: Option<u32>,
    /// Name of the group leader.
    pub comm: String,
    /// Path of the executable.
    pub exe: String,
    /// Arguments, as bytes.
    pub args: Vec<Vec<u8>>,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Field 22 of /proc/PID/stat: start in units of 10 ms since boot.
    pub start_ticks: Option<u64>,
    /// `CLOCK_BOOTTIME` from which this image is in force.
    pub from_ns: u64,
}

/// What happened; the names are those of the agent's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A SYN is sent.
    Connect,
    /// An outgoing handshake completed.
    Established,
    /// An outgoing connection failed.
    Failed,
    /// A process accepted a connection.
    Accept,
    /// A connection ended.
    Close,
    /// A socket listens.
    Listen,
    /// It listens no more.
    Unlisten,
}

impl Kind {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Established => "established",
            Self::Failed => "failed",
            Self::Accept => "accept",
            Self::Close => "close",
            Self::Listen => "listen",
            Self::Unlisten => "unlisten",
        }
    }

    /// Whether it is about a listening socket.
    pub const fn is_listener(self) -> bool {
        matches!(self, Self::Listen | Self::Unlisten)
    }
}

/// Which way a connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dir {
    /// This side sent the SYN.
    Out,
    /// This side received it.
    In,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// This side's FIN was first.
    LocalFin,
    /// The peer's FIN was first.
    PeerFin,
    /// This side reset it.
    LocalReset,
    /// The peer reset it.
    PeerReset,
    /// Somebody destroyed the socket (`SOCK_DESTROY`).
    Killed,
    /// `connect(AF_UNSPEC)`.
    Disconnect,
    /// Nobody accepted it.
    NeverAccepted,
}

impl End {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalFin => "local_fin",
            Self::PeerFin => "peer_fin",
            Self::LocalReset => "local_reset",
            Self::PeerReset => "peer_reset",
            Self::Killed => "killed",
            Self::Disconnect => "disconnect",
            Self::NeverAccepted => "never_accepted",
        }
    }
}

/// How a connection may have ended, and by whom, where two things happen at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// How.
    pub end: End,
    /// `errno` of the end, 0 without error.
    pub errno: i32,
    /// The process that ended it; `None`: nobody, the network or the kernel.
    pub pid: Option<u32>,
}

impl Ending {
    /// An ending.
    pub const fn new(end: End, errno: i32, pid: Option<u32>) -> Self {
        Self { end, errno, pid }
    }
}

/// By which interface it was done, where that matters for what a backend can see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The system call of that name.
    #[default]
    Syscall,
    /// A request in an io_uring.
    IoUring,
    /// Without a `bind`: the port is chosen by `listen`.
    AutoBind,
    /// To a listener with `TCP_DEFER_ACCEPT`, which leaves the handshake half-open: there is no other end.
    DeferAccept,
}

/// A socket as the workload sees it, IPv4-mapped addresses already written as IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SockFact {
    /// Multipath TCP.
    pub mptcp: bool,
    /// The kernel's own: no descriptor leads to it.
    #[serde(default)]
    pub kernel: bool,
    /// The socket is IPv6 and its addresses are IPv4-mapped.
    pub mapped: bool,
    /// Inode of the network namespace.
    pub netns: u64,
    /// The interface that the socket is bound to.
    #[serde(default)]
    pub device: Option<String>,
    /// Local address.
    pub laddr: IpAddr,
    /// Local port; `None`: the workload cannot know it.
    pub lport: Option<u16>,
    /// Remote end; `None` for listeners.
    pub remote: Option<SocketAddr>,
}

/// Something the agent must report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What.
    pub kind: Kind,
    /// Direction, for connections.
    pub dir: Option<Dir>,
    /// The socket.
    #[serde(flatten)]
    pub sock: SockFact,
    /// Who did it; `None`: nobody, the network or the kernel.
    pub pid: Option<u32>,
    /// Which thread, where one certain thread did it.
    pub tid: Option<u32>,
    /// `CLOCK_BOOTTIME` before which it did not happen.
    pub from_ns: u64,
    /// `CLOCK_BOOTTIME` by which it had happened.
    pub until_ns: u64,
    /// `errno` of a failure or an end, 0 without error.
    pub errno: i32,
    /// How it ended, for a close.
    pub end: Option<End>,
    /// Of a close that races with another one: how it may have ended instead.
    #[serde(default)]
    pub or: Vec<Ending>,
    /// Payload bytes received, where known.
    pub bytes_in: Option<u64>,
    /// Payload bytes sent, where known.
    pub bytes_out: Option<u64>,
    /// By which interface.
    pub via: Via,
    /// The connection or listener began before the agent attached.
    pub early: bool,
    /// Of one that did: it was established, or listened, between these two.
    #[serde(default)]
    pub begun_ns: Option<(u64, u64)>,
}

/// A step in the life of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is reported for the first time.
    Raised,
    /// It became worse.
    Escalated,
    /// It is over.
    Resolved,
}

impl Phase {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Escalated => "escalated",
            Self::Resolved => "resolved",
        }
    }
}

/// An alert that must be reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertFact {
    /// Of which rule.
    pub rule: String,
    /// Which step.
    pub phase: Phase,
    /// The process that it is about; `None`: it is about an absence.
    pub pid: Option<u32>,
    /// `CLOCK_BOOTTIME` before which it was not due.
    pub from_ns: u64,
    /// `CLOCK_BOOTTIME` by which it was due.
    pub until_ns: u64,
    /// It is due at an instant, not with an event of the kernel.
    pub timer: bool,
}

/// What a storm did. All of it in one process; the connections are too many to be reported one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StormFact {
    /// The process.
    pub pid: u32,
    /// Its listening port.
    pub port: u16,
    /// Connections made, accepted, and closed on both ends.
    pub connections: u64,
    /// How long it took.
    pub elapsed_ns: u64,
    /// `elapsed_ns` for each connection.
    pub ns_per_connection: u64,
    /// Payload bytes on each connection, client to server.
    pub payload: u64,
}

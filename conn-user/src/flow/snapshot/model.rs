//! What a snapshot says.

use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::flow::born::Born;
use crate::flow::model::{Direction, Scope, Traffic, Transport, UnknownReason};
use crate::host::interfaces::Device;
use crate::units::{BootNs, NetNs, Pid};

/// Every TCP socket of the machine, as far as it could be seen.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When the first socket was asked for.
    pub began: BootNs,
    /// When the last answer had come. A socket that was there from `began` to `ended` is in the snapshot.
    pub ended: BootNs,
    /// The sockets.
    pub sockets: Vec<SnapSocket>,
    /// What could not be seen, each said once.
    pub notes: Vec<Note>,
    /// Processes that exchange data with others over their standard input and output, where wanted.
    pub peers: Vec<StdioPeers>,
}

/// A process, and those to which data can flow from its standard output and from which data can flow to its standard input: over
/// pipes, FIFOs, pseudo-terminals and socket pairs, also through processes between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StdioPeers {
    /// Process id, and start in whole ticks ([`crate::process::info::TICK_NS`]).
    pub process: (Pid, BootNs),
    /// The others, in the same form.
    pub peers: SmallVec<[(Pid, BootNs); 1]>,
}

/// A socket in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapSocket {
    /// The socket's cookie; `None`: the source does not report it (/proc/net/tcp). An accepted MPTCP connection may have that
    /// of its listener ([`SnapSocket::key`]).
    pub cookie: Option<u64>,
    /// Inode of the socket's file; 0: it has none (orphan, TIME_WAIT, not accepted yet).
    pub inode: u32,
    /// Network namespace.
    pub netns: NetNs,
    /// TCP state.
    pub state: TcpState,
    /// Transport.
    pub transport: Transport,
    /// Local end; an IPv4-mapped address as IPv4.
    pub local: SocketAddr,
    /// Remote end, an IPv4-mapped address as IPv4; of a listener `0.0.0.0:0` or `[::]:0`.
    pub remote: SocketAddr,
    /// The socket is IPv6 and carries an IPv4-mapped address.
    pub mapped: bool,
    /// Only IPv6 (`IPV6_V6ONLY`); matters for a listener on `[::]`.
    pub v6only: bool,
    /// The interface that it is bound to (`SO_BINDTODEVICE`, or by a link-local address).
    pub device: Option<Arc<Device>>,
    /// Its index; 0: none, or the source does not show it (/proc/net/tcp).
    pub device_index: u32,
    /// User id of the socket's file.
    pub uid: u32,
    /// Bytes received and not read; of a listener: connections that wait to be accepted.
    pub recv_queue: u32,
    /// Bytes sent and not acknowledged; of a listener: how many may wait.
    pub send_queue: u32,
    /// Which way it was opened, inferred from the listeners of the namespace; `None` for a listener.
    pub direction: Option<Direction>,
    /// Counters, where the source reports them.
    pub traffic: Option<Traffic>,
    /// Every descriptor that holds the socket, by process id and number.
    pub holders: SmallVec<[Holder; 1]>,
    /// Why `holders` is empty, if it is.
    pub no_holder: Option<NoHolder>,
    /// When the connection was established, as far as it is known; `None` for a listener whose owner is not known.
    pub born: Option<Born>,
}

impl SnapSocket {
    /// Returns the key that the socket's records carry where they carry cookies. `None`: its cookie is not known, or
    /// does not identify it: records of an MPTCP connection carry its address ([`conn_common::record::SockFlags::ADDRESS_KEY`]).
    pub fn key(&self) -> Option<u64> {
        let is_unique = self.transport == Transport::Tcp || self.state == TcpState::Listen;
        self.cookie.filter(|_| is_unique)
    }

    /// What narrows a listener; `None`: the source does not show it.
    pub fn scope(&self) -> Option<Scope> {
        self.shows_scope().then(|| Scope { device: self.device.clone(), v6only: self.v6only })
    }

    /// Whether the source shows what narrows a listener: /proc/net/tcp does not.
    pub const fn shows_scope(&self) -> bool {
        self.cookie.is_some()
    }
}

/// A descriptor of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: Pid,
    /// Its start, in whole ticks ([`crate::process::info::TICK_NS`]).
    pub start: BootNs,
    /// The descriptor.
    pub fd: u32,
}

/// Why no process holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoHolder {
    /// It waits in the accept queue of its listener.
    NotAccepted,
    /// Its last descriptor is closed; the kernel ends the connection by itself.
    Orphan,
    /// What is left of an ended connection (TIME_WAIT).
    TimeWait,
    /// It has a file, and no process that could be read holds it: the kernel's own, in flight between two processes, or
    /// of a hidden process.
    NotFound,
}

impl NoHolder {
    /// The same as the reason why an owner is not known.
    pub const fn reason(self) -> UnknownReason {
        match self {
            Self::NotAccepted => UnknownReason::NotAccepted,
            Self::Orphan => UnknownReason::Orphan,
            Self::TimeWait => UnknownReason::TimeWait,
            Self::NotFound => UnknownReason::NoHolder,
        }
    }
}

/// What could not be seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// A namespace could not be entered or asked.
    #[error("network namespace {}: {}; its sockets are missing", netns.0, why)]
    NetNs {
        /// The namespace.
        netns: NetNs,
        /// What went wrong.
        why: String,
    },
    /// sock_diag is refused and /proc/net/tcp was read instead.
    #[error("network namespace {}: {}; read from /proc/net/tcp, without cookies and counters", netns.0, why)]
    ProcNet {
        /// The namespace.
        netns: NetNs,
        /// What went wrong.
        why: String,
    },
    /// Descriptors of some processes could not be read.
    #[error(
        "descriptors of {count} {} sockets show no process",
        if *count == 1 { "process cannot be read: its" } else { "processes cannot be read: their" }
    )]
    HiddenProcesses {
        /// How many.
        count: usize,
    },
}

/// State of a TCP socket, as `TCP_*` in include/net/tcp_states.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpState {
    /// Open.
    Established = 1,
    /// SYN sent.
    SynSent = 2,
    /// SYN received.
    SynRecv = 3,
    /// Closed here, FIN not acknowledged.
    FinWait1 = 4,
    /// Closed here, the peer's FIN not seen.
    FinWait2 = 5,
    /// What is left of an ended connection.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// The peer closed.
    CloseWait = 8,
    /// Both closed, the last FIN not acknowledged.
    LastAck = 9,
    /// Listens.
    Listen = 10,
    /// Both closed at once.
    Closing = 11,
}

impl TcpState {
    /// The state with this number, if there is one; `TCP_NEW_SYN_RECV` (12) is SYN received.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => return None,
        })
    }

    /// The name that ss uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynRecv => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }
}

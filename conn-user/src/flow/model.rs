//! Connections and listeners as they are reported to the stations below.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use conn_common::hook::HookId;

use super::born::Born;
use crate::host::interfaces::Device;
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, DurationNs, NetNs, Pid};

/// A change of a connection or a listener, at an instant.
#[derive(Clone, Debug)]
pub struct FlowEvent {
    /// When the kernel saw it.
    pub boot: BootNs,
    /// What changed.
    pub change: Change,
}

/// What changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// A process opens a connection (the SYN is about to be sent).
    Connect(ConnEvent),
    /// A process accepted a connection.
    Accept(ConnEvent),
    /// The handshake of an outgoing connection completed.
    Established(ConnEvent),
    /// An outgoing connection failed.
    Failed(ConnEvent, Failure),
    /// A connection ended.
    Close(ConnEvent, Ending),
    /// A socket began to listen.
    Listen(ListenEvent),
    /// A socket stopped listening.
    Unlisten(ListenEvent, Unlisten),
}

impl Change {
    /// The connection that changed.
    pub const fn connection(&self) -> Option<&ConnEvent> {
        match self {
            Self::Connect(conn)
            | Self::Accept(conn)
            | Self::Established(conn)
            | Self::Failed(conn, _)
            | Self::Close(conn, _) => Some(conn),
            Self::Listen(_) | Self::Unlisten(..) => None,
        }
    }

    /// The listener that changed.
    pub const fn listener(&self) -> Option<&ListenEvent> {
        match self {
            Self::Listen(listener) | Self::Unlisten(listener, _) => Some(listener),
            _ => None,
        }
    }
}

/// Which way a connection was opened, seen from this socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// This side sent the SYN.
    Out,
    /// This side received it.
    In,
    /// The connection is older than the agent's knowledge.
    Unknown,
}

/// Transport of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// Multipath TCP; its subflows are not shown apart.
    Mptcp,
}

/// Where the knowledge about a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Seen from its beginning.
    Live,
    /// Its beginning was not seen, and no snapshot had it: it is older than the agent's knowledge, or its beginning was
    /// lost.
    Late,
    /// It was there when the agent started.
    Snapshot,
    /// Records were lost, and the snapshot after the loss had it.
    Resync,
}

/// A number that names a connection for the whole boot: connections of one agent run are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Both ends and the life of a connection so far.
#[derive(Clone, Debug)]
pub struct ConnEvent {
    /// Its number.
    pub id: ConnId,
    /// Which way.
    pub direction: Direction,
    /// Transport.
    pub transport: Transport,
    /// Local end, IPv4-mapped addresses as IPv4; port 0: not known.
    pub local: SocketAddr,
    /// Remote end, IPv4-mapped addresses as IPv4; port 0: not known.
    pub remote: SocketAddr,
    /// The socket is IPv6 and carries an IPv4-mapped address.
    pub mapped: bool,
    /// The interface that the socket is bound to: by `SO_BINDTODEVICE`, with its listener, or by a link-local address.
    pub device: Option<Arc<Device>>,
    /// Network namespace.
    pub netns: NetNs,
    /// Whence the knowledge.
    pub source: Source,
    /// When it was established, as far as it is known; `None`: seen from its beginning, or not known at all.
    pub born: Option<Born>,
    /// The socket is the kernel's own (NFS, iSCSI, SMC, ...): no descriptor ever leads to it.
    pub kernel_socket: bool,
    /// Opener (out) or acceptor (in).
    pub owner: Actor,
    /// Owner of the listener, for incoming connections where it is known.
    pub listener: Option<Actor>,
    /// When the SYN was about to be sent; 0: not seen, or incoming.
    pub begun: BootNs,
    /// When the handshake completed (incoming: when this side saw it complete).
    pub established: Option<BootNs>,
}

impl ConnEvent {
    /// A live TCP connection of which nothing else is known: neither when it began nor whether it is
    /// established.
    pub const fn new(
        id: ConnId,
        direction: Direction,
        (local, remote): (SocketAddr, SocketAddr),
        netns: NetNs,
        owner: Actor,
    ) -> Self {
        Self {
            id,
            direction,
            transport: Transport::Tcp,
            local,
            remote,
            mapped: false,
            device: None,
            netns,
            source: Source::Live,
            born: None,
            kernel_socket: false,
            owner,
            listener: None,
            begun: BootNs(0),
            established: None,
        }
    }
}

/// A process in a role, and how it is known.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The process, where known.
    pub process: Option<Arc<ProcessInfo>>,
    /// The thread that acted, where a hook named it.
    pub tid: Option<Pid>,
    /// How it is known.
    pub method: Method,
}

impl Actor {
    /// A process in whose context this hook ran, in its main thread.
    pub fn by(process: &Arc<ProcessInfo>, hook: HookId) -> Self {
        Self { process: Some(Arc::clone(process)), tid: Some(process.pid), method: Method::Hook(hook) }
    }

    /// An actor that is not known, and why.
    pub const fn unknown(reason: UnknownReason) -> Self {
        Self { process: None, tid: None, method: Method::Unknown(reason) }
    }
}

/// How an actor is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The kernel ran this hook in the process's own context.
    Hook(HookId),
    /// Inferred: the owner of the listener on that address and port.
    Listener,
    /// Inferred from who closed it.
    Closer,
    /// It held a descriptor of the socket when the snapshot was taken. Several processes may; and whoever opened or
    /// accepted it may have been another one.
    FdTable,
    /// Not known.
    Unknown(UnknownReason),
}

/// Why an actor is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnknownReason {
    /// The connection or listener began before the agent attached.
    BeforeAttach,
    /// Nobody accepted the connection.
    NeverAccepted,
    /// The backend has no hook that names it.
    Backend,
    /// The kernel acts for nobody (timer, packet).
    Kernel,
    /// The snapshot found the connection in the accept queue of its listener.
    NotAccepted,
    /// The snapshot found a socket whose last descriptor was closed already.
    Orphan,
    /// The snapshot found what is left of an ended connection (TIME_WAIT).
    TimeWait,
    /// Records were lost, and with them who it was.
    Lost,
    /// The snapshot found no process that holds the socket: it is the kernel's own, in flight between two processes, or
    /// of a process that could not be read.
    NoHolder,
    /// The recording is a network sensor's (Zeek), which knows no processes.
    NoProcesses,
}

/// Why an outgoing connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `errno`, positive; 0: cancelled by its owner (close, shutdown or disconnect before the answer).
    pub errno: u16,
    /// From the SYN to the failure, where both are known.
    pub after: Option<DurationNs>,
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// How.
    pub how: EndedHow,
    /// `sk_err` at the end, 0 without error.
    pub errno: u16,
    /// Who closed it; `Unknown(Kernel)` when the network ended it.
    pub closer: Actor,
    /// From established to the end, where both are known.
    pub duration: Option<DurationNs>,
    /// Counters, where the hook could read them.
    pub traffic: Option<Traffic>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndedHow {
    /// This side closed first, in order (FIN).
    LocalFin,
    /// The peer closed first, in order (FIN).
    PeerFin,
    /// This side reset it: closed with linger 0, or with unread data.
    LocalReset,
    /// The peer reset it.
    PeerReset,
    /// No answer: ETIMEDOUT and the like.
    Timeout,
    /// Killed from outside (`ss -K`, `tcp_abort`).
    Killed,
    /// Dissolved by `connect(AF_UNSPEC)` or shutdown of its listener; the socket lives on or was never accepted.
    Disconnect,
    /// Nobody accepted it before the listener went.
    NeverAccepted,
    /// Another error, see `errno`.
    Error,
    /// Not known how: records were lost, and the snapshot after the loss did not have the connection any more. The
    /// time is the snapshot's: it ended before. Of a network sensor's log: the time is that of the last packet that it saw.
    Unseen,
}

/// Payload bytes and transport measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent, retransmissions not counted.
    pub bytes_out: u64,
    /// Segments retransmitted; `None`: not counted.
    pub retransmits: Option<u32>,
    /// Smoothed round trip time, microseconds.
    pub srtt_us: u32,
}

/// A listening socket.
#[derive(Clone, Debug)]
pub struct ListenEvent {
    /// Its number, in the same sequence as connections.
    pub id: ConnId,
    /// Transport.
    pub transport: Transport,
    /// Address and port; port 0: not known.
    pub local: SocketAddr,
    /// Network namespace.
    pub netns: NetNs,
    /// Whence the knowledge.
    pub source: Source,
    /// Since when it listens, as [`ConnEvent::born`].
    pub born: Option<Born>,
    /// The socket is the kernel's own (NFS, iSCSI, SMC, ...): no descriptor ever leads to it.
    pub kernel_socket: bool,
    /// Who called listen.
    pub owner: Actor,
    /// The unit for which systemd listens, where process 1 owns it and that is known.
    pub socket_unit: Option<Arc<str>>,
    /// What narrows it; `None`: not known.
    pub scope: Option<Scope>,
}

impl ListenEvent {
    /// A live TCP listener of which nothing else is known.
    pub const fn new(id: ConnId, local: SocketAddr, netns: NetNs, owner: Actor) -> Self {
        Self {
            id,
            transport: Transport::Tcp,
            local,
            netns,
            source: Source::Live,
            born: None,
            kernel_socket: false,
            owner,
            socket_unit: None,
            scope: None,
        }
    }
}

/// Narrows a listener beyond its address: two that differ in it may share address and port, each with its own connections
/// (`inet_csk_bind_conflict`, `compute_score`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The interface that it is bound to (`SO_BINDTODEVICE`).
    pub device: Option<Arc<Device>>,
    /// It takes IPv6 only (`IPV6_V6ONLY`).
    pub v6only: bool,
}

/// The end of a listener.
#[derive(Clone, Debug)]
pub struct Unlisten {
    /// Who ended it.
    pub closer: Actor,
    /// How long it listened, where known.
    pub duration: Option<DurationNs>,
}

impl ConnEvent {
    /// From the SYN to the end of the handshake, where both were seen.
    pub fn connect_time(&self) -> Option<DurationNs> {
        self.established.filter(|_| self.begun.0 != 0).map(|established| established.since(self.begun))
    }

    /// The port of the side that was connected to; of a connection of unknown direction the remote one.
    pub const fn service_port(&self) -> u16 {
        match self.direction {
            Direction::In => self.local.port(),
            Direction::Out | Direction::Unknown => self.remote.port(),
        }
    }
}

impl ListenEvent {
    /// Whether process 1 owns it: then it is another unit's business, which is `socket_unit`, where that is known.
    pub fn is_systemds(&self) -> bool {
        self.owner.process.as_ref().is_some_and(|process| process.pid == Pid(1))
    }
}

/// The IPv4 form of an IPv4-mapped address, and whether it was one.
pub fn canonical_ip(ip: IpAddr) -> (IpAddr, bool) {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or((ip, false), |v4| (IpAddr::V4(v4), true)),
        IpAddr::V4(_) => (ip, false),
    }
}

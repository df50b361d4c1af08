//! The public event: what every output, filter and rule sees.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use conn_common::hook::HookId;

use crate::units::{BootNs, DurationNs, NetNs, Pid, WallNs};

/// Version of the event schema; a field that changes its meaning or goes away raises it, a new field does not.
pub const SCHEMA_VERSION: u32 = 1;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Number in this run, from 1, without holes in the unfiltered stream.
    pub seq: u64,
    /// When the kernel saw it.
    pub boot: BootNs,
    /// The same instant on the wall clock.
    pub wall: WallNs,
    /// What happened.
    pub body: EventBody,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum EventBody {
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
    /// A process executed a program.
    Exec(ProcEvent),
    /// A process exited.
    Exit(ProcEvent, ExitStatus),
    /// Records were lost.
    Gap(GapEvent),
}

/// The kinds of events, for `--kind`, filters and the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// See [`EventBody::Connect`].
    Connect,
    /// See [`EventBody::Accept`].
    Accept,
    /// See [`EventBody::Established`].
    Established,
    /// See [`EventBody::Failed`].
    Failed,
    /// See [`EventBody::Close`].
    Close,
    /// See [`EventBody::Listen`].
    Listen,
    /// See [`EventBody::Unlisten`].
    Unlisten,
    /// See [`EventBody::Exec`].
    Exec,
    /// See [`EventBody::Exit`].
    Exit,
    /// See [`EventBody::Gap`].
    Gap,
}

impl EventKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Accept,
        Self::Established,
        Self::Failed,
        Self::Close,
        Self::Listen,
        Self::Unlisten,
        Self::Exec,
        Self::Exit,
        Self::Gap,
    ];

    /// The name in JSON, text and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Established => "established",
            Self::Failed => "failed",
            Self::Close => "close",
            Self::Listen => "listen",
            Self::Unlisten => "unlisten",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Gap => "gap",
        }
    }
}

impl EventBody {
    /// The kind of this event.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Connect(_) => EventKind::Connect,
            Self::Accept(_) => EventKind::Accept,
            Self::Established(_) => EventKind::Established,
            Self::Failed(..) => EventKind::Failed,
            Self::Close(..) => EventKind::Close,
            Self::Listen(_) => EventKind::Listen,
            Self::Unlisten(..) => EventKind::Unlisten,
            Self::Exec(_) => EventKind::Exec,
            Self::Exit(..) => EventKind::Exit,
            Self::Gap(_) => EventKind::Gap,
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
    /// Its beginning was not seen: it is older than the agent, or its beginning was lost.
    Late,
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
    /// Remote end, likewise.
    pub remote: SocketAddr,
    /// The socket is IPv6 and carries an IPv4-mapped address.
    pub mapped: bool,
    /// Network namespace.
    pub netns: NetNs,
    /// Whence the knowledge.
    pub source: Source,
    /// Opener (out) or acceptor (in).
    pub owner: Actor,
    /// Owner of the listener, for incoming connections where it is known.
    pub listener: Option<Actor>,
    /// When the handshake completed (incoming: when this side saw it complete).
    pub established: Option<BootNs>,
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

/// How an actor is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The kernel ran this hook in the process's own context.
    Hook(HookId),
    /// Inferred: the owner of the listener on that address and port.
    Listener,
    /// Inferred from who closed it.
    Closer,
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
}

/// Payload bytes and transport measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent, retransmissions not counted.
    pub bytes_out: u64,
    /// Segments retransmitted.
    pub retransmits: u32,
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
    /// Who called listen.
    pub owner: Actor,
}

/// The end of a listener.
#[derive(Clone, Debug)]
pub struct Unlisten {
    /// Who ended it.
    pub closer: Actor,
    /// How long it listened, where known.
    pub duration: Option<DurationNs>,
}

/// A process event.
#[derive(Clone, Debug)]
pub struct ProcEvent {
    /// The process after it.
    pub process: Arc<ProcessInfo>,
}

/// How a process ended, as in wait(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

/// Lost records of one hook on one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapEvent {
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

/// A process: (boot, tgid, start) names it once and for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: Pid,
    /// Start of the group leader.
    pub start: BootNs,
    /// `start` comes from /proc, in units of 10 ms.
    pub start_is_coarse: bool,
    /// Parent's process id, where known.
    pub ppid: Option<Pid>,
    /// Name of the group leader, attacker-controlled bytes.
    pub comm: Box<[u8]>,
    /// Path of the executable, attacker-controlled bytes; `None`: not known (kernel thread, no permission).
    pub exe: Option<Box<[u8]>>,
    /// The executable has no name any more (deleted, memfd).
    pub exe_deleted: bool,
    /// Arguments, attacker-controlled bytes.
    pub args: Box<[Box<[u8]>]>,
    /// Arguments are incomplete.
    pub args_truncated: bool,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Login uid, where set and known.
    pub login_uid: Option<u32>,
    /// cgroup v2 id, 0 where unknown.
    pub cgroup_id: u64,
    /// It is a kernel thread.
    pub kernel: bool,
    /// How name, path and arguments are known.
    pub source: ProcessSource,
}

/// How a process's image is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessSource {
    /// Its exec record.
    Exec,
    /// Inherited at fork from its parent.
    Fork,
    /// Read from /proc.
    ProcScan,
    /// Only what the hook itself carried.
    Hook,
}

/// The IPv4 form of an IPv4-mapped address, and whether it was one.
pub fn canonical_ip(ip: IpAddr) -> (IpAddr, bool) {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or((ip, false), |v4| (IpAddr::V4(v4), true)),
        IpAddr::V4(_) => (ip, false),
    }
}

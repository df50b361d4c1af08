//! The names of the model's values: the same in JSON, text, filters and the schema.

use super::alert::{Phase, RuleKind, Severity};
use super::degraded::Degradation;
use crate::flow::born::BornBy;
use crate::flow::model::{Direction, EndedHow, Method, Source, Transport, UnknownReason};
use crate::flow::snapshot::model::TcpState;
use crate::kernel::gap::GapCause;
use crate::process::identity::Replaced;
use crate::process::info::ProcessSource;
use crate::process::placement::Runtime;

/// A value that has one name everywhere.
pub trait Named: Copy + Eq + 'static {
    /// Every value, in the order of the documentation.
    const ALL: &'static [Self];

    /// Its name.
    fn name(self) -> &'static str;
}

/// Implements [`Named`]; one list makes both the match, which must be complete, and `ALL`.
macro_rules! named {
    ($type:ident: $($variant:ident = $name:literal),+ $(,)?) => {
        impl Named for $type {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

named!(Direction: Out = "out", In = "in", Unknown = "unknown");
named!(Transport: Tcp = "tcp", Mptcp = "mptcp");
named!(Source: Live = "live", Late = "late", Snapshot = "snapshot", Resync = "resync");
named!(TcpState:
    Established = "established",
    SynSent = "syn_sent",
    SynRecv = "syn_recv",
    FinWait1 = "fin_wait1",
    FinWait2 = "fin_wait2",
    TimeWait = "time_wait",
    Close = "close",
    CloseWait = "close_wait",
    LastAck = "last_ack",
    Listen = "listen",
    Closing = "closing",
);
named!(ProcessSource: Exec = "exec", Fork = "fork", ProcScan = "proc_scan", Hook = "hook");
named!(Replaced: No = "no", Other = "other", Upgraded = "upgraded", Gone = "gone", Unknown = "unknown");
named!(Runtime:
    Docker = "docker",
    Containerd = "containerd",
    Podman = "podman",
    CriO = "cri-o",
    SystemdNspawn = "systemd-nspawn",
    Lxc = "lxc",
);
named!(Phase: Raised = "raised", Escalated = "escalated", Resolved = "resolved");
named!(Severity: Info = "info", Low = "low", Medium = "medium", High = "high", Critical = "critical");
named!(RuleKind: Path = "path", Process = "process", Server = "server", Long = "long", Missing = "missing");
named!(ExeFlag:
    Deleted = "deleted",
    Memfd = "memfd",
    Writable = "writable",
    UserWritable = "user_writable",
    Host = "host",
    Foreign = "foreign",
);
named!(UnknownReason:
    BeforeAttach = "before_attach",
    NeverAccepted = "never_accepted",
    Backend = "backend",
    Kernel = "kernel",
    NotAccepted = "not_accepted",
    Orphan = "orphan",
    TimeWait = "time_wait",
    NoHolder = "no_holder",
    NoProcesses = "no_processes",
    Lost = "lost",
);
named!(BornBy:
    Boot = "boot",
    Conntrack = "conntrack",
    NeverSent = "never_sent",
    NeverReceived = "never_received",
    LastActivity = "last_activity",
    OwnerStart = "owner_start",
    Snapshot = "snapshot",
);
named!(EndedHow:
    LocalFin = "local_fin",
    PeerFin = "peer_fin",
    LocalReset = "local_reset",
    PeerReset = "peer_reset",
    Timeout = "timeout",
    Killed = "killed",
    Disconnect = "disconnect",
    NeverAccepted = "never_accepted",
    Error = "error",
    Unseen = "unseen",
);

/// What a filter may ask of an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExeFlag {
    /// It has no name any more.
    Deleted,
    /// It is an anonymous file (memfd).
    Memfd,
    /// Every user may write it or its directory.
    Writable,
    /// The process's own user, who is not root, may write it or its directory.
    UserWritable,
    /// It is the host's own file at its path.
    Host,
    /// The host has another file at its path, or none.
    Foreign,
}

impl ExeFlag {
    /// Whether it is found out in the background and may come after the events of the process.
    pub const fn is_late(self) -> bool {
        !matches!(self, Self::Memfd)
    }
}

named!(Degradation:
    Output = "output",
    Undecoded = "undecoded",
    Processes = "processes",
    Connections = "connections",
    Listeners = "listeners",
    HeldEvents = "held_events",
    Inspections = "inspections",
    Files = "files",
    Arguments = "arguments",
    Alerts = "alerts",
    RuleState = "rule_state",
);
named!(GapCause: RingFull = "ring_full", Skipped = "skipped");

impl Named for super::model::EventKind {
    const ALL: &'static [Self] = &Self::ALL;

    fn name(self) -> &'static str {
        Self::name(self)
    }
}

/// The ways in which an actor is known, without their details.
pub const METHODS: [&str; 5] = ["hook", "listener", "closer", "fd_table", "unknown"];

/// The name of the way in which an actor is known.
pub const fn method(method: Method) -> &'static str {
    match method {
        Method::Hook(_) => METHODS[0],
        Method::Listener => METHODS[1],
        Method::Closer => METHODS[2],
        Method::FdTable => METHODS[3],
        Method::Unknown(_) => METHODS[4],
    }
}

/// The value with this name.
pub fn from_name<T: Named>(name: &str) -> Option<T> {
    T::ALL.iter().copied().find(|value| value.name() == name)
}

/// The names of all values of a type, in order.
pub fn all<T: Named>() -> Vec<&'static str> {
    T::ALL.iter().map(|value| value.name()).collect()
}

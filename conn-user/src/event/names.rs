//! The names of the model's values: the same in JSON, text, filters and the schema.

use super::alert::{Phase, RuleKind, Severity};
use super::degraded::Degradation;
use super::words;
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

    /// What tables show for it.
    fn shown(self) -> &'static str {
        self.name()
    }
}

/// Implements [`Named`]; one list makes both the match, which must be complete, and `ALL`.
macro_rules! named {
    ($type:ident $(shown by ($shown:expr))?: $($variant:ident = $name:literal),+ $(,)?) => {
        impl Named for $type {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            $(fn shown(self) -> &'static str {
                $shown(self)
            })?
        }
    };
}

named!(Direction shown by (|own| words::direction(Some(own))): Out = "out", In = "in", Unknown = "unknown");
named!(Transport: Tcp = "tcp", Mptcp = "mptcp");
named!(Source: Live = "live", Late = "late", Snapshot = "snapshot", Resync = "resync");
named!(TcpState shown by (Self::name):
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
    Libvirt = "libvirt",
);
named!(Phase: Raised = "raised", Escalated = "escalated", Resolved = "resolved");
named!(Severity: Info = "info", Low = "low", Medium = "medium", High = "high", Critical = "critical");
named!(RuleKind:
    Path = "path",
    Process = "process",
    Server = "server",
    Long = "long",
    Missing = "missing",
    Health = "health",
);
named!(ExeFlag:
    Deleted = "deleted",
    Memfd = "memfd",
    Writable = "writable",
    UserWritable = "user_writable",
    Host = "host",
    Foreign = "foreign",
    Conn = "conn",
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
    Seen = "seen",
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
    /// It is conn's own file, run by conn's user.
    Conn,
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

/// The value that a person means: by its name or by what tables show for it, in upper or lower case, with `-` or `_` or
/// without.
pub fn from_written<T: Named>(text: &str) -> Option<T> {
    let is_meant = |value: &T| is_alike(value.name(), text) || is_alike(value.shown(), text);
    from_name(text).or_else(|| T::ALL.iter().copied().find(is_meant))
}

/// Whether two texts are the same but for case, `-` and `_`.
pub fn is_alike<'a>(one: &'a str, other: &'a str) -> bool {
    let spelled = |text: &'a str| {
        text.bytes().filter(|byte| !matches!(byte, b'-' | b'_')).map(|byte| byte.to_ascii_lowercase())
    };
    spelled(one).eq(spelled(other))
}

/// The names of all values of a type, in order.
pub fn all<T: Named>() -> Vec<&'static str> {
    T::ALL.iter().map(|value| value.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a table shows can be written in a filter, and so can what other programs show.
    #[test]
    fn a_value_is_known_by_each_of_its_spellings() {
        fn all<T: Named + std::fmt::Debug>() {
            for value in T::ALL {
                for text in [value.name().to_owned(), value.name().to_uppercase(), value.shown().to_owned()] {
                    assert_eq!(from_written(&text), Some(*value), "{text}");
                    assert_eq!(from_written(&text.to_lowercase()), Some(*value), "{text}");
                }
            }
        }
        all::<TcpState>();
        all::<Direction>();
        all::<Transport>();
        all::<super::super::model::EventKind>();
        all::<EndedHow>();
        for (text, state) in [
            ("ESTABLISHED", TcpState::Established),
            ("FIN_WAIT1", TcpState::FinWait1),
            ("fin-wait-2", TcpState::FinWait2),
            ("SYN_RECV", TcpState::SynRecv),
        ] {
            assert_eq!(from_written(text), Some(state));
        }
        assert_eq!(from_written::<TcpState>(""), None);
        assert_eq!(from_written::<TcpState>("-"), None);
        assert_eq!(from_written::<Direction>("?!"), None);
    }
}

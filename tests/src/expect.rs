//! What the agent must report each fact, and where a backend cannot know it: one table, each row with its reason.

use crate::truth::{Dir, End, Fact, Kind, Via};

/// How the agent is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Trampolines.
    Fentry,
    /// Kprobes.
    Kprobe,
    /// Tracepoints only.
    Tracepoint,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// The name on the command line and in the ready line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// The backend of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|b| b.name() == name)
    }

    /// Whether a hook with this label belongs to it. The state tracepoint serves in every backend.
    pub fn owns_hook(self, label: &str) -> bool {
        let kind = label.split(':').next().unwrap_or_default();
        match self {
            Self::Fentry => matches!(kind, "fentry" | "fexit" | "tp_btf"),
            Self::Kprobe => matches!(kind, "kprobe" | "kretprobe" | "tp_btf"),
            Self::Tracepoint => matches!(kind, "tracepoint" | "tp_btf"),
        }
    }
}

/// What is asked of a process in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The right one, named by a hook.
    Hook,
    /// The right one, by whichever method.
    Right,
    /// The right one, from the descriptors that it holds.
    FdTable,
    /// A kernel thread, whichever, named by a hook.
    KernelThread,
    /// Said to be unknown.
    Unknown,
}

/// What is asked of the event of a fact. There must be exactly one, whichever the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The opener, acceptor or listener.
    pub owner: Who,
    /// The closer, where the kind has one.
    pub closer: Who,
    /// The local port may be null (never wrong).
    pub port_may_be_null: bool,
    /// Addresses and ports may be null or unspecified (never wrong).
    pub ends_may_be_null: bool,
    /// The event may carry a time after the fact.
    pub reported_late: bool,
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The fact.
    pub fact: &'a Fact,
    /// The fact with which its connection or listener began, where there is one.
    pub begin: Option<&'a Fact>,
    /// Which backend traces.
    pub backend: Backend,
}

impl Case<'_> {
    fn via(&self) -> Via {
        self.begin.unwrap_or(self.fact).via
    }

    fn dir_in(&self) -> bool {
        self.fact.dir == Some(Dir::In)
    }
}

/// A row of the table.
pub struct Rule {
    /// Why less can be known.
    pub reason: &'static str,
    /// Where.
    pub applies: fn(&Case) -> bool,
    /// What changes.
    pub change: fn(&mut Expect),
}

/// The table. Rows apply in their order.
pub const RULES: &[Rule] = &[
    Rule {
        reason: "nobody accepted it, so nobody owns it",
        applies: |c| c.fact.end == Some(End::NeverAccepted),
        change: |e| e.owner = Who::Unknown,
    },
    Rule {
        reason: "the network or the kernel did it (kernel.md 3.2), so nobody closed it",
        applies: |c| matches!(c.fact.kind, Kind::Close | Kind::Unlisten) && c.fact.pid.is_none(),
        change: |e| e.closer = Who::Unknown,
    },
    Rule {
        reason: "a thread of the kernel accepted it and closes it; the workload cannot know which",
        applies: |c| c.fact.sock.kernel && c.dir_in(),
        change: |e| {
            e.owner = Who::KernelThread;
            e.closer = Who::KernelThread;
        },
    },
    Rule {
        reason: "tracepoint: the kernel makes no system call accept, so its accept is reported when it closes, by nobody known",
        applies: |c| c.backend == Backend::Tracepoint && c.fact.sock.kernel && c.dir_in(),
        change: |e| {
            e.reported_late = true;
            e.owner = Who::Unknown;
        },
    },
    Rule {
        reason: "it began before the agent attached: the snapshot knows who holds it, not who made it",
        applies: |c| c.fact.early,
        change: |e| e.owner = Who::FdTable,
    },
    Rule {
        reason: "the kernel's own, from before the agent: no process ever holds it",
        applies: |c| c.fact.early && c.fact.sock.kernel,
        change: |e| e.owner = Who::Unknown,
    },
    Rule {
        reason: "tracepoint: CLOSE->SYN_SENT comes before the choice of the port, for which the agent waits only so long",
        applies: |c| c.backend == Backend::Tracepoint && c.fact.kind == Kind::Connect,
        change: |e| e.port_may_be_null = true,
    },
    Rule {
        reason: "MPTCP: the socket gets its ends with its first subflow, for which the agent waits only so long",
        applies: |c| c.fact.sock.mptcp && c.fact.kind == Kind::Connect,
        change: |e| {
            e.port_may_be_null = true;
            e.ends_may_be_null = true;
        },
    },
    Rule {
        reason: "tracepoint: CLOSE->LISTEN comes before the port of an auto-bound listener is chosen",
        applies: |c| {
            c.backend == Backend::Tracepoint && c.fact.kind == Kind::Listen && c.fact.via == Via::AutoBind
        },
        change: |e| e.port_may_be_null = true,
    },
    Rule {
        reason: "tracepoint: io_uring makes no system call accept, so the acceptor is inferred, and reported when it closes",
        applies: |c| {
            c.backend == Backend::Tracepoint && c.fact.kind == Kind::Accept && c.fact.via == Via::IoUring
        },
        change: |e| {
            e.reported_late = true;
            e.owner = Who::Right;
        },
    },
    Rule {
        reason: "tracepoint: the owner of a connection accepted by io_uring is that of its listener or its closer",
        applies: |c| {
            c.backend == Backend::Tracepoint
                && c.fact.kind == Kind::Close
                && c.dir_in()
                && c.via() == Via::IoUring
        },
        change: |e| e.owner = Who::Right,
    },
];

/// What is asked of this case, and the reasons for every concession.
pub fn expect(case: &Case) -> (Expect, Vec<&'static str>) {
    let mut expect = Expect {
        owner: Who::Hook,
        closer: Who::Hook,
        port_may_be_null: false,
        ends_may_be_null: false,
        reported_late: false,
    };
    let mut reasons = Vec::new();
    for rule in RULES.iter().filter(|r| (r.applies)(case)) {
        (rule.change)(&mut expect);
        reasons.push(rule.reason);
    }
    (expect, reasons)
}

/// How the agent names an errno; the workload causes no others.
pub const fn errno_name(errno: i32) -> Option<&'static str> {
    match errno {
        32 => Some("EPIPE"),
        101 => Some("ENETUNREACH"),
        103 => Some("ECONNABORTED"),
        104 => Some("ECONNRESET"),
        110 => Some("ETIMEDOUT"),
        111 => Some("ECONNREFUSED"),
        _ => None,
    }
}

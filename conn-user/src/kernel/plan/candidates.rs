//! The programs of each backend, and where each is attached.

use conn_common::hook::HookId;

use super::{Attach, Role};
use crate::kernel::facts::{BtfTracepoint, KernelFunction};

/// A program that every backend has.
pub(super) struct Common {
    pub(super) program: &'static str,
    pub(super) hook: HookId,
    pub(super) tracepoint: BtfTracepoint,
    pub(super) role: Role,
    pub(super) reason: &'static str,
}

pub(super) const COMMON: &[Common] = &[
    Common {
        program: "state",
        hook: HookId::State,
        tracepoint: BtfTracepoint::InetSockSetState,
        role: Role::State,
        reason: "outcome and end of every connection: failure, reset and timeout are seen nowhere else",
    },
    Common {
        program: "process_fork",
        hook: HookId::ProcessFork,
        tracepoint: BtfTracepoint::SchedProcessFork,
        role: Role::Process,
        reason: "who made whom",
    },
    Common {
        program: "process_exec",
        hook: HookId::ProcessExec,
        tracepoint: BtfTracepoint::SchedProcessExec,
        role: Role::Process,
        reason: "path and arguments, also of a process that lives for a millisecond",
    },
    Common {
        program: "process_exit",
        hook: HookId::ProcessExit,
        tracepoint: BtfTracepoint::SchedProcessExit,
        role: Role::Process,
        reason: "the end of a process",
    },
];

/// A program on a kernel function.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub(super) program: &'static str,
    pub(super) hook: HookId,
    pub(super) role: Role,
    pub(super) function: KernelFunction,
    pub(super) how: How,
    /// Numbers of parameters that the program can deal with.
    pub(super) params: &'static [u32],
    pub(super) reason: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Fentry,
    Fexit,
    Kprobe,
    Kretprobe,
}

impl Candidate {
    pub(super) const fn attach(&self) -> Attach {
        let function = self.function.name();
        match self.how {
            How::Fentry => Attach::Fentry(function),
            How::Fexit => Attach::Fexit(function),
            How::Kprobe => Attach::Kprobe(function),
            How::Kretprobe => Attach::Kretprobe(function),
        }
    }
}

const CONNECTOR: &str = "runs in the connecting task when addresses and ports are final";
const ACCEPTOR: &str = "sees every accept, also of a call that was blocked since before the attach";
const GRAFT: &str = "sees every accept; called when the new socket gets its file";
pub(super) const BLOCKED: &str =
    "does not see the first accept of a call that was blocked since before the attach";
const CLOSER: &str = "runs in the closing task with the counters intact";
const LISTENER: &str = "runs when the port is final, also of an automatically bound listener";

const fn fentry(
    program: &'static str,
    hook: HookId,
    role: Role,
    function: KernelFunction,
    params: &'static [u32],
    reason: &'static str,
) -> Candidate {
    Candidate { program, hook, role, function, how: How::Fentry, params, reason }
}

/// The same on a kprobe.
const fn kprobe(candidate: Candidate, program: &'static str, hook: HookId) -> Candidate {
    Candidate { program, hook, how: How::Kprobe, ..candidate }
}

const FENTRY_CONNECT: Candidate = fentry(
    "fentry_tcp_connect",
    HookId::FentryTcpConnect,
    Role::Connect,
    KernelFunction::TcpConnect,
    &[1],
    CONNECTOR,
);
const FENTRY_ACCEPT: Candidate = fentry(
    "fentry_inet_accept",
    HookId::FentryInetAccept,
    Role::Accept,
    KernelFunction::InetAccept,
    &[3],
    ACCEPTOR,
);
const FENTRY_GRAFT: Candidate = fentry(
    "fentry_sock_graft",
    HookId::FentrySockGraft,
    Role::Accept,
    KernelFunction::SecuritySockGraft,
    &[2],
    GRAFT,
);
const FENTRY_CLOSE: Candidate =
    fentry("fentry_tcp_close", HookId::FentryTcpClose, Role::Close, KernelFunction::TcpClose, &[2], CLOSER);
const FEXIT_ACCEPT: Candidate = Candidate {
    how: How::Fexit,
    ..fentry(
        "fexit_csk_accept",
        HookId::FexitCskAccept,
        Role::Accept,
        KernelFunction::InetCskAccept,
        &[2],
        BLOCKED,
    )
};
/// Before 6.10. The result follows the arguments, at an offset that the verifier wants constant: another program.
const FEXIT_ACCEPT_4_ARGS: Candidate =
    Candidate { program: "fexit_csk_accept_4_args", params: &[4], ..FEXIT_ACCEPT };
const FEXIT_LISTEN: Candidate = Candidate {
    how: How::Fexit,
    ..fentry(
        "fexit_listen_start",
        HookId::FexitListenStart,
        Role::Listen,
        KernelFunction::InetCskListenStart,
        &[1],
        LISTENER,
    )
};
/// 5.10, where the backlog is an argument.
pub(super) const FEXIT_LISTEN_2_ARGS: Candidate =
    Candidate { program: "fexit_listen_start_2_args", params: &[2], ..FEXIT_LISTEN };
const KPROBE_HASH: Candidate = kprobe(
    fentry("", HookId::KprobeInetHash, Role::Listen, KernelFunction::InetHash, &[1], LISTENER),
    "kprobe_inet_hash",
    HookId::KprobeInetHash,
);
pub(super) const KPROBE_HASH6: Candidate = Candidate {
    program: "kprobe_inet6_hash",
    hook: HookId::KprobeInet6Hash,
    function: KernelFunction::Inet6Hash,
    ..KPROBE_HASH
};

/// Candidates of one role, the best first.
pub(super) type Candidates = &'static [Candidate];

pub(super) const FENTRY: [Candidates; 4] = [
    &[FENTRY_CONNECT],
    &[FENTRY_ACCEPT, FENTRY_GRAFT, FEXIT_ACCEPT, FEXIT_ACCEPT_4_ARGS],
    &[FENTRY_CLOSE],
    &[FEXIT_LISTEN, FEXIT_LISTEN_2_ARGS],
];

pub(super) const KPROBE: [Candidates; 4] = [
    &[kprobe(FENTRY_CONNECT, "kprobe_tcp_connect", HookId::KprobeTcpConnect)],
    &[
        kprobe(FENTRY_ACCEPT, "kprobe_inet_accept", HookId::KprobeInetAccept),
        kprobe(FENTRY_GRAFT, "kprobe_sock_graft", HookId::KprobeSockGraft),
        Candidate {
            program: "kretprobe_csk_accept",
            hook: HookId::KretprobeCskAccept,
            how: How::Kretprobe,
            // The return value alone is read.
            params: &[2, 4],
            ..FEXIT_ACCEPT
        },
    ],
    &[kprobe(FENTRY_CLOSE, "kprobe_tcp_close", HookId::KprobeTcpClose)],
    &[KPROBE_HASH],
];

//! The candidates of each backend, and the choice among them.

use conn_common::hook::HookId;

use super::{Attach, Backend, Plan, PlannedProgram, Refusal, Role, TracefsUse, locks_memory};
use crate::kernel::facts::{
    BtfTracepoint, Capability, Errno, KernelFacts, KernelFunction, Symbol, Tracefs, TracepointId,
};

/// A program that every backend has.
pub(super) struct Common {
    pub(super) program: &'static str,
    pub(super) hook: HookId,
    tracepoint: BtfTracepoint,
    role: Role,
    reason: &'static str,
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
struct Candidate {
    program: &'static str,
    hook: HookId,
    role: Role,
    function: KernelFunction,
    how: How,
    /// Numbers of parameters that the program can deal with.
    params: &'static [u32],
    reason: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Fentry,
    Fexit,
    Kprobe,
    Kretprobe,
}

impl Candidate {
    const fn attach(&self) -> Attach {
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
const BLOCKED: &str = "does not see the first accept of a call that was blocked since before the attach";
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
const FEXIT_LISTEN_2_ARGS: Candidate =
    Candidate { program: "fexit_listen_start_2_args", params: &[2], ..FEXIT_LISTEN };
const KPROBE_HASH: Candidate = kprobe(
    fentry("", HookId::KprobeInetHash, Role::Listen, KernelFunction::InetHash, &[1], LISTENER),
    "kprobe_inet_hash",
    HookId::KprobeInetHash,
);
const KPROBE_HASH6: Candidate = Candidate {
    program: "kprobe_inet6_hash",
    hook: HookId::KprobeInet6Hash,
    function: KernelFunction::Inet6Hash,
    ..KPROBE_HASH
};

/// Candidates of one role, the best first.
type Candidates = &'static [Candidate];

const FENTRY: [Candidates; 4] = [
    &[FENTRY_CONNECT],
    &[FENTRY_ACCEPT, FENTRY_GRAFT, FEXIT_ACCEPT, FEXIT_ACCEPT_4_ARGS],
    &[FENTRY_CLOSE],
    &[FEXIT_LISTEN, FEXIT_LISTEN_2_ARGS],
];

const KPROBE: [Candidates; 4] = [
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

/// Whether `backend` works here, and with which programs. Says nothing about what all backends need.
///
/// # Errors
/// Why it does not.
pub fn assess(facts: &KernelFacts, backend: Backend) -> Result<Plan, Refusal> {
    let mut plan = Plan {
        backend,
        programs: COMMON.iter().flat_map(|place| with_backups(facts, common(place))).collect(),
        compat: None,
        refused: Vec::new(),
        notes: Vec::new(),
        tracefs: TracefsUse::NotNeeded,
    };
    match backend {
        Backend::Fentry => {
            if let Some(why) = facts.fentry.refusal() {
                return Err(Refusal::Kernel(trampoline_refusal(facts, &why)));
            }
            functions(facts, &FENTRY, &mut plan)?;
        }
        Backend::Kprobe => {
            if !facts.kprobes.supported {
                return Err(Refusal::Kernel(
                    "this kernel has no kprobes (CONFIG_KPROBES, CONFIG_KPROBE_EVENTS)".to_owned(),
                ));
            }
            if let Some(why) = facts.kprobe.refusal() {
                return Err(Refusal::Kernel(why));
            }
            functions(facts, &KPROBE, &mut plan)?;
            // Kernels whose `inet_hash` does both have no second function; then nothing is missing.
            if let Ok(program) = pick(facts, &[KPROBE_HASH6]) {
                plan.programs.push(program);
            }
        }
        Backend::Tracepoint => tracepoints(facts, &mut plan)?,
    }
    plan.notes.extend(general_notes(facts));
    Ok(plan)
}

fn common(common: &Common) -> PlannedProgram {
    PlannedProgram {
        program: common.program,
        hook: common.hook,
        attach: Attach::TpBtf(common.tracepoint.name()),
        role: common.role,
        reason: common.reason.to_owned(),
        passed_over: Vec::new(),
    }
}

/// A refusal of all trampolines, with what it does not mean.
fn trampoline_refusal(facts: &KernelFacts, why: &str) -> String {
    let may = |capability| facts.privilege.capabilities.allows(capability);
    let is_eperm = matches!(facts.fentry, crate::kernel::facts::Probe::Refused { errno: libc::EPERM, .. });
    if is_eperm && may(Capability::Bpf) && may(Capability::Perfmon) {
        format!("the kernel refuses it although no capability is missing: {why}")
    } else {
        why.to_owned()
    }
}

fn functions(facts: &KernelFacts, roles: &[Candidates; 4], plan: &mut Plan) -> Result<(), Refusal> {
    for &candidates in roles {
        match pick(facts, candidates) {
            Ok(program) => {
                if matches!(program.hook, HookId::FexitCskAccept | HookId::KretprobeCskAccept) {
                    plan.notes.push(format!("accept: {} {BLOCKED}", program.attach.label()));
                }
                plan.programs.extend(with_backups(facts, program));
            }
            Err(passed_over) => {
                let why = passed_over
                    .iter()
                    .map(|(label, why)| format!("{label}: {why}"))
                    .collect::<Vec<_>>()
                    .join("; ");
                // The state tracepoint reports listeners too, only without the port of an automatic bind.
                if candidates.iter().any(|candidate| candidate.role == Role::Listen) {
                    plan.notes
                        .push(format!("the port of an automatically bound listener is not known ({why})"));
                } else {
                    return Err(Refusal::Kernel(why));
                }
            }
        }
    }
    Ok(())
}

/// Returns a program, and behind it its backup programs.
fn with_backups(facts: &KernelFacts, first: PlannedProgram) -> impl Iterator<Item = PlannedProgram> {
    // A second one where any program can be preempted; elsewhere only softirqs interrupt one, and fentry programs where
    // the kernel was booted to preempt itself.
    let count = if facts.btf.faultable_syscalls { 2 } else { 1 };
    let hooks = first.hook.backups().iter().take(count);
    let backups: Vec<_> = hooks.filter_map(|hook| backup(facts, &first, *hook)).collect();
    std::iter::once(first).chain(backups)
}

/// Returns the backup program with this hook, where there is one.
fn backup(facts: &KernelFacts, first: &PlannedProgram, hook: HookId) -> Option<PlannedProgram> {
    // Kernels with the other form of the function do not preempt programs.
    if first.program == FEXIT_LISTEN_2_ARGS.program {
        return None;
    }
    // Elsewhere the kernel runs programs at the end of system calls with preemption off.
    if matches!(first.attach, Attach::Tracepoint { .. }) && !facts.btf.faultable_syscalls {
        return None;
    }
    let program = match hook {
        HookId::FentryTcpConnectBackup => "fentry_tcp_connect_backup",
        HookId::FentryInetAcceptBackup => "fentry_inet_accept_backup",
        HookId::FentrySockGraftBackup => "fentry_sock_graft_backup",
        HookId::FentryTcpCloseBackup => "fentry_tcp_close_backup",
        HookId::FexitListenStartBackup => "fexit_listen_start_backup",
        HookId::StateBackup => "state_backup",
        HookId::ProcessForkBackup => "process_fork_backup",
        HookId::ProcessExecBackup => "process_exec_backup",
        HookId::ProcessExitBackup => "process_exit_backup",
        HookId::SysExitAcceptBackup => "sys_exit_accept_backup",
        HookId::SysExitAccept4Backup => "sys_exit_accept4_backup",
        HookId::FentryTcpConnectSecondBackup => "fentry_tcp_connect_second_backup",
        HookId::FentryInetAcceptSecondBackup => "fentry_inet_accept_second_backup",
        HookId::FentrySockGraftSecondBackup => "fentry_sock_graft_second_backup",
        HookId::FentryTcpCloseSecondBackup => "fentry_tcp_close_second_backup",
        HookId::FexitListenStartSecondBackup => "fexit_listen_start_second_backup",
        HookId::StateSecondBackup => "state_second_backup",
        HookId::ProcessForkSecondBackup => "process_fork_second_backup",
        HookId::ProcessExecSecondBackup => "process_exec_second_backup",
        HookId::ProcessExitSecondBackup => "process_exit_second_backup",
        HookId::SysExitAcceptSecondBackup => "sys_exit_accept_second_backup",
        HookId::SysExitAccept4SecondBackup => "sys_exit_accept4_second_backup",
        _ => return None,
    };
    facts.refusal_of(program).is_none().then(|| PlannedProgram {
        program,
        hook,
        attach: first.attach,
        role: first.role,
        reason: "reports what the programs before it miss when a task is preempted inside them".to_owned(),
        passed_over: Vec::new(),
    })
}

/// The first candidate that this kernel offers, or why there is none.
fn pick(facts: &KernelFacts, candidates: &[Candidate]) -> Result<PlannedProgram, Vec<(String, String)>> {
    let mut passed_over = Vec::new();
    for candidate in candidates {
        let attach = candidate.attach();
        match obstacle(facts, candidate) {
            Some(why) => passed_over.push((attach.label(), why)),
            None => {
                return Ok(PlannedProgram {
                    program: candidate.program,
                    hook: candidate.hook,
                    attach,
                    role: candidate.role,
                    reason: candidate.reason.to_owned(),
                    passed_over,
                });
            }
        }
    }
    Err(passed_over)
}

fn obstacle(facts: &KernelFacts, candidate: &Candidate) -> Option<String> {
    if let Some(why) = facts.refusal_of(candidate.program) {
        return Some(why);
    }
    let name = candidate.function.name();
    let known = facts.btf.functions.get(&candidate.function);
    if let Some(count) = known.filter(|count| !candidate.params.contains(count)) {
        let accepted = candidate.params.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        return Some(format!("{name} has {count} parameters here; conn knows it with {accepted}"));
    }
    let absent = Some(format!("this kernel has no function {name}"));
    match candidate.how {
        How::Fentry | How::Fexit => known.is_none().then_some(absent).flatten(),
        How::Kprobe | How::Kretprobe => match &facts.kprobes.symbols {
            Some(symbols) => match symbols.get(&candidate.function) {
                Some(Symbol::Present) => None,
                Some(Symbol::Blacklisted) => Some(format!("{name} must not be probed on this kernel")),
                None => absent,
            },
            None => known.is_none().then_some(absent).flatten(),
        },
    }
}

const SYS_EXITS: [(&str, HookId, &str); 2] = [
    ("sys_exit_accept", HookId::SysExitAccept, "sys_exit_accept"),
    ("sys_exit_accept4", HookId::SysExitAccept4, "sys_exit_accept4"),
];

fn tracepoints(facts: &KernelFacts, plan: &mut Plan) -> Result<(), Refusal> {
    plan.notes.push(
        "connect: the local port is chosen after the hook; an unanswered SYN is reported 20 ms late, with the port that \
         sock_diag reports"
            .to_owned(),
    );
    let mut lost = Vec::new();
    if let Some(why) = facts.tracepoint.refusal() {
        lost.push(why);
    }
    let caps = facts.privilege.capabilities;
    let mut ids = [TracepointId::Readable; 2];
    match &facts.tracefs {
        Tracefs::Mounted { sys_exit_accept, sys_exit_accept4, .. } => {
            ids = [*sys_exit_accept, *sys_exit_accept4];
            plan.tracefs = TracefsUse::Mounted;
            let refused = ids.iter().any(|id| matches!(id, TracepointId::Refused { .. }));
            if refused && facts.privilege.uid != 0 && !caps.has(Capability::DacReadSearch) {
                return Err(Refusal::Capabilities(vec![Capability::DacReadSearch]));
            }
        }
        Tracefs::NotMounted if caps.has(Capability::SysAdmin) => plan.tracefs = TracefsUse::OwnMount,
        Tracefs::NotMounted => lost.push(
            "tracefs is not mounted, and mounting it needs CAP_SYS_ADMIN: `sudo mount -t tracefs tracefs \
             /sys/kernel/tracing`"
                .to_owned(),
        ),
        Tracefs::Unsupported => lost.push("this kernel has no tracefs".to_owned()),
    }
    if lost.is_empty() {
        for ((program, hook, name), id) in SYS_EXITS.into_iter().zip(ids) {
            let refusal = facts.refusal_of(program);
            match (refusal, id) {
                (Some(why), _) => lost.push(format!("{name}: {why}")),
                (None, TracepointId::Absent) => {
                    lost.push(format!("this kernel has no tracepoint {name} (CONFIG_FTRACE_SYSCALLS)"));
                }
                (None, TracepointId::Refused { errno }) => {
                    lost.push(format!(
                        "reading the number of {name} in tracefs is refused: {}",
                        Errno(errno)
                    ));
                }
                (None, TracepointId::Readable) => {
                    let first = PlannedProgram {
                        program,
                        hook,
                        attach: Attach::Tracepoint { category: "syscalls", name },
                        role: Role::Accept,
                        reason: "reports who accepted, from the descriptor that the call returned".to_owned(),
                        passed_over: Vec::new(),
                    };
                    plan.programs.extend(with_backups(facts, first));
                }
            }
        }
    }
    if lost.is_empty() {
        plan.compat = compat(facts);
        let of_32_bit = if plan.compat.is_some() { "" } else { ", and those of 32-bit programs," };
        plan.notes.push(format!(
            "accept: calls through io_uring{of_32_bit} are attributed to the listener's owner"
        ));
    } else {
        plan.notes.push(format!(
            "accept: the listener's owner stands for the process that accepted ({})",
            lost.join("; ")
        ));
    }
    if plan.of_role(Role::Accept).next().is_none() {
        plan.tracefs = TracefsUse::NotNeeded;
    }
    Ok(())
}

/// What sees the accepts of 32-bit programs, which the tracepoints of system calls do not.
fn compat(facts: &KernelFacts) -> Option<PlannedProgram> {
    let program = "sys_exit_compat";
    let lacks_member = facts.btf.missing.iter().any(|missing| {
        missing.container == "pt_regs"
            || missing.container == "task_struct" && missing.path.starts_with("thread_info.")
    });
    (!lacks_member && facts.refusal_of(program).is_none()).then(|| PlannedProgram {
        program,
        hook: HookId::SysExitCompat,
        attach: Attach::TpBtf("sys_exit"),
        role: Role::Accept,
        reason: "reports who accepted in a 32-bit program, while any runs".to_owned(),
        passed_over: Vec::new(),
    })
}

/// What does not depend on the backend.
fn general_notes(facts: &KernelFacts) -> Vec<String> {
    let mut notes: Vec<_> = facts.btf.missing.iter().map(ToString::to_string).collect();
    if facts.cookie_helper == Some(false) {
        notes.push(
            "bpf_get_socket_cookie does not work in tracing programs here (5.12 on): connections are distinguished by the \
             socket's address and its history"
                .to_owned(),
        );
    }
    let lacks = |capability| !facts.privilege.capabilities.has(capability);
    if lacks(Capability::SysPtrace) {
        notes.push(
            "without CAP_SYS_PTRACE the executable of another user's process that started before conn is not known"
                .to_owned(),
        );
    }
    if locks_memory(facts) && lacks(Capability::SysResource) {
        notes.push(
            "without CAP_SYS_RESOURCE the ring buffer must fit into the locked-memory limit on this kernel: if it does \
             not, raise `ulimit -l` or use a smaller `--ring-size`"
                .to_owned(),
        );
    }
    notes
}

//! The choice among the candidates of each backend.

use conn_common::hook::HookId;

use super::candidates::{
    BLOCKED, COMMON, Candidate, Candidates, Common, FENTRY, FEXIT_LISTEN_2_ARGS, How, KPROBE, KPROBE_HASH6,
};
use super::{Attach, Backend, Plan, PlannedProgram, Refusal, Role, TracefsUse, locks_memory};
use crate::kernel::facts::{Capability, Errno, KernelFacts, Symbol, Tracefs, TracepointId};

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

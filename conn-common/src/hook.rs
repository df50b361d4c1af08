//! The places in the kernel that deliver records.

/// Defines [`HookId`] with the number, the Rust name and the name that people see.
macro_rules! hooks {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $label:literal;)*) => {
        /// The program that wrote a record.
        ///
        /// Each program has its own per-CPU sequence: the kernel never runs a tracing program inside itself on one
        /// CPU (`__bpf_prog_enter_recur`, `__bpf_trace_run`), so a plain increment is exact, also when a softirq
        /// interrupts another program.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum HookId { $($(#[$doc])* $variant = $number,)* }

        impl HookId {
            /// Every hook, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that people see, e.g. `fentry:tcp_connect`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// The hook with this number, if there is one.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

/// Slots of the per-CPU sequence table: more than the largest [`HookId`] number.
pub const HOOK_SLOTS: u32 = 64;

/// Slots of the table of marks: more than the number of any hook that has backup programs.
pub const PLACES: u32 = HookId::FentryTcpConnectBackup as u32;

hooks! {
    /// Transitions of a socket's state.
    State = 0, "tp_btf:inet_sock_set_state";
    /// Return of any system call, while 32-bit programs run: those of an accept.
    SysExitCompat = 1, "tp_btf:sys_exit";
    /// Entry of `tcp_connect`, by trampoline.
    FentryTcpConnect = 2, "fentry:tcp_connect";
    /// Entry of `tcp_connect`, by kprobe.
    KprobeTcpConnect = 3, "kprobe:tcp_connect";
    /// Entry of `__inet_accept`, by trampoline.
    FentryInetAccept = 4, "fentry:__inet_accept";
    /// Entry of `__inet_accept`, by kprobe.
    KprobeInetAccept = 5, "kprobe:__inet_accept";
    /// Entry of `security_sock_graft`, by trampoline: accept where `__inet_accept` does not exist.
    FentrySockGraft = 6, "fentry:security_sock_graft";
    /// Entry of `security_sock_graft`, by kprobe.
    KprobeSockGraft = 7, "kprobe:security_sock_graft";
    /// Return of `inet_csk_accept`, by trampoline.
    FexitCskAccept = 8, "fexit:inet_csk_accept";
    /// Return of `inet_csk_accept`, by kretprobe.
    KretprobeCskAccept = 9, "kretprobe:inet_csk_accept";
    /// Return of the system call `accept`.
    SysExitAccept = 10, "tracepoint:sys_exit_accept";
    /// Return of the system call `accept4`.
    SysExitAccept4 = 11, "tracepoint:sys_exit_accept4";
    /// Entry of `tcp_close`, by trampoline.
    FentryTcpClose = 12, "fentry:tcp_close";
    /// Entry of `tcp_close`, by kprobe.
    KprobeTcpClose = 13, "kprobe:tcp_close";
    /// Return of `inet_csk_listen_start`, by trampoline.
    FexitListenStart = 14, "fexit:inet_csk_listen_start";
    /// Entry of `inet_hash`, by kprobe: a listener that has its port.
    KprobeInetHash = 15, "kprobe:inet_hash";
    /// Entry of `inet6_hash`, by kprobe, on kernels that have it.
    KprobeInet6Hash = 16, "kprobe:inet6_hash";
    /// A process was created.
    ProcessFork = 17, "tp_btf:sched_process_fork";
    /// A process executed a program.
    ProcessExec = 18, "tp_btf:sched_process_exec";
    /// The last thread of a process exits.
    ProcessExit = 19, "tp_btf:sched_process_exit";
    /// Entry of `tcp_connect`, when the kernel skipped the first program.
    FentryTcpConnectBackup = 20, "fentry:tcp_connect/backup";
    /// Entry of `__inet_accept`, when the kernel skipped the first program.
    FentryInetAcceptBackup = 21, "fentry:__inet_accept/backup";
    /// Entry of `security_sock_graft`, when the kernel skipped the first program.
    FentrySockGraftBackup = 22, "fentry:security_sock_graft/backup";
    /// Entry of `tcp_close`, when the kernel skipped the first program.
    FentryTcpCloseBackup = 23, "fentry:tcp_close/backup";
    /// Backup of [`HookId::State`], for when the kernel skipped that program.
    StateBackup = 24, "tp_btf:inet_sock_set_state/backup";
    /// Backup of [`HookId::ProcessFork`], for when the kernel skipped that program.
    ProcessForkBackup = 26, "tp_btf:sched_process_fork/backup";
    /// Backup of [`HookId::ProcessExec`], for when the kernel skipped that program.
    ProcessExecBackup = 27, "tp_btf:sched_process_exec/backup";
    /// Backup of [`HookId::ProcessExit`], for when the kernel skipped that program.
    ProcessExitBackup = 28, "tp_btf:sched_process_exit/backup";
    /// Backup of [`HookId::SysExitAccept`], for when the kernel skipped that program.
    SysExitAcceptBackup = 29, "tracepoint:sys_exit_accept/backup";
    /// Backup of [`HookId::SysExitAccept4`], for when the kernel skipped that program.
    SysExitAccept4Backup = 30, "tracepoint:sys_exit_accept4/backup";
    /// Backup of [`HookId::FexitListenStart`], for when the kernel skipped that program.
    FexitListenStartBackup = 31, "fexit:inet_csk_listen_start/backup";
    /// Second backup of [`HookId::FentryTcpConnect`], for when the kernel skipped that program and its first
    /// backup.
    FentryTcpConnectSecondBackup = 32, "fentry:tcp_connect/backup2";
    /// Second backup of [`HookId::FentryInetAccept`], for when the kernel skipped that program and its first
    /// backup.
    FentryInetAcceptSecondBackup = 33, "fentry:__inet_accept/backup2";
    /// Second backup of [`HookId::FentrySockGraft`], for when the kernel skipped that program and its first
    /// backup.
    FentrySockGraftSecondBackup = 34, "fentry:security_sock_graft/backup2";
    /// Second backup of [`HookId::FentryTcpClose`], for when the kernel skipped that program and its first
    /// backup.
    FentryTcpCloseSecondBackup = 35, "fentry:tcp_close/backup2";
    /// Second backup of [`HookId::State`], for when the kernel skipped that program and its first backup.
    StateSecondBackup = 36, "tp_btf:inet_sock_set_state/backup2";
    /// Second backup of [`HookId::ProcessFork`], for when the kernel skipped that program and its first
    /// backup.
    ProcessForkSecondBackup = 37, "tp_btf:sched_process_fork/backup2";
    /// Second backup of [`HookId::ProcessExec`], for when the kernel skipped that program and its first
    /// backup.
    ProcessExecSecondBackup = 38, "tp_btf:sched_process_exec/backup2";
    /// Second backup of [`HookId::ProcessExit`], for when the kernel skipped that program and its first
    /// backup.
    ProcessExitSecondBackup = 39, "tp_btf:sched_process_exit/backup2";
    /// Second backup of [`HookId::SysExitAccept`], for when the kernel skipped that program and its first
    /// backup.
    SysExitAcceptSecondBackup = 40, "tracepoint:sys_exit_accept/backup2";
    /// Second backup of [`HookId::SysExitAccept4`], for when the kernel skipped that program and its first
    /// backup.
    SysExitAccept4SecondBackup = 41, "tracepoint:sys_exit_accept4/backup2";
    /// Second backup of [`HookId::FexitListenStart`], for when the kernel skipped that program and its first
    /// backup.
    FexitListenStartSecondBackup = 42, "fexit:inet_csk_listen_start/backup2";
}

/// Each hook that has backup programs, and their hooks in the order in which they run: the one list, of which
/// the programs, too, make the places that they share.
const BACKUPS: [(HookId, [HookId; 2]); 11] = [
    (HookId::FentryTcpConnect, [HookId::FentryTcpConnectBackup, HookId::FentryTcpConnectSecondBackup]),
    (HookId::FentryInetAccept, [HookId::FentryInetAcceptBackup, HookId::FentryInetAcceptSecondBackup]),
    (HookId::FentrySockGraft, [HookId::FentrySockGraftBackup, HookId::FentrySockGraftSecondBackup]),
    (HookId::FentryTcpClose, [HookId::FentryTcpCloseBackup, HookId::FentryTcpCloseSecondBackup]),
    (HookId::State, [HookId::StateBackup, HookId::StateSecondBackup]),
    (HookId::ProcessFork, [HookId::ProcessForkBackup, HookId::ProcessForkSecondBackup]),
    (HookId::ProcessExec, [HookId::ProcessExecBackup, HookId::ProcessExecSecondBackup]),
    (HookId::ProcessExit, [HookId::ProcessExitBackup, HookId::ProcessExitSecondBackup]),
    (HookId::SysExitAccept, [HookId::SysExitAcceptBackup, HookId::SysExitAcceptSecondBackup]),
    (HookId::SysExitAccept4, [HookId::SysExitAccept4Backup, HookId::SysExitAccept4SecondBackup]),
    (HookId::FexitListenStart, [HookId::FexitListenStartBackup, HookId::FexitListenStartSecondBackup]),
];

impl HookId {
    /// Returns the hooks of the backup programs, which report what the kernel makes this one miss: it skips a tracing program when a
    /// task was preempted inside it and the next task of that CPU comes the same way (`__bpf_prog_enter_recur`,
    /// `__bpf_trace_run`, `trace_call_bpf_faultable`).
    pub const fn backups(self) -> &'static [Self] {
        let mut at = 0;
        while at < BACKUPS.len() {
            if BACKUPS[at].0 as u16 == self as u16 {
                return &BACKUPS[at].1;
            }
            at += 1;
        }
        &[]
    }

    /// Whether this hook reports processes, not of sockets.
    pub const fn is_of_processes(self) -> bool {
        matches!(
            self,
            Self::ProcessFork
                | Self::ProcessExec
                | Self::ProcessExit
                | Self::ProcessForkBackup
                | Self::ProcessExecBackup
                | Self::ProcessExitBackup
                | Self::ProcessForkSecondBackup
                | Self::ProcessExecSecondBackup
                | Self::ProcessExitSecondBackup
        )
    }

    /// Returns whether this is the hook of a backup program, which reports only what others missed, and may repeat an event.
    pub const fn is_backup(self) -> bool {
        self as u16 >= Self::FentryTcpConnectBackup as u16
    }
}

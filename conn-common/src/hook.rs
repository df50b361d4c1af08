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
pub const HOOK_SLOTS: u32 = 32;

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
    FentryTcpConnectUnderstudy = 20, "fentry:tcp_connect/understudy";
    /// Entry of `__inet_accept`, when the kernel skipped the first program.
    FentryInetAcceptUnderstudy = 21, "fentry:__inet_accept/understudy";
    /// Entry of `security_sock_graft`, when the kernel skipped the first program.
    FentrySockGraftUnderstudy = 22, "fentry:security_sock_graft/understudy";
    /// Entry of `tcp_close`, when the kernel skipped the first program.
    FentryTcpCloseUnderstudy = 23, "fentry:tcp_close/understudy";
    /// As [`HookId::State`], when the kernel skipped the first program.
    StateUnderstudy = 24, "tp_btf:inet_sock_set_state/understudy";
    /// As [`HookId::ProcessFork`], when the kernel skipped the first program.
    ProcessForkUnderstudy = 26, "tp_btf:sched_process_fork/understudy";
    /// As [`HookId::ProcessExec`], when the kernel skipped the first program.
    ProcessExecUnderstudy = 27, "tp_btf:sched_process_exec/understudy";
    /// As [`HookId::ProcessExit`], when the kernel skipped the first program.
    ProcessExitUnderstudy = 28, "tp_btf:sched_process_exit/understudy";
    /// As [`HookId::SysExitAccept`], when the kernel skipped the first program.
    SysExitAcceptUnderstudy = 29, "tracepoint:sys_exit_accept/understudy";
    /// As [`HookId::SysExitAccept4`], when the kernel skipped the first program.
    SysExitAccept4Understudy = 30, "tracepoint:sys_exit_accept4/understudy";
    /// As [`HookId::FexitListenStart`], when the kernel skipped the first program.
    FexitListenStartUnderstudy = 31, "fexit:inet_csk_listen_start/understudy";
}

/// The pairs of a hook and the one that tells what it misses.
const UNDERSTUDIES: [(HookId, HookId); 11] = [
    (HookId::FentryTcpConnect, HookId::FentryTcpConnectUnderstudy),
    (HookId::FentryInetAccept, HookId::FentryInetAcceptUnderstudy),
    (HookId::FentrySockGraft, HookId::FentrySockGraftUnderstudy),
    (HookId::FentryTcpClose, HookId::FentryTcpCloseUnderstudy),
    (HookId::State, HookId::StateUnderstudy),
    (HookId::ProcessFork, HookId::ProcessForkUnderstudy),
    (HookId::ProcessExec, HookId::ProcessExecUnderstudy),
    (HookId::ProcessExit, HookId::ProcessExitUnderstudy),
    (HookId::SysExitAccept, HookId::SysExitAcceptUnderstudy),
    (HookId::SysExitAccept4, HookId::SysExitAccept4Understudy),
    (HookId::FexitListenStart, HookId::FexitListenStartUnderstudy),
];

impl HookId {
    /// The hook that tells what this one misses: the kernel skips a tracing program when a task was preempted inside it
    /// and the next task of that CPU comes the same way (`__bpf_prog_enter_recur`, `__bpf_trace_run`,
    /// `trace_call_bpf_faultable`).
    pub fn understudy(self) -> Option<Self> {
        UNDERSTUDIES.iter().find(|(first, _)| *first == self).map(|(_, understudy)| *understudy)
    }

    /// Whether this hook tells of processes, not of sockets.
    pub const fn is_of_processes(self) -> bool {
        matches!(
            self,
            Self::ProcessFork
                | Self::ProcessExec
                | Self::ProcessExit
                | Self::ProcessForkUnderstudy
                | Self::ProcessExecUnderstudy
                | Self::ProcessExitUnderstudy
        )
    }

    /// Whether this hook only tells what another one missed: it is silent as a rule, and may repeat what was told.
    pub const fn is_understudy(self) -> bool {
        self as u16 >= Self::FentryTcpConnectUnderstudy as u16
    }
}

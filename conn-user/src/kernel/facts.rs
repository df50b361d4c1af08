//! What the running kernel offers and what this process may do with it: plain data, gathered once, then only read.

mod gather;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::offsets::MissingMember;

/// Everything that the plan is made from. Gathering changes nothing on the machine; the load probes are added by the
/// loader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFacts {
    /// Kernel release, as `uname -r` shows it.
    pub release: String,
    /// Machine, as `uname -m` shows it.
    pub machine: String,
    /// Path of the running executable, for remedies that name it; bytes that are not UTF-8 are replaced.
    pub executable: String,
    /// The kernel's type information.
    pub btf: BtfFacts,
    /// kprobes.
    pub kprobes: KprobeFacts,
    /// The file system with the classic tracepoints.
    pub tracefs: Tracefs,
    /// Kernel lockdown.
    pub lockdown: Lockdown,
    /// What this process may do.
    pub privilege: Privilege,
    /// `/proc/sys/kernel/unprivileged_bpf_disabled`: 0 no, 1 for good, 2 until an administrator allows it.
    pub unprivileged_bpf_disabled: Option<u8>,
    /// Whether `bpf_get_socket_cookie` works in tracing programs (5.12 on); none: not tried.
    pub cookie_helper: Option<bool>,
    /// Loading and attaching an fentry program.
    pub fentry: Probe,
    /// Loading and attaching a kprobe.
    pub kprobe: Probe,
    /// Loading and attaching a classic tracepoint program.
    pub tracepoint: Probe,
    /// Loading and attaching a BTF tracepoint program.
    pub tp_btf: Probe,
    /// Programs of the BPF object that this kernel refused, by name: the next plan does without them.
    pub refused: BTreeMap<String, Probe>,
}

impl KernelFacts {
    /// Why the kernel refused this program of the BPF object, if it did.
    pub fn refusal_of(&self, program: &str) -> Option<String> {
        self.refused.get(program)?.refusal()
    }
}

/// The kernel functions that programs hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelFunction {
    /// `net/ipv4/tcp_output.c`.
    TcpConnect,
    /// `net/ipv4/tcp.c`.
    TcpClose,
    /// `net/ipv4/af_inet.c`, 6.6 on and some stable kernels before.
    #[serde(rename = "__inet_accept")]
    InetAccept,
    /// `security/security.c`, with `CONFIG_SECURITY_NETWORK`.
    SecuritySockGraft,
    /// `net/ipv4/inet_connection_sock.c`; 4 parameters before 6.10, 2 since.
    InetCskAccept,
    /// `net/ipv4/inet_connection_sock.c`; 2 parameters in 5.10, 1 since 5.19 or so.
    InetCskListenStart,
    /// `net/ipv4/inet_hashtables.c`.
    InetHash,
    /// `net/ipv6/inet6_hashtables.c`, not in every kernel.
    Inet6Hash,
}

impl KernelFunction {
    /// Every one of them.
    pub const ALL: [Self; 8] = [
        Self::TcpConnect,
        Self::TcpClose,
        Self::InetAccept,
        Self::SecuritySockGraft,
        Self::InetCskAccept,
        Self::InetCskListenStart,
        Self::InetHash,
        Self::Inet6Hash,
    ];

    /// The name in the kernel.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpConnect => "tcp_connect",
            Self::TcpClose => "tcp_close",
            Self::InetAccept => "__inet_accept",
            Self::SecuritySockGraft => "security_sock_graft",
            Self::InetCskAccept => "inet_csk_accept",
            Self::InetCskListenStart => "inet_csk_listen_start",
            Self::InetHash => "inet_hash",
            Self::Inet6Hash => "inet6_hash",
        }
    }
}

/// The tracepoints that `tp_btf` programs hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BtfTracepoint {
    /// `(sk, oldstate, newstate)`.
    InetSockSetState,
    /// `(parent, child)`.
    SchedProcessFork,
    /// `(task, old_pid, bprm)`.
    SchedProcessExec,
    /// `(task)`, and `group_dead` in later kernels.
    SchedProcessExit,
}

impl BtfTracepoint {
    /// Every one of them.
    pub const ALL: [Self; 4] =
        [Self::InetSockSetState, Self::SchedProcessFork, Self::SchedProcessExec, Self::SchedProcessExit];

    /// The name in the kernel.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InetSockSetState => "inet_sock_set_state",
            Self::SchedProcessFork => "sched_process_fork",
            Self::SchedProcessExec => "sched_process_exec",
            Self::SchedProcessExit => "sched_process_exit",
        }
    }

    /// Number of arguments that the programs read.
    pub const fn arguments(self) -> u32 {
        match self {
            Self::InetSockSetState | Self::SchedProcessExec => 3,
            Self::SchedProcessFork => 2,
            Self::SchedProcessExit => 1,
        }
    }
}

/// The kernel's type information, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BtfFacts {
    /// Whether the kernel has BTF at all (`CONFIG_DEBUG_INFO_BTF`).
    pub present: bool,
    /// Why it could not be read.
    pub error: Option<String>,
    /// Parameters of each function that there is.
    pub functions: BTreeMap<KernelFunction, u32>,
    /// Arguments of each tracepoint that there is.
    pub tracepoints: BTreeMap<BtfTracepoint, u32>,
    /// Programs at the tracepoints of system calls can be preempted (`trace_call_bpf_faultable` in
    /// kernel/trace/bpf_trace.c, 7.2 on).
    #[serde(default)]
    pub faultable_syscalls: bool,
    /// Members that the programs do without.
    pub missing: Vec<MissingMember>,
    /// Members without which nothing works.
    pub fatal: Vec<MissingMember>,
}

/// kprobes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KprobeFacts {
    /// Whether the kernel has kprobes as perf events (`CONFIG_KPROBE_EVENTS`).
    pub supported: bool,
    /// Functions that a kprobe can be set on by their symbol. None: `/proc/kallsyms` cannot be read.
    pub symbols: Option<BTreeMap<KernelFunction, Symbol>>,
}

/// A function in the symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Symbol {
    /// A kprobe may be set.
    Present,
    /// On the kernel's list of functions that must not be probed.
    Blacklisted,
}

/// Where the classic tracepoints are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Tracefs {
    /// Mounted at one of the two usual places.
    Mounted {
        /// Where.
        path: PathBuf,
        /// `events/syscalls/sys_exit_accept/id`.
        sys_exit_accept: TracepointId,
        /// `events/syscalls/sys_exit_accept4/id`.
        sys_exit_accept4: TracepointId,
    },
    /// The kernel has it; nobody mounted it.
    NotMounted,
    /// The kernel does not have it.
    Unsupported,
}

/// Whether the number of a classic tracepoint can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TracepointId {
    /// It can.
    Readable,
    /// The kernel does not have the tracepoint (`CONFIG_FTRACE_SYSCALLS`).
    Absent,
    /// Reading is refused.
    Refused {
        /// `errno`.
        errno: i32,
    },
}

/// Kernel lockdown (`/sys/kernel/security/lockdown`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// The kernel does not report: no lockdown module, or securityfs is not mounted.
    Unknown,
    /// Off.
    None,
    /// Forbids changing the kernel; reading is allowed.
    Integrity,
    /// Also forbids reading kernel memory.
    Confidentiality,
}

/// What this process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privilege {
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities.
    pub capabilities: Capabilities,
    /// Whether this is the initial user namespace: elsewhere capabilities do not reach BPF. None: not known.
    pub initial_user_namespace: Option<bool>,
}

/// The capabilities that matter here (`include/uapi/linux/capability.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Load BPF programs (5.8 on).
    Bpf,
    /// Trace the kernel (5.8 on).
    Perfmon,
    /// Includes both; also mounts tracefs.
    SysAdmin,
    /// Look at processes of other users.
    SysPtrace,
    /// Read any file, tracefs too.
    DacReadSearch,
    /// Raise resource limits: maps count as locked memory before 5.11.
    SysResource,
}

impl Capability {
    /// Every one of them.
    pub const ALL: [Self; 6] =
        [Self::Bpf, Self::Perfmon, Self::SysAdmin, Self::SysPtrace, Self::DacReadSearch, Self::SysResource];

    const fn bit(self) -> u32 {
        match self {
            Self::DacReadSearch => 2,
            Self::SysPtrace => 19,
            Self::SysAdmin => 21,
            Self::SysResource => 24,
            Self::Perfmon => 38,
            Self::Bpf => 39,
        }
    }

    /// The name, e.g. `CAP_BPF`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysResource => "CAP_SYS_RESOURCE",
        }
    }
}

/// A set of capabilities, as in the `CapEff` line of `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// These and no others.
    pub fn of(capabilities: &[Capability]) -> Self {
        Self(capabilities.iter().fold(0, |bits, capability| bits | 1 << capability.bit()))
    }

    /// Whether the set has this one itself.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 >> capability.bit() & 1 == 1
    }

    /// Whether the set allows what this one allows: `CAP_SYS_ADMIN` stands for `CAP_BPF` and `CAP_PERFMON`
    /// (`bpf_capable`, `perfmon_capable` in `include/linux/capability.h`).
    pub const fn allows(self, capability: Capability) -> bool {
        self.has(capability)
            || matches!(capability, Capability::Bpf | Capability::Perfmon) && self.has(Capability::SysAdmin)
    }
}

/// What came of trying.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Probe {
    /// Nobody tried.
    #[default]
    NotTried,
    /// It works.
    Works,
    /// The kernel said no.
    Refused {
        /// `errno`; 0 if there was none.
        errno: i32,
        /// What was tried, and what the kernel said.
        what: String,
    },
}

impl Probe {
    /// The refusal in words, if it was refused.
    pub fn refusal(&self) -> Option<String> {
        let Self::Refused { errno, what } = self else { return None };
        Some(if *errno == 0 { what.clone() } else { format!("{} ({what})", Errno(*errno)) })
    }
}

/// An error number with the name that a kernel programmer knows, where it is one that BPF and tracefs give.
pub(super) struct Errno(pub(super) i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// `ENOTSUPP` of `include/linux/errno.h`: not meant for user space, but `bpf()` returns it.
        const ENOTSUPP: i32 = 524;
        f.write_str(match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::E2BIG => "E2BIG",
            libc::EBADF => "EBADF",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EBUSY => "EBUSY",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::ENOSPC => "ENOSPC",
            libc::ENOSYS => "ENOSYS",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            ENOTSUPP => "ENOTSUPP",
            other => return write!(f, "errno {other}"),
        })
    }
}

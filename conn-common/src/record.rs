//! The records, as they lie in the ring buffer.

use core::mem::{offset_of, size_of};

/// What a record reports. The number is the interface; a hole is never filled again.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A [`SockRecord`]: a process opens a connection.
    Connect = 1,
    /// A [`SockRecord`]: a process accepted a connection.
    Accept = 2,
    /// A [`SockEndRecord`]: a process closes its connection (last reference of the file, or `tcp_close`).
    Close = 3,
    /// An [`EstablishedRecord`]: the handshake is complete.
    Established = 4,
    /// A [`SockEndRecord`]: the connection ended otherwise: refused, reset, timed out, killed, both FINs, aborted.
    /// `task` is whoever ran on that CPU; only the cases of `kernel.md` 3.2 make it the actor.
    End = 5,
    /// A [`SockRecord`]: a socket began to listen.
    Listen = 6,
    /// A [`SockRecord`]: a socket stopped listening.
    Unlisten = 7,
    /// A [`ForkRecord`].
    Fork = 16,
    /// An [`ExecRecord`] and its bytes.
    Exec = 17,
    /// An [`ExitRecord`].
    Exit = 18,
}

/// The head of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// A [`RecordKind`].
    pub kind: u16,
    /// A [`crate::hook::HookId`].
    pub hook: u16,
    /// Bytes of the whole record, this header included; the same as the ring's own length for it.
    pub len: u16,
    /// The CPU on which the program ran.
    pub cpu: u16,
    /// Number of this record in the sequence of (`hook`, `cpu`), from 0. It also counts records for which the ring
    /// had no room, so a difference of more than one is an exact loss.
    pub seq: u64,
    /// `bpf_ktime_get_boot_ns`: nanoseconds since boot, suspend included.
    pub boot_ns: u64,
}

/// A process as the kernel saw it at the hook. Numbers are those of the initial namespaces.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Process id (thread group).
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Boot time at which the group leader started. (tgid, start) is a process; a bare pid is not.
    pub start_boot_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Id of the task's cgroup in the v2 hierarchy (`bpf_get_current_cgroup_id`).
    pub cgroup_id: u64,
    /// Name of the group leader, NUL padded.
    pub comm: [u8; 16],
    /// `task_struct.flags` ([`PF_KTHREAD`], [`PF_EXITING`]), and [`TASK_COMPAT`].
    pub flags: u32,
    /// Low half of `task_struct.self_exec_id`, which `begin_new_exec` (fs/exec.c) counts up and fork inherits: two records
    /// of a process with the same number have no exec between them. 0 where the kernel has no such member.
    pub exec_id: u32,
}

/// `task_struct.flags`: the task is a kernel thread (include/linux/sched.h).
pub const PF_KTHREAD: u32 = 0x0020_0000;
/// `task_struct.flags`: the task is exiting (include/linux/sched.h).
pub const PF_EXITING: u32 = 0x0000_0004;

/// In [`Task::flags`], in the place of `PF_VCPU`: the task runs a 32-bit program (`TIF_ADDR32`), or is within a 32-bit system call
/// (`TS_COMPAT`). x86 only.
pub const TASK_COMPAT: u32 = 1;

/// A socket as the kernel saw it at the hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sock {
    /// The socket's cookie, or, flagged [`SockFlags::ADDRESS_KEY`], its kernel address (never shown).
    pub key: u64,
    /// Local address, network order; IPv4 in the first four bytes.
    pub laddr: [u8; 16],
    /// Remote address, network order; IPv4 in the first four bytes.
    pub raddr: [u8; 16],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Inode number of the socket, where the hook reads it, else 0. (sockfs numbers are 32 bits: `get_next_ino`.)
    pub inode: u32,
    /// Local port, host order; 0 or stale when flagged [`SockFlags::PORT_PENDING`].
    pub lport: u16,
    /// Remote port, host order.
    pub rport: u16,
    /// `skc_bound_dev_if`: index of the interface that the socket is bound to, 0: none. A connection has it from `SO_BINDTODEVICE`,
    /// its listener (`inet_request_bound_dev_if`), or a link-local address (`tcp_v6_connect`, `tcp_v6_init_req`).
    pub device: u32,
    /// `sk_err`, positive; of an attempt that ends without one: `sk_err_soft`.
    pub err: u16,
    /// [`SockFlags`].
    pub flags: u16,
    /// State before (`TCP_*`), or the current one where nothing changes.
    pub old_state: u8,
    /// State after.
    pub new_state: u8,
    /// `sk_shutdown`: 1 receive, 2 send.
    pub shutdown: u8,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
}

/// Bits of [`Sock::flags`].
pub struct SockFlags;

impl SockFlags {
    /// `key` is the kernel address: this kernel or this program type has no cookie for it, or the cookie is not its own
    /// (MPTCP connections).
    pub const ADDRESS_KEY: u16 = 1 << 0;
    /// `sk_socket` is set: a file descriptor still belongs to the socket.
    pub const HAS_SOCKET: u16 = 1 << 1;
    /// `current` closes the socket at this moment: the last reference of its file is gone, and `current` is the task
    /// that releases it (`__sock_release`) and holds the socket's lock.
    pub const IN_CLOSE: u16 = 1 << 2;
    /// The kernel opened the socket itself (`sk_kern_sock`).
    pub const KERNEL: u16 = 1 << 3;
    /// The peer's FIN was processed (`SOCK_DONE`, set by `tcp_fin` only): `bytes_received` counts it as one byte.
    pub const PEER_FIN: u16 = 1 << 4;
    /// `SO_LINGER` with time 0: close sends a reset (`__tcp_close`).
    pub const LINGER_ZERO: u16 = 1 << 5;
    /// Received data was not read: close sends a reset (`__tcp_close`).
    pub const UNREAD: u16 = 1 << 6;
    /// The local port is not chosen yet (CLOSE→SYN_SENT, or an auto-bound listener).
    pub const PORT_PENDING: u16 = 1 << 7;
    /// [`Counters`] were read.
    pub const COUNTERS: u16 = 1 << 8;
    /// Of a listener: it takes IPv6 only (`skc_ipv6only`).
    pub const V6ONLY: u16 = 1 << 9;
    /// `sk_protocol` is `IPPROTO_MPTCP`, not `IPPROTO_TCP`.
    pub const MPTCP: u16 = 1 << 10;
}

/// Counters of `tcp_sock`, or of `mptcp_sock`, which has only those of bytes; valid only with [`SockFlags::COUNTERS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes retransmitted.
    pub bytes_retrans: u64,
    /// Payload bytes received in order, plus one once the peer's FIN was processed.
    pub bytes_received: u64,
    /// Segments retransmitted.
    pub total_retrans: u32,
    /// Smoothed round trip time in microseconds (`srtt_us >> 3`).
    pub srtt_us: u32,
}

/// A process did something to a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockRecord {
    /// Head.
    pub header: RecordHeader,
    /// Who.
    pub task: Task,
    /// To what.
    pub sock: Sock,
}

/// A connection ended, or its last file was closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockEndRecord {
    /// Head.
    pub header: RecordHeader,
    /// Who, see the kind.
    pub task: Task,
    /// What.
    pub sock: Sock,
    /// Its counters.
    pub counters: Counters,
}

/// A handshake completed. Nobody is named: `current` is whoever the packet interrupted.
/// `old_state` SYN_SENT: our connect; SYN_RECV (MPTCP: LISTEN): a passive connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EstablishedRecord {
    /// Head.
    pub header: RecordHeader,
    /// What.
    pub sock: Sock,
}

/// A process was created. Threads give no record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkRecord {
    /// Head.
    pub header: RecordHeader,
    /// The new process; its `comm` and ids are inherited.
    pub child: Task,
    /// Process id of the creator.
    pub parent_tgid: u32,
    /// Inode number of the child's mount namespace; 0: not known.
    pub mnt_ns: u32,
    /// Start of the creator.
    pub parent_start_boot_ns: u64,
}

/// Space for the name that was executed, as typed.
pub const EXEC_FILENAME_MAX: usize = 256;
/// Space for the path, component by component.
pub const EXEC_PATH_MAX: usize = 1024;
/// Space for the arguments.
pub const EXEC_ARGS_MAX: usize = 2048;

/// A process executed a program. The record's last `args_len` bytes, behind the struct, are the arguments (NUL between
/// them).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecRecord {
    /// Head.
    pub header: RecordHeader,
    /// The process after the exec.
    pub task: Task,
    /// Inode number of the executable.
    pub exe_inode: u64,
    /// Keys ([`Sock::key`]) of the TCP sockets that are descriptors 0 (standard input) and 1 (standard output); 0: it is
    /// none, or none that conn names.
    pub stdio: [u64; 2],
    /// Where both are 0: the key of the TCP socket that is the parent's standard input, or else its output;
    /// 0: none.
    pub parent_stdio: u64,
    /// Device of its file system (`super_block.s_dev`, kernel encoding: major << 20 | minor).
    pub exe_dev: u32,
    /// Hard links of the executable; 0: deleted or memfd.
    pub exe_nlink: u32,
    /// Process id of the parent.
    pub parent_tgid: u32,
    /// Login uid, `u32::MAX` when unset.
    pub login_uid: u32,
    /// Inode number of the process's mount namespace; 0: not known.
    pub mnt_ns: u32,
    /// Inode number of the mount namespace that the executable's mount belongs to (`struct mount`, fs/mount.h); 0: not
    /// known, or none: a memfd, a detached mount. A descriptor may come from another namespace than the process.
    pub exe_mnt_ns: u32,
    /// Bytes of `filename`, without NUL.
    pub filename_len: u16,
    /// Bytes of `path` in use.
    pub path_len: u16,
    /// Bytes of arguments behind the struct.
    pub args_len: u16,
    /// [`ExecFlags`].
    pub flags: u16,
    /// `bprm->filename`: the name as typed, perhaps relative, perhaps a script.
    pub filename: [u8; EXEC_FILENAME_MAX],
    /// Names from the executable up to the root of the mount namespace, each with a NUL: `python3\0bin\0usr\0`.
    pub path: [u8; EXEC_PATH_MAX],
}

/// Bits of [`ExecRecord::flags`].
pub struct ExecFlags;

impl ExecFlags {
    /// `path` reaches the root.
    pub const PATH_COMPLETE: u16 = 1 << 0;
    /// There are more arguments than fit.
    pub const ARGS_TRUNCATED: u16 = 1 << 1;
    /// The arguments could not be read (page not present).
    pub const ARGS_FAULT: u16 = 1 << 2;
}

/// The last thread of a process exits. Its sockets are closed after this.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitRecord {
    /// Head.
    pub header: RecordHeader,
    /// Who.
    pub task: Task,
    /// Exit code as in wait(2): code << 8, or the signal (with 0x80 for a core dump).
    pub exit_code: u32,
    /// Zero.
    pub reserved: u32,
}

/// A process and its count of execs, as the iterator over tasks writes it: not in the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecCountRecord {
    /// Process id (thread group).
    pub tgid: u32,
    /// The kernel's count of its execs, `self_exec_id`.
    pub exec_id: u32,
    /// Start of its group leader, on the boot clock.
    pub start_boot_ns: u64,
}

/// One entry of the sequence table, of a hook on a CPU: read by the agent to find a loss at the tail.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounters {
    /// Number of the next record: how many were attempted.
    pub next_seq: u64,
    /// How many of them the ring had no room for.
    pub lost: u64,
    /// Of a backup program: runs for which the first program had left no mark, so that it takes the place of one that the
    /// kernel skipped.
    pub unmarked: u64,
}

macro_rules! layout {
    ($t:ty, size = $size:expr $(, $field:ident = $offset:expr)*) => {
        const _: () = {
            assert!(size_of::<$t>() == $size);
            $(assert!(offset_of!($t, $field) == $offset);)*
        };
    };
}

layout!(RecordHeader, size = 24, kind = 0, hook = 2, len = 4, cpu = 6, seq = 8, boot_ns = 16);
layout!(
    Task,
    size = 56,
    tgid = 0,
    tid = 4,
    start_boot_ns = 8,
    uid = 16,
    gid = 20,
    cgroup_id = 24,
    comm = 32,
    flags = 48,
    exec_id = 52
);
layout!(
    Sock,
    size = 64,
    key = 0,
    laddr = 8,
    raddr = 24,
    netns = 40,
    inode = 44,
    lport = 48,
    rport = 50,
    device = 52,
    err = 56,
    flags = 58,
    old_state = 60,
    new_state = 61,
    shutdown = 62,
    family = 63
);
layout!(
    Counters,
    size = 32,
    bytes_sent = 0,
    bytes_retrans = 8,
    bytes_received = 16,
    total_retrans = 24,
    srtt_us = 28
);
layout!(SockRecord, size = 144, task = 24, sock = 80);
layout!(SockEndRecord, size = 176, task = 24, sock = 80, counters = 144);
layout!(EstablishedRecord, size = 88, sock = 24);
layout!(ForkRecord, size = 96, child = 24, parent_tgid = 80, mnt_ns = 84, parent_start_boot_ns = 88);
layout!(
    ExecRecord,
    size = 1424,
    task = 24,
    exe_inode = 80,
    stdio = 88,
    parent_stdio = 104,
    exe_dev = 112,
    exe_nlink = 116,
    parent_tgid = 120,
    login_uid = 124,
    mnt_ns = 128,
    exe_mnt_ns = 132,
    filename_len = 136,
    path_len = 138,
    args_len = 140,
    flags = 142,
    filename = 144,
    path = 400
);
layout!(ExitRecord, size = 88, task = 24, exit_code = 80);
layout!(ExecCountRecord, size = 16, tgid = 0, exec_id = 4, start_boot_ns = 8);
layout!(HookCounters, size = 24, next_seq = 0, lost = 8, unmarked = 16);

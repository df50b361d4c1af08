//! What the agent reports the BPF programs before they are loaded, as read-only globals.
//!
//! Rust has no CO-RE, so the agent takes the offsets of kernel members from the running kernel's BTF. Each is a global
//! of its own: the verifier then sees a constant (the map is frozen), which is what lets a program load through a BTF
//! pointer at that offset, and what removes the branches of members that a kernel lacks.

/// Size of a member that is one bit: its offset is counted in bits. No number of bytes.
pub const ONE_BIT: u32 = u32::MAX;

/// An offset that this kernel does not have.
pub const OFFSET_NONE: u32 = u32::MAX;

/// Whether the programs can do without a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it no backend works.
    Required,
    /// Without it one field or one hook is missing.
    Optional,
}

/// Where the agent finds an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetSpec {
    /// Name of the global in the BPF object.
    pub global: &'static str,
    /// Name of the struct in BTF.
    pub container: &'static str,
    /// Members from that struct on, joined by dots; anonymous structs and unions are searched.
    pub path: &'static str,
    /// Size that the programs read, in bytes; a member of another size is refused. 0: any (the address is used).
    /// [`ONE_BIT`]: a bitfield of one bit.
    pub size: u32,
    /// Whether the programs can do without.
    pub need: Need,
}

/// Hands every offset to a macro: `(GLOBAL, "struct", "member.path", size, Need)`.
///
/// The one list from which the BPF side declares its globals and the agent fills them.
#[macro_export]
macro_rules! for_each_offset {
    ($then:ident) => {
        $then! {
            (OFF_SKC_FAMILY, "sock", "__sk_common.skc_family", 2, Required);
            (OFF_SKC_STATE, "sock", "__sk_common.skc_state", 1, Required);
            (OFF_SKC_DADDR, "sock", "__sk_common.skc_daddr", 4, Required);
            (OFF_SKC_RCV_SADDR, "sock", "__sk_common.skc_rcv_saddr", 4, Required);
            (OFF_SKC_DPORT, "sock", "__sk_common.skc_dport", 2, Required);
            (OFF_SKC_NUM, "sock", "__sk_common.skc_num", 2, Required);
            (OFF_SKC_V6_DADDR, "sock", "__sk_common.skc_v6_daddr", 16, Optional);
            (OFF_SKC_V6_RCV_SADDR, "sock", "__sk_common.skc_v6_rcv_saddr", 16, Optional);
            (OFF_SKC_COOKIE, "sock", "__sk_common.skc_cookie", 8, Required);
            (OFF_SKC_NET, "sock", "__sk_common.skc_net.net", 8, Optional);
            (OFF_SKC_BOUND_DEV_IF, "sock", "__sk_common.skc_bound_dev_if", 4, Required);
            (OFF_SKC_IPV6ONLY, "sock", "__sk_common.skc_ipv6only", $crate::config::ONE_BIT, Optional);
            (OFF_SKC_FLAGS, "sock", "__sk_common.skc_flags", 8, Required);
            (OFF_SK_LOCK_OWNED, "sock", "sk_lock.owned", 4, Required);
            (OFF_SK_ERR, "sock", "sk_err", 4, Required);
            (OFF_SK_ERR_SOFT, "sock", "sk_err_soft", 4, Required);
            (OFF_SK_SHUTDOWN, "sock", "sk_shutdown", 1, Required);
            (OFF_SK_PROTOCOL, "sock", "sk_protocol", 2, Required);
            (OFF_SK_SOCKET, "sock", "sk_socket", 8, Required);
            (OFF_SK_LINGERTIME, "sock", "sk_lingertime", 8, Optional);
            (OFF_SK_KERN_SOCK, "sock", "sk_kern_sock", $crate::config::ONE_BIT, Optional);
            (OFF_INET_SPORT, "inet_sock", "inet_sport", 2, Required);
            (OFF_TCP_BYTES_SENT, "tcp_sock", "bytes_sent", 8, Required);
            (OFF_TCP_BYTES_RETRANS, "tcp_sock", "bytes_retrans", 8, Required);
            (OFF_TCP_BYTES_RECEIVED, "tcp_sock", "bytes_received", 8, Required);
            (OFF_TCP_TOTAL_RETRANS, "tcp_sock", "total_retrans", 4, Required);
            (OFF_TCP_SRTT_US, "tcp_sock", "srtt_us", 4, Required);
            (OFF_TCP_RCV_NXT, "tcp_sock", "rcv_nxt", 4, Required);
            (OFF_TCP_COPIED_SEQ, "tcp_sock", "copied_seq", 4, Required);
            (OFF_TCP_IS_MPTCP, "tcp_sock", "is_mptcp", 1, Optional);
            (OFF_MPTCP_BYTES_SENT, "mptcp_sock", "bytes_sent", 8, Optional);
            (OFF_MPTCP_BYTES_RETRANS, "mptcp_sock", "bytes_retrans", 8, Optional);
            (OFF_MPTCP_BYTES_RECEIVED, "mptcp_sock", "bytes_received", 8, Optional);
            (OFF_SOCKET_FILE, "socket", "file", 8, Required);
            (OFF_SOCKET_SK, "socket", "sk", 8, Required);
            (OFF_SOCKET_ALLOC_INODE, "socket_alloc", "vfs_inode", 0, Required);
            (OFF_FILE_COUNT, "file", "f_count.counter", 8, Optional);
            (OFF_FILE_REF, "file", "f_ref.refcnt.counter", 8, Optional);
            (OFF_FILE_PRIVATE_DATA, "file", "private_data", 8, Required);
            (OFF_FILE_PATH_MNT, "file", "f_path.mnt", 8, Required);
            (OFF_FILE_PATH_DENTRY, "file", "f_path.dentry", 8, Required);
            (OFF_FILE_INODE, "file", "f_inode", 8, Required);
            (OFF_NET_INUM, "net", "ns.inum", 4, Optional);
            (OFF_TASK_PID, "task_struct", "pid", 4, Required);
            (OFF_TASK_TGID, "task_struct", "tgid", 4, Required);
            (OFF_TASK_START_BOOTTIME, "task_struct", "start_boottime", 8, Required);
            (OFF_TASK_GROUP_LEADER, "task_struct", "group_leader", 8, Required);
            (OFF_TASK_REAL_PARENT, "task_struct", "real_parent", 8, Required);
            (OFF_TASK_COMM, "task_struct", "comm", 16, Required);
            (OFF_TASK_FLAGS, "task_struct", "flags", 4, Required);
            (OFF_TASK_EXIT_CODE, "task_struct", "exit_code", 4, Required);
            (OFF_TASK_LOGINUID, "task_struct", "loginuid.val", 4, Optional);
            (OFF_TASK_NVCSW, "task_struct", "nvcsw", 8, Required);
            (OFF_TASK_NIVCSW, "task_struct", "nivcsw", 8, Required);
            (OFF_TASK_TI_FLAGS, "task_struct", "thread_info.flags", 8, Optional);
            (OFF_TASK_TI_STATUS, "task_struct", "thread_info.status", 4, Optional);
            (OFF_REGS_BX, "pt_regs", "bx", 8, Optional);
            (OFF_REGS_ORIG_AX, "pt_regs", "orig_ax", 8, Optional);
            (OFF_TASK_SELF_EXEC_ID, "task_struct", "self_exec_id", 8, Optional);
            (OFF_TASK_NSPROXY, "task_struct", "nsproxy", 8, Optional);
            (OFF_NSPROXY_MNT_NS, "nsproxy", "mnt_ns", 8, Optional);
            (OFF_MNT_NS_INUM, "mnt_namespace", "ns.inum", 4, Optional);
            (OFF_MOUNT_MNT_NS, "mount", "mnt_ns", 8, Optional);
            (OFF_TASK_CRED, "task_struct", "cred", 8, Required);
            (OFF_TASK_CGROUPS, "task_struct", "cgroups", 8, Optional);
            (OFF_CSS_SET_DFL_CGRP, "css_set", "dfl_cgrp", 8, Optional);
            (OFF_CGROUP_KN, "cgroup", "kn", 8, Optional);
            (OFF_KERNFS_ID, "kernfs_node", "id", 8, Optional);
            (OFF_CRED_UID, "cred", "uid.val", 4, Required);
            (OFF_CRED_GID, "cred", "gid.val", 4, Required);
            (OFF_TASK_MM, "task_struct", "mm", 8, Required);
            (OFF_TASK_FILES, "task_struct", "files", 8, Required);
            (OFF_TASK_SIGNAL, "task_struct", "signal", 8, Required);
            (OFF_SIGNAL_LIVE, "signal_struct", "live.counter", 4, Required);
            (OFF_SIGNAL_GROUP_EXIT_CODE, "signal_struct", "group_exit_code", 4, Required);
            (OFF_MM_ARG_START, "mm_struct", "arg_start", 8, Required);
            (OFF_MM_ARG_END, "mm_struct", "arg_end", 8, Required);
            (OFF_BPRM_FILE, "linux_binprm", "file", 8, Required);
            (OFF_BPRM_FILENAME, "linux_binprm", "filename", 8, Required);
            (OFF_DENTRY_NAME, "dentry", "d_name.name", 8, Required);
            (OFF_DENTRY_PARENT, "dentry", "d_parent", 8, Required);
            (OFF_INODE_INO, "inode", "i_ino", 8, Required);
            (OFF_INODE_NLINK, "inode", "i_nlink", 4, Required);
            (OFF_INODE_SB, "inode", "i_sb", 8, Required);
            (OFF_INODE_LOCK_OWNER, "inode", "i_rwsem.owner.counter", 8, Optional);
            (OFF_INODE_RT_LOCK_OWNER, "inode", "i_rwsem.rwbase.rtmutex.owner", 8, Optional);
            (OFF_SB_DEV, "super_block", "s_dev", 4, Required);
            (OFF_MOUNT_MNT, "mount", "mnt", 0, Optional);
            (OFF_MOUNT_PARENT, "mount", "mnt_parent", 8, Optional);
            (OFF_MOUNT_MOUNTPOINT, "mount", "mnt_mountpoint", 8, Optional);
            (OFF_VFSMOUNT_ROOT, "vfsmount", "mnt_root", 8, Optional);
            (OFF_FILES_FDT, "files_struct", "fdt", 8, Required);
            (OFF_FDTABLE_FD, "fdtable", "fd", 8, Required);
            (OFF_FDTABLE_MAX_FDS, "fdtable", "max_fds", 4, Required);
        }
    };
}

macro_rules! specs {
    ($(($global:ident, $container:literal, $path:literal, $size:expr, $need:ident);)*) => {
        /// Every offset that the programs use.
        pub const OFFSETS: &[OffsetSpec] = &[$(OffsetSpec {
            global: stringify!($global),
            container: $container,
            path: $path,
            size: $size,
            need: Need::$need,
        },)*];
    };
}

for_each_offset!(specs);

//! A process, as it stands in events, lists and reports.

use serde::{Deserialize, Serialize};

use super::{Instant, Text, is_unset, present};
#[cfg(test)]
use super::{JsonSchema, Name, ProcessId, True};
#[cfg(test)]
use crate::process::identity::Replaced;
#[cfg(test)]
use crate::process::info::ProcessSource;
#[cfg(test)]
use crate::process::placement::Runtime;

/// A process.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "process"))]
pub(crate) struct Process<'a> {
    /// Names the process for good: boot id (8 digits), pid, and start in whole ticks of 1/100 s since boot,
    /// which `/proc` and the kernel's records agree on. A bare pid is reused; within one tick it cannot be,
    /// for ids come round only after `pid_max` (at least 32,768) others.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "ProcessId"))]
    pub(crate) id: Text<'a>,
    /// Process id (thread group) in the initial pid namespace.
    pub(crate) pid: u32,
    /// Process id of the parent; null: not known.
    #[serde(default)]
    pub(crate) ppid: Option<u32>,
    /// Start of the process, nanoseconds since boot. From `/proc` (source `proc_scan`) in steps of 10 ms.
    pub(crate) start_ns: Instant,
    /// Name of the main thread, at most 15 bytes, chosen by the process itself.
    #[serde(borrow)]
    pub(crate) comm: Text<'a>,
    /// `comm` holds bytes that are not UTF-8: they are written as `\xNN`, and a backslash of the value is
    /// doubled.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) comm_escaped: bool,
    /// Path of the executable; null: not known, or a kernel thread.
    #[serde(borrow, default)]
    pub(crate) exe: Option<Text<'a>>,
    /// As `comm_escaped`, for `exe`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) exe_escaped: bool,
    /// The executable has no name any more: it was deleted, or is a memfd.
    #[serde(default)]
    pub(crate) exe_deleted: bool,
    /// The executable is an anonymous file (memfd_create).
    #[serde(default)]
    pub(crate) exe_memfd: bool,
    /// The process is conn: it runs the same file as the agent that reports it, as the same user. Only where
    /// it is.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) exe_conn: bool,
    /// Type of the file system that the executable lies on, e.g. `ext4`, `overlay`, `tmpfs`; null: not known
    /// (yet). This and the next three are found out in the background once the process uses the network;
    /// processes that were gone by then have null.
    #[serde(borrow, default)]
    pub(crate) exe_fs: Option<Text<'a>>,
    /// As `comm_escaped`, for `exe_fs`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) exe_fs_escaped: bool,
    /// Where that file system is mounted, in the mount namespace of the process; null: not known (yet).
    #[serde(borrow, default)]
    pub(crate) exe_mount: Option<Text<'a>>,
    /// As `comm_escaped`, for `exe_mount`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) exe_mount_escaped: bool,
    /// The executable is the host's own file at its path: what the path leads to in the mount namespace of
    /// process 1, by device and inode; false: the host has another file there, or none (a container, a user's
    /// own mount namespace, a memfd); null: not known (yet).
    // Absent: an older conn did not look.
    #[serde(default, deserialize_with = "present")]
    #[cfg_attr(test, schemars(with = "Option<bool>"))]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    pub(crate) exe_host: Option<Option<bool>>,
    /// Every user may write the executable or its directory; null: not known (yet).
    #[serde(default)]
    pub(crate) exe_writable: Option<bool>,
    /// The process's own user, who is not root, may write the executable or its directory; null: not known
    /// (yet).
    #[serde(default)]
    pub(crate) exe_user_writable: Option<bool>,
    /// SHA-256 of the executable; null: not known (yet: files are hashed in turn, for each user within a
    /// budget), or it cannot be read, has changed, or is larger than 512 MiB.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(extend("pattern" = "^[0-9a-f]{64}$")))]
    pub(crate) exe_sha256: Option<Text<'a>>,
    /// The executable has the content of this host's own program of this name (a shell, interpreter or
    /// network tool), and another name; null: of none. Absent where that is not known (yet).
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<Text<'static>>", extend("nullable" = true)))]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    pub(crate) exe_copy_of: Option<Option<Text<'a>>>,
    /// Whether the path of the executable led to another file (`other`; `upgraded` where root or the owner of
    /// the running one put it there) or to none (`gone`) than the one that runs. Absent unless a rule had it
    /// compared.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Name<Replaced>"))]
    pub(crate) exe_replaced: Option<Text<'a>>,
    /// Arguments, as far as they are known.
    #[serde(borrow, default)]
    pub(crate) args: Vec<Text<'a>>,
    /// As `comm_escaped`, for all of `args`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) args_escaped: bool,
    /// There are more arguments than `args` shows.
    #[serde(default)]
    pub(crate) args_truncated: bool,
    /// Working directory, soon after the exec or at the first use of the network; null: not known (yet).
    #[serde(borrow, default)]
    pub(crate) cwd: Option<Text<'a>>,
    /// As `comm_escaped`, for `cwd`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) cwd_escaped: bool,
    /// Controlling terminal without `/dev/`, e.g. `pts/3`, as of the same time; absent: it has none; null:
    /// not known (yet).
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<Text<'static>>", extend("nullable" = true)))]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    pub(crate) tty: Option<Option<Text<'a>>>,
    /// Real user id.
    pub(crate) uid: u32,
    /// Real group id.
    pub(crate) gid: u32,
    /// Name of `uid` in this machine's /etc/passwd; null: it has none there. In a container the same number
    /// may have another name.
    #[serde(borrow, default)]
    pub(crate) user: Option<Text<'a>>,
    /// As `comm_escaped`, for `user`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) user_escaped: bool,
    /// Login uid (audit), which sudo and su keep; null: unset or not known.
    #[serde(default)]
    pub(crate) login_uid: Option<u32>,
    /// Id of its cgroup in the v2 hierarchy, that is the inode number of its directory; 0: not known.
    #[serde(default)]
    pub(crate) cgroup_id: u64,
    /// Path of the cgroup; null: not known, then `unit` and `container` are null too.
    #[serde(borrow, default)]
    pub(crate) cgroup: Option<Text<'a>>,
    /// As `comm_escaped`, for `cgroup`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) cgroup_escaped: bool,
    /// systemd unit (service, scope); absent: in none.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<Text<'static>>", extend("nullable" = true)))]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    pub(crate) unit: Option<Option<Text<'a>>>,
    /// As `comm_escaped`, for `unit`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) unit_escaped: bool,
    /// Unit of the user's own service manager (below `user@UID.service`); absent: in none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_unit: Option<Text<'a>>,
    /// As `comm_escaped`, for `user_unit`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) user_unit_escaped: bool,
    /// Slice of the unit; absent: in none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) slice: Option<Text<'a>>,
    /// As `comm_escaped`, for `slice`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) slice_escaped: bool,
    /// The innermost container; absent: in none that its cgroup reports.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<Container<'static>>", extend("nullable" = true)))]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    pub(crate) container: Option<Option<Container<'a>>>,
    /// Network namespace of the process, as of the time of `cwd`; null: not known (yet).
    #[serde(default)]
    pub(crate) netns: Option<u32>,
    /// Inode number of the process's mount namespace, as in `/proc/PID/ns/mnt`, as of its last exec or its
    /// fork (`source` `proc_scan`: as of the scan); null: not known.
    #[serde(default)]
    pub(crate) mnt_ns: Option<u32>,
    /// That is the host's mount namespace: the one of process 1, as the agent sees it; null: not known.
    #[serde(default)]
    pub(crate) mnt_ns_host: Option<bool>,
    /// It is a kernel thread.
    #[serde(default)]
    pub(crate) kernel: bool,
    /// How name, path and arguments are known: from its exec, inherited at fork, from `/proc` at start, or
    /// only what the hook carried.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<ProcessSource>"))]
    pub(crate) source: Text<'a>,
    /// Who created it, and who created that, nearest first, as of then; at most 16, ends early where one is
    /// not known. A parent that exits changes `ppid`, not this.
    #[serde(borrow, default)]
    pub(crate) ancestors: Vec<Ancestor<'a>>,
}

/// A container, as its cgroup shows it.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "container"))]
pub(crate) struct Container<'a> {
    /// What runs it; null: the cgroup does not report.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Option<Name<Runtime>>"))]
    pub(crate) runtime: Option<Text<'a>>,
    /// Its id, or its name where the runtime has names only (`systemd-nspawn`, `lxc`, `libvirt`).
    #[serde(borrow)]
    pub(crate) id: Text<'a>,
    /// As `comm_escaped`, for `id`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) id_escaped: bool,
    /// UID of its Kubernetes pod; absent: in none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Text<'a>>,
    /// As `comm_escaped`, for `pod`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) pod_escaped: bool,
}

/// A process above another one.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "ancestor"))]
pub(crate) struct Ancestor<'a> {
    /// Process id.
    pub(crate) pid: u32,
    /// Name.
    #[serde(borrow)]
    pub(crate) comm: Text<'a>,
    /// As in a process.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) comm_escaped: bool,
    /// Path of the executable; null: not known.
    #[serde(borrow, default)]
    pub(crate) exe: Option<Text<'a>>,
    /// As in a process.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[cfg_attr(test, schemars(with = "True"))]
    pub(crate) exe_escaped: bool,
    /// As in a process, as of the fork; null: not known then.
    // Absent: an older conn did not look.
    #[serde(default, deserialize_with = "present")]
    #[cfg_attr(test, schemars(with = "Option<bool>"))]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    pub(crate) exe_host: Option<Option<bool>>,
    /// Start, nanoseconds since boot; in whole ticks of 10 ms where it was read from /proc.
    // Older recordings do not have it.
    #[serde(default)]
    pub(crate) start_ns: Instant,
}

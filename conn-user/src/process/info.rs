//! What is known of a process.

use std::sync::Arc;

use super::identity::Identity;
use super::placement::Placement;
use crate::units::{BootNs, MntNs, Pid};

/// A process: (boot, tgid, start) names it once and for all. What a value holds does not change, but for
/// [`ProcessInfo::identity`], which fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: Pid,
    /// Start of the group leader.
    pub start: BootNs,
    /// `start` comes from /proc, in units of 10 ms.
    pub start_is_coarse: bool,
    /// Parent's process id, where known.
    pub ppid: Option<Pid>,
    /// Who created it and who created that, nearest first, at most [`super::lineage::ANCESTORS_MAX`]; ends early where
    /// one is not known. A parent that exits makes `ppid` another one's and changes nothing here.
    pub ancestors: Arc<[Ancestor]>,
    /// Name of the group leader, attacker-controlled bytes.
    pub comm: Box<[u8]>,
    /// Path of the executable, attacker-controlled bytes; `None`: not known (kernel thread, no permission).
    pub exe: Option<Arc<[u8]>>,
    /// The executable had no name (deleted, memfd) when it was executed, forked or scanned. See [`Self::exe_is_deleted`].
    pub exe_deleted: bool,
    /// Which file it is.
    pub exe_file: Option<FileId>,
    /// The executable is conn's own file, run by conn's user.
    pub exe_is_conn: bool,
    /// Arguments, attacker-controlled bytes.
    pub args: Box<[Box<[u8]>]>,
    /// Arguments are incomplete.
    pub args_truncated: bool,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Name of `uid` in this machine's /etc/passwd, where it has one.
    pub user: Option<Arc<[u8]>>,
    /// Login uid, where set and known.
    pub login_uid: Option<u32>,
    /// cgroup v2 id, 0 where unknown.
    pub cgroup_id: u64,
    /// What its cgroup says; `None`: the cgroup's path is not known.
    pub placement: Option<Arc<Placement>>,
    /// Its mount namespace, as of its last exec or its fork, or when it was read from /proc.
    pub mount_ns: Option<MountNs>,
    /// It is a kernel thread.
    pub kernel: bool,
    /// How name, path and arguments are known.
    pub source: ProcessSource,
    /// What may still be found out about this image.
    pub identity: Identity,
    /// Held by every value about this process, whatever it executed: reports the process table whether anybody still
    /// refers to it.
    pub presence: Presence,
}

/// Counts who refers to a process. Any two are equal: it is no fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence(Arc<()>);

impl Presence {
    /// Whether there is another clone of it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// A file, however it is called: device and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device, as in `st_dev`.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
}

/// The mount namespace of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountNs {
    /// Which one.
    pub id: MntNs,
    /// It is the host's: that of process 1, as the agent sees it.
    pub is_host: bool,
}

/// How a process's image is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessSource {
    /// Its exec record.
    Exec,
    /// Inherited at fork from its parent.
    Fork,
    /// Read from /proc.
    ProcScan,
    /// Only what the hook itself carried.
    Hook,
}

/// How a process ended, as in wait(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

/// Directories in which packages put programs; nobody but root writes there.
const OF_PACKAGES: [&[u8]; 7] =
    [b"/usr/bin/", b"/usr/sbin/", b"/usr/lib", b"/usr/share/", b"/bin/", b"/sbin/", b"/lib"];

/// Whether an executable lies where packages put programs.
pub(crate) fn is_of_package(exe: &[u8]) -> bool {
    OF_PACKAGES.iter().any(|dir| exe.starts_with(dir))
}

/// Unit of the start time in `/proc/PID/stat`, in nanoseconds: `USER_HZ` is 100 on every architecture that conn runs on.
pub const TICK_NS: u64 = 10_000_000;

/// Whether two starts are the same, of which one may be exact and the other come from /proc, in whole ticks.
pub const fn is_same_tick(one: BootNs, other: BootNs) -> bool {
    one.0 / TICK_NS == other.0 / TICK_NS
}

impl FileId {
    /// From the kernel's own encoding of the device (`MKDEV` in include/linux/kdev_t.h); `None` without an inode.
    pub fn from_kernel(dev: u32, inode: u64) -> Option<Self> {
        let dev = libc::makedev(dev >> 20, dev & 0xf_ffff);
        (inode != 0).then_some(Self { dev, inode })
    }
}

/// A process above another one, as it was when that one was created (or, at the scan, when it was read).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Process id.
    pub pid: Pid,
    /// Start; coarse where the process was read from /proc.
    pub start: BootNs,
    /// Name, attacker-controlled bytes.
    pub comm: Box<[u8]>,
    /// Path of the executable, attacker-controlled bytes.
    pub exe: Option<Arc<[u8]>>,
    /// The executable was the host's own file at its path, as of then; `None`: not known.
    pub exe_is_host: Option<bool>,
}

impl ProcessInfo {
    /// A process of which nothing else is known.
    pub fn new(pid: Pid, start: BootNs) -> Self {
        Self {
            pid,
            start,
            start_is_coarse: false,
            ppid: None,
            ancestors: Arc::default(),
            comm: Box::default(),
            exe: None,
            exe_deleted: false,
            exe_file: None,
            exe_is_conn: false,
            args: Box::default(),
            args_truncated: false,
            uid: 0,
            gid: 0,
            user: None,
            login_uid: None,
            cgroup_id: 0,
            placement: None,
            mount_ns: None,
            kernel: false,
            source: ProcessSource::Hook,
            identity: Identity::default(),
            presence: Presence::default(),
        }
    }

    /// The start in whole ticks (1/100 s since boot), as `/proc/PID/stat` shows it: the same whether the start came
    /// from there or, exact, from a record. With the pid it names a process of this boot: for two to share both, one
    /// id would have to come round within 10 ms, and the kernel hands ids out in a cycle of at least 32,768
    /// (`pid_max`), a rate of three million processes a second.
    pub const fn start_ticks(&self) -> u64 {
        self.start.0 / TICK_NS
    }

    /// Returns whether the executable has no name (deleted, memfd), as far as is known by now.
    pub fn exe_is_deleted(&self) -> bool {
        self.exe_deleted || self.identity.is_deleted()
    }

    /// The executable is an anonymous file (memfd_create(2)).
    pub fn exe_is_memfd(&self) -> bool {
        self.exe_deleted && self.exe.as_deref().is_some_and(|exe| exe.starts_with(b"/memfd:"))
    }

    /// The host has another file at the path of the executable, or none, and nothing else says so: it is in no container, and
    /// no memfd. Then it lies in a mount namespace that somebody made for it.
    pub fn exe_is_foreign(&self) -> bool {
        let in_container = self.placement.as_ref().is_some_and(|place| place.container.is_some());
        self.identity.exe_is_host() == Some(false) && !in_container && !self.exe_is_memfd()
    }

    /// Whether the path of the executable says more than the name: it lies where no package puts programs, is
    /// called otherwise, is not what is at that path, or is a copy of a program that this machine knows.
    pub fn exe_says_more(&self) -> bool {
        let Some(exe) = &self.exe else { return false };
        let base = exe.rsplit(|byte| *byte == b'/').next().unwrap_or(exe);
        // The kernel keeps 15 bytes of a name (TASK_COMM_LEN in include/linux/sched.h).
        let is_named_so = match base.get(..15).unwrap_or(base).strip_prefix(&*self.comm) {
            // A version: python3 is python3.11.
            Some(rest) => {
                !self.comm.is_empty() && rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
            }
            None => false,
        };
        self.identity.copy_of().is_some()
            || self.exe_is_deleted()
            || self.exe_is_foreign()
            || !is_of_package(exe)
            || !is_named_so
    }

    /// Whether this is the process (`pid`, `start`), where `start` may be exact or, from /proc, in whole ticks.
    pub fn is(&self, pid: Pid, start: BootNs, start_is_coarse: bool) -> bool {
        self.pid == pid
            && if self.start_is_coarse || start_is_coarse {
                is_same_tick(self.start, start)
            } else {
                self.start == start
            }
    }

    /// Whether both describe the same process, perhaps at different times.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is(other.pid, other.start, other.start_is_coarse)
    }
}

impl ExitStatus {
    /// From the kernel's exit code: `code << 8`, or a signal number with 0x80 for a core dump.
    pub const fn from_kernel(exit_code: u32) -> Self {
        let signal = (exit_code & 0x7f) as u8;
        if signal == 0 { Self::Code((exit_code >> 8) as u8) } else { Self::Signal(signal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_those_of_stat() {
        let file = FileId::from_kernel(254 << 20 | 1, 5).expect("an inode");
        assert_eq!((libc::major(file.dev), libc::minor(file.dev), file.inode), (254, 1, 5));
        assert_eq!(FileId::from_kernel(1, 0), None);
    }

    #[test]
    fn memfd_is_reported_from_a_file_of_that_name() {
        let process = |exe: &[u8], exe_deleted| ProcessInfo {
            exe: Some(exe.into()),
            exe_deleted,
            ..ProcessInfo::new(Pid(1), BootNs(1))
        };
        assert!(process(b"/memfd:x", true).exe_is_memfd());
        assert!(!process(b"/memfd:x", false).exe_is_memfd() && !process(b"/tmp/x", true).exe_is_memfd());
    }

    #[test]
    fn exit_codes() {
        assert_eq!(ExitStatus::from_kernel(0), ExitStatus::Code(0));
        assert_eq!(ExitStatus::from_kernel(3 << 8), ExitStatus::Code(3));
        assert_eq!(ExitStatus::from_kernel(9), ExitStatus::Signal(9));
        assert_eq!(ExitStatus::from_kernel(0x8b), ExitStatus::Signal(11));
    }
}

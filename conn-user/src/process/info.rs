//! What is known of a process.

use crate::units::{BootNs, Pid};

/// A process: (boot, tgid, start) names it once and for all.
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
    /// Name of the group leader, attacker-controlled bytes.
    pub comm: Box<[u8]>,
    /// Path of the executable, attacker-controlled bytes; `None`: not known (kernel thread, no permission).
    pub exe: Option<Box<[u8]>>,
    /// The executable has no name any more (deleted, memfd).
    pub exe_deleted: bool,
    /// Arguments, attacker-controlled bytes.
    pub args: Box<[Box<[u8]>]>,
    /// Arguments are incomplete.
    pub args_truncated: bool,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Login uid, where set and known.
    pub login_uid: Option<u32>,
    /// cgroup v2 id, 0 where unknown.
    pub cgroup_id: u64,
    /// It is a kernel thread.
    pub kernel: bool,
    /// How name, path and arguments are known.
    pub source: ProcessSource,
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

/// Unit of the start time in `/proc/PID/stat`, in nanoseconds: `USER_HZ` is 100 on every architecture that conn runs on.
pub const TICK_NS: u64 = 10_000_000;

impl ProcessInfo {
    /// Whether this is the process (`pid`, `start`), where `start` may be exact or, from /proc, in whole ticks.
    pub fn is(&self, pid: Pid, start: BootNs, start_is_coarse: bool) -> bool {
        self.pid == pid
            && if self.start_is_coarse || start_is_coarse {
                self.start.0 / TICK_NS == start.0 / TICK_NS
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
    fn exit_codes() {
        assert_eq!(ExitStatus::from_kernel(0), ExitStatus::Code(0));
        assert_eq!(ExitStatus::from_kernel(3 << 8), ExitStatus::Code(3));
        assert_eq!(ExitStatus::from_kernel(9), ExitStatus::Signal(9));
        assert_eq!(ExitStatus::from_kernel(0x8b), ExitStatus::Signal(11));
    }
}

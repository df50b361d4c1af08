//! What this process or the machine has run out of. It says nothing of the kernel: later, or with another limit, the same works.

use std::fmt;

/// A resource that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// `EMFILE`.
    Descriptors,
    /// `ENFILE`.
    SystemDescriptors,
    /// `ENOMEM`.
    Memory,
}

impl Exhausted {
    /// What an error number says has run out.
    pub const fn of(errno: i32) -> Option<Self> {
        match errno {
            libc::EMFILE => Some(Self::Descriptors),
            libc::ENFILE => Some(Self::SystemDescriptors),
            libc::ENOMEM => Some(Self::Memory),
            _ => None,
        }
    }
}

/// What it is, and the remedy.
impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => {
                "too many open files in this process: raise its limit (`ulimit -n 1024`, LimitNOFILE= of a unit)"
            }
            Self::SystemDescriptors => {
                "too many open files on this machine: raise the sysctl fs.file-max, or end what holds them"
            }
            Self::Memory => "out of memory: free some, or raise the limit of the service (MemoryMax=)",
        })
    }
}

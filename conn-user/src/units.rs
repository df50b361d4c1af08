//! Times and identities that carry their unit in the type.

use std::fmt;

use serde::Serialize;

/// Nanoseconds since boot, suspend included (`CLOCK_BOOTTIME`, `bpf_ktime_get_boot_ns`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BootNs(pub u64);

/// Nanoseconds since 1970-01-01T00:00:00Z (`CLOCK_REALTIME`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct WallNs(pub u64);

/// A duration in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DurationNs(pub u64);

/// Process id (thread group) in the initial pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Pid(pub u32);

/// Inode number of a network namespace, as in `/proc/PID/ns/net`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NetNs(pub u32);

/// Inode number of a mount namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MntNs(pub u32);

impl BootNs {
    /// Time from `earlier` to `self`; zero when the order is reversed (two CPUs' clocks).
    pub fn since(self, earlier: Self) -> DurationNs {
        DurationNs(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! The kernel's clocks.

use crate::units::{BootNs, DurationNs, WallNs};

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; these clocks exist on every kernel with BPF, so the call cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Now, on the clock of the records.
pub fn boot_now() -> BootNs {
    BootNs(read(libc::CLOCK_BOOTTIME))
}

/// Now, on the wall clock.
pub fn wall_now() -> WallNs {
    WallNs(read(libc::CLOCK_REALTIME))
}

/// How long the machine was suspended since boot: time that the boot clock counts and the kernel's jiffies do not.
pub fn suspended() -> DurationNs {
    // In this order a long pause between the two makes the result too large, never too small.
    let monotonic = read(libc::CLOCK_MONOTONIC);
    DurationNs(read(libc::CLOCK_BOOTTIME).saturating_sub(monotonic))
}

//! The two clocks: records carry boot time, people want wall time.

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

/// Converts boot time to wall time; refreshed now and then, since the wall clock may be set.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Wall time minus boot time.
    offset_ns: i128,
}

impl Clock {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self { offset_ns: i128::from(wall_now().0) - i128::from(boot_now().0) }
    }

    /// The wall time of an instant of boot time.
    pub fn wall(&self, boot: BootNs) -> WallNs {
        WallNs(u64::try_from(i128::from(boot.0) + self.offset_ns).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_follows_boot_time() {
        let clock = Clock { offset_ns: 1000 };
        assert_eq!(clock.wall(BootNs(5)), WallNs(1005));
        let clock = Clock { offset_ns: -1000 };
        assert_eq!(clock.wall(BootNs(5)), WallNs(0), "a wall clock before 1970 is not a panic");
    }
}

//! The two clocks: records carry boot time, people want wall time.

mod timer;

use std::fs;
use std::sync::OnceLock;

pub use self::timer::BootTimer;

use crate::units::{BootNs, DurationNs, WallNs};

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; these clocks exist on every kernel with BPF, so the call cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// By how much the time namespace of this process shifts its clocks, in nanoseconds (kernel: kernel/time/namespace.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shift {
    monotonic: i64,
    boot: i64,
}

impl Shift {
    /// Of this process; in the initial namespace, and without time namespaces, none.
    fn own() -> Self {
        static OWN: OnceLock<Shift> = OnceLock::new();
        *OWN.get_or_init(|| {
            use std::os::linux::fs::MetadataExt as _;
            let inode = |file: &str| fs::metadata(file).ok().map(|found| found.st_ino());
            // The offsets are those of the children's namespace, which is ours unless we have just made it.
            if inode("/proc/self/ns/time") != inode("/proc/self/ns/time_for_children") {
                return Self::default();
            }
            fs::read_to_string("/proc/self/timens_offsets").map_or(Self::default(), |text| Self::parse(&text))
        })
    }

    /// Lines of a clock's name, seconds and nanoseconds.
    fn parse(text: &str) -> Self {
        let of = |clock: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(clock))?;
            let mut numbers = line.split_whitespace().map(str::parse::<i64>);
            let (seconds, nanoseconds) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
        };
        Self { monotonic: of("monotonic").unwrap_or(0), boot: of("boottime").unwrap_or(0) }
    }
}

/// Now, on the clock of the records: that of the machine, whichever time namespace we are in.
pub fn boot_now() -> BootNs {
    of_machine(BootNs(read(libc::CLOCK_BOOTTIME)))
}

/// Whether this process is in a time namespace that shifts the boot clock.
pub fn is_shifted() -> bool {
    Shift::own().boot != 0
}

/// An instant of boot time that the kernel shifted for this process's time namespace, on the machine's clock.
pub fn of_machine(seen: BootNs) -> BootNs {
    BootNs(unshift(seen.0, Shift::own().boot))
}

/// An instant of the machine's boot clock as this process's time namespace shows it.
fn of_own(machine: BootNs) -> BootNs {
    BootNs(unshift(machine.0, Shift::own().boot.saturating_neg()))
}

fn unshift(seen: u64, shift: i64) -> u64 {
    u64::try_from(i128::from(seen) - i128::from(shift)).unwrap_or(0)
}

/// Now, on the wall clock.
pub fn wall_now() -> WallNs {
    WallNs(read(libc::CLOCK_REALTIME))
}

/// How long the machine was suspended since boot: time that the boot clock counts and the kernel's jiffies do not.
pub fn suspended() -> DurationNs {
    // In this order a long pause between the two makes the result too large, never too small.
    let monotonic = unshift(read(libc::CLOCK_MONOTONIC), Shift::own().monotonic);
    DurationNs(boot_now().0.saturating_sub(monotonic))
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

    /// By an instant that both clocks report.
    pub fn of(boot: BootNs, wall: WallNs) -> Self {
        Self { offset_ns: i128::from(wall.0) - i128::from(boot.0) }
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
    fn shifts_of_a_time_namespace() {
        let text = "monotonic           0         0\nboottime     -1000000         5\n";
        let shift = Shift::parse(text);
        assert_eq!(shift, Shift { monotonic: 0, boot: 5 - 1_000_000_000_000_000 });
        assert_eq!(unshift(10, shift.boot), 1_000_000_000_000_005);
        assert_eq!(unshift(10, 11), 0, "before the boot is not a panic");
        for nothing in ["", "boottime", "boottime x 0", "boottime 9223372036854775807 0"] {
            assert_eq!(Shift::parse(nothing), Shift::default(), "{nothing}");
        }
    }

    #[test]
    fn wall_time_follows_boot_time() {
        let clock = Clock { offset_ns: 1000 };
        assert_eq!(clock.wall(BootNs(5)), WallNs(1005));
        let clock = Clock { offset_ns: -1000 };
        assert_eq!(clock.wall(BootNs(5)), WallNs(0), "a wall clock before 1970 is not a panic");
    }
}

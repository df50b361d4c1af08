//! The two clocks: records carry boot time, people want wall time.

pub use crate::kernel::clock::boot_now;

use crate::kernel::clock::wall_now;
use crate::units::{BootNs, WallNs};

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

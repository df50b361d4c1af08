//! The clocks of the tests.

/// `CLOCK_BOOTTIME` in nanoseconds, of this process's time namespace. It goes on while the machine sleeps.
pub fn boot_now() -> u64 {
    now(libc::CLOCK_BOOTTIME)
}

/// `CLOCK_MONOTONIC` in nanoseconds. It stands still while the machine sleeps.
pub fn monotonic_now() -> u64 {
    now(libc::CLOCK_MONOTONIC)
}

fn now(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

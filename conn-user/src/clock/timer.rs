//! A timer on the boot clock. tokio's timers are on the monotonic clock, which stands still while the machine sleeps: a deadline
//! that falls due in a suspend would come late by as long as it lasted.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{boot_now, of_own};
use crate::units::BootNs;

/// Waits for instants of the boot clock, one at a time.
#[derive(Debug)]
pub struct BootTimer {
    fd: AsyncFd<OwnedFd>,
    set_to: Option<BootNs>,
}

impl BootTimer {
    /// Creates a timer (`timerfd_create` with `CLOCK_BOOTTIME`). Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the kernel has no descriptor left for it.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: an owned descriptor stays open, and the same, until the AsyncFd drops it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, set_to: None })
    }

    /// Waits until the boot clock has reached an instant; `None`: for ever. May be cancelled.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub async fn until(&mut self, deadline: Option<BootNs>) -> io::Result<()> {
        let Some(deadline) = deadline else { return std::future::pending().await };
        if self.set_to != Some(deadline) {
            self.set(deadline)?;
        }
        loop {
            // The descriptor is never read: it stays readable until the timer is set again (fs/timerfd.c).
            let mut ready = self.fd.readable().await?;
            if boot_now() >= deadline {
                return Ok(());
            }
            // What was left of the instant before.
            ready.clear_ready();
        }
    }

    fn set(&mut self, deadline: BootNs) -> io::Result<()> {
        // The kernel takes an absolute instant as one of the caller's time namespace; zero would disarm the timer.
        let at = of_own(deadline).0.max(1);
        let it_value = Timespec {
            tv_sec: i64::try_from(at / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (at % 1_000_000_000).cast_signed(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &once)?;
        self.set_to = Some(deadline);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Earlier, later and past instants, one after the other with the same timer: each ends after it.
    #[tokio::test(flavor = "current_thread")]
    async fn an_instant_is_waited_for() {
        let mut timer = BootTimer::new().expect("a timer");
        for after in [5_000_000, 0, 10_000_000, 1_000_000] {
            let deadline = BootNs(boot_now().0 + after);
            timer.until(Some(deadline)).await.expect("set");
            assert!(boot_now() >= deadline);
        }
        timer.until(Some(BootNs(0))).await.expect("long past");
    }

    /// One that was given up does not end the next one early.
    #[tokio::test(flavor = "current_thread")]
    async fn the_next_one_is_another() {
        let mut timer = BootTimer::new().expect("a timer");
        let first = BootNs(boot_now().0 + 1_000_000);
        timer.until(Some(first)).await.expect("set");
        let second = BootNs(boot_now().0 + 20_000_000);
        tokio::select! {
            biased;
            ended = timer.until(Some(second)) => panic!("ended at once: {ended:?}"),
            () = tokio::task::yield_now() => {}
        }
        timer.until(Some(second)).await.expect("set");
        assert!(boot_now() >= second);
    }
}

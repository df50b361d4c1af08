//! A thread that looks after the one that reads: at real-time priority, so that nobody keeps it from the processor.
//!
//! A reader that sleeps and is then not scheduled cannot notice that. While there is something to read this thread looks every
//! [`TICK`] how much of it waits, and gives the reader real-time priority if that is much. A reader that has used its budget is
//! given it again the moment the next period begins: until it is scheduled of itself, the ring may overflow. While there is nothing
//! to read the thread sleeps, and nothing that happens in the kernel wakes it: it interrupts no BPF program but by its clock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use super::{now, raise, set_realtime};

/// A ring has room for the records of several of these at any rate that a machine makes.
const TICK: Duration = Duration::from_millis(50);
/// After so many ticks without anything to read it sleeps.
const QUIET: u32 = 20;

/// How full the ring is.
pub trait Gauge: Send + 'static {
    /// Whether so much waits that there may soon be no room for more.
    fn is_behind(&self) -> bool;

    /// Whether nothing waits.
    fn is_empty(&self) -> bool;
}

#[derive(Debug, Default)]
struct Shared {
    /// The reader has read something since the last tick.
    is_active: AtomicBool,
    /// The thread sleeps until that changes.
    is_asleep: AtomicBool,
    /// The reader was given real-time priority, and does not know it yet.
    is_raised: AtomicBool,
    /// When the reader, which has used its budget and gave the priority back, may have it again (nanoseconds of the
    /// monotonic clock); 0: it did not give it back.
    again_ns: AtomicU64,
    ends: AtomicBool,
}

/// The thread, which ends with this.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Thread,
}

impl Watch {
    /// Looks after the calling thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(gauge: impl Gauge) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        // SAFETY: it takes nothing and cannot fail.
        let reader = unsafe { libc::gettid() };
        let own = Arc::clone(&shared);
        let handle = thread::Builder::new().name("conn-watch".to_owned()).spawn(move || {
            // Refused, it is as late as the reader.
            let _ = set_realtime(0);
            own.run(&gauge, || raise(reader).is_ok());
        })?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// The reader has read something.
    pub(super) fn touch(&self) {
        self.shared.is_active.store(true, Ordering::SeqCst);
        if self.shared.is_asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    /// The reader has used its budget, and gives the priority back until then.
    pub(super) fn pause(&self, again: Duration) {
        self.shared.again_ns.store(nanoseconds(again), Ordering::Relaxed);
        self.thread.unpark();
    }

    /// The reader has taken the priority again.
    pub(super) fn resume(&self) {
        self.shared.again_ns.store(0, Ordering::Relaxed);
    }

    /// Whether the reader has real-time priority since the last call.
    pub(super) fn has_raised(&self) -> bool {
        // It is asked very often, and almost never so.
        self.shared.is_raised.load(Ordering::Relaxed) && self.shared.is_raised.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Shared {
    fn run(&self, gauge: &impl Gauge, mut give: impl FnMut() -> bool) {
        let mut quiet = 0;
        let mut next_tick = now() + TICK;
        loop {
            if quiet < QUIET {
                self.sleep_until(next_tick);
            } else {
                self.is_asleep.store(true, Ordering::SeqCst);
                while !self.is_active.load(Ordering::SeqCst) && !self.ends.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.is_asleep.store(false, Ordering::SeqCst);
            }
            if self.ends.load(Ordering::SeqCst) {
                return;
            }
            let now = now();
            next_tick = now + TICK;
            quiet = self.tick(quiet, now, gauge, &mut give);
        }
    }

    /// Sleeps until then, or until the reader may have its priority again.
    fn sleep_until(&self, next_tick: Duration) {
        loop {
            let until = match self.again_ns.load(Ordering::Relaxed) {
                0 => next_tick,
                again_ns => Duration::from_nanos(again_ns).min(next_tick),
            };
            let left = until.saturating_sub(now());
            if left.is_zero() || self.ends.load(Ordering::SeqCst) {
                return;
            }
            // The reader wakes it when that time changes.
            thread::park_timeout(left);
        }
    }

    /// Returns for how many ticks there was nothing to read.
    fn tick(&self, quiet: u32, now: Duration, gauge: &impl Gauge, give: &mut impl FnMut() -> bool) -> u32 {
        // A reader that has taken the priority again meanwhile has set this to 0.
        let again_ns = self.again_ns.load(Ordering::Relaxed);
        let is_paused = again_ns > nanoseconds(now);
        if gauge.is_behind() && !is_paused && !self.is_raised.load(Ordering::Relaxed) && give() {
            self.is_raised.store(true, Ordering::Relaxed);
        }
        if !is_paused && again_ns != 0 {
            let _ = self.again_ns.compare_exchange(again_ns, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        let is_active = self.is_active.swap(false, Ordering::SeqCst);
        if is_active || !gauge.is_empty() { 0 } else { quiet + 1 }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A ring of a hundred.
    #[derive(Clone, Default)]
    struct Waiting(Arc<AtomicU64>);

    impl Gauge for Waiting {
        fn is_behind(&self) -> bool {
            self.0.load(Ordering::Relaxed) > 12
        }

        fn is_empty(&self) -> bool {
            self.0.load(Ordering::Relaxed) == 0
        }
    }

    #[test]
    fn a_reader_that_is_behind_is_raised_once() {
        let (shared, waiting, mut raised) = (Shared::default(), Waiting::default(), 0);
        let mut at = 0;
        let mut tick = |waits: u64, quiet| {
            at += 50;
            waiting.0.store(waits, Ordering::Relaxed);
            let quiet = shared.tick(quiet, Duration::from_millis(at), &waiting, &mut || {
                raised += 1;
                true
            });
            (quiet, raised)
        };
        assert_eq!(tick(0, 3), (4, 0));
        assert_eq!(tick(12, 4), (0, 0), "it is not behind yet, but something waits");
        assert_eq!(tick(13, 0), (0, 1));
        assert_eq!(tick(99, 0), (0, 1), "the reader has not run yet");
        assert!(shared.is_raised.swap(false, Ordering::Relaxed));
        assert_eq!(tick(99, 0), (0, 2), "it has run, and is behind all the same");
        assert!(shared.is_raised.swap(false, Ordering::Relaxed));
        shared.again_ns.store(350_000_000, Ordering::Relaxed);
        assert_eq!(tick(99, 0), (0, 2), "300 ms: it had its share of this period");
        assert_eq!(tick(99, 0), (0, 3), "350 ms: the next one has begun");
        assert_eq!(shared.again_ns.load(Ordering::Relaxed), 0);
        shared.is_active.store(true, Ordering::Relaxed);
        assert_eq!(tick(0, 7), (0, 3));
        assert_eq!(tick(0, 0), (1, 3));
    }

    /// It sleeps without anything to read, is woken by the first that is read, and ends with its reader.
    #[test]
    fn it_wakes_and_ends() {
        let waiting = Waiting::default();
        waiting.0.store(99, Ordering::Relaxed);
        let shared = Arc::<Shared>::default();
        let (own, gauge) = (Arc::clone(&shared), waiting.clone());
        let (sender, raised) = std::sync::mpsc::channel();
        let handle = thread::spawn(move || own.run(&gauge, || sender.send(()).is_ok()));
        let watch = Watch { shared, thread: handle.thread().clone() };
        raised.recv().expect("it is raised");
        waiting.0.store(0, Ordering::Relaxed);
        while !watch.shared.is_asleep.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        while !watch.has_raised() {
            thread::yield_now();
        }
        waiting.0.store(99, Ordering::Relaxed);
        watch.touch();
        raised.recv().expect("it was woken");
        drop(watch);
        handle.join().expect("it ends");
    }
}

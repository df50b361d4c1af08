//! Repair after a loss: one snapshot once the ring is drained, and not one after the other when losses go on.

use std::future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::flow::snapshot::model::Snapshot;
use crate::flow::snapshot::{self, SnapshotError, SnapshotOptions};

/// Shortest time between two repairs.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longest time between two repairs while losses go on.
const LONGEST: Duration = Duration::from_mins(1);
/// A repair takes at most about one part in so many of the time.
const SHARE: u32 = 20;
/// Without a loss for so long the next repair comes at once again.
const CALM: Duration = Duration::from_mins(2);

/// How often the tables were repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResyncStats {
    /// Repairs.
    pub done: u64,
    /// Snapshots that could not be taken.
    pub failed: u64,
    /// Losses that came while a repair was due already or had to wait.
    pub coalesced: u64,
}

pub(super) type Taken = Result<Snapshot, SnapshotError>;

/// When to repair, and the snapshot that is being taken for it.
#[derive(Debug)]
pub(super) struct Resync {
    wanted: bool,
    /// Records of processes were lost: what their standard input and output lead to is wanted too.
    programs: bool,
    task: Option<(JoinHandle<Taken>, Instant)>,
    pace: Pace,
    stats: ResyncStats,
    take: fn(&SnapshotOptions) -> Taken,
}

/// When the next repair may be.
#[derive(Debug, Default)]
struct Pace {
    delay: Duration,
    not_before: Option<Instant>,
}

impl Pace {
    /// A repair is over that began at `began`.
    fn after(&mut self, began: Instant, now: Instant) {
        let calm = self.not_before.is_none_or(|earliest| began.duration_since(earliest) > CALM);
        self.delay = if calm { SHORTEST } else { (self.delay * 2).min(LONGEST) };
        self.delay = self.delay.max((now - began) * SHARE).min(LONGEST);
        self.not_before = Some(now + self.delay);
    }

    fn may(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|earliest| now >= earliest)
    }
}

impl Default for Resync {
    fn default() -> Self {
        Self::taking(snapshot::take)
    }
}

impl Resync {
    /// One that takes snapshots by this function, on a thread that may block.
    pub(super) fn taking(take: fn(&SnapshotOptions) -> Taken) -> Self {
        let (pace, stats) = (Pace::default(), ResyncStats::default());
        Self { wanted: false, programs: false, task: None, pace, stats, take }
    }

    /// Records were lost; `programs`: some of processes among them.
    pub(super) fn want(&mut self, programs: bool) {
        if self.wanted {
            self.stats.coalesced += 1;
        }
        self.wanted = true;
        self.programs |= programs;
    }

    /// Begins to take a snapshot if one is due. To be called when the ring is drained.
    pub(super) fn begin_if_due(&mut self) {
        if self.wanted && self.task.is_none() && self.pace.may(Instant::now()) {
            self.wanted = false;
            let options = if self.programs { SnapshotOptions::starting() } else { SnapshotOptions::living() };
            let take = self.take;
            let task = tokio::task::spawn_blocking(move || take(&options));
            self.task = Some((task, Instant::now()));
        }
    }

    /// Whether [`Self::taken`] resolves at once.
    pub(super) fn is_ready(&self) -> bool {
        self.task.as_ref().is_some_and(|(task, _)| task.is_finished())
    }

    /// The snapshot, when it is taken; pending while there is none to wait for, or until one is due.
    pub(super) async fn taken(&mut self) -> Option<Snapshot> {
        let Some((task, began)) = &mut self.task else {
            match self.pace.not_before.filter(|_| self.wanted) {
                Some(earliest) => tokio::time::sleep_until(earliest).await,
                None => future::pending().await,
            }
            return None;
        };
        let result = task.await;
        let began = *began;
        self.task = None;
        self.pace.after(began, Instant::now());
        if let Ok(Ok(snapshot)) = result {
            self.stats.done += 1;
            // Losses since are of the next one.
            self.programs = self.wanted && self.programs;
            return Some(snapshot);
        }
        self.stats.failed += 1;
        self.wanted = true;
        None
    }

    pub(super) const fn stats(&self) -> ResyncStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_that_go_on_slow_the_repairs_down() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        assert!(pace.may(now), "the first comes at once");
        let mut delays = Vec::new();
        for _ in 0..9 {
            pace.after(now, now);
            assert!(!pace.may(now));
            delays.push(pace.delay.as_secs());
            now += pace.delay;
            assert!(pace.may(now));
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        now += CALM + Duration::from_secs(1);
        pace.after(now, now);
        assert_eq!(pace.delay, SHORTEST, "after a calm the pace is forgotten");
    }

    #[test]
    fn a_slow_snapshot_is_taken_more_seldom() {
        let mut pace = Pace::default();
        let began = Instant::now();
        pace.after(began, began + Duration::from_secs(2));
        assert_eq!(pace.delay, Duration::from_secs(40));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_snapshot_for_many_losses() {
        let mut resync = Resync::default();
        resync.begin_if_due();
        assert!(resync.task.is_none(), "nothing is wanted");
        for _ in 0..5 {
            resync.want(false);
        }
        resync.begin_if_due();
        assert!(resync.taken().await.is_some());
        assert_eq!(resync.stats(), ResyncStats { done: 1, failed: 0, coalesced: 4 });
        resync.want(false);
        resync.begin_if_due();
        assert!(resync.task.is_none(), "it has to wait");
    }
}

//! What the background did and did not do.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::process::files::FileWorkerStats;

/// Counters of an [`super::Inspector`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InspectStats {
    /// Processes to look at.
    pub asked: u64,
    /// Of these, not looked at because too many waited.
    pub dropped: u64,
    /// Of these, gone before they were looked at.
    pub gone: u64,
    /// Executables that were read and hashed.
    pub hashed: u64,
    /// Executables that were not hashed because too many waited.
    pub hash_dropped: u64,
    /// Executables that were too large to be hashed.
    pub too_large: u64,
    /// Executables that could not be read, or changed while they were.
    pub unreadable: u64,
    /// Executables to compare with what their path leads to.
    pub compare_asked: u64,
    /// Of these, not compared because too much waited.
    pub compare_dropped: u64,
    /// Of these, those of processes that were gone or out of reach.
    pub compare_failed: u64,
    /// File systems that did not answer.
    pub files: FileWorkerStats,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) waiting: AtomicUsize,
    pub(super) asked: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) gone: AtomicU64,
    pub(super) hashed: AtomicU64,
    pub(super) hash_dropped: AtomicU64,
    pub(super) too_large: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) compare_asked: AtomicU64,
    pub(super) compare_dropped: AtomicU64,
    pub(super) compare_failed: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    pub(super) fn stats(&self, files: FileWorkerStats) -> InspectStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        InspectStats {
            asked: read(&self.asked),
            dropped: read(&self.dropped),
            gone: read(&self.gone),
            hashed: read(&self.hashed),
            hash_dropped: read(&self.hash_dropped),
            too_large: read(&self.too_large),
            unreadable: read(&self.unreadable),
            compare_asked: read(&self.compare_asked),
            compare_dropped: read(&self.compare_dropped),
            compare_failed: read(&self.compare_failed),
            files,
        }
    }
}

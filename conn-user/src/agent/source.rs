//! What the loop reads from: the kernel, or a test.

use std::future::Future;
use std::io;

use conn_common::hook::HookId;

use crate::kernel::counters::CpuCount;
use crate::kernel::load::Session;
use crate::kernel::ring::{RingReader, Turn};

/// Where records come from.
pub(super) trait Records {
    /// Hands out up to `limit` records, and says what comes next.
    fn turn(&mut self, limit: usize, each: impl FnMut(&[u8])) -> Turn;

    /// Hands out every record that was there at the call.
    fn catch_up(&mut self, each: impl FnMut(&[u8]));

    /// Hands out every record, at the end.
    fn drain_all(&mut self, each: impl FnMut(&[u8]));

    /// Whether so much waits that there may soon be no room for more.
    fn is_behind(&self) -> bool;

    /// Resolves when there may be records. May be cancelled.
    fn readable(&self) -> impl Future<Output = io::Result<()>>;
}

/// What the programs count, and their end.
pub(super) trait Programs {
    /// What the kernel counts for every attached hook, by CPU.
    fn all_counts(&self) -> Vec<(HookId, Vec<CpuCount>)>;

    /// How often the kernel skipped the programs of each hook; `None`: it does not count that.
    fn skipped_runs(&self) -> Vec<(HookId, Option<u64>)>;

    /// Has the accepts of 32-bit programs traced, where that needs a program of its own.
    fn trace_compat(&mut self);

    /// Detaches every program.
    fn detach(&mut self);
}

impl Records for RingReader {
    fn turn(&mut self, limit: usize, each: impl FnMut(&[u8])) -> Turn {
        Self::turn(self, limit, each)
    }

    fn catch_up(&mut self, each: impl FnMut(&[u8])) {
        Self::catch_up(self, each);
    }

    fn drain_all(&mut self, each: impl FnMut(&[u8])) {
        Self::drain_all(self, each);
    }

    fn is_behind(&self) -> bool {
        Self::is_behind(self)
    }

    fn readable(&self) -> impl Future<Output = io::Result<()>> {
        Self::readable(self)
    }
}

impl Programs for Session {
    fn all_counts(&self) -> Vec<(HookId, Vec<CpuCount>)> {
        Self::all_counts(self)
    }

    fn skipped_runs(&self) -> Vec<(HookId, Option<u64>)> {
        Self::skipped_runs(self)
    }

    fn trace_compat(&mut self) {
        Self::trace_compat(self);
    }

    fn detach(&mut self) {
        Self::detach(self);
    }
}

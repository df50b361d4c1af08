//! How many events a second there were of late.

use std::collections::VecDeque;

use crate::units::BootNs;

const SECOND: u64 = 1_000_000_000;
/// The span over which is counted, seconds.
const SPAN: u64 = 60;

/// Counts, one a second at most.
#[derive(Debug)]
pub(super) struct Rate {
    began: BootNs,
    /// Instants with how many events there were until then, the oldest first: one of before the span, and those in it.
    counts: VecDeque<(BootNs, u64)>,
}

impl Rate {
    /// Begins to count now.
    pub(super) fn new(now: BootNs) -> Self {
        Self { began: now, counts: [(now, 0)].into() }
    }

    /// Takes the present count, if it is time for one.
    pub(super) fn take(&mut self, count: impl FnOnce() -> (BootNs, u64)) {
        let (now, count) = count();
        if self.counts.back().is_some_and(|(at, _)| now.since(*at).0 < SECOND) {
            return;
        }
        self.counts.push_back((now, count));
        let start = now.0.saturating_sub(SPAN * SECOND);
        while self.counts.get(1).is_some_and(|(at, _)| at.0 <= start) {
            self.counts.pop_front();
        }
    }

    /// Events a second over the last minute; `None`: it counts for less than a second.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(super) fn per_second(&self, now: BootNs, count: u64) -> Option<f64> {
        let start = BootNs(now.0.saturating_sub(SPAN * SECOND).max(self.began.0));
        let before =
            self.counts.iter().take_while(|(at, _)| *at <= start).last().map_or(0, |(_, count)| *count);
        let span = now.since(start).0;
        (span >= SECOND).then(|| (count - before.min(count)) as f64 * SECOND as f64 / span as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_counts() {
        let at = |second: u64| BootNs(1_000 + second * SECOND);
        let mut rate = Rate::new(at(0));
        assert_eq!(rate.per_second(at(0), 0), None);
        for second in 1..=200 {
            rate.take(|| (at(second), second * 10));
            rate.take(|| (at(second), 7));
        }
        assert!(rate.counts.len() <= 62, "{}", rate.counts.len());
        assert_eq!(rate.per_second(at(200), 2_000), Some(10.0));
        // Nothing came for half an hour.
        assert_eq!(rate.per_second(at(2_000), 2_000), Some(0.0));
        assert_eq!(rate.per_second(at(2_000), 2_060), Some(1.0));
    }
}

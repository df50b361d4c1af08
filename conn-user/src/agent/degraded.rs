//! When it is reported that the agent does less than it should: the first time at once, and then not too often.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::degraded::{Degradation, Degraded};
use crate::units::{BootNs, DurationNs};

/// Shortest time between two reports of one kind: who floods the agent must not fill the outputs too.
const SHORTEST: DurationNs = DurationNs(10_000_000_000);

/// A kind of report: what is degraded, and where.
type Subject = (Degradation, Option<Arc<str>>);

/// What was reported.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// By kind and place: how many, and when.
    last: BTreeMap<Subject, (u64, BootNs)>,
}

impl Reports {
    /// What is to be reported of these totals now. With `is_last`, everything that was not.
    pub(super) fn due(
        &mut self,
        totals: impl IntoIterator<Item = (Degradation, Option<Arc<str>>, u64)>,
        now: BootNs,
        is_last: bool,
    ) -> Vec<Degraded> {
        let mut due = Vec::new();
        for (what, place, total) in totals.into_iter().filter(|(.., total)| *total > 0) {
            let last = self.last.get_mut(&(what, place.clone()));
            let before = last.as_ref().map_or(0, |(total, _)| *total);
            let is_early = last.as_ref().is_some_and(|(_, at)| now.since(*at) < SHORTEST);
            if total <= before || is_early && !is_last {
                continue;
            }
            match last {
                Some(last) => *last = (total, now),
                None => drop(self.last.insert((what, place.clone()), (total, now))),
            }
            due.push(Degraded { what, place, count: total - before, total });
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_at_once_then_now_and_then_and_the_rest_at_the_end() {
        let mut reports = Reports::default();
        let mut counts = |second: u64, total: u64, is_last: bool| {
            let file = (Degradation::Output, Some(Arc::from("file")), total);
            let pipe = (Degradation::Output, Some(Arc::from("pipe")), 0);
            let due = reports.due([file, pipe], BootNs(second * 1_000_000_000), is_last);
            due.iter().map(|degraded| (degraded.count, degraded.total)).collect::<Vec<_>>()
        };
        assert_eq!(counts(1, 0, false), []);
        assert_eq!(counts(2, 5, false), [(5, 5)]);
        assert_eq!(counts(3, 9, false), []);
        assert_eq!(counts(12, 9, false), [(4, 9)]);
        assert_eq!(counts(30, 9, false), []);
        assert_eq!(counts(31, 10, false), [(1, 10)]);
        assert_eq!(counts(32, 12, false), []);
        assert_eq!(counts(32, 12, true), [(2, 12)]);
        assert_eq!(counts(33, 12, true), []);
    }
}

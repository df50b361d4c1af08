//! Runs of programs that the kernel skipped: which of them are a loss, and since when.

use std::collections::BTreeMap;

use conn_common::hook::HookId;

use crate::kernel::gap::{Gap, GapCause};
use crate::units::BootNs;

/// Compares the kernel's counts of skipped runs with what was reported of them.
#[derive(Debug)]
pub(super) struct SkippedRuns {
    /// Runs that were reported, by hook.
    reported: BTreeMap<HookId, u64>,
    /// Runs as they were counted last. A backup program may have been running meanwhile, so they are not confirmed yet.
    suspected: BTreeMap<HookId, u64>,
    /// When they were counted: the last time but one, and the last time. A loss that needed confirmation is older than the last.
    counted: [BootNs; 2],
}

impl SkippedRuns {
    /// Returns the state for programs that were attached at this time.
    pub(super) const fn new(attached: BootNs) -> Self {
        Self { reported: BTreeMap::new(), suspected: BTreeMap::new(), counted: [attached; 2] }
    }

    /// Takes the kernel's counts while programs run, and returns the losses that they confirm.
    pub(super) fn audit(&mut self, counts: &[(HookId, Option<u64>)], now: BootNs) -> Vec<Gap> {
        // A backup program that was running when its runs were counted has ended when they are counted again.
        let confirmed: Vec<_> = counts
            .iter()
            .filter_map(|&(hook, runs)| {
                let runs = runs?;
                let before = self.suspected.insert(hook, runs).unwrap_or(0);
                Some((hook, if hook.backups().is_empty() { runs } else { runs.min(before) }))
            })
            .collect();
        self.report(confirmed, now)
    }

    /// Takes the kernel's counts when no program runs any more: each is a loss at once.
    pub(super) fn end(&mut self, counts: &[(HookId, Option<u64>)], now: BootNs) -> Vec<Gap> {
        self.report(counts.iter().filter_map(|&(hook, runs)| Some((hook, runs?))), now)
    }

    /// Whether runs seem to be lost, which another [`Self::audit`] has to confirm.
    pub(super) fn are_suspected(&self) -> bool {
        self.suspected.iter().any(|(hook, runs)| *runs > self.reported.get(hook).copied().unwrap_or(0))
    }

    /// Returns what these totals have beyond those that were reported.
    fn report(&mut self, totals: impl IntoIterator<Item = (HookId, u64)>, now: BootNs) -> Vec<Gap> {
        let from = self.counted[0];
        let mut gaps = Vec::new();
        for (hook, total) in totals {
            let reported = self.reported.entry(hook).or_default();
            let lost = total.saturating_sub(*reported);
            *reported = total.max(*reported);
            if lost > 0 {
                gaps.push(Gap { hook, cause: GapCause::Skipped, cpu: None, lost, from, to: now });
            }
        }
        self.counted = [self.counted[1], now];
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(gaps: &[Gap]) -> Vec<(HookId, u64, u64, u64)> {
        gaps.iter().map(|gap| (gap.hook, gap.lost, gap.from.0, gap.to.0)).collect()
    }

    #[test]
    fn a_hook_without_a_backup_program_loses_at_once_and_once() {
        let hook = HookId::KprobeTcpConnect;
        let mut runs = SkippedRuns::new(BootNs(1));
        assert_eq!(lost(&runs.audit(&[(hook, Some(3))], BootNs(10))), [(hook, 3, 1, 10)]);
        assert!(!runs.are_suspected());
        assert_eq!(lost(&runs.audit(&[(hook, Some(3))], BootNs(20))), []);
        assert_eq!(lost(&runs.audit(&[(hook, Some(5))], BootNs(30))), [(hook, 2, 10, 30)]);
    }

    #[test]
    fn a_hook_with_a_backup_program_is_confirmed_by_the_next_count() {
        let hook = HookId::State;
        let mut runs = SkippedRuns::new(BootNs(1));
        assert_eq!(lost(&runs.audit(&[(hook, Some(2))], BootNs(10))), []);
        assert!(runs.are_suspected());
        // One of the two was being reported by the backup program.
        assert_eq!(lost(&runs.audit(&[(hook, Some(1))], BootNs(20))), [(hook, 1, 1, 20)]);
        assert!(!runs.are_suspected());
        assert_eq!(lost(&runs.end(&[(hook, Some(4))], BootNs(30))), [(hook, 3, 10, 30)], "nothing runs");
    }

    #[test]
    fn what_the_kernel_does_not_count_is_no_loss() {
        let mut runs = SkippedRuns::new(BootNs(1));
        assert_eq!(lost(&runs.audit(&[(HookId::State, None)], BootNs(10))), []);
        assert_eq!(lost(&runs.end(&[(HookId::State, None)], BootNs(20))), []);
        assert!(!runs.are_suspected());
    }
}

//! The account of records: how many came, how many were lost, and between which instants.

use std::collections::BTreeMap;

use conn_common::hook::HookId;
use conn_common::record::RecordHeader;

use super::skipped::SkippedRuns;
use crate::kernel::counters::CpuCount;
use crate::kernel::gap::{Gap, GapCause, GapTracker};
use crate::units::BootNs;

/// Records of one hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCount {
    /// Records that came.
    pub seen: u64,
    /// Records that did not.
    pub lost: u64,
}

/// Counts the records and their losses. Every gap that it returns is counted already, and is to be reported.
#[derive(Debug)]
pub(super) struct Accounting {
    gaps: GapTracker,
    skipped: SkippedRuns,
    by_hook: BTreeMap<HookId, RecordCount>,
    gap_events: u64,
    records: u64,
    undecoded: u64,
    read_until: BootNs,
    /// Records were lost since the last call of [`Self::take_loss`].
    loss: bool,
    /// Among them some of processes, since the last call of [`Self::take_lost_processes`].
    processes_lost: bool,
}

impl Accounting {
    /// Returns an empty account of programs that were attached at this time.
    pub(super) const fn new(attached: BootNs) -> Self {
        Self {
            gaps: GapTracker::new(attached),
            skipped: SkippedRuns::new(attached),
            by_hook: BTreeMap::new(),
            gap_events: 0,
            records: 0,
            undecoded: 0,
            read_until: BootNs(0),
            loss: false,
            processes_lost: false,
        }
    }

    /// Counts the bytes of a record.
    #[inline]
    pub(super) const fn came(&mut self) {
        self.records += 1;
    }

    /// Counts a record that could not be decoded.
    pub(super) const fn cannot_decode(&mut self) {
        self.undecoded += 1;
    }

    /// Enters a record of this hook; the loss before it, if there is one.
    #[inline]
    pub(super) fn on_header(&mut self, hook: HookId, header: &RecordHeader) -> Option<Gap> {
        self.by_hook.entry(hook).or_default().seen += 1;
        let gap = self.gaps.on_record(hook, header)?;
        Some(self.count(gap))
    }

    /// Enters that a record of this instant was decoded.
    #[inline]
    pub(super) fn read(&mut self, boot: BootNs) {
        self.read_until = self.read_until.max(boot);
    }

    /// Compares with the kernel's counts, which were read before the ring was drained: the losses that no later record has shown, and
    /// the skipped runs.
    pub(super) fn audit(
        &mut self,
        counts: &[(HookId, Vec<CpuCount>)],
        skipped: &[(HookId, Option<u64>)],
        now: BootNs,
    ) -> Vec<Gap> {
        let lost = by_cpu(counts)
            .filter_map(|(hook, cpu, count)| self.gaps.on_lost(hook, cpu, count.lost, now))
            .collect();
        let skipped = self.skipped.audit(skipped, now);
        self.count_all(lost, skipped)
    }

    /// Compares with the kernel's counts at the end of the run: the losses behind the last records, and the skipped runs.
    pub(super) fn end(
        &mut self,
        counts: &[(HookId, Vec<CpuCount>)],
        skipped: &[(HookId, Option<u64>)],
        now: BootNs,
    ) -> Vec<Gap> {
        let lost = by_cpu(counts)
            .filter_map(|(hook, cpu, count)| self.gaps.on_end(hook, cpu, count.attempted, now))
            .collect();
        let skipped = self.skipped.end(skipped, now);
        self.count_all(lost, skipped)
    }

    fn count_all(&mut self, lost: Vec<Gap>, skipped: Vec<Gap>) -> Vec<Gap> {
        lost.into_iter().chain(skipped).map(|gap| self.count(gap)).collect()
    }

    fn count(&mut self, gap: Gap) -> Gap {
        if gap.cause == GapCause::RingFull {
            self.by_hook.entry(gap.hook).or_default().lost += gap.lost;
        }
        self.gap_events += 1;
        self.loss = true;
        self.processes_lost |= gap.hook.is_of_processes();
        gap
    }

    /// Whether records were lost since the last call.
    pub(super) const fn take_loss(&mut self) -> bool {
        std::mem::replace(&mut self.loss, false)
    }

    /// Whether records of processes were lost since the last call of [`Self::take_lost_processes`].
    pub(super) const fn has_lost_processes(&self) -> bool {
        self.processes_lost
    }

    /// Whether records of processes were lost since the last call.
    pub(super) const fn take_lost_processes(&mut self) -> bool {
        std::mem::replace(&mut self.processes_lost, false)
    }

    /// Whether runs of programs seem to be lost, which another [`Self::audit`] has to confirm.
    pub(super) fn suspects_loss(&self) -> bool {
        self.skipped.are_suspected()
    }

    /// Records by hook.
    pub(super) const fn by_hook(&self) -> &BTreeMap<HookId, RecordCount> {
        &self.by_hook
    }

    /// The instant of the latest record that was decoded.
    pub(super) const fn read_until(&self) -> BootNs {
        self.read_until
    }

    /// Records that came, decoded or not.
    pub(super) const fn records(&self) -> u64 {
        self.records
    }

    /// Gaps that were returned.
    pub(super) const fn gaps(&self) -> u64 {
        self.gap_events
    }

    /// Records that could not be decoded.
    pub(super) const fn undecoded(&self) -> u64 {
        self.undecoded
    }
}

/// Every count with its hook and its CPU.
fn by_cpu(counts: &[(HookId, Vec<CpuCount>)]) -> impl Iterator<Item = (HookId, u16, &CpuCount)> {
    counts
        .iter()
        .flat_map(|(hook, by_cpu)| (0_u16..).zip(by_cpu).map(move |(cpu, count)| (*hook, cpu, count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOOK: HookId = HookId::FentryTcpClose;

    fn header(seq: u64, boot_ns: u64) -> RecordHeader {
        RecordHeader { seq, boot_ns, ..RecordHeader::default() }
    }

    fn counted(attempted: u64, lost: u64) -> CpuCount {
        CpuCount { attempted, lost, unmarked: 0 }
    }

    #[test]
    fn a_loss_is_counted_once_whatever_shows_it() {
        let mut account = Accounting::new(BootNs(1));
        assert_eq!(account.on_header(HOOK, &header(0, 10)), None);
        let gap = account.on_header(HOOK, &header(3, 20)).expect("two are missing");
        assert_eq!((gap.lost, gap.from, gap.to), (2, BootNs(10), BootNs(20)));
        assert_eq!(account.by_hook()[&HOOK], RecordCount { seen: 2, lost: 2 });
        assert!(account.take_loss() && !account.take_loss(), "once");
        let lost = |gaps: Vec<Gap>| gaps.iter().map(|gap| gap.lost).collect::<Vec<_>>();
        assert_eq!(lost(account.audit(&[(HOOK, vec![counted(7, 5)])], &[], BootNs(30))), [3]);
        assert_eq!(lost(account.audit(&[(HOOK, vec![counted(7, 5)])], &[], BootNs(40))), [0; 0]);
        assert_eq!(lost(account.end(&[(HOOK, vec![counted(8, 5)])], &[], BootNs(50))), [1], "one never came");
        assert_eq!((account.by_hook()[&HOOK].lost, account.gaps()), (6, 3));
    }

    #[test]
    fn skipped_runs_are_gaps_and_no_lost_records() {
        let mut account = Accounting::new(BootNs(1));
        let gaps = account.audit(&[], &[(HookId::ProcessFork, Some(2))], BootNs(9));
        let gaps = [gaps, account.end(&[], &[(HookId::ProcessFork, Some(2))], BootNs(10))].concat();
        assert_eq!(
            gaps.iter().map(|gap| (gap.cause, gap.lost)).collect::<Vec<_>>(),
            [(GapCause::Skipped, 2)]
        );
        assert_eq!(account.by_hook().get(&HookId::ProcessFork).copied().unwrap_or_default().lost, 0);
        assert!(account.has_lost_processes() && account.take_loss());
        assert!(account.take_lost_processes() && !account.take_lost_processes(), "once");
    }

    #[test]
    fn instants_of_records_may_swap() {
        let mut account = Accounting::new(BootNs(1));
        account.read(BootNs(20));
        account.read(BootNs(19));
        assert_eq!(account.read_until(), BootNs(20));
    }
}

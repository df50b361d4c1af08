//! Loss: found from the sequence numbers, exact to the record.

use conn_common::hook::{HOOK_SLOTS, HookId};
use conn_common::record::RecordHeader;

use crate::units::BootNs;

/// Lost records of one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which hook.
    pub hook: HookId,
    /// Why.
    pub cause: GapCause,
    /// On which CPU; `None`: the kernel does not report it for this cause.
    pub cpu: Option<u16>,
    /// How many records. Where the kernel skipped a program: how many runs, which may have had nothing to report; with a backup
    /// program, at least so many.
    pub lost: u64,
    /// Time of the last record before the loss (the attach, if there is none).
    pub from: BootNs,
    /// Time of the first record after it, or when the kernel's counts were read.
    pub to: BootNs,
}

/// Why records are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The ring buffer had no room.
    RingFull,
    /// The kernel skipped the program, and its backup program if it has one (`bpf_prog_info.recursion_misses`).
    Skipped,
}

/// Follows the sequence of each (hook, CPU) and finds what is missing.
#[derive(Debug)]
pub struct GapTracker {
    attached: BootNs,
    /// By CPU, then by hook: the number expected next and the time of the last record.
    streams: Vec<[Stream; HOOK_SLOTS as usize]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    next: u64,
    /// Lost records that were reported.
    reported: u64,
    last: Option<BootNs>,
}

impl GapTracker {
    /// A tracker for programs that were attached at this time.
    pub const fn new(attached: BootNs) -> Self {
        Self { attached, streams: Vec::new() }
    }

    fn stream(&mut self, hook: HookId, cpu: u16) -> &mut Stream {
        let cpu = usize::from(cpu);
        if cpu >= self.streams.len() {
            self.streams.resize(cpu + 1, [Stream::default(); HOOK_SLOTS as usize]);
        }
        // Every hook's number is below HOOK_SLOTS (asserted below).
        &mut self.streams[cpu][hook as usize]
    }

    /// Takes note of a record; the loss before it, if there is one.
    pub fn on_record(&mut self, hook: HookId, header: &RecordHeader) -> Option<Gap> {
        let attached = self.attached;
        let stream = self.stream(hook, header.cpu);
        let boot = BootNs(header.boot_ns);
        let lost = header.seq.saturating_sub(stream.next);
        let from = stream.last.unwrap_or(attached);
        // A number that was seen already (5.10, where a tracepoint program can nest) must not count as a loss later.
        stream.next = stream.next.max(header.seq.saturating_add(1));
        stream.last = Some(boot);
        let stream = self.stream(hook, header.cpu);
        stream.reported += lost;
        let cpu = Some(header.cpu);
        (lost > 0).then_some(Gap { hook, cause: GapCause::RingFull, cpu, lost, from, to: boot })
    }

    /// Compares with the kernel's count of records for which there was no room, read before the ring was drained: a
    /// loss behind the last record of a CPU, which no later record has shown yet.
    pub fn on_lost(&mut self, hook: HookId, cpu: u16, lost: u64, now: BootNs) -> Option<Gap> {
        let attached = self.attached;
        let stream = self.stream(hook, cpu);
        let lost = lost.saturating_sub(stream.reported);
        stream.reported += lost;
        stream.next += lost;
        let from = stream.last.unwrap_or(attached);
        (lost > 0).then_some(Gap { hook, cause: GapCause::RingFull, cpu: Some(cpu), lost, from, to: now })
    }

    /// Compares with the kernel's own count at the end of the run; the loss behind the last record, if there is one.
    pub fn on_end(&mut self, hook: HookId, cpu: u16, attempted: u64, now: BootNs) -> Option<Gap> {
        let attached = self.attached;
        let stream = self.stream(hook, cpu);
        let lost = attempted.saturating_sub(stream.next);
        stream.next = stream.next.max(attempted);
        stream.reported += lost;
        let from = stream.last.unwrap_or(attached);
        (lost > 0).then_some(Gap { hook, cause: GapCause::RingFull, cpu: Some(cpu), lost, from, to: now })
    }
}

const _: () = {
    let mut index = 0;
    while index < HookId::ALL.len() {
        assert!((HookId::ALL[index] as u32) < HOOK_SLOTS);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cpu: u16, seq: u64, boot_ns: u64) -> RecordHeader {
        RecordHeader { cpu, seq, boot_ns, ..RecordHeader::default() }
    }

    fn gap(hook: HookId, cpu: u16, lost: u64, from: u64, to: u64) -> Gap {
        let (from, to) = (BootNs(from), BootNs(to));
        Gap { hook, cause: GapCause::RingFull, cpu: Some(cpu), lost, from, to }
    }

    #[test]
    fn a_gap_is_exact_and_has_both_instants() {
        let hook = HookId::FentryTcpClose;
        let mut gaps = GapTracker::new(BootNs(5));
        assert_eq!(gaps.on_record(hook, &header(1, 0, 10)), None);
        assert_eq!(gaps.on_record(hook, &header(1, 1, 20)), None);
        assert_eq!(gaps.on_record(hook, &header(1, 5, 30)), Some(gap(hook, 1, 3, 20, 30)));
        assert_eq!(gaps.on_record(hook, &header(0, 0, 31)), None, "each CPU has its own sequence");
    }

    #[test]
    fn a_loss_before_the_first_record_begins_at_the_attach() {
        let hook = HookId::State;
        let mut gaps = GapTracker::new(BootNs(5));
        assert_eq!(gaps.on_record(hook, &header(0, 2, 9)), Some(gap(hook, 0, 2, 5, 9)));
    }

    #[test]
    fn a_loss_behind_the_last_record_shows_at_the_end() {
        let hook = HookId::State;
        let mut gaps = GapTracker::new(BootNs(5));
        gaps.on_record(hook, &header(0, 0, 9));
        assert_eq!(gaps.on_end(hook, 0, 1, BootNs(50)), None);
        assert_eq!(gaps.on_end(hook, 0, 5, BootNs(50)), Some(gap(hook, 0, 4, 9, 50)));
        assert_eq!(gaps.on_end(hook, 0, 5, BootNs(60)), None, "reported once");
    }

    #[test]
    fn a_loss_behind_the_last_record_shows_in_the_kernels_count() {
        let hook = HookId::State;
        let mut gaps = GapTracker::new(BootNs(5));
        gaps.on_record(hook, &header(0, 0, 9));
        assert_eq!(gaps.on_lost(hook, 0, 0, BootNs(50)), None);
        assert_eq!(gaps.on_lost(hook, 0, 4, BootNs(50)), Some(gap(hook, 0, 4, 9, 50)));
        assert_eq!(gaps.on_record(hook, &header(0, 5, 60)), None, "reported once");
        assert_eq!(gaps.on_record(hook, &header(0, 7, 61)), Some(gap(hook, 0, 1, 60, 61)));
        assert_eq!(gaps.on_lost(hook, 0, 5, BootNs(70)), None);
        assert_eq!(gaps.on_end(hook, 0, 8, BootNs(80)), None);
    }

    #[test]
    fn a_repeated_number_is_no_loss() {
        let hook = HookId::State;
        let mut gaps = GapTracker::new(BootNs(0));
        gaps.on_record(hook, &header(0, 0, 1));
        assert_eq!(gaps.on_record(hook, &header(0, 0, 2)), None);
        assert_eq!(gaps.on_record(hook, &header(0, 1, 3)), None);
    }
}

//! The ring buffer and the sequence numbers that make each loss exact.

use core::mem::size_of;

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, RingBuf};
use conn_common::hook::{HOOK_SLOTS, HookId};
use conn_common::record::{HookCounters, RecordHeader, RecordKind};

/// All records of all programs; the agent sets the size.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Sequence numbers and losses: of each CPU, one for each hook. Not a per-CPU map, which the agent could only read by a
/// system call that keeps programs from running (`conn-user/src/kernel/counters.rs`); the agent sets the size.
#[map]
static COUNTERS: Array<HookCounters> = Array::with_max_entries(HOOK_SLOTS, BPF_F_MMAPABLE);

/// The counters of a hook on this CPU.
#[inline(always)]
pub(crate) fn counters(hook: HookId) -> Option<*mut HookCounters> {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    COUNTERS.get_ptr_mut(cpu * HOOK_SLOTS + hook as u32)
}

/// Takes the next sequence number of this hook on this CPU and builds the header.
///
/// A plain increment is exact: the kernel does not run a tracing program inside itself on one CPU, and no other
/// program uses this hook's slot.
#[inline(always)]
pub(crate) fn header(
    hook: HookId,
    kind: RecordKind,
    len: usize,
) -> Option<(RecordHeader, *mut HookCounters)> {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let counters = counters(hook)?;
    // SAFETY: the map's value, of this CPU.
    let seq = unsafe { (*counters).next_seq };
    // SAFETY: as above.
    unsafe { (*counters).next_seq = seq + 1 };
    let header = RecordHeader {
        kind: kind as u16,
        hook: hook as u16,
        len: len as u16,
        cpu: cpu as u16,
        seq,
        // SAFETY: the helper has no precondition.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
    };
    Some((header, counters))
}

/// Room for a record, its sequence number taken; `None` (and counted) when the ring is full.
///
/// Flags are 0 everywhere: the kernel then wakes the reader only when it has caught up (`bpf_ringbuf_commit`), and a
/// single record with `BPF_RB_NO_WAKEUP` would suppress that.
#[inline(always)]
pub(crate) fn reserve<T: 'static>(hook: HookId, kind: RecordKind) -> Option<(RecordHeader, RingBufEntry<T>)> {
    let (header, counters) = header(hook, kind, size_of::<T>())?;
    if let Some(entry) = EVENTS.reserve::<T>(0) {
        return Some((header, entry));
    }
    // SAFETY: the map's value, of this CPU.
    unsafe { (*counters).lost += 1 };
    None
}

/// Writes a record of variable length, whose header is in it.
#[inline(always)]
pub(crate) fn output(bytes: &[u8], counters: *mut HookCounters) {
    if EVENTS.output::<[u8]>(bytes, 0).is_err() {
        // SAFETY: the map's value, of this CPU.
        unsafe { (*counters).lost += 1 };
    }
}

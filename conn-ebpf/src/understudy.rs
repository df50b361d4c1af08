//! Second programs at the same places, for what the kernel makes the first ones miss.
//!
//! A tracing program runs with migration disabled, but in newer kernels it can be preempted. If the next task of that
//! CPU comes the same way, the kernel skips the program for it (`__bpf_prog_enter_recur` in kernel/bpf/trampoline.c,
//! `__bpf_trace_run` and `trace_call_bpf_faultable` in kernel/trace/bpf_trace.c) and the event would be lost without a
//! number. The guard is per program, so a second program runs. It tells nothing when the first one has left a mark for
//! this very socket or task. A preemption between the two moves the mark: then an event is told twice, and the agent
//! drops the second.

use core::ffi::c_void;

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use conn_common::hook::{HOOK_SLOTS, HookId};

/// The socket or task of which a first program told last, by its hook, on this CPU.
#[map]
static TOLD: PerCpuArray<u64> = PerCpuArray::with_max_entries(HOOK_SLOTS, 0);

/// A place with two programs.
pub(crate) struct Pair {
    first: HookId,
    second: HookId,
}

impl Pair {
    pub(crate) const fn new(first: HookId, second: HookId) -> Self {
        Self { first, second }
    }

    /// Whether the program of this hook is to tell of `what`. The first one always is and leaves the mark, also for a
    /// record that finds no room: its loss is counted. The second takes the mark away, since the next socket may have
    /// the same address.
    #[inline(always)]
    pub(crate) fn is_to_tell(&self, hook: HookId, what: *const c_void) -> bool {
        let is_first = hook as u16 == self.first as u16;
        if !is_first && hook as u16 != self.second as u16 {
            return true;
        }
        let Some(mark) = TOLD.get_ptr_mut(self.first as u32) else { return true };
        // SAFETY: the map's value, of this CPU.
        unsafe {
            if is_first {
                *mark = what as u64;
                return true;
            }
            if *mark == what as u64 {
                *mark = 0;
                return false;
            }
        }
        true
    }
}

//! Backup programs at the same places, for what the kernel makes the first ones miss.
//!
//! A tracing program runs with migration disabled, but in newer kernels it can be preempted. If the next task of that
//! CPU comes the same way, the kernel skips the program for it (`__bpf_prog_enter_recur` in kernel/bpf/trampoline.c,
//! `__bpf_trace_run` and `trace_call_bpf_faultable` in kernel/trace/bpf_trace.c) and the event would be lost without a
//! number. The guard is per program, so a second program runs. It reports nothing when the first one has left a mark for
//! this very hit ([`conn_common::mark`]). A preemption between the two makes the mark stale: then an event is reported
//! twice, and the agent drops the second. Two tasks are enough for a loss: one is skipped by the first program because the other one
//! is suspended in it, and by the second because the other one has come there meanwhile.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use conn_common::hook::{HOOK_SLOTS, HookId};
use conn_common::mark::{Found, Hit, SLOTS};

use crate::mem::{Access as _, Direct, current, current_typed};
use crate::offsets::{CURRENT_TASK_TYPED, OFF_TASK_NIVCSW, OFF_TASK_NVCSW};
use crate::ring::counters;

/// The hits for which a first program ran last, by its hook and by task, on this CPU.
#[map]
static MARKS: PerCpuArray<[Hit; SLOTS]> = PerCpuArray::with_max_entries(HOOK_SLOTS, 0);

/// A place with two programs.
pub(crate) struct Pair {
    first: HookId,
    second: HookId,
}

impl Pair {
    pub(crate) const fn new(first: HookId, second: HookId) -> Self {
        Self { first, second }
    }

    /// Whether the program of this hook is to report that `what` happens to `object` (an address, or another number). The first one always is and leaves the mark,
    /// also for a record that finds no room: its loss is counted. To be asked at each hit, before anything else decides
    /// that there is nothing to report: then the runs that the kernel skipped, less those of the backup program without a
    /// mark, are those that both missed.
    #[inline(always)]
    pub(crate) fn is_to_tell(&self, hook: HookId, object: u64, what: u8) -> bool {
        let is_first = hook as u16 == self.first as u16;
        if !is_first && hook as u16 != self.second as u16 {
            return true;
        }
        if CURRENT_TASK_TYPED.load() == 0 {
            // Before 5.12 the kernel has no such guard: the first program always runs.
            return is_first;
        }
        let Some(marks) = MARKS.get_ptr_mut(self.first as u32) else { return true };
        let task = current_typed();
        // SAFETY: the running task, typed.
        let switches = unsafe {
            Direct::load::<u64>(task, OFF_TASK_NVCSW.load())
                .wrapping_add(Direct::load::<u64>(task, OFF_TASK_NIVCSW.load()))
        };
        let number = current() as u64;
        let hit = Hit::new(object, what, number, switches);
        // SAFETY: the map's value, of this CPU; a slot is less than [`SLOTS`].
        let found = unsafe {
            let mark = marks.cast::<Hit>().add(Hit::slot(number));
            if is_first {
                hit.leave(&mut *mark);
                return true;
            }
            hit.take(&mut *mark)
        };
        match found {
            Found::Same => return false,
            Found::Switched => return true,
            Found::Nothing => {}
        }
        if let Some(counters) = counters(hook) {
            // SAFETY: the map's value, of this CPU; a hook's program does not run inside itself.
            unsafe { (*counters).unmarked += 1 };
        }
        true
    }
}

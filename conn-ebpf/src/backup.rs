//! Backup programs at the same places, for what the kernel makes the first ones miss.
//!
//! A tracing program runs with migration disabled, but in newer kernels it can be preempted. If the next task of that
//! CPU comes the same way, the kernel skips the program for it (`__bpf_prog_enter_recur` in kernel/bpf/trampoline.c,
//! `__bpf_trace_run` and `trace_call_bpf_faultable` in kernel/trace/bpf_trace.c) and the event would be lost without a
//! number. The guard is per program, so a backup program runs. It reports nothing when one before it has left a mark of
//! this very hit ([`conn_common::mark`]). A preemption between two programs makes the mark stale: then an event is
//! reported twice, and the agent drops the second.
//!
//! A task that is suspended in a program stays there for as long as others have the CPU, and each of them can be suspended in the
//! next program. With one backup program three tasks are enough for a loss, and on a busy CPU all that the third does meanwhile is
//! lost. So kernels that preempt programs get a second one.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use conn_common::hook::{HookId, PLACES};
use conn_common::mark::{Found, Hit, Marks};

use crate::mem::{Access as _, Direct, current, current_typed};
use crate::offsets::{CURRENT_TASK_TYPED, OFF_TASK_NIVCSW, OFF_TASK_NVCSW, SECOND_BACKUPS};
use crate::ring::counters;

/// The hits for which programs ran last, by the hook of the first program and by task, on this CPU.
#[map]
static MARKS: PerCpuArray<Marks> = PerCpuArray::with_max_entries(PLACES, 0);

/// A place with several programs.
pub(crate) struct Place {
    /// The hooks of the programs, in the order in which they run.
    programs: [HookId; 3],
}

impl Place {
    /// The place of a hook that has backup programs; of another one it does not compile.
    pub(crate) const fn of(first: HookId) -> Self {
        match first.backups() {
            [second, third] => Self { programs: [first, *second, *third] },
            _ => panic!("this hook has no two backup programs"),
        }
    }

    /// Returns whether the program of this hook must report that `what` happens to `object` (an address, or another
    /// number), and leaves its mark. The first program always must, also when the record finds no room: that loss is
    /// counted. To be asked at each hit, before anything else decides that there is nothing to report: then the runs of
    /// the first program that the kernel skipped, less those of backup programs without a mark, are those that all
    /// missed.
    #[inline(always)]
    pub(crate) fn must_report(&self, hook: HookId, object: u64, what: u8) -> bool {
        let is_first = hook as u16 == self.programs[0] as u16;
        let is_second = hook as u16 == self.programs[1] as u16;
        if !is_first && !is_second && hook as u16 != self.programs[2] as u16 {
            return true;
        }
        if CURRENT_TASK_TYPED.load() == 0 {
            // Before 5.12 the kernel has no such guard: the first program always runs.
            return is_first;
        }
        let Some(marks) = MARKS.get_ptr_mut(self.programs[0] as u32) else { return true };
        let task = current_typed();
        // SAFETY: the running task, typed.
        let switches = unsafe {
            Direct::load::<u64>(task, OFF_TASK_NVCSW.load())
                .wrapping_add(Direct::load::<u64>(task, OFF_TASK_NIVCSW.load()))
        };
        let number = current() as u64;
        let hit = Hit::new(object, what, number, switches);
        let slot = Hit::slot(number);
        // SAFETY: the map's value, of this CPU; a slot is less than `conn_common::mark::SLOTS`.
        let found = unsafe {
            let first = &mut *(&raw mut (*marks).first).cast::<Hit>().add(slot);
            if is_first {
                hit.leave(first);
                return true;
            }
            let second = &mut *(&raw mut (*marks).second).cast::<Hit>().add(slot);
            if is_second {
                let found = hit.take(first);
                if SECOND_BACKUPS.load() != 0 {
                    hit.leave(second);
                }
                found
            } else {
                hit.take_either(second, first)
            }
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

//! What the BPF side counts, read from memory that is shared with it.
//!
//! Not by the system call: while a task is inside a lookup the kernel runs no kprobe and no classic tracepoint program on
//! its CPU (`bpf_disable_instrumentation` in kernel/bpf/syscall.c raises `bpf_prog_active`, for which `trace_call_bpf`
//! skips), and a newer kernel may preempt it there. An agent that asks once a second would make holes in what it counts.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use conn_common::hook::{HOOK_SLOTS, HookId};
use conn_common::record::HookCounters;

use super::mapping::Mapping;

/// Records of one hook, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCount {
    /// Records attempted.
    pub attempted: u64,
    /// Records for which the ring had no room.
    pub lost: u64,
    /// Of a backup program: runs in the place of one of the first program.
    pub unmarked: u64,
}

/// The table of the counters: for each CPU that this kernel can have, one for each hook.
pub(super) struct Counters {
    mapping: Mapping,
    cpus: u16,
}

// SAFETY: the mapping is owned, and only read, by atomic loads.
unsafe impl Send for Counters {}

impl Counters {
    /// Entries of the table.
    pub(super) const fn entries(cpus: u16) -> u32 {
        cpus as u32 * HOOK_SLOTS
    }

    /// Maps the table of [`Self::entries`] entries.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn new(fd: BorrowedFd<'_>, cpus: u16) -> io::Result<Self> {
        let len = Self::entries(cpus) as usize * size_of::<HookCounters>();
        Ok(Self { mapping: Mapping::new(fd.as_raw_fd(), len, 0, libc::PROT_READ)?, cpus })
    }

    /// What was counted for this hook, by CPU.
    pub(super) fn of(&self, hook: HookId) -> Vec<CpuCount> {
        (0..self.cpus).map(|cpu| self.at(cpu, hook)).collect()
    }

    fn at(&self, cpu: u16, hook: HookId) -> CpuCount {
        let index = Self::entries(cpu) as usize + hook as usize;
        // SAFETY: the entry is in the mapping: `cpu` is below `cpus`, and every hook's number below HOOK_SLOTS.
        let entry = unsafe { self.mapping.start().cast::<HookCounters>().add(index) };
        // SAFETY: the kernel maps whole pages of the array, and its words are aligned and written whole.
        let word = |offset| unsafe { load(entry.byte_add(offset).cast()) };
        // What was lost was attempted before.
        let lost = word(std::mem::offset_of!(HookCounters, lost));
        CpuCount {
            attempted: word(std::mem::offset_of!(HookCounters, next_seq)),
            lost,
            unmarked: word(std::mem::offset_of!(HookCounters, unmarked)),
        }
    }
}

/// Reads a word that the kernel may be writing.
///
/// # Safety
/// `word` is aligned and mapped.
unsafe fn load(word: NonNull<AtomicU64>) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { word.as_ref() }.load(Ordering::Acquire)
}

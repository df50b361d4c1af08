//! How often each process has executed a program: a BPF iterator that the agent reads after a loss.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::helpers::generated::bpf_seq_write;
use conn_common::config::OFFSET_NONE;
use conn_common::record::ExecCountRecord;

use crate::mem::{Access as _, Direct, Probe, probe};
use crate::offsets::{
    OFF_TASK_GROUP_LEADER, OFF_TASK_PID, OFF_TASK_SELF_EXEC_ID, OFF_TASK_START_BOOTTIME, OFF_TASK_TGID,
};
use crate::task;

/// Offset of `meta` in `struct bpf_iter__task` (kernel/bpf/task_iter.c), and of `seq` in `struct bpf_iter_meta`.
const META: u32 = 0;
const SEQ: u32 = 0;
/// Offset of `task` in `struct bpf_iter__task`.
const TASK: u32 = 8;

/// Writes an [`ExecCountRecord`] for every process. aya has no macro for iterators.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub(crate) extern "C" fn task_execs(ctx: *const c_void) -> i32 {
    // SAFETY: the context of `iter/task`: two pointers, the task's null after the last one.
    unsafe {
        let task = Direct::pointer(ctx, TASK);
        if task.is_null() || OFF_TASK_SELF_EXEC_ID.load() == OFFSET_NONE {
            return 0;
        }
        let tgid = Direct::load::<u32>(task, OFF_TASK_TGID.load());
        if Direct::load::<u32>(task, OFF_TASK_PID.load()) != tgid {
            return 0;
        }
        let leader = Probe::pointer(task, OFF_TASK_GROUP_LEADER.load());
        let record = ExecCountRecord {
            tgid,
            exec_id: task::exec_id::<Direct>(task),
            start_boot_ns: probe(leader, OFF_TASK_START_BOOTTIME.load()),
        };
        let seq = Direct::pointer(Direct::pointer(ctx, META), SEQ);
        bpf_seq_write(seq.cast_mut().cast(), (&raw const record).cast(), size_of::<ExecCountRecord>() as u32);
    }
    0
}

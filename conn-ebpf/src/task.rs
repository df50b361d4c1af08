//! Who: the current task.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use conn_common::record::Task;

use crate::mem::{Access as _, Direct, copy, current, current_typed, probe};
use crate::offsets::{
    CURRENT_TASK_TYPED, OFF_TASK_COMM, OFF_TASK_FLAGS, OFF_TASK_GROUP_LEADER, OFF_TASK_START_BOOTTIME,
};

/// Describes the current task in place.
///
/// The name is the group leader's: a thread may have another one, and io_uring workers do.
///
/// # Safety
/// `to` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn fill_current(to: *mut Task) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let uid_gid = bpf_get_current_uid_gid();
    // SAFETY: `to` is valid; the task is typed where it is read directly, and the helper reads elsewhere.
    unsafe {
        let leader = if CURRENT_TASK_TYPED.load() != 0 {
            let task = current_typed();
            let leader = Direct::pointer(task, OFF_TASK_GROUP_LEADER.load());
            (*to).flags = Direct::load(task, OFF_TASK_FLAGS.load());
            (*to).start_boot_ns = Direct::load(leader, OFF_TASK_START_BOOTTIME.load());
            leader
        } else {
            let task = current();
            let leader = probe::<u64>(task, OFF_TASK_GROUP_LEADER.load()) as *const c_void;
            (*to).flags = probe(task, OFF_TASK_FLAGS.load());
            (*to).start_boot_ns = probe(leader, OFF_TASK_START_BOOTTIME.load());
            leader
        };
        copy(leader, OFF_TASK_COMM.load(), (&raw mut (*to).comm).cast(), 16);
        (*to).tgid = (pid_tgid >> 32) as u32;
        (*to).tid = pid_tgid as u32;
        (*to).uid = uid_gid as u32;
        (*to).gid = (uid_gid >> 32) as u32;
        (*to).cgroup_id = bpf_get_current_cgroup_id();
        (*to).reserved = 0;
    }
}

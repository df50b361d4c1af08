//! Who: the current task.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use conn_common::config::OFFSET_NONE;
use conn_common::record::{TASK_COMPAT, Task};

use crate::mem::{Access, Direct, Probe, copy, current, current_typed, probe};
use crate::offsets::{
    CURRENT_TASK_TYPED, OFF_CGROUP_KN, OFF_CRED_GID, OFF_CRED_UID, OFF_CSS_SET_DFL_CGRP, OFF_KERNFS_ID,
    OFF_MNT_NS_INUM, OFF_NSPROXY_MNT_NS, OFF_TASK_CGROUPS, OFF_TASK_COMM, OFF_TASK_CRED, OFF_TASK_FLAGS,
    OFF_TASK_GROUP_LEADER, OFF_TASK_NSPROXY, OFF_TASK_PID, OFF_TASK_SELF_EXEC_ID, OFF_TASK_START_BOOTTIME,
    OFF_TASK_TGID, OFF_TASK_TI_FLAGS, OFF_TASK_TI_STATUS,
};

/// x86: the addresses of the program have 32 bits (arch/x86/include/asm/thread_info.h).
const TIF_ADDR32: u64 = 1 << 29;
/// x86: the task is within a 32-bit system call, until it is back in the program (arch/x86/include/asm/thread_info.h,
/// `arch_exit_to_user_mode_prepare`).
const TS_COMPAT: u32 = 2;

/// `TASK_COMM_LEN` (include/linux/sched.h).
const COMM_LEN: u32 = 16;

/// Describes the current task in place.
///
/// The name is the group leader's: a thread may have another one, and io_uring workers do.
///
/// # Safety
/// `to` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn fill_current(to: *mut Task) {
    // SAFETY: `to` is valid; the task is typed where it is read directly, and the helper reads elsewhere.
    unsafe {
        if CURRENT_TASK_TYPED.load() != 0 {
            let task = current_typed();
            let leader = fill::<Direct>(to, task);
            (*to).cgroup_id = cgroup_id(task);
            // Byte by byte: the verifier refuses a wider load from an array of char.
            let comm = (&raw mut (*to).comm).cast::<u8>();
            for at in 0..COMM_LEN {
                comm.add(at as usize).write(Direct::load(leader, OFF_TASK_COMM.load().wrapping_add(at)));
            }
        } else {
            let leader = fill::<Probe>(to, current());
            copy(leader, OFF_TASK_COMM.load(), (&raw mut (*to).comm).cast(), COMM_LEN);
            (*to).cgroup_id = bpf_get_current_cgroup_id();
        }
    }
}

/// What `bpf_get_current_cgroup_id` (kernel/bpf/helpers.c) reads, without the call.
#[inline(always)]
unsafe fn cgroup_id(task: *const c_void) -> u64 {
    let known = OFF_TASK_CGROUPS.load() != OFFSET_NONE
        && OFF_CSS_SET_DFL_CGRP.load() != OFFSET_NONE
        && OFF_CGROUP_KN.load() != OFFSET_NONE
        && OFF_KERNFS_ID.load() != OFFSET_NONE;
    // SAFETY: the caller's task, typed; the helper has no precondition.
    unsafe {
        if !known {
            return bpf_get_current_cgroup_id();
        }
        let css_set = Direct::pointer(task, OFF_TASK_CGROUPS.load());
        let cgroup = Direct::pointer(css_set, OFF_CSS_SET_DFL_CGRP.load());
        let node = Direct::pointer(cgroup, OFF_CGROUP_KN.load());
        Direct::load(node, OFF_KERNFS_ID.load())
    }
}

/// What lies in the task itself and around it; returns the group leader. The credentials are read where they lie:
/// `bpf_get_current_uid_gid` gives the numbers of the task's own user namespace.
#[inline(always)]
unsafe fn fill<A: Access>(to: *mut Task, task: *const c_void) -> *const c_void {
    // SAFETY: the caller's task, for this access.
    unsafe {
        let leader = A::pointer(task, OFF_TASK_GROUP_LEADER.load());
        let cred = A::pointer(task, OFF_TASK_CRED.load());
        (*to).tgid = A::load(task, OFF_TASK_TGID.load());
        (*to).tid = A::load(task, OFF_TASK_PID.load());
        let compat = if is_compat::<A>(task) { TASK_COMPAT } else { 0 };
        (*to).flags = A::load::<u32>(task, OFF_TASK_FLAGS.load()) & !TASK_COMPAT | compat;
        (*to).start_boot_ns = A::load(leader, OFF_TASK_START_BOOTTIME.load());
        (*to).uid = A::load(cred, OFF_CRED_UID.load());
        (*to).gid = A::load(cred, OFF_CRED_GID.load());
        (*to).exec_id = exec_id::<A>(task);
        leader
    }
}

/// Whether a task runs a 32-bit program or is within a 32-bit system call.
#[inline(always)]
unsafe fn is_compat<A: Access>(task: *const c_void) -> bool {
    if OFF_TASK_TI_FLAGS.load() == OFFSET_NONE {
        return false;
    }
    // SAFETY: the caller's task.
    unsafe {
        in_compat_call::<A>(task)
            || (OFF_TASK_TI_STATUS.load() != OFFSET_NONE
                && A::load::<u64>(task, OFF_TASK_TI_FLAGS.load()) & TIF_ADDR32 != 0)
    }
}

/// Whether a task is within a 32-bit system call.
///
/// # Safety
/// `task` is a task, for this access.
#[inline(always)]
pub(crate) unsafe fn in_compat_call<A: Access>(task: *const c_void) -> bool {
    // Only x86 has this member.
    // SAFETY: the caller's task.
    OFF_TASK_TI_STATUS.load() != OFFSET_NONE
        && unsafe { A::load::<u32>(task, OFF_TASK_TI_STATUS.load()) & TS_COMPAT != 0 }
}

/// Low half of the count of execs ([`Task::exec_id`]). All threads have the same: `de_thread` (fs/exec.c) ends the others.
///
/// # Safety
/// `task` is a task, for this access.
#[inline(always)]
pub(crate) unsafe fn exec_id<A: Access>(task: *const c_void) -> u32 {
    if OFF_TASK_SELF_EXEC_ID.load() == OFFSET_NONE {
        return 0;
    }
    // SAFETY: the caller's task.
    unsafe { A::load::<u64>(task, OFF_TASK_SELF_EXEC_ID.load()) as u32 }
}

/// Inode number of a task's mount namespace; 0: not known. An exiting task has none (`exit_task_namespaces`).
///
/// # Safety
/// `task` is a task.
#[inline(always)]
pub(crate) unsafe fn mnt_ns(task: *const c_void) -> u32 {
    if OFF_TASK_NSPROXY.load() == OFFSET_NONE
        || OFF_NSPROXY_MNT_NS.load() == OFFSET_NONE
        || OFF_MNT_NS_INUM.load() == OFFSET_NONE
    {
        return 0;
    }
    // SAFETY: everything is read by the helper.
    unsafe {
        let nsproxy = Probe::pointer(task, OFF_TASK_NSPROXY.load());
        let mnt_ns = Probe::pointer(nsproxy, OFF_NSPROXY_MNT_NS.load());
        probe(mnt_ns, OFF_MNT_NS_INUM.load())
    }
}

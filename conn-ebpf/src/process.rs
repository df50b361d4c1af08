//! Processes: fork and exit. Threads are not reported.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use conn_common::hook::HookId;
use conn_common::record::{ExitRecord, ForkRecord, RecordKind};

use crate::backup::Place;
use crate::mem::{Access as _, Direct, Probe, copy, probe};
use crate::offsets::{
    OFF_SIGNAL_GROUP_EXIT_CODE, OFF_SIGNAL_LIVE, OFF_TASK_COMM, OFF_TASK_EXIT_CODE, OFF_TASK_FLAGS,
    OFF_TASK_GROUP_LEADER, OFF_TASK_PID, OFF_TASK_SIGNAL, OFF_TASK_START_BOOTTIME, OFF_TASK_TGID,
};
use crate::ring::reserve;
use crate::task;

const FORK: Place = Place::of(HookId::ProcessFork);
const EXIT: Place = Place::of(HookId::ProcessExit);

#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn process_fork(ctx: BtfTracePointContext) -> i32 {
    forks(HookId::ProcessFork, &ctx)
}

/// See [`crate::backup`].
#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn process_fork_backup(ctx: BtfTracePointContext) -> i32 {
    forks(HookId::ProcessForkBackup, &ctx)
}

/// See [`crate::backup`].
#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn process_fork_second_backup(ctx: BtfTracePointContext) -> i32 {
    forks(HookId::ProcessForkSecondBackup, &ctx)
}

#[inline(always)]
fn forks(hook: HookId, ctx: &BtfTracePointContext) -> i32 {
    let parent: *const c_void = ctx.arg(0);
    let child: *const c_void = ctx.arg(1);
    // SAFETY: TP_PROTO(struct task_struct *parent, struct task_struct *child)
    unsafe {
        if !FORK.must_report(hook, child as u64, 0) {
            return 0;
        }
        let tgid = Direct::load::<u32>(child, OFF_TASK_TGID.load());
        if Direct::load::<u32>(child, OFF_TASK_PID.load()) != tgid {
            return 0;
        }
        if let Some((header, mut entry)) = reserve::<ForkRecord>(hook, RecordKind::Fork) {
            let record = entry.as_mut_ptr();
            let uid_gid = bpf_get_current_uid_gid();
            (*record).header = header;
            (*record).child.tgid = tgid;
            (*record).child.tid = tgid;
            (*record).child.start_boot_ns = Direct::load(child, OFF_TASK_START_BOOTTIME.load());
            (*record).child.uid = uid_gid as u32;
            (*record).child.gid = (uid_gid >> 32) as u32;
            (*record).child.cgroup_id = bpf_get_current_cgroup_id();
            copy(child, OFF_TASK_COMM.load(), (&raw mut (*record).child.comm).cast(), 16);
            (*record).child.flags = Direct::load(child, OFF_TASK_FLAGS.load());
            (*record).child.exec_id = task::exec_id::<Direct>(child);
            (*record).parent_tgid = Direct::load(parent, OFF_TASK_TGID.load());
            (*record).mnt_ns = task::mnt_ns(child);
            let leader = Probe::pointer(parent, OFF_TASK_GROUP_LEADER.load());
            (*record).parent_start_boot_ns = probe(leader, OFF_TASK_START_BOOTTIME.load());
            entry.submit(0);
        }
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn process_exit(ctx: BtfTracePointContext) -> i32 {
    exits(HookId::ProcessExit, &ctx)
}

/// See [`crate::backup`].
#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn process_exit_backup(ctx: BtfTracePointContext) -> i32 {
    exits(HookId::ProcessExitBackup, &ctx)
}

/// See [`crate::backup`].
#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn process_exit_second_backup(ctx: BtfTracePointContext) -> i32 {
    exits(HookId::ProcessExitSecondBackup, &ctx)
}

#[inline(always)]
fn exits(hook: HookId, ctx: &BtfTracePointContext) -> i32 {
    let exiting: *const c_void = ctx.arg(0);
    // SAFETY: TP_PROTO(struct task_struct *p[, bool group_dead])
    unsafe {
        if !EXIT.must_report(hook, exiting as u64, 0) {
            return 0;
        }
        // The leader's exit is not the process's: `do_exit` counts `signal->live` down before the tracepoint.
        let signal = Probe::pointer(exiting, OFF_TASK_SIGNAL.load());
        if probe::<i32>(signal, OFF_SIGNAL_LIVE.load()) != 0 {
            return 0;
        }
        if let Some((header, mut entry)) = reserve::<ExitRecord>(hook, RecordKind::Exit) {
            let record = entry.as_mut_ptr();
            (*record).header = header;
            task::fill_current(&raw mut (*record).task);
            let group = probe::<u32>(signal, OFF_SIGNAL_GROUP_EXIT_CODE.load());
            let own = Direct::load::<u32>(exiting, OFF_TASK_EXIT_CODE.load());
            (*record).exit_code = if group != 0 { group } else { own };
            (*record).reserved = 0;
            entry.submit(0);
        }
    }
    0
}

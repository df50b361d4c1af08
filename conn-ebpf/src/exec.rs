//! Exec: who a process is from now on, with path and arguments as the kernel has them, so that a process that lives
//! for a millisecond still has a name.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user};
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use conn_common::config::OFFSET_NONE;
use conn_common::hook::HookId;
use conn_common::record::{
    EXEC_ARGS_MAX, EXEC_FILENAME_MAX, EXEC_PATH_MAX, ExecFlags, ExecRecord, RecordKind,
};

use crate::backup::Place;
use crate::fd;
use crate::log::Anywhere;
use crate::mem::{Access as _, Common as _, Probe, current, probe};
use crate::offsets::{
    OFF_BPRM_FILE, OFF_BPRM_FILENAME, OFF_DENTRY_NAME, OFF_DENTRY_PARENT, OFF_FILE_INODE,
    OFF_FILE_PATH_DENTRY, OFF_FILE_PATH_MNT, OFF_INODE_INO, OFF_INODE_NLINK, OFF_INODE_SB, OFF_MM_ARG_END,
    OFF_MM_ARG_START, OFF_MNT_NS_INUM, OFF_MOUNT_MNT, OFF_MOUNT_MNT_NS, OFF_MOUNT_MOUNTPOINT,
    OFF_MOUNT_PARENT, OFF_SB_DEV, OFF_SKC_FAMILY, OFF_TASK_LOGINUID, OFF_TASK_MM, OFF_TASK_REAL_PARENT,
    OFF_TASK_TGID, OFF_VFSMOUNT_ROOT,
};
use crate::ring::{header, output};
use crate::sock::{self, AF_INET, AF_INET6};
use crate::task;

/// Longest name of a path component, with its NUL (`NAME_MAX`).
const NAME_ROOM: usize = 256;
/// Components and mounts that a path may cross.
const STEPS: u32 = 48;

/// The record is larger than the stack; the arguments follow it, and catch a name that runs over the path's end.
#[repr(C)]
struct Scratch {
    record: ExecRecord,
    args: [u8; EXEC_ARGS_MAX],
}

const _: () = assert!(EXEC_ARGS_MAX >= NAME_ROOM && EXEC_PATH_MAX.is_power_of_two());

/// One for each program of the place: any of them may be preempted while it fills its own.
#[map]
static EXEC_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(3, 0);

const EXEC: Place = Place::of(HookId::ProcessExec);

#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn process_exec(ctx: BtfTracePointContext) -> i32 {
    execs(HookId::ProcessExec, 0, &ctx)
}

/// See [`crate::backup`].
#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn process_exec_backup(ctx: BtfTracePointContext) -> i32 {
    execs(HookId::ProcessExecBackup, 1, &ctx)
}

/// See [`crate::backup`].
#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn process_exec_second_backup(ctx: BtfTracePointContext) -> i32 {
    execs(HookId::ProcessExecSecondBackup, 2, &ctx)
}

#[inline(always)]
fn execs(hook: HookId, slot: u32, ctx: &BtfTracePointContext) -> i32 {
    if !EXEC.must_report(hook, ctx.arg(0), 0) {
        return 0;
    }
    let bprm: *const c_void = ctx.arg(2);
    let Some(scratch) = EXEC_SCRATCH.get_ptr_mut(slot) else { return 0 };
    let Some((header, counters)) = header(hook, RecordKind::Exec, size_of::<ExecRecord>()) else {
        return 0;
    };
    // SAFETY: TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm); the scratch is this CPU's.
    unsafe {
        let record = &raw mut (*scratch).record;
        (*record).header = header;
        task::fill_current(&raw mut (*record).task);
        let task = current();
        let parent = Probe::pointer(task, OFF_TASK_REAL_PARENT.load());
        (*record).parent_tgid = probe(parent, OFF_TASK_TGID.load());
        (*record).login_uid = if OFF_TASK_LOGINUID.load() == OFFSET_NONE {
            u32::MAX
        } else {
            probe(task, OFF_TASK_LOGINUID.load())
        };
        let file = Probe::pointer(bprm, OFF_BPRM_FILE.load());
        let inode = Probe::pointer(file, OFF_FILE_INODE.load());
        (*record).exe_inode = probe(inode, OFF_INODE_INO.load());
        (*record).exe_nlink = probe(inode, OFF_INODE_NLINK.load());
        let super_block = Probe::pointer(inode, OFF_INODE_SB.load());
        (*record).exe_dev = probe(super_block, OFF_SB_DEV.load());
        (*record).mnt_ns = task::mnt_ns(task);
        (*record).exe_mnt_ns = mnt_ns_of(file);

        let stdio = [standard(task, 0), standard(task, 1)];
        (*record).stdio = stdio;
        (*record).parent_stdio = if stdio[0] | stdio[1] != 0 {
            0
        } else {
            // A program that hands its connection to a pseudo-terminal is the parent of the shell on it.
            match standard(parent, 0) {
                0 => standard(parent, 1),
                key => key,
            }
        };

        let name = Probe::pointer(bprm, OFF_BPRM_FILENAME.load());
        let filename = (&raw mut (*record).filename).cast();
        let read = bpf_probe_read_kernel_str(filename, EXEC_FILENAME_MAX as u32, name);
        (*record).filename_len = if read > 0 { (read - 1) as u16 } else { 0 };

        let (path_len, path_flags) = path(file, (&raw mut (*record).path).cast());
        (*record).path_len = path_len as u16;
        let (args_len, args_flags) = arguments(task, (&raw mut (*scratch).args).cast());
        (*record).args_len = args_len as u16;
        (*record).flags = path_flags | args_flags;
        if path_flags & ExecFlags::PATH_COMPLETE == 0 {
            debug!(
                &Anywhere,
                "exec by {}: the path is longer than {} bytes or {} steps",
                (*record).task.tgid,
                EXEC_PATH_MAX,
                STEPS
            );
        }
        if args_flags & ExecFlags::ARGS_FAULT != 0 {
            debug!(&Anywhere, "exec by {}: the arguments cannot be read", (*record).task.tgid);
        }
        (*record).header.len = (size_of::<ExecRecord>() + args_len) as u16;
        output(core::slice::from_raw_parts(scratch.cast(), size_of::<ExecRecord>() + args_len), counters);
    }
    0
}

/// The key of the TCP socket that is this descriptor of a task, 0 without.
#[inline(always)]
unsafe fn standard(task: *const c_void, number: u64) -> u64 {
    // SAFETY: a task, read by the helper, as everything behind it.
    unsafe {
        let fds = fd::descriptors::<Probe>(task, number);
        if fds.is_null() {
            return 0;
        }
        let sk = fd::sock(fds, number);
        if sk.is_null() {
            return 0;
        }
        let Some(ours) = sock::handed_out::<Probe>(sk) else { return 0 };
        let common = Probe::common(sk);
        let family = common.load::<u16>(OFF_SKC_FAMILY.load());
        if family == AF_INET || family == AF_INET6 { sock::key::<Probe>(ours, &common, (0, 0)).0 } else { 0 }
    }
}

/// Inode number of the mount namespace that a file's mount is in; 0: none. A mount of the kernel's own has an error for a
/// pointer (`MNT_NS_INTERNAL`), a detached one none or a namespace without a number (fs/namespace.c).
#[inline(always)]
unsafe fn mnt_ns_of(file: *const c_void) -> u32 {
    if OFF_MOUNT_MNT.load() == OFFSET_NONE
        || OFF_MOUNT_MNT_NS.load() == OFFSET_NONE
        || OFF_MNT_NS_INUM.load() == OFFSET_NONE
    {
        return 0;
    }
    // SAFETY: everything is read by the helper.
    unsafe {
        let vfsmount = Probe::pointer(file, OFF_FILE_PATH_MNT.load());
        let mount = vfsmount.byte_sub(OFF_MOUNT_MNT.load() as usize);
        let mnt_ns = Probe::pointer(mount, OFF_MOUNT_MNT_NS.load());
        probe(mnt_ns, OFF_MNT_NS_INUM.load())
    }
}

/// Writes the names from the file up to the root of its mount namespace; the bytes written, and flags.
///
/// At the root of a mount the walk goes on at its mount point (`d_path`, fs/d_path.c: `prepend_path`).
#[inline(always)]
unsafe fn path(file: *const c_void, to: *mut u8) -> (usize, u16) {
    // SAFETY: everything is read by the helper; writes stay within the path and the arguments behind it.
    unsafe {
        let mut dentry = Probe::pointer(file, OFF_FILE_PATH_DENTRY.load());
        let mut vfsmount = Probe::pointer(file, OFF_FILE_PATH_MNT.load());
        let have_mounts = OFF_MOUNT_MNT.load() != OFFSET_NONE
            && OFF_MOUNT_PARENT.load() != OFFSET_NONE
            && OFF_MOUNT_MOUNTPOINT.load() != OFFSET_NONE
            && OFF_VFSMOUNT_ROOT.load() != OFFSET_NONE;
        let mut len = 0usize;
        let mut flags = 0;
        for step in 0..STEPS {
            let parent = Probe::pointer(dentry, OFF_DENTRY_PARENT.load());
            let at_mount_root = have_mounts && Probe::pointer(vfsmount, OFF_VFSMOUNT_ROOT.load()) == dentry;
            if at_mount_root || parent == dentry {
                if have_mounts {
                    let mount = vfsmount.byte_sub(OFF_MOUNT_MNT.load() as usize);
                    let up = Probe::pointer(mount, OFF_MOUNT_PARENT.load());
                    if up != mount && !up.is_null() {
                        // Also of the file itself: a single file can be bind-mounted.
                        dentry = Probe::pointer(mount, OFF_MOUNT_MOUNTPOINT.load());
                        vfsmount = up.byte_add(OFF_MOUNT_MNT.load() as usize);
                        continue;
                    }
                    if step != 0 {
                        flags = ExecFlags::PATH_COMPLETE;
                        break;
                    }
                } else if step != 0 {
                    break;
                }
                // The file itself always has a name: a memfd is the root of its own mount.
            }
            if len > EXEC_PATH_MAX - NAME_ROOM {
                break;
            }
            let name = Probe::pointer(dentry, OFF_DENTRY_NAME.load());
            let at = to.add(len & (EXEC_PATH_MAX - 1));
            let read = bpf_probe_read_kernel_str(at.cast(), NAME_ROOM as u32, name);
            if read <= 1 {
                break;
            }
            len += read as usize & (2 * NAME_ROOM - 1);
            dentry = parent;
        }
        (len, flags)
    }
}

/// Copies the arguments; the bytes copied, and flags. The pages were just written (`copy_strings`), so they are there.
#[inline(always)]
unsafe fn arguments(task: *const c_void, to: *mut c_void) -> (usize, u16) {
    // SAFETY: everything is read by the helpers; `to` has room for EXEC_ARGS_MAX bytes.
    unsafe {
        let mm = Probe::pointer(task, OFF_TASK_MM.load());
        let start = probe::<u64>(mm, OFF_MM_ARG_START.load());
        let end = probe::<u64>(mm, OFF_MM_ARG_END.load());
        let all = end.wrapping_sub(start);
        let (len, flags) = if all > EXEC_ARGS_MAX as u64 {
            (EXEC_ARGS_MAX as u64, ExecFlags::ARGS_TRUNCATED)
        } else {
            (all, 0)
        };
        if bpf_probe_read_user(to, len as u32, start as *const c_void) != 0 {
            return (0, flags | ExecFlags::ARGS_FAULT);
        }
        (len as usize, flags)
    }
}

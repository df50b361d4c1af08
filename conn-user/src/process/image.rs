//! What a record, or /proc, says of a process image.

use std::sync::Arc;

use conn_common::record::{ExecFlags, ExecRecord, PF_KTHREAD, Task};

use super::args::{split_args, until_nul};
use super::identity::Identity;
use super::info::{FileId, ProcessInfo, ProcessSource};
use super::procfs::ProcImage;
use crate::units::{BootNs, Pid};

/// The name of a task without its padding.
pub(super) fn comm(task: &Task) -> &[u8] {
    until_nul(&task.comm)
}

/// The path that the record carries whole, from the root.
pub(super) fn complete_path(record: &ExecRecord) -> Option<Arc<[u8]>> {
    if record.flags & ExecFlags::PATH_COMPLETE == 0 {
        return None;
    }
    let names = record.path.get(..usize::from(record.path_len))?;
    let mut path = Vec::with_capacity(names.len() + 1);
    for name in names.split(|&b| b == 0).rev().filter(|name| !name.is_empty()) {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    (!path.is_empty()).then(|| path.into())
}

/// The name as it was given to exec, if any.
pub(super) fn filename(record: &ExecRecord) -> Option<Arc<[u8]>> {
    let name = until_nul(record.filename.get(..usize::from(record.filename_len))?);
    (!name.is_empty()).then(|| name.into())
}

/// What every hook carries.
pub(super) fn hook_only(task: &Task) -> ProcessInfo {
    ProcessInfo {
        comm: comm(task).into(),
        uid: task.uid,
        gid: task.gid,
        cgroup_id: task.cgroup_id,
        kernel: task.flags & PF_KTHREAD != 0,
        ..ProcessInfo::new(Pid(task.tgid), BootNs(task.start_boot_ns))
    }
}

/// What an exec record says. `args` are the bytes behind it.
pub(super) fn executed(record: &ExecRecord, args: &[u8]) -> ProcessInfo {
    ProcessInfo {
        ppid: (record.parent_tgid != 0).then_some(Pid(record.parent_tgid)),
        exe: complete_path(record),
        exe_deleted: record.exe_nlink == 0,
        exe_file: FileId::from_kernel(record.exe_dev, record.exe_inode),
        args: split_args(args),
        args_truncated: record.flags & (ExecFlags::ARGS_TRUNCATED | ExecFlags::ARGS_FAULT) != 0,
        login_uid: (record.login_uid != u32::MAX).then_some(record.login_uid),
        kernel: false,
        source: ProcessSource::Exec,
        identity: Identity::executed_at(BootNs(record.header.boot_ns)),
        ..hook_only(&record.task)
    }
}

/// What a child has from its parent.
pub(super) fn inherit(child: &mut ProcessInfo, parent: &ProcessInfo) {
    child.exe.clone_from(&parent.exe);
    child.exe_deleted = parent.exe_is_deleted();
    child.exe_file = parent.exe_file;
    child.exe_is_conn = parent.exe_is_conn;
    child.args.clone_from(&parent.args);
    child.args_truncated = parent.args_truncated;
    child.identity = parent.identity.forked();
    child.source = ProcessSource::Fork;
}

/// What /proc says, but for the cgroup and the mount namespace.
pub(super) fn scanned(seen: ProcImage) -> ProcessInfo {
    let mut info = ProcessInfo {
        start_is_coarse: true,
        ppid: seen.ppid,
        comm: seen.comm.clone(),
        uid: seen.uid,
        gid: seen.gid,
        login_uid: seen.login_uid,
        kernel: seen.kernel,
        ..ProcessInfo::new(seen.pid, seen.start)
    };
    take_image(&mut info, seen);
    info
}

/// Takes over what /proc says of the image. A process may set all of it (PR_SET_MM_MAP), so it never takes the place of what
/// the kernel reported.
pub(super) fn take_image(info: &mut ProcessInfo, seen: ProcImage) {
    info.exe = seen.exe;
    info.exe_deleted = seen.exe_deleted;
    info.exe_file = seen.exe_file;
    info.args = seen.args;
    info.args_truncated = seen.args_truncated;
    info.source = ProcessSource::ProcScan;
    info.identity = Identity::default();
    if let Some(is_host) = seen.exe_is_host {
        info.identity.set_exe_is_host(is_host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::exec_record;

    #[test]
    fn path_is_turned_round() {
        let record = exec_record(1, 1, "/usr/bin/python3");
        assert_eq!(complete_path(&record).as_deref(), Some(&b"/usr/bin/python3"[..]));
    }

    #[test]
    fn path_that_is_not_complete_is_none() {
        let mut record = exec_record(1, 1, "/usr/bin/python3");
        record.flags = 0;
        assert_eq!(complete_path(&record), None);
    }

    #[test]
    fn lengths_beyond_the_fields_are_none() {
        let mut record = exec_record(1, 1, "/bin/x");
        record.path_len = u16::MAX;
        record.filename_len = u16::MAX;
        assert_eq!(complete_path(&record), None);
        assert_eq!(filename(&record), None);
    }

    #[test]
    fn memfd_has_one_component() {
        let record = exec_record(1, 1, "/memfd:x");
        assert_eq!(complete_path(&record).as_deref(), Some(&b"/memfd:x"[..]));
    }
}

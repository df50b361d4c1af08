//! What a record, or /proc, says of a process image.

use std::sync::Arc;

use conn_common::record::{ExecFlags, ExecRecord, PF_KTHREAD, Task};

use super::identity::Identity;
use super::info::{FileId, ProcessInfo, ProcessSource};
use super::procfs::ProcImage;
use crate::units::{BootNs, Pid};

/// The name of a task without its padding.
pub(super) fn comm(task: &Task) -> &[u8] {
    until_nul(&task.comm)
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    &bytes[..end]
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

/// Splits arguments at their NULs; the last one may lack its NUL.
pub(super) fn split_args(bytes: &[u8]) -> Box<[Box<[u8]>]> {
    if bytes.is_empty() {
        return Box::default();
    }
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|&b| b == 0).map(Into::into).collect()
}

/// Splits what `/proc/PID/cmdline` shows. A process that writes a title over its arguments fills the rest of them with NULs
/// (`setproctitle`), which are no arguments; one empty argument behind others may have been passed.
pub(super) fn split_title(bytes: &[u8]) -> Box<[Box<[u8]>]> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let (title, nuls) = bytes.split_at(end);
    let was_passed = nuls.len() == 2 && title.contains(&0);
    split_args(if nuls.len() < 2 || was_passed { bytes } else { title })
}

/// Whether arguments are the same but for empty ones at their ends, which [`split_title`] may not show.
pub(super) fn are_alike(executed: &[Box<[u8]>], seen: &[Box<[u8]>]) -> bool {
    let filled = |args: &[Box<[u8]>]| args.iter().rposition(|arg| !arg.is_empty()).map_or(0, |at| at + 1);
    executed[..filled(executed)] == seen[..filled(seen)]
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

    #[test]
    fn a_title_leaves_no_empty_arguments() {
        let split = |bytes: &[u8]| split_title(bytes).iter().map(|arg| arg.to_vec()).collect::<Vec<_>>();
        assert_eq!(split(b"nginx: master process\0\0\0\0\0\0"), [b"nginx: master process"]);
        assert_eq!(split(b"postgres: writer\0\0"), [b"postgres: writer"]);
        assert_eq!(split(b"a\0-b\0\0\0\0"), [&b"a"[..], b"-b"], "what is left of a longer line");
        assert_eq!(split(b"grep\0\0"), [b"grep"], "a title as likely as an argument");
        assert_eq!(split(b"grep\0-e\0\0"), [&b"grep"[..], b"-e", b""], "it may have been passed");
        assert_eq!(split(b"a\0\0b\0"), [&b"a"[..], b"", b"b"]);
        assert_eq!(split(b"a\0b"), [b"a", b"b"]);
        assert_eq!((split(b"").len(), split(b"\0").len(), split(b"\0\0\0").len()), (0, 1, 0));
    }

    #[test]
    fn empty_arguments_at_the_end_make_no_other_image() {
        let are = |executed: &[u8], seen: &[u8]| are_alike(&split_args(executed), &split_title(seen));
        assert!(are(b"x\0\0\0", b"x\0\0\0") && are(b"x\0\0", b"x\0\0"));
        assert!(!are(b"x\0y\0", b"x\0\0\0") && !are(b"x\0\0y\0", b"x\0y\0"));
    }

    #[test]
    fn args_keep_empty_ones() {
        let args = split_args(b"a\0\0b\0");
        assert_eq!(args.iter().map(|a| &a[..]).collect::<Vec<_>>(), [&b"a"[..], b"", b"b"]);
        assert_eq!(split_args(b"a\0b").len(), 2);
        assert_eq!(split_args(b"").len(), 0);
        assert_eq!(split_args(b"\0").len(), 1);
    }
}

//! Builders of process records, and a /proc without a kernel.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use conn_common::record::{
    EXEC_FILENAME_MAX, EXEC_PATH_MAX, ExecFlags, ExecRecord, ExitRecord, ForkRecord, RecordHeader, Task,
};

use super::cgroup::CgroupOf;
use super::info::TICK_NS;
use super::procfs::{ProcImage, ProcSource};
use super::table::{ProcessLimits, ProcessTable};
use super::users::Users;
use crate::units::{BootNs, Pid};

/// The host's mount namespace.
pub(crate) const HOST_MNT_NS: u32 = 4_026_531_841;

/// A second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// A task that started at `start` and is called `comm`.
pub(crate) fn task(tgid: u32, start: u64, name: &str) -> Task {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    Task {
        tgid,
        tid: tgid,
        start_boot_ns: start,
        uid: 1000,
        gid: 100,
        cgroup_id: 7,
        comm,
        flags: 0,
        exec_id: 0,
    }
}

pub(crate) fn header(boot_ns: u64) -> RecordHeader {
    RecordHeader { boot_ns, ..RecordHeader::default() }
}

pub(crate) fn fork_record(parent: (u32, u64), child: Task) -> ForkRecord {
    ForkRecord {
        header: header(child.start_boot_ns),
        child,
        parent_tgid: parent.0,
        mnt_ns: HOST_MNT_NS,
        parent_start_boot_ns: parent.1,
    }
}

/// An exec of `path`, whose last component (its first 15 bytes) becomes the name.
pub(crate) fn exec_record(tgid: u32, start: u64, path: &str) -> ExecRecord {
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut record = ExecRecord {
        header: header(start + 1),
        task: task(tgid, start, &name[..name.len().min(15)]),
        exe_inode: 5,
        stdio: [0; 2],
        parent_stdio: 0,
        exe_dev: 1,
        exe_nlink: 1,
        parent_tgid: 1,
        login_uid: 1000,
        mnt_ns: HOST_MNT_NS,
        exe_mnt_ns: HOST_MNT_NS,
        filename_len: path.len() as u16,
        path_len: 0,
        args_len: 0,
        flags: ExecFlags::PATH_COMPLETE,
        filename: [0; EXEC_FILENAME_MAX],
        path: [0; EXEC_PATH_MAX],
    };
    record.filename[..path.len()].copy_from_slice(path.as_bytes());
    let mut at = 0;
    for name in path.split('/').rev().filter(|name| !name.is_empty()) {
        record.path[at..at + name.len()].copy_from_slice(name.as_bytes());
        at += name.len() + 1;
    }
    record.path_len = at as u16;
    record
}

pub(crate) fn exit_record(task: Task, boot_ns: u64) -> ExitRecord {
    ExitRecord { header: header(boot_ns), task, exit_code: 0, reserved: 0 }
}

/// A /proc that the test fills; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeProc {
    images: Arc<Mutex<BTreeMap<u32, ProcImage>>>,
    reads: Arc<Mutex<Vec<u32>>>,
    cgroups: Arc<Mutex<BTreeMap<u64, Box<[u8]>>>>,
}

impl FakeProc {
    pub(crate) fn put(&self, pid: u32, start: u64, exe: &str) {
        let image = ProcImage {
            pid: Pid(pid),
            start: BootNs(start / TICK_NS * TICK_NS),
            ppid: (pid != 1).then_some(Pid(1)),
            comm: b"scanned"[..].into(),
            exe: Some(exe.as_bytes().into()),
            exe_deleted: false,
            exe_file: None,
            exe_is_host: None,
            mnt_ns: Some(HOST_MNT_NS),
            args: [exe.as_bytes().into()].into(),
            args_truncated: false,
            uid: 1000,
            gid: 100,
            login_uid: Some(1000),
            cgroup: None,
            kernel: false,
        };
        self.put_image(image);
    }

    pub(crate) fn put_image(&self, image: ProcImage) {
        let pid = image.pid.0;
        self.images.lock().expect("lock").insert(pid, image);
    }

    /// A cgroup that exists.
    pub(crate) fn put_cgroup(&self, id: u64, path: &str) {
        self.cgroups.lock().expect("lock").insert(id, path.as_bytes().into());
    }

    pub(crate) fn remove_cgroup(&self, id: u64) {
        self.cgroups.lock().expect("lock").remove(&id);
    }

    pub(crate) fn remove(&self, pid: u32) {
        self.images.lock().expect("lock").remove(&pid);
    }

    /// The processes that were read, in order.
    pub(crate) fn reads(&self) -> Vec<u32> {
        self.reads.lock().expect("lock").clone()
    }

    pub(crate) fn table(&self) -> ProcessTable {
        self.table_with(ProcessLimits::default())
    }

    pub(crate) fn table_with(&self, limits: ProcessLimits) -> ProcessTable {
        ProcessTable::new(limits, Box::new(self.clone())).with_users(Users::at("/nonexistent"))
    }
}

impl ProcSource for FakeProc {
    fn pids(&self) -> io::Result<Vec<Pid>> {
        Ok(self.images.lock().expect("lock").keys().map(|&pid| Pid(pid)).collect())
    }

    fn read(&self, pid: Pid) -> Option<ProcImage> {
        self.reads.lock().expect("lock").push(pid.0);
        self.images.lock().expect("lock").get(&pid.0).cloned()
    }

    fn cgroup_of(&self, pid: Pid, start: BootNs) -> Option<CgroupOf> {
        let images = self.images.lock().expect("lock");
        let image = images.get(&pid.0).filter(|image| image.start.0 / TICK_NS == start.0 / TICK_NS)?;
        image.cgroup.clone()
    }

    fn host_mnt_ns(&self) -> Option<u32> {
        Some(HOST_MNT_NS)
    }

    fn cgroup_path(&self, id: u64) -> Option<Box<[u8]>> {
        self.cgroups.lock().expect("lock").get(&id).cloned()
    }
}

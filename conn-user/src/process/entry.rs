//! What the table knows of one process.

use std::sync::Arc;

use conn_common::record::Task;

use super::about::About;
use super::identity::Identity;
use super::image::comm;
use super::info::{ProcessInfo, ProcessSource};
use super::inspect::{Depth, Inspector};
use super::lineage::{self, Ancestor};
use crate::units::{BootNs, Pid};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info: Arc<ProcessInfo>,
    /// Names the entry: its start may still become exact.
    pub(super) serial: u64,
    pub(super) exited: bool,
    /// How often the process has executed a program, as the kernel counts ([`Task::exec_id`]), when it became what it is now.
    /// `None`: not known.
    pub(super) execs: Option<u32>,
    /// It has used the network as what it is now, so all was asked about it.
    pub(super) used: bool,
    /// What it is now was in an event, or ran before anything was judged.
    pub(super) reported: bool,
    /// Process 1 took it over from who created it, of whom nothing is known.
    pub(super) adopted: bool,
    /// What was known of the parent whose copy it is.
    pub(super) parent: Option<Identity>,
    /// The ancestors of its children, made with the first one.
    pub(super) below: Option<Arc<[Ancestor]>>,
}

/// That a process exited, and when.
#[derive(Debug)]
pub(super) struct Exited {
    pub(super) at: BootNs,
    pub(super) pid: Pid,
    pub(super) serial: u64,
}

/// Whether a count is later than another one; both wrap.
pub(super) const fn is_later(count: u32, known: u32) -> bool {
    count.wrapping_sub(known).cast_signed() > 0
}

impl Entry {
    /// A process of which nothing was asked yet.
    pub(super) const fn new(info: Arc<ProcessInfo>, serial: u64) -> Self {
        Self {
            info,
            serial,
            exited: false,
            execs: None,
            used: false,
            reported: false,
            adopted: false,
            parent: None,
            below: None,
        }
    }

    /// Whether the exec with this number ([`Task::exec_id`]; 0: the kernel does not number them) made it what it is.
    pub(super) fn was_executed_by(&self, exec_id: u32) -> bool {
        exec_id != 0 && self.execs == Some(exec_id) && self.info.source == ProcessSource::Exec
    }

    /// The process has become another image.
    pub(super) fn replace(&mut self, mut info: ProcessInfo) -> Arc<ProcessInfo> {
        info.presence = self.info.presence.clone();
        self.info = Arc::new(info);
        self.below = None;
        self.used = false;
        self.reported = false;
        self.parent = None;
        Arc::clone(&self.info)
    }

    /// The ancestors of a child that is created now.
    pub(super) fn below(&mut self) -> Arc<[Ancestor]> {
        let is_host = self.info.identity.exe_is_host();
        let is_so = |below: &Arc<[Ancestor]>| below.first().is_some_and(|own| own.exe_is_host == is_host);
        let below = self.below.take().filter(is_so).unwrap_or_else(|| lineage::below(&self.info));
        Arc::clone(self.below.insert(below))
    }

    /// It uses the network for the first time as what it is now.
    #[cold]
    pub(super) fn first_use(&mut self, inspector: Option<&Inspector>) {
        self.used = true;
        let parent = self.parent.take();
        match inspector.filter(|_| !self.info.kernel && self.info.pid.0 != 0) {
            Some(inspector) => inspector.ask(&self.info, Depth::All, parent),
            // Nothing will be found out: nobody may wait for it.
            None => self.info.identity.settle(),
        }
    }

    /// Whether anything besides the table refers to the process: to what it is now, or to what it was before.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.info) > 1 || self.info.presence.is_shared()
    }

    /// Whether the kernel has counted an exec that no record reported. The first count that is known is taken as it is.
    #[inline]
    pub(super) fn has_missed_exec(&mut self, execs: u32) -> bool {
        is_later(execs, *self.execs.get_or_insert(execs))
    }

    /// Marks it as exited; `None` when it was before.
    pub(super) fn exit(&mut self, at: BootNs) -> Option<Exited> {
        let again = std::mem::replace(&mut self.exited, true);
        (!again).then_some(Exited { at, pid: self.info.pid, serial: self.serial })
    }

    /// Whether it is as a hook says that the process is now.
    #[inline]
    pub(super) fn is_as(&self, task: &Task) -> bool {
        let info = &*self.info;
        *info.comm == *comm(task)
            && info.uid == task.uid
            && info.gid == task.gid
            && info.cgroup_id == task.cgroup_id
            && !info.start_is_coarse
    }

    /// Takes over what a hook says of the process now.
    #[inline]
    pub(super) fn refresh(&mut self, task: &Task, about: &mut About) {
        if !self.is_as(task) {
            self.update(task, about);
        }
    }

    #[cold]
    fn update(&mut self, task: &Task, about: &mut About) {
        self.below = None;
        let info = Arc::make_mut(&mut self.info);
        info.start = BootNs(task.start_boot_ns);
        info.start_is_coarse = false;
        // What a dying process does to its ids and its cgroup says nothing of its connections.
        if !self.exited {
            let (uid, cgroup_id) = (info.uid, info.cgroup_id);
            info.comm = comm(task).into();
            info.uid = task.uid;
            info.gid = task.gid;
            info.cgroup_id = task.cgroup_id;
            if (uid, cgroup_id) != (task.uid, task.cgroup_id) {
                about.describe(info, None);
            }
        }
    }
}

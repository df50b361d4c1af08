//! The process table: (process id, start) to what is known of the process.
//!
//! The hot path is [`ProcessTable::resolve`]: one look-up, and nothing allocated unless the process changed its name,
//! user, group or cgroup. /proc is read for a process that no record reported, once.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conn_common::record::{ExecFlags, ExecRecord, ExitRecord, ForkRecord, Task};

use super::about::About;
use super::entries::Entries;
use super::entry::Entry;
use super::guarded::GuardedProc;
use super::identity::Identity;
use super::image::{executed, filename, hook_only, inherit, take_image};
use super::info::{ProcessInfo, ProcessSource, is_same_tick};
use super::inspect::{Answer, Comparer, Depth, InspectStats, Inspector};
use super::own::Own;
use super::procfs::{ProcImage, ProcSource, ProcStats};
use super::users::Users;
use crate::kernel::execs::CountExecs;
use crate::units::{BootNs, DurationNs, Pid};

/// Bounds of a [`ProcessTable`].
#[derive(Clone, Copy, Debug)]
pub struct ProcessLimits {
    /// Most processes that are remembered, exited ones included.
    pub max: usize,
    /// How long an exited process is remembered, in the time of the records: its sockets are closed after its exit
    /// record (`do_exit`: `exit_files` and task work come after the tracepoint). One that something still refers to (a
    /// connection, a listener) stays longer.
    pub grace: DurationNs,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self { max: 131_072, grace: DurationNs(5_000_000_000) }
    }
}

/// Counters of a [`ProcessTable`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessStats {
    /// Processes in the table.
    pub known: usize,
    /// Of these, exited ones.
    pub exited: usize,
    /// Exited processes that were dropped before their grace was over: limit reached.
    pub evicted: u64,
    /// Processes that were reported but not remembered: limit reached.
    pub not_kept: u64,
    /// Look-ups in /proc for a process that no record had reported.
    pub proc_reads: u64,
    /// Programs that were executed without a record.
    pub missed_execs: u64,
    /// How often the memory of cgroups was full and emptied.
    pub cgroups_forgotten: u64,
    /// What /proc did not show in time.
    pub proc: ProcStats,
    /// What the background did.
    pub inspect: InspectStats,
}

/// All processes that are known, with their images.
pub struct ProcessTable {
    pub(super) entries: Entries,
    pub(super) stats: ProcessStats,
    pub(super) about: About,
    pub(super) execs: Option<Box<dyn CountExecs>>,
    pub(super) inspector: Option<Inspector>,
}

impl std::fmt::Debug for ProcessTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessTable").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Default for ProcessTable {
    fn default() -> Self {
        Self::new(ProcessLimits::default(), Box::new(GuardedProc::default()))
    }
}

impl ProcessTable {
    /// An empty table.
    pub fn new(limits: ProcessLimits, proc: Box<dyn ProcSource>) -> Self {
        Self {
            entries: Entries::new(limits),
            stats: ProcessStats::default(),
            about: About::new(proc),
            execs: None,
            inspector: None,
        }
    }

    /// Lets this one find out more in the background. Without it [`ProcessInfo::identity`] stays empty.
    #[must_use]
    pub fn with_inspector(mut self, inspector: Inspector) -> Self {
        self.inspector = Some(inspector);
        self
    }

    /// Lets this one mark the processes that run this program's own file as this process's user
    /// ([`ProcessInfo::exe_is_conn`]).
    ///
    /// # Errors
    /// When the own executable cannot be read.
    pub fn knowing_conn(mut self) -> io::Result<Self> {
        self.about.own = Some(Own::find(Path::new("/proc"))?);
        Ok(self)
    }

    /// Lets this one ask how often each process has executed a program. Without it a missed exec shows with the next record
    /// of the process.
    #[must_use]
    pub fn with_exec_counts(mut self, execs: Option<Box<dyn CountExecs>>) -> Self {
        self.execs = execs;
        self
    }

    /// Waits until the background has answered all that was asked, but not longer than this. Returns whether it has.
    /// For a snapshot that is shown at once; a stream need not wait.
    pub fn settle(&self, patience: Duration) -> bool {
        let Some(inspector) = &self.inspector else { return true };
        let is_settled = inspector.settle(patience);
        while let Some(answer) = inspector.next_answer() {
            answer.apply();
        }
        is_settled
    }

    /// Resolves when the background has answered since the last call; never without an inspector. May be cancelled.
    pub async fn answered(&self) {
        match &self.inspector {
            Some(inspector) => inspector.answered().await,
            None => std::future::pending().await,
        }
    }

    /// The next answer of the background that has come; whoever takes it has to apply it.
    pub fn next_answer(&self) -> Option<Answer> {
        self.inspector.as_ref()?.next_answer()
    }

    /// Where executables are compared with what their paths lead to; `None` without an inspector.
    pub fn comparer(&self) -> Option<Comparer> {
        self.inspector.as_ref().map(Inspector::comparer)
    }

    /// Takes the names of users from elsewhere than `/etc/passwd`.
    #[must_use]
    pub fn with_users(mut self, users: Users) -> Self {
        self.about.users = users;
        self
    }

    /// The counters.
    pub fn stats(&self) -> ProcessStats {
        ProcessStats {
            known: self.entries.len(),
            exited: self.entries.exited(),
            evicted: self.entries.evicted(),
            not_kept: self.entries.not_kept(),
            cgroups_forgotten: self.about.cgroups_forgotten,
            proc: self.about.proc.stats(),
            inspect: self.inspector.as_ref().map(Inspector::stats).unwrap_or_default(),
            ..self.stats
        }
    }

    /// What is known of a hook's task already, and whether it has exited.
    pub fn known(&mut self, task: &Task) -> Option<(Arc<ProcessInfo>, bool)> {
        let entry = self.entries.find(Pid(task.tgid), BootNs(task.start_boot_ns))?;
        Some((Arc::clone(&entry.info), entry.exited))
    }

    /// A process was created: it is what its parent is, until it executes something.
    pub fn on_fork(&mut self, record: &ForkRecord) -> Arc<ProcessInfo> {
        self.entries.advance(BootNs(record.header.boot_ns));
        let mut info = hook_only(&record.child);
        info.ppid = Some(Pid(record.parent_tgid));
        info.mount_ns = self.about.mount_ns(record.mnt_ns);
        let (mut inherits, mut copied) = (false, None);
        let (parent, start) = (Pid(record.parent_tgid), BootNs(record.parent_start_boot_ns));
        let missed = self.creator(parent, start).is_some_and(|it| it.has_missed_exec(record.child.exec_id));
        if missed {
            self.replace_missed(parent, start, record.child.exec_id);
        }
        if let Some(parent) = self.entries.find(parent, start) {
            let below = parent.below();
            info.ancestors = below;
            info.login_uid = parent.info.login_uid;
            inherits = parent.info.source != ProcessSource::Hook;
            let parent = Arc::clone(&parent.info);
            copied = Some(parent.identity.clone());
            if inherits {
                inherit(&mut info, &parent);
            }
            self.about.describe(&mut info, Some(&parent));
        } else {
            self.about.describe(&mut info, None);
        }
        match self.entries.find(info.pid, info.start) {
            // A scan may have read the new process after its exec: that record is still to come. But what only the
            // scan knows is more than nothing.
            Some(entry) if entry.info.source == ProcessSource::Exec || !inherits => {
                entry.refresh(&record.child, &mut self.about);
                Arc::clone(&entry.info)
            }
            Some(entry) => {
                let info = entry.replace(info);
                entry.parent = copied;
                entry.execs = Some(record.child.exec_id);
                info
            }
            None => {
                let info = self.insert(info, false);
                if let Some(entry) = self.entries.find(info.pid, info.start) {
                    entry.parent = copied;
                    entry.execs = Some(record.child.exec_id);
                }
                info
            }
        }
    }

    /// A process executed a program. `args` are the bytes behind the record.
    pub fn on_exec(&mut self, record: &ExecRecord, args: &[u8]) -> Arc<ProcessInfo> {
        self.entries.advance(BootNs(record.header.boot_ns));
        let (pid, start) = (Pid(record.task.tgid), BootNs(record.task.start_boot_ns));
        if let Some(entry) = self.entries.find(pid, start)
            && entry.was_executed_by(record.task.exec_id)
        {
            // A backup program repeats it. Another image would lack what was found out of this one.
            return Arc::clone(&entry.info);
        }
        let mut info = executed(record, args);
        info.mount_ns = self.about.mount_ns(record.mnt_ns);
        if info.exe.is_some()
            && self.about.mount_ns(record.exe_mnt_ns).is_some_and(|mount_ns| mount_ns.is_host)
        {
            // The path is one of the host's mounts, which no user can lay over.
            info.identity.set_exe_is_host(true);
        }
        let args_failed = record.flags & ExecFlags::ARGS_FAULT != 0;
        if info.exe.is_none() || args_failed {
            if let Some(seen) = self.read_proc(info.pid, info.start) {
                // The link leads where the process wants (PR_SET_MM_MAP), but the file is known.
                if info.exe.is_none() && seen.exe_file.is_some() && seen.exe_file == info.exe_file {
                    info.exe = seen.exe;
                }
                // They may not be those of the exec: they stay marked as incomplete.
                if args_failed {
                    info.args = seen.args;
                }
            }
            info.exe = info.exe.or_else(|| filename(record));
        }
        let before = self.entries.find(info.pid, info.start).map(|entry| Arc::clone(&entry.info));
        self.about.describe(&mut info, before.as_deref());
        info.ancestors = match &before {
            Some(before) if !before.ancestors.is_empty() => Arc::clone(&before.ancestors),
            _ => self.ancestors(info.ppid, info.start),
        };
        let info = match self.entries.find(info.pid, info.start) {
            Some(entry) => entry.replace(info),
            None => self.insert(info, false),
        };
        if let Some(entry) = self.entries.find(info.pid, info.start) {
            entry.execs = Some(record.task.exec_id);
            entry.reported = true;
        }
        match &self.inspector {
            Some(inspector) => inspector.ask(&info, Depth::State, None),
            None => info.identity.settle(),
        }
        info
    }

    /// The last thread of a process exits. The process stays known for the grace. `None`: the idle task.
    pub fn on_exit(&mut self, record: &ExitRecord) -> Option<Arc<ProcessInfo>> {
        self.entries.advance(BootNs(record.header.boot_ns));
        let task = &record.task;
        if task.tgid == 0 {
            return None;
        }
        let Some(entry) = self.entries.find(Pid(task.tgid), BootNs(task.start_boot_ns)) else {
            let mut info = hook_only(task);
            self.about.describe(&mut info, None);
            return Some(self.insert(info, true));
        };
        entry.refresh(task, &mut self.about);
        if entry.has_missed_exec(task.exec_id) {
            self.replace_missed(Pid(task.tgid), BootNs(task.start_boot_ns), task.exec_id);
        }
        let entry = self.entries.find(Pid(task.tgid), BootNs(task.start_boot_ns))?;
        let info = Arc::clone(&entry.info);
        self.entries.exit(info.pid, info.start);
        Some(info)
    }

    /// Who a hook's task is. `now` is the record's time.
    #[inline]
    pub fn resolve(&mut self, task: &Task, now: BootNs) -> Arc<ProcessInfo> {
        if let Some(entry) = self.entries.find(Pid(task.tgid), BootNs(task.start_boot_ns)) {
            entry.refresh(task, &mut self.about);
            if entry.has_missed_exec(task.exec_id) {
                return self.missed(task);
            }
            if !entry.used {
                entry.first_use(self.inspector.as_ref());
            }
            return Arc::clone(&entry.info);
        }
        self.discover(task, now)
    }

    /// A process whose exec record was lost, as it is now.
    #[cold]
    fn missed(&mut self, task: &Task) -> Arc<ProcessInfo> {
        let (pid, start) = (Pid(task.tgid), BootNs(task.start_boot_ns));
        self.replace_missed(pid, start, task.exec_id);
        match self.entries.find(pid, start) {
            Some(entry) => {
                entry.first_use(self.inspector.as_ref());
                Arc::clone(&entry.info)
            }
            None => {
                let info = Arc::new(hook_only(task));
                info.identity.settle();
                info
            }
        }
    }

    /// A process has executed a program that no record reported: what was reported the one before does not hold any more.
    /// What it is now only /proc reports, if anything does, and it is marked so.
    #[cold]
    pub(super) fn replace_missed(&mut self, pid: Pid, start: BootNs, execs: u32) {
        let seen = self.read_proc(pid, start);
        let Some(entry) = self.entries.find(pid, start) else { return };
        let mut info = ProcessInfo {
            exe: None,
            exe_deleted: false,
            exe_file: None,
            args: Box::default(),
            args_truncated: false,
            source: ProcessSource::Hook,
            identity: Identity::default(),
            ..(*entry.info).clone()
        };
        if let Some(seen) = seen.filter(ProcImage::has_image) {
            info.mount_ns = seen.mnt_ns.and_then(|inode| self.about.mount_ns(inode)).or(info.mount_ns);
            take_image(&mut info, seen);
        }
        entry.replace(info);
        entry.execs = Some(execs);
        self.stats.missed_execs += 1;
    }

    /// Adds a process that no record has named before.
    #[cold]
    fn discover(&mut self, task: &Task, now: BootNs) -> Arc<ProcessInfo> {
        self.entries.advance(now);
        let mut info = hook_only(task);
        let mut cgroup = None;
        if task.tgid != 0
            && !info.kernel
            && let Some(seen) = self.read_proc(info.pid, info.start)
        {
            info.ppid = seen.ppid;
            info.login_uid = seen.login_uid;
            info.ancestors = self.ancestors(seen.ppid, info.start);
            cgroup.clone_from(&seen.cgroup);
            info.mount_ns = seen.mnt_ns.and_then(|inode| self.about.mount_ns(inode));
            if seen.has_image() {
                take_image(&mut info, seen);
            }
        }
        self.about.describe_seen(&mut info, cgroup);
        let info = self.insert(info, false);
        if let Some(entry) = self.entries.find(info.pid, info.start) {
            entry.execs = Some(task.exec_id);
            entry.first_use(self.inspector.as_ref());
        }
        info
    }

    /// The creator in a fork record, which names it only by id and start. `None`: it is gone and was never known, or
    /// there is no room for it.
    fn creator(&mut self, pid: Pid, start: BootNs) -> Option<&mut Entry> {
        if pid.0 != 0 && self.entries.find(pid, start).is_none() {
            let seen = self.read_proc(pid, start)?;
            let mut info = ProcessInfo { start, start_is_coarse: false, ..self.about.scanned(seen) };
            info.ancestors = self.ancestors(info.ppid, start);
            self.insert(info, false);
        }
        self.entries.find(pid, start)
    }

    pub(super) fn read_proc(&mut self, pid: Pid, start: BootNs) -> Option<ProcImage> {
        self.stats.proc_reads += 1;
        self.about.proc.read(pid).filter(|seen| is_same_tick(seen.start, start))
    }

    /// Remembers a process that is not in the table, see [`Entries::insert`].
    pub(super) fn insert(&mut self, info: ProcessInfo, exited: bool) -> Arc<ProcessInfo> {
        let proc = &self.about.proc;
        self.entries.insert(info, exited, || proc.pids())
    }
}

#[cfg(test)]
mod tests;

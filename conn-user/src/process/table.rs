//! The process table: (process id, start) to what is known of the process.
//!
//! The hot path is [`ProcessTable::resolve`]: one look-up, and nothing allocated unless the process changed its name,
//! user, group or cgroup. /proc is read for a process that no record told of, once.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use conn_common::record::{ExecFlags, ExecRecord, ExitRecord, ForkRecord, PF_KTHREAD, Task};

use super::hash::IntMap;
use super::image::{comm, complete_path, filename, split_args};
use super::info::{ProcessInfo, ProcessSource};
use super::procfs::{ProcFs, ProcImage, ProcSource};
use crate::units::{BootNs, DurationNs, Pid};

/// Bounds of a [`ProcessTable`].
#[derive(Clone, Copy, Debug)]
pub struct ProcessLimits {
    /// Most processes that are remembered, exited ones included.
    pub max: usize,
    /// How long an exited process is remembered, in the time of the records: its sockets are closed after its exit
    /// record (`do_exit`: `exit_files` and task work come after the tracepoint).
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
    /// Exited processes that were dropped before their grace was over, for want of room.
    pub evicted: u64,
    /// Processes that were told but not remembered, for want of room.
    pub not_kept: u64,
    /// Look-ups in /proc for a process that no record had told of.
    pub proc_reads: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info: Arc<ProcessInfo>,
    /// Names the entry: its start may still become exact.
    serial: u64,
    exited: bool,
}

/// The processes that had one process id, the newest apart.
#[derive(Debug)]
struct Slot {
    newest: Entry,
    older: Vec<Entry>,
}

#[derive(Debug)]
struct Exited {
    at: BootNs,
    pid: Pid,
    serial: u64,
}

/// See the module.
pub struct ProcessTable {
    slots: IntMap<u32, Slot>,
    exits: VecDeque<Exited>,
    known: usize,
    serial: u64,
    clock: BootNs,
    next_sweep: BootNs,
    limits: ProcessLimits,
    stats: ProcessStats,
    pub(super) proc: Box<dyn ProcSource>,
}

impl std::fmt::Debug for ProcessTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessTable").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Default for ProcessTable {
    fn default() -> Self {
        Self::new(ProcessLimits::default(), Box::new(ProcFs::default()))
    }
}

/// Shortest time between two sweeps of a full table against /proc.
const SWEEP_EVERY_NS: u64 = 10_000_000_000;

impl ProcessTable {
    /// An empty table.
    pub fn new(limits: ProcessLimits, proc: Box<dyn ProcSource>) -> Self {
        Self {
            slots: IntMap::default(),
            exits: VecDeque::new(),
            known: 0,
            serial: 0,
            clock: BootNs(0),
            next_sweep: BootNs(0),
            limits,
            stats: ProcessStats::default(),
            proc,
        }
    }

    /// The counters.
    pub fn stats(&self) -> ProcessStats {
        ProcessStats { known: self.known, exited: self.exits.len(), ..self.stats }
    }

    /// What is known of a hook's task already, and whether it has exited.
    pub fn known(&mut self, task: &Task) -> Option<(Arc<ProcessInfo>, bool)> {
        let entry = self.find(Pid(task.tgid), BootNs(task.start_boot_ns))?;
        Some((Arc::clone(&entry.info), entry.exited))
    }

    /// A process was created: it is what its parent is, until it executes something.
    pub fn on_fork(&mut self, record: &ForkRecord) -> Arc<ProcessInfo> {
        self.advance(BootNs(record.header.boot_ns));
        let parent = self.creator(Pid(record.parent_tgid), BootNs(record.parent_start_boot_ns));
        let (pid, start) = (Pid(record.child.tgid), BootNs(record.child.start_boot_ns));
        let mut info = hook_only(&record.child);
        info.ppid = Some(Pid(record.parent_tgid));
        let inherits = parent.as_ref().filter(|parent| parent.source != ProcessSource::Hook);
        if let Some(parent) = inherits {
            inherit(&mut info, parent);
        }
        match self.find(pid, start) {
            // A scan may have read the new process after its exec: that record is still to come. But what only the
            // scan knows is more than nothing.
            Some(entry) if entry.info.source == ProcessSource::Exec || inherits.is_none() => {
                entry.refresh(&record.child);
                Arc::clone(&entry.info)
            }
            Some(entry) => {
                entry.info = Arc::new(info);
                Arc::clone(&entry.info)
            }
            None => self.insert(info, false),
        }
    }

    /// A process executed a program. `args` are the bytes behind the record.
    pub fn on_exec(&mut self, record: &ExecRecord, args: &[u8]) -> Arc<ProcessInfo> {
        self.advance(BootNs(record.header.boot_ns));
        let mut info = hook_only(&record.task);
        info.ppid = (record.parent_tgid != 0).then_some(Pid(record.parent_tgid));
        info.exe = complete_path(record);
        info.exe_deleted = record.exe_nlink == 0;
        info.args = split_args(args);
        info.args_truncated = record.flags & (ExecFlags::ARGS_TRUNCATED | ExecFlags::ARGS_FAULT) != 0;
        info.login_uid = (record.login_uid != u32::MAX).then_some(record.login_uid);
        info.kernel = false;
        info.source = ProcessSource::Exec;
        let args_failed = record.flags & ExecFlags::ARGS_FAULT != 0;
        if info.exe.is_none() || args_failed {
            if let Some(seen) = self.read_proc(info.pid, info.start) {
                if info.exe.is_none() {
                    info.exe = seen.exe;
                    info.exe_deleted |= seen.exe_deleted;
                }
                if args_failed {
                    info.args = seen.args;
                    info.args_truncated = seen.args_truncated;
                }
            }
            info.exe = info.exe.or_else(|| filename(record));
        }
        match self.find(info.pid, info.start) {
            Some(entry) => {
                entry.info = Arc::new(info);
                Arc::clone(&entry.info)
            }
            None => self.insert(info, false),
        }
    }

    /// The last thread of a process exits. The process stays known for the grace. `None`: the idle task.
    pub fn on_exit(&mut self, record: &ExitRecord) -> Option<Arc<ProcessInfo>> {
        self.advance(BootNs(record.header.boot_ns));
        let task = &record.task;
        if task.tgid == 0 {
            return None;
        }
        let now = self.clock;
        let Some(entry) = self.find(Pid(task.tgid), BootNs(task.start_boot_ns)) else {
            return Some(self.insert(hook_only(task), true));
        };
        entry.refresh(task);
        let info = Arc::clone(&entry.info);
        let exit = entry.exit(now);
        self.exits.extend(exit);
        Some(info)
    }

    /// Who a hook's task is. `now` is the record's time.
    #[inline]
    pub fn resolve(&mut self, task: &Task, now: BootNs) -> Arc<ProcessInfo> {
        if let Some(entry) = self.find(Pid(task.tgid), BootNs(task.start_boot_ns)) {
            entry.refresh(task);
            return Arc::clone(&entry.info);
        }
        self.meet(task, now)
    }

    /// Reads every process from /proc. To be called after the programs are attached and before their records are
    /// handled: then no process falls between the two. What exec and fork records told is left alone, so it may be
    /// called again. Returns how many processes were read.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    pub fn scan(&mut self) -> io::Result<usize> {
        let mut read = 0;
        for pid in self.proc.pids()? {
            if let Some(seen) = self.proc.read(pid) {
                self.merge(seen);
                read += 1;
            }
        }
        Ok(read)
    }

    fn merge(&mut self, seen: ProcImage) {
        let Some(entry) = self.find_coarse(seen.pid, seen.start) else {
            self.insert(scanned(seen), false);
            return;
        };
        if entry.exited || matches!(entry.info.source, ProcessSource::Exec | ProcessSource::Fork) {
            return;
        }
        // The start and what a hook said of the process stay: they are exact, or newer.
        let old = &entry.info;
        let info = ProcessInfo {
            start: old.start,
            start_is_coarse: old.start_is_coarse,
            cgroup_id: old.cgroup_id,
            ..scanned(seen)
        };
        if info != **old {
            entry.info = Arc::new(info);
        }
    }

    /// A process that is met for the first time.
    #[cold]
    fn meet(&mut self, task: &Task, now: BootNs) -> Arc<ProcessInfo> {
        self.advance(now);
        let mut info = hook_only(task);
        if task.tgid != 0
            && !info.kernel
            && let Some(seen) = self.read_proc(info.pid, info.start)
        {
            info.ppid = seen.ppid;
            info.login_uid = seen.login_uid;
            // An exiting process has no image any more.
            if seen.exe.is_some() || !seen.args.is_empty() {
                info.exe = seen.exe;
                info.exe_deleted = seen.exe_deleted;
                info.args = seen.args;
                info.args_truncated = seen.args_truncated;
                info.source = ProcessSource::ProcScan;
            }
        }
        self.insert(info, false)
    }

    /// The creator in a fork record, which names it only by id and start.
    fn creator(&mut self, pid: Pid, start: BootNs) -> Option<Arc<ProcessInfo>> {
        if let Some(entry) = self.find(pid, start) {
            return Some(Arc::clone(&entry.info));
        }
        if pid.0 == 0 {
            return None;
        }
        let seen = self.read_proc(pid, start)?;
        let info = ProcessInfo { start, start_is_coarse: false, ..scanned(seen) };
        Some(self.insert(info, false))
    }

    pub(super) fn read_proc(&mut self, pid: Pid, start: BootNs) -> Option<ProcImage> {
        self.stats.proc_reads += 1;
        self.proc.read(pid).filter(|seen| {
            use super::info::TICK_NS;
            seen.start.0 / TICK_NS == start.0 / TICK_NS
        })
    }

    #[inline]
    fn find(&mut self, pid: Pid, start: BootNs) -> Option<&mut Entry> {
        self.lookup(pid, start, false)
    }

    pub(super) fn find_coarse(&mut self, pid: Pid, start: BootNs) -> Option<&mut Entry> {
        self.lookup(pid, start, true)
    }

    #[inline]
    fn lookup(&mut self, pid: Pid, start: BootNs, coarse: bool) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(&pid.0)?;
        if slot.newest.info.is(pid, start, coarse) {
            return Some(&mut slot.newest);
        }
        slot.older.iter_mut().find(|entry| entry.info.is(pid, start, coarse))
    }

    /// Remembers a process that is not in the table. One that has the same id and started earlier has exited, whether
    /// its record came or not.
    pub(super) fn insert(&mut self, info: ProcessInfo, exited: bool) -> Arc<ProcessInfo> {
        let info = Arc::new(info);
        if !self.make_room() {
            self.stats.not_kept += 1;
            return info;
        }
        self.serial += 1;
        let mut entry = Entry { info: Arc::clone(&info), serial: self.serial, exited: false };
        if exited {
            self.exits.extend(entry.exit(self.clock));
        }
        match self.slots.entry(info.pid.0) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Slot { newest: entry, older: Vec::new() });
            }
            std::collections::hash_map::Entry::Occupied(occupied) => {
                let slot = occupied.into_mut();
                if entry.info.start >= slot.newest.info.start {
                    std::mem::swap(&mut slot.newest, &mut entry);
                }
                self.exits.extend(entry.exit(self.clock));
                slot.older.push(entry);
            }
        }
        self.known += 1;
        info
    }

    fn make_room(&mut self) -> bool {
        if self.known < self.limits.max {
            return true;
        }
        if self.exits.is_empty() && self.clock >= self.next_sweep {
            self.next_sweep = BootNs(self.clock.0 + SWEEP_EVERY_NS);
            self.sweep();
        }
        let Some(oldest) = self.exits.pop_front() else { return false };
        self.remove(&oldest);
        self.stats.evicted += 1;
        true
    }

    /// Finds the processes whose exit records were lost.
    #[cold]
    fn sweep(&mut self) {
        let Ok(pids) = self.proc.pids() else { return };
        let alive: HashSet<u32> = pids.into_iter().map(|pid| pid.0).collect();
        for (pid, slot) in &mut self.slots {
            if !alive.contains(pid) {
                self.exits.extend(slot.newest.exit(self.clock));
            }
        }
    }

    /// Moves the clock and drops processes whose grace is over.
    fn advance(&mut self, now: BootNs) {
        self.clock = self.clock.max(now);
        while let Some(oldest) = self.exits.front()
            && self.clock.since(oldest.at) > self.limits.grace
            && let Some(oldest) = self.exits.pop_front()
        {
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, gone: &Exited) {
        let std::collections::hash_map::Entry::Occupied(mut occupied) = self.slots.entry(gone.pid.0) else {
            return;
        };
        let slot = occupied.get_mut();
        if slot.newest.serial == gone.serial {
            match slot.older.pop() {
                Some(entry) => slot.newest = entry,
                None => drop(occupied.remove()),
            }
        } else if let Some(at) = slot.older.iter().position(|entry| entry.serial == gone.serial) {
            slot.older.swap_remove(at);
        } else {
            return;
        }
        self.known -= 1;
    }
}

impl Entry {
    /// Marks it as exited; `None` when it was before.
    fn exit(&mut self, at: BootNs) -> Option<Exited> {
        let again = std::mem::replace(&mut self.exited, true);
        (!again).then_some(Exited { at, pid: self.info.pid, serial: self.serial })
    }

    /// Takes over what a hook says of the process now.
    #[inline]
    fn refresh(&mut self, task: &Task) {
        let info = &*self.info;
        let same = *info.comm == *comm(task)
            && info.uid == task.uid
            && info.gid == task.gid
            && info.cgroup_id == task.cgroup_id
            && !info.start_is_coarse;
        if !same {
            self.update(task);
        }
    }

    #[cold]
    fn update(&mut self, task: &Task) {
        let info = Arc::make_mut(&mut self.info);
        info.start = BootNs(task.start_boot_ns);
        info.start_is_coarse = false;
        // What a dying process does to its ids and its cgroup says nothing of its connections.
        if !self.exited {
            info.comm = comm(task).into();
            info.uid = task.uid;
            info.gid = task.gid;
            info.cgroup_id = task.cgroup_id;
        }
    }
}

fn inherit(child: &mut ProcessInfo, parent: &ProcessInfo) {
    child.exe.clone_from(&parent.exe);
    child.exe_deleted = parent.exe_deleted;
    child.args.clone_from(&parent.args);
    child.args_truncated = parent.args_truncated;
    child.login_uid = parent.login_uid;
    child.source = ProcessSource::Fork;
}

fn hook_only(task: &Task) -> ProcessInfo {
    ProcessInfo {
        pid: Pid(task.tgid),
        start: BootNs(task.start_boot_ns),
        start_is_coarse: false,
        ppid: None,
        comm: comm(task).into(),
        exe: None,
        exe_deleted: false,
        args: Box::default(),
        args_truncated: false,
        uid: task.uid,
        gid: task.gid,
        login_uid: None,
        cgroup_id: task.cgroup_id,
        kernel: task.flags & PF_KTHREAD != 0,
        source: ProcessSource::Hook,
    }
}

pub(super) fn scanned(seen: ProcImage) -> ProcessInfo {
    ProcessInfo {
        pid: seen.pid,
        start: seen.start,
        start_is_coarse: true,
        ppid: seen.ppid,
        comm: seen.comm,
        exe: seen.exe,
        exe_deleted: seen.exe_deleted,
        args: seen.args,
        args_truncated: seen.args_truncated,
        uid: seen.uid,
        gid: seen.gid,
        login_uid: seen.login_uid,
        cgroup_id: 0,
        kernel: seen.kernel,
        source: ProcessSource::ProcScan,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

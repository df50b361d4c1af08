//! The scan of /proc: who was there before the records began.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::args::are_alike;
use super::entry::{Entry, is_later};
use super::hash::IntMap;
use super::image::scanned;
use super::info::{ProcessInfo, ProcessSource, TICK_NS, is_same_tick};
use super::lineage::{ANCESTORS_MAX, Ancestor};
use super::procfs::ProcImage;
use super::table::ProcessTable;
use crate::kernel::execs::ExecCount;
use crate::units::{BootNs, Pid};

/// Processes between two pauses of a scan: some milliseconds, for which a ring has room.
const PIECE: usize = 32;

impl ProcessTable {
    /// Reads every process from /proc. To be called after the programs are attached and before their records are
    /// handled: then no process falls between the two. What exec and fork records reported is left alone, so it may be
    /// called again. Returns how many processes were read.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    pub fn scan(&mut self) -> io::Result<usize> {
        self.scan_and(&mut || {})
    }

    /// Reads every process, as [`Self::scan`] does. `pause` is called now and then, for what must not wait
    /// for all of them.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    pub fn scan_and(&mut self, pause: &mut dyn FnMut()) -> io::Result<usize> {
        self.read_all(false, pause)
    }

    /// Reads every process after records of processes were lost. What the kernel reported of an image stays,
    /// unless the kernel has counted an exec since: a process can change what /proc shows of it. `pause` is
    /// called now and then, for what must not wait for all of them.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    pub fn refresh(&mut self, pause: &mut dyn FnMut()) -> io::Result<usize> {
        self.read_all(true, pause)
    }

    fn read_all(&mut self, lost: bool, pause: &mut dyn FnMut()) -> io::Result<usize> {
        // Before /proc: an exec between the two has a record, or is counted the next time.
        let counts = self.exec_counts();
        let mut images = Vec::new();
        self.about.proc.read_each(&self.about.proc.pids()?, &mut |seen| {
            images.push(seen);
            if images.len().is_multiple_of(PIECE) {
                pause();
            }
        });
        let read = images.len();
        for seen in images {
            let execs = counts.get(&seen.pid.0).filter(|count| is_same_tick(count.start, seen.start));
            self.merge(seen, lost, execs.map(|count| count.execs));
        }
        self.link();
        Ok(read)
    }

    /// By process id; empty where they are not to be had.
    fn exec_counts(&mut self) -> IntMap<u32, ExecCount> {
        let counts = self.execs.as_mut().and_then(|execs| execs.read().ok()).unwrap_or_default();
        counts.into_iter().map(|count| (count.pid.0, count)).collect()
    }

    fn merge(&mut self, mut seen: ProcImage, lost: bool, execs: Option<u32>) {
        let Some(entry) = self.entries.lookup(seen.pid, seen.start, true) else {
            let info = self.about.scanned(seen);
            let info = self.insert(info, false);
            if let Some(entry) = self.entries.lookup(info.pid, info.start, true) {
                entry.execs = execs;
            }
            return;
        };
        let old = &entry.info;
        let reported = matches!(old.source, ProcessSource::Exec | ProcessSource::Fork);
        let missed = match (entry.execs, execs) {
            (Some(known), Some(now)) => is_later(now, known),
            // Nobody counts. That a process is still what its parent was is less than what an exec reported.
            _ => lost && old.source == ProcessSource::Fork && is_another_image(old, &seen),
        };
        let is_known =
            reported || (entry.execs.is_some() && execs.is_some() && old.source == ProcessSource::ProcScan);
        if entry.exited || (is_known && !missed) {
            return;
        }
        // The start and what a hook said of the process stay: they are exact, or newer.
        let cgroup = seen.cgroup.take();
        let mount_ns = seen.mnt_ns.and_then(|inode| self.about.mount_ns(inode));
        let had_image = old.source != ProcessSource::Hook;
        let mut info = ProcessInfo {
            start: old.start,
            start_is_coarse: old.start_is_coarse,
            ancestors: Arc::clone(&old.ancestors),
            cgroup_id: old.cgroup_id,
            mount_ns: mount_ns.or(old.mount_ns),
            ..scanned(seen)
        };
        if had_image
            && !missed
            && info.exe == old.exe
            && info.exe_file == old.exe_file
            && info.args == old.args
        {
            info.identity = old.identity.clone();
        }
        self.about.describe_seen(&mut info, cgroup);
        let is_other = info != **old;
        if missed {
            self.stats.missed_execs += 1;
        }
        if is_other {
            // A program may write a title over its arguments.
            let is_same_file = (&info.exe, info.exe_file) == (&old.exe, old.exe_file);
            let reported = entry.reported && had_image && !missed && is_same_file;
            entry.replace(info);
            entry.reported = reported;
        }
        entry.execs = execs.or(entry.execs);
    }

    /// Marks the processes whose parent is process 1 although something else created them: when a parent exits, its children become
    /// those of process 1 (`forget_original_parent`, kernel/exit.c), which /proc shows as if it had created them. What systemd starts is
    /// the first process of its service; every other one in there was created by one before it.
    fn mark_adopted(&mut self) {
        let newest = || self.entries.running();
        let is_lone = |entry: &&Entry| entry.info.ppid == Some(Pid(1)) && entry.info.ancestors.is_empty();
        let mut oldest: HashMap<&[u8], BootNs> = HashMap::new();
        for entry in newest() {
            if let Some(service) = system_service(&entry.info) {
                let start = oldest.entry(service).or_insert(entry.info.start);
                *start = entry.info.start.min(*start);
            }
        }
        // Without systemd nothing says more than /proc.
        if oldest.is_empty() {
            return;
        }
        let is_first = |info: &ProcessInfo| {
            system_service(info)
                .and_then(|service| oldest.get(service))
                .is_some_and(|start| info.start_ticks() <= start.0 / TICK_NS)
        };
        let adopted: Vec<Pid> = newest()
            .filter(is_lone)
            .filter(|entry| !is_first(&entry.info))
            .map(|entry| entry.info.pid)
            .collect();
        for pid in adopted {
            if let Some(entry) = self.entries.newest_mut(pid) {
                entry.adopted = true;
            }
        }
    }

    /// Finds the ancestors of those that have none yet.
    pub(super) fn link(&mut self) {
        self.mark_adopted();
        let lone =
            |entry: &Entry| entry.info.ancestors.is_empty() && entry.info.ppid.is_some() && !entry.adopted;
        let lone: Vec<_> = self
            .entries
            .running()
            .filter(|entry| lone(entry))
            .map(|entry| (entry.info.pid, entry.info.start, entry.info.ppid))
            .collect();
        for (pid, start, ppid) in lone {
            let ancestors = self.ancestors(ppid, start);
            if let Some(entry) = self.entries.lookup(pid, start, true).filter(|_| !ancestors.is_empty()) {
                Arc::make_mut(&mut entry.info).ancestors = ancestors;
            }
        }
    }

    /// The chain that begins with `ppid`, the parent of a process that started at `start`.
    pub(super) fn ancestors(&self, ppid: Option<Pid>, start: BootNs) -> Arc<[Ancestor]> {
        let (mut chain, mut next, mut start) = (Vec::new(), ppid, start);
        while let Some(parent) = next.and_then(|pid| self.parent(pid, start))
            && chain.len() < ANCESTORS_MAX
            && chain.iter().all(|below: &Ancestor| below.pid != parent.pid)
        {
            chain.push(Ancestor::of(parent));
            if !parent.ancestors.is_empty() {
                let left = ANCESTORS_MAX - chain.len();
                chain.extend(parent.ancestors.iter().take(left).cloned());
                break;
            }
            (next, start) = (parent.ppid, parent.start);
        }
        chain.into()
    }

    /// The process with this id when a child of it started.
    pub(super) fn parent(&self, pid: Pid, child: BootNs) -> Option<&ProcessInfo> {
        self.entries
            .of_id(pid)
            .map(|entry| &*entry.info)
            .filter(|info| info.start_ticks() <= child.0 / TICK_NS)
            .max_by_key(|info| info.start)
    }
}

/// The service of systemd's system manager that a process is in; none of a container, where process 1 is another one.
fn system_service(info: &ProcessInfo) -> Option<&[u8]> {
    let is_managers = |unit: &[u8]| unit == b"init.scope";
    let place = info
        .placement
        .as_deref()
        .filter(|place| place.container.is_none() && place.user_unit.as_deref().is_none_or(is_managers))?;
    place.unit.as_deref().filter(|unit| unit.ends_with(b".service"))
}

/// Whether a process executes something else than what was reported it.
fn is_another_image(reported: &ProcessInfo, seen: &ProcImage) -> bool {
    seen.has_image()
        && (reported.exe != seen.exe || (!are_alike(&reported.args, &seen.args) && !reported.args_truncated))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;

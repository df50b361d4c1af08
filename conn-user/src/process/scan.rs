//! The scan of /proc: who was there before the records began.

use std::io;
use std::sync::Arc;

use super::entry::{Entry, lookup};
use super::image::scanned;
use super::info::{ProcessInfo, ProcessSource, TICK_NS};
use super::lineage::{ANCESTORS_MAX, Ancestor};
use super::procfs::ProcImage;
use super::table::ProcessTable;
use crate::units::{BootNs, Pid};

impl ProcessTable {
    /// Reads every process from /proc. To be called after the programs are attached and before their records are
    /// handled: then no process falls between the two. What exec and fork records told is left alone, so it may be
    /// called again. Returns how many processes were read.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    pub fn scan(&mut self) -> io::Result<usize> {
        let mut read = 0;
        for pid in self.about.proc.pids()? {
            if let Some(seen) = self.about.proc.read(pid) {
                self.merge(seen);
                read += 1;
            }
        }
        self.link();
        Ok(read)
    }

    fn merge(&mut self, mut seen: ProcImage) {
        let Some(entry) = lookup(&mut self.slots, seen.pid, seen.start, true) else {
            let info = self.about.scanned(seen);
            self.insert(info, false);
            return;
        };
        if entry.exited || matches!(entry.info.source, ProcessSource::Exec | ProcessSource::Fork) {
            return;
        }
        // The start and what a hook said of the process stay: they are exact, or newer.
        let old = &entry.info;
        let cgroup = seen.cgroup.take();
        let mut info = ProcessInfo {
            start: old.start,
            start_is_coarse: old.start_is_coarse,
            ancestors: Arc::clone(&old.ancestors),
            cgroup_id: old.cgroup_id,
            identity: old.identity.clone(),
            ..scanned(seen)
        };
        self.about.describe_seen(&mut info, cgroup);
        if info != **old {
            entry.replace(info);
        }
    }

    /// Finds the ancestors of those that have none yet.
    pub(super) fn link(&mut self) {
        let lone = |entry: &Entry| entry.info.ancestors.is_empty() && entry.info.ppid.is_some();
        let lone: Vec<_> = self
            .slots
            .values()
            .map(|slot| &slot.newest)
            .filter(|entry| !entry.exited && lone(entry))
            .map(|entry| (entry.info.pid, entry.info.start, entry.info.ppid))
            .collect();
        for (pid, start, ppid) in lone {
            let ancestors = self.ancestors(ppid, start);
            if let Some(entry) = lookup(&mut self.slots, pid, start, true).filter(|_| !ancestors.is_empty()) {
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
        let slot = self.slots.get(&pid.0)?;
        std::iter::once(&slot.newest)
            .chain(&slot.older)
            .map(|entry| &*entry.info)
            .filter(|info| info.start_ticks() <= child.0 / TICK_NS)
            .max_by_key(|info| info.start)
    }
}

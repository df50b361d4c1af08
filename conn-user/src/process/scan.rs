//! The scan of /proc: who was there before the records began.

use std::io;
use std::sync::Arc;

use super::entry::{Entry, lookup};
use super::identity::Identity;
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
        self.read_all(false)
    }

    /// As [`Self::scan`], after records of processes were lost: an image that differs from the one that was told is of an
    /// exec that was missed.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    pub fn refresh(&mut self) -> io::Result<usize> {
        self.read_all(true)
    }

    fn read_all(&mut self, lost: bool) -> io::Result<usize> {
        let mut read = 0;
        for pid in self.about.proc.pids()? {
            if let Some(seen) = self.about.proc.read(pid) {
                self.merge(seen, lost);
                read += 1;
            }
        }
        self.link();
        Ok(read)
    }

    fn merge(&mut self, mut seen: ProcImage, lost: bool) {
        let Some(entry) = lookup(&mut self.slots, seen.pid, seen.start, true) else {
            let info = self.about.scanned(seen);
            self.insert(info, false);
            return;
        };
        let old = &entry.info;
        let told = matches!(old.source, ProcessSource::Exec | ProcessSource::Fork);
        let missed = lost && told && is_another_image(old, &seen);
        if entry.exited || (told && !missed) {
            return;
        }
        // The start and what a hook said of the process stay: they are exact, or newer.
        let cgroup = seen.cgroup.take();
        let mut info = ProcessInfo {
            start: old.start,
            start_is_coarse: old.start_is_coarse,
            ancestors: Arc::clone(&old.ancestors),
            cgroup_id: old.cgroup_id,
            identity: if missed { Identity::default() } else { old.identity.clone() },
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

/// Whether a process executes something else than what was told of it. An exiting one has no image any more.
fn is_another_image(told: &ProcessInfo, seen: &ProcImage) -> bool {
    let has_image = seen.exe.is_some() || !seen.args.is_empty();
    has_image && (told.exe != seen.exe || (told.args != seen.args && !told.args_truncated))
}

#[cfg(test)]
mod tests {
    use crate::process::info::ProcessSource;
    use crate::process::testing::{FakeProc, SECOND, exec_record};
    use crate::units::{BootNs, Pid};

    const T0: u64 = 100 * SECOND;

    #[test]
    fn only_after_a_loss_proc_is_right_about_an_image() {
        let proc = FakeProc::default();
        let mut table = proc.table();
        table.on_exec(&exec_record(10, T0 + 1234, "/bin/told"), b"");
        table.on_exec(&exec_record(11, T0 + 1234, "/bin/same"), b"/bin/same");
        proc.put(10, T0, "/bin/missed");
        proc.put(11, T0, "/bin/same");
        let exe = |table: &mut crate::process::ProcessTable, pid| {
            let info = table.seen(Pid(pid), BootNs(T0)).expect("known");
            (String::from_utf8(info.exe.as_ref().expect("an exe").to_vec()).expect("text"), info.source)
        };
        table.scan().expect("read");
        assert_eq!(exe(&mut table, 10), ("/bin/told".into(), ProcessSource::Exec));
        let before = table.seen(Pid(11), BootNs(T0)).expect("known").identity.clone();
        table.refresh().expect("read");
        assert_eq!(exe(&mut table, 10), ("/bin/missed".into(), ProcessSource::ProcScan));
        assert_eq!(exe(&mut table, 11).0, "/bin/same");
        assert_eq!(table.seen(Pid(11), BootNs(T0)).expect("known").identity, before, "nothing was missed");
        assert_eq!(
            table.seen(Pid(10), BootNs(T0)).expect("known").start,
            BootNs(T0 + 1234),
            "exact as before"
        );
    }
}

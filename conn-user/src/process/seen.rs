//! Processes that a snapshot of /proc names, rather than a record.

use std::sync::Arc;

use super::info::{ProcessInfo, ProcessSource};
use super::inspect::Depth;
use super::lineage::ANCESTORS_MAX;
use super::table::ProcessTable;
use crate::units::{BootNs, Pid};

impl ProcessTable {
    /// The process with this id and start, in whole ticks ([`super::info::TICK_NS`]); it is read from /proc when the
    /// table does not have it. `None`: it is gone, and no record reported it. It holds a socket, which counts as a use
    /// of the network.
    pub fn seen(&mut self, pid: Pid, start: BootNs) -> Option<Arc<ProcessInfo>> {
        if self.entries.lookup(pid, start, true).is_none() {
            let image = self.read_proc(pid, start)?;
            let mut info = self.about.scanned(image);
            self.read_ancestors(info.ppid, info.start);
            info.ancestors = self.ancestors(info.ppid, info.start);
            let info = self.insert(info, false);
            if self.entries.lookup(pid, start, true).is_none() {
                return Some(info);
            }
        }
        let entry = self.entries.lookup(pid, start, true)?;
        if !entry.used {
            entry.first_use(self.inspector.as_ref());
        }
        Some(Arc::clone(&entry.info))
    }

    /// The programs that run, those of kernel threads and of the agent itself left out, in the order of their start. With each
    /// whether the process seems to be a copy of its parent that has executed nothing: it looks the same.
    pub fn running(&self) -> Vec<(Arc<ProcessInfo>, bool)> {
        let own = Pid(std::process::id());
        let exe = self.entries.newest(own).and_then(|entry| entry.info.exe.as_ref());
        // Its file workers are its children.
        let is_other =
            |info: &ProcessInfo| info.pid != own && (info.ppid != Some(own) || info.exe.as_ref() != exe);
        let runs = |info: &ProcessInfo| !info.kernel && (info.exe.is_some() || !info.args.is_empty());
        let mut all: Vec<_> = self
            .entries
            .running()
            .map(|entry| &entry.info)
            .filter(|info| is_other(info) && runs(info))
            .map(|info| (Arc::clone(info), self.is_copy(info)))
            .collect();
        all.sort_unstable_by_key(|(info, _)| (info.start, info.pid));
        all
    }

    /// Takes note that what is known so far of processes from before this instant needs no report: rules judge it as what was there.
    pub fn set_reported_before(&mut self, attached: BootNs) {
        for entry in self.entries.all_newest_mut().filter(|entry| entry.info.start < attached) {
            entry.reported = true;
        }
    }

    /// Returns the programs that run and were in no event, as their records were lost, in the order of their start, each once. Who has
    /// executed nothing since its fork is not among them. Asks the background for facts of them, as of what is executed.
    pub fn take_unreported(&mut self) -> Vec<Arc<ProcessInfo>> {
        let mut found = Vec::new();
        for (process, is_copy) in self.running() {
            let entry = self.entries.lookup(process.pid, process.start, process.start_is_coarse);
            if entry.is_some_and(|entry| !std::mem::replace(&mut entry.reported, true)) && !is_copy {
                self.inspect(&process);
                found.push(process);
            }
        }
        found
    }

    /// Whether a process, by its start in whole ticks, runs a program that was in no event.
    pub fn is_unreported(&mut self, pid: Pid, start: BootNs) -> bool {
        self.entries.lookup(pid, start, true).is_some_and(|entry| !entry.reported)
    }

    fn is_copy(&self, info: &ProcessInfo) -> bool {
        let parent = info.ancestors.first().and_then(|parent| self.parent(parent.pid, info.start));
        info.source == ProcessSource::Fork
            || parent.is_some_and(|parent| parent.exe == info.exe && parent.args == info.args)
    }

    /// Has the state of a process found out, unless that was asked when it used the network.
    pub fn inspect(&mut self, process: &ProcessInfo) {
        let entry = self.entries.lookup(process.pid, process.start, process.start_is_coarse);
        let Some(entry) = entry.filter(|entry| !entry.used) else { return };
        match &self.inspector {
            Some(inspector) => inspector.ask(&entry.info, Depth::State, None),
            None => entry.info.identity.settle(),
        }
    }

    /// Has all of a process found out whose standard input or output, or its parent's, is a connection,
    /// unless that was asked when it used the network.
    pub fn uses_network(&mut self, process: &ProcessInfo) {
        let entry = self.entries.lookup(process.pid, process.start, process.start_is_coarse);
        if let Some(entry) = entry.filter(|entry| !entry.used) {
            entry.first_use(self.inspector.as_ref());
        }
    }

    /// Reads those above a process that the table does not have: it was not filled by a scan, or records were lost.
    fn read_ancestors(&mut self, ppid: Option<Pid>, start: BootNs) {
        let (mut next, mut start) = (ppid, start);
        for _ in 0..ANCESTORS_MAX {
            let Some(pid) = next else { return };
            if let Some(parent) = self.parent(pid, start) {
                (next, start) = (parent.ppid, parent.start);
                continue;
            }
            let Some(image) = self.about.proc.read(pid).filter(|image| image.start <= start) else { return };
            (next, start) = (image.ppid, image.start);
            let info = self.about.scanned(image);
            self.insert(info, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::process::testing::{FakeProc, SECOND, exec_record};
    use crate::units::{BootNs, Pid};

    #[test]
    fn from_the_table_from_proc_or_not_at_all() {
        const T0: u64 = 100 * SECOND;
        let proc = FakeProc::default();
        proc.put(11, T0, "/bin/proc");
        proc.put(1, SECOND, "/sbin/init");
        let mut table = proc.table();
        table.on_exec(&exec_record(10, T0 + 1234, "/bin/record"), b"");
        let mut exe = |pid, start| {
            let info = table.seen(Pid(pid), BootNs(start))?;
            Some((info.start.0, String::from_utf8(info.exe.as_ref()?.to_vec()).expect("text")))
        };
        assert_eq!(exe(10, T0), Some((T0 + 1234, "/bin/record".into())));
        assert_eq!(exe(11, T0), Some((T0, "/bin/proc".into())));
        assert_eq!(exe(11, T0), Some((T0, "/bin/proc".into())));
        assert_eq!(exe(11, T0 - SECOND), None, "an earlier process with that id");
        assert_eq!(exe(12, T0), None);
        assert_eq!(proc.reads(), [11, 1, 11, 12], "a known one is not read again");
        let ancestors = &table.seen(Pid(11), BootNs(T0)).expect("known").ancestors;
        assert_eq!(ancestors.iter().map(|ancestor| ancestor.pid.0).collect::<Vec<_>>(), [1]);
    }
}

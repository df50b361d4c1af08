//! Processes that a snapshot of /proc names, rather than a record.

use std::sync::Arc;

use super::info::ProcessInfo;
use super::table::{ProcessTable, scanned};
use crate::units::{BootNs, Pid};

impl ProcessTable {
    /// The process with this id and start, in whole ticks ([`super::info::TICK_NS`]); it is read from /proc when the
    /// table does not have it. `None`: it is gone, and no record told of it.
    pub fn seen(&mut self, pid: Pid, start: BootNs) -> Option<Arc<ProcessInfo>> {
        if let Some(entry) = self.find_coarse(pid, start) {
            return Some(Arc::clone(&entry.info));
        }
        let image = self.read_proc(pid, start)?;
        Some(self.insert(scanned(image), false))
    }

    /// Reads every process again after records of processes were lost. An image that differs from the known one is of
    /// an exec that was missed.
    pub fn refresh(&mut self) {
        let Ok(pids) = self.proc.pids() else { return };
        for pid in pids {
            let Some(image) = self.proc.read(pid) else { continue };
            let Some(entry) = self.find_coarse(image.pid, image.start) else {
                self.insert(scanned(image), false);
                continue;
            };
            let old = &entry.info;
            // An exiting process has no image any more.
            let gone = image.exe.is_none() && image.args.is_empty();
            if gone || (old.exe == image.exe && (old.args == image.args || old.args_truncated)) {
                continue;
            }
            let info = ProcessInfo {
                start: old.start,
                start_is_coarse: old.start_is_coarse,
                cgroup_id: old.cgroup_id,
                ..scanned(image)
            };
            entry.info = Arc::new(info);
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
        let mut table = proc.table();
        table.on_exec(&exec_record(10, T0 + 1234, "/bin/record"), b"");
        let mut exe = |pid, start| {
            let info = table.seen(Pid(pid), BootNs(start))?;
            Some((info.start.0, String::from_utf8(info.exe.clone()?.into_vec()).expect("text")))
        };
        assert_eq!(exe(10, T0), Some((T0 + 1234, "/bin/record".into())));
        assert_eq!(exe(11, T0), Some((T0, "/bin/proc".into())));
        assert_eq!(exe(11, T0), Some((T0, "/bin/proc".into())));
        assert_eq!(exe(11, T0 - SECOND), None, "an earlier process with that id");
        assert_eq!(exe(12, T0), None);
        assert_eq!(proc.reads(), [11, 11, 12], "a known one is not read again");
    }
}

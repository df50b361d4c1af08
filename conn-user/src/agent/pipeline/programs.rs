//! What records say of programs that is no event: that a process was created, and that a program is a 32-bit one.

use std::sync::Arc;

use conn_common::decode::Record;
use conn_common::record::{ForkRecord, TASK_COMPAT};

use crate::process::info::ProcessInfo;
use crate::units::{BootNs, Pid};

/// Takes that a process was created: its creator's id and start, and what is known of it.
pub type OnFork = Box<dyn FnMut(Pid, BootNs, &Arc<ProcessInfo>)>;

/// Reports created processes to whoever follows them, and remembers that a 32-bit program was seen.
#[derive(Default)]
pub(super) struct ProgramReports {
    on_fork: Option<OnFork>,
    /// A 32-bit program was seen since the last call of [`Self::take_compat`].
    compat: bool,
}

impl ProgramReports {
    /// Has every created process reported. A backup program may repeat one.
    pub(super) fn follow_forks(&mut self, on_fork: OnFork) {
        self.on_fork = Some(on_fork);
    }

    /// Looks at whether a record is of a 32-bit program.
    #[inline]
    pub(super) fn on_record(&mut self, record: &Record<'_>) {
        self.compat |= record.task().is_some_and(|task| task.flags & TASK_COMPAT != 0);
    }

    /// Reports a created process.
    pub(super) fn forked(&mut self, fork: &ForkRecord, child: &Arc<ProcessInfo>) {
        if let Some(on_fork) = &mut self.on_fork {
            on_fork(Pid(fork.parent_tgid), BootNs(fork.parent_start_boot_ns), child);
        }
    }

    /// Whether a 32-bit program was seen since the last call.
    pub(super) const fn take_compat(&mut self) -> bool {
        std::mem::replace(&mut self.compat, false)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::process::testing::{FakeProc, exec_record, fork_record, task};

    #[test]
    fn a_created_process_is_reported_with_its_creator() {
        let forks = Rc::new(RefCell::new(Vec::new()));
        let mut reports = ProgramReports::default();
        let fork = fork_record((10, 1_000), task(11, 2_000, "child"));
        let child = FakeProc::default().table().on_fork(&fork);
        reports.forked(&fork, &child);
        let seen = Rc::clone(&forks);
        reports.follow_forks(Box::new(move |pid, start, child| {
            seen.borrow_mut().push((pid.0, start.0, child.pid.0));
        }));
        reports.forked(&fork, &child);
        assert_eq!(*forks.borrow(), [(10, 1_000, 11)]);
    }

    #[test]
    fn a_32_bit_program_is_remembered_once() {
        let mut reports = ProgramReports::default();
        let mut exec = exec_record(10, 1_000, "/bin/sh");
        reports.on_record(&Record::Exec(Box::new(exec), b""));
        assert!(!reports.take_compat());
        exec.task.flags |= TASK_COMPAT;
        reports.on_record(&Record::Exec(Box::new(exec), b""));
        exec.task.flags = 0;
        reports.on_record(&Record::Exec(Box::new(exec), b""));
        assert!(reports.take_compat() && !reports.take_compat());
    }
}

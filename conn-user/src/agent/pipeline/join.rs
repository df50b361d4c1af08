//! The join of processes and flows: who a connection's process is, and which connection is a program's standard input.

use std::sync::Arc;

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{ExecRecord, ExitRecord};

use super::programs::ProgramReports;
use crate::event::model::{EventBody, ProcEvent};
use crate::flow::merge::Merged;
use crate::flow::model::FlowEvent;
use crate::flow::resolve::{PortResolver, Sockets};
use crate::flow::snapshot::model::Snapshot;
use crate::flow::table::FlowTable;
use crate::process::info::{ExitStatus, ProcessInfo, ProcessSource};
use crate::process::table::ProcessTable;
use crate::units::{BootNs, Pid};

/// Applies records to the process table and the flow table, which the session has, and keeps the changes that are not reported yet.
pub(super) struct Join {
    pub(super) processes: ProcessTable,
    pub(super) resolver: Box<dyn PortResolver>,
    /// What the flow table has reported; to be emptied before the next call.
    pub(super) changes: Vec<FlowEvent>,
    /// A repair has looked for programs whose records were lost.
    found_programs: bool,
}

impl Join {
    /// Returns a join with this process table, which asks `sock_diag` for ports.
    pub(super) fn new(processes: ProcessTable) -> Self {
        Self { processes, resolver: Box::new(Sockets::default()), changes: Vec::new(), found_programs: false }
    }

    /// Applies one record. Returns the event of a program; those of connections and listeners are among the changes, and created
    /// processes are reported to `programs`.
    #[inline]
    pub(super) fn on_record(
        &mut self,
        hook: HookId,
        record: &Record<'_>,
        flows: &mut FlowTable,
        programs: &mut ProgramReports,
    ) -> Option<EventBody> {
        match record {
            Record::Fork(fork) => {
                programs.forked(fork, &self.processes.on_fork(fork));
                None
            }
            Record::Exec(exec, args) => self.on_exec(hook, exec, args, flows),
            Record::Exit(exit) => self.on_exit(hook, exit, flows),
            flow => {
                flows.on_record(flow, &mut self.processes, &mut self.changes);
                None
            }
        }
    }

    fn on_exec(
        &mut self,
        hook: HookId,
        exec: &ExecRecord,
        args: &[u8],
        flows: &mut FlowTable,
    ) -> Option<EventBody> {
        let before = self.processes.known(&exec.task);
        let process = self.processes.on_exec(exec, args);
        let stdio = exec.stdio.iter().find_map(|key| flows.connection_of(*key));
        flows.stdio.executed(process.pid, process.start, stdio.as_ref().map(|conn| conn.id));
        // A backup program may repeat what was reported.
        let repeats = hook.is_backup()
            && before.is_some_and(|(before, _)| {
                before.source == ProcessSource::Exec
                    && before.exe == process.exe
                    && before.args == process.args
            });
        if repeats {
            return None;
        }
        let parent_stdio = flows.connection_of(exec.parent_stdio).map(Box::new);
        let stdio = stdio.map(Box::new);
        if stdio.is_some() || parent_stdio.is_some() {
            self.processes.uses_network(&process);
        }
        Some(EventBody::Exec(ProcEvent { stdio, parent_stdio, ..ProcEvent::new(process) }))
    }

    fn on_exit(&mut self, hook: HookId, exit: &ExitRecord, flows: &mut FlowTable) -> Option<EventBody> {
        let repeats = hook.is_backup() && self.processes.known(&exit.task).is_some_and(|(_, exited)| exited);
        flows.stdio.exited(Pid(exit.task.tgid));
        let process = self.processes.on_exit(exit).filter(|_| !repeats)?;
        Some(EventBody::Exit(ProcEvent::new(process), ExitStatus::from_kernel(exit.exit_code)))
    }

    /// Has the flow table report what has waited long enough for more knowledge.
    pub(super) fn release(&mut self, until: BootNs, flows: &mut FlowTable) {
        flows.poll_pending(until, &mut *self.resolver, &mut self.changes);
    }

    /// Repairs the tables by a snapshot; with `processes_lost` the process table by /proc, first.
    pub(super) fn repair(
        &mut self,
        snapshot: &Snapshot,
        processes_lost: bool,
        flows: &mut FlowTable,
        pause: &mut dyn FnMut(),
    ) -> Merged {
        if processes_lost {
            // Without /proc what records report has to do.
            self.found_programs |= self.processes.refresh(pause).is_ok();
        }
        flows.merge_repair(snapshot, &mut self.processes, pause, &mut self.changes)
    }

    /// The programs that the last [`Self::repair`] found running and no record has reported. Each is returned once.
    pub(super) fn take_found_programs(&mut self) -> Vec<Arc<ProcessInfo>> {
        if std::mem::replace(&mut self.found_programs, false) {
            self.processes.take_unreported()
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use conn_common::record::{RecordHeader, Sock, SockRecord};

    use super::*;
    use crate::flow::testing::{sock, who};
    use crate::process::testing::{FakeProc, exec_record, exit_record, fork_record};

    struct Rig {
        join: Join,
        flows: FlowTable,
        programs: ProgramReports,
    }

    impl Rig {
        fn new(proc: &FakeProc) -> Self {
            let join = Join::new(proc.table());
            Self { join, flows: FlowTable::default(), programs: ProgramReports::default() }
        }

        fn feed(&mut self, hook: HookId, record: &Record<'_>) -> Option<EventBody> {
            self.join.on_record(hook, record, &mut self.flows, &mut self.programs)
        }

        fn executed(&mut self, exec: &ExecRecord) -> ProcEvent {
            match self.feed(HookId::ProcessExec, &Record::Exec(Box::new(*exec), b"")) {
                Some(EventBody::Exec(event)) => event,
                _ => panic!("an event"),
            }
        }

        fn repair(&mut self, processes_lost: bool) -> Vec<Pid> {
            self.join.repair(&Snapshot::default(), processes_lost, &mut self.flows, &mut || {});
            self.join.take_found_programs().iter().map(|process| process.pid).collect()
        }
    }

    fn exec(pid: u32) -> ExecRecord {
        exec_record(pid, who(pid).start_boot_ns, "/bin/sh")
    }

    #[test]
    fn a_program_on_a_connection_has_it_as_its_standard_input() {
        let mut rig = Rig::new(&FakeProc::default());
        let sock = Sock { old_state: 2, new_state: 2, ..sock(7, "10.0.0.1:1", "10.0.0.2:2") };
        let header = RecordHeader { hook: HookId::FentryTcpConnect as u16, ..RecordHeader::default() };
        let connect = Record::Connect(SockRecord { header, task: who(10), sock });
        assert!(rig.feed(HookId::FentryTcpConnect, &connect).is_none());
        assert_eq!(rig.join.changes.len(), 1, "it is among the changes");
        let event = rig.executed(&ExecRecord { stdio: [7, 0], ..exec(11) });
        let stdio = event.stdio.expect("its standard input").id;
        let below = rig.executed(&ExecRecord { parent_stdio: 7, ..exec(12) });
        assert_eq!((below.stdio.is_none(), below.parent_stdio.map(|conn| conn.id)), (true, Some(stdio)));
        assert_eq!(rig.flows.stdio.conn(event.process.pid, event.process.start), Some(stdio));
    }

    #[test]
    fn what_a_backup_program_repeats_is_no_event() {
        let mut rig = Rig::new(&FakeProc::default());
        let mut is_event = |hook, record: Record<'_>| rig.feed(hook, &record).is_some();
        assert!(is_event(HookId::ProcessExec, Record::Exec(Box::new(exec(10)), b"sh")));
        assert!(!is_event(HookId::ProcessExecBackup, Record::Exec(Box::new(exec(10)), b"sh")));
        assert!(is_event(HookId::ProcessExec, Record::Exec(Box::new(exec(10)), b"sh")), "executed again");
        let exit = || Record::Exit(exit_record(who(10), 9));
        assert!(is_event(HookId::ProcessExit, exit()));
        assert!(!is_event(HookId::ProcessExitBackup, exit()));
    }

    #[test]
    fn a_created_process_is_reported_and_no_event() {
        let mut rig = Rig::new(&FakeProc::default());
        let (sender, children) = std::sync::mpsc::channel();
        rig.programs.follow_forks(Box::new(move |_, _, child| sender.send(child.pid).expect("heard")));
        let fork = fork_record((10, who(10).start_boot_ns), who(11));
        assert!(rig.feed(HookId::ProcessFork, &Record::Fork(fork)).is_none());
        assert_eq!(children.try_iter().collect::<Vec<_>>(), [Pid(11)]);
    }

    #[test]
    fn programs_of_a_loss_are_looked_for_only_after_one() {
        let proc = FakeProc::default();
        let mut rig = Rig::new(&proc);
        rig.join.processes.scan().expect("scan");
        proc.put(10, 1_000, "/bin/new");
        assert_eq!(rig.repair(false), [], "no process was lost");
        assert_eq!(rig.repair(true), [Pid(10)]);
        assert_eq!(rig.repair(false), [], "once");
    }
}

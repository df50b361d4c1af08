use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::kernel::execs::CountExecs;
use crate::process::cgroup::CgroupOf;
use crate::process::procfs::ProcSource as _;
use crate::process::testing::{FakeProc, SECOND, exec_record, exit_record, fork_record, task};

const T0: u64 = 100 * SECOND;

/// What the kernel counts; clones share it.
#[derive(Clone, Default)]
struct FakeCounts(Arc<Mutex<Vec<ExecCount>>>);

impl FakeCounts {
    fn put(&self, pid: u32, execs: u32) {
        let mut counts = self.0.lock().expect("lock");
        counts.retain(|count| count.pid.0 != pid);
        counts.push(ExecCount { pid: Pid(pid), start: BootNs(T0 + 1234), execs });
    }
}

impl CountExecs for FakeCounts {
    fn read(&mut self) -> io::Result<Vec<ExecCount>> {
        Ok(self.0.lock().expect("lock").clone())
    }
}

fn counted(tgid: u32, execs: u32) -> conn_common::record::Task {
    conn_common::record::Task { exec_id: execs, ..task(tgid, T0 + 1234, "x") }
}

fn exec(table: &mut ProcessTable, tgid: u32, path: &str, execs: u32) {
    let mut record = exec_record(tgid, T0 + 1234, path);
    record.task.exec_id = execs;
    table.on_exec(&record, path.as_bytes());
}

fn image(table: &mut ProcessTable, pid: u32) -> (String, ProcessSource) {
    let info = table.seen(Pid(pid), BootNs(T0)).expect("known");
    let exe = info.exe.as_ref().map_or_else(Vec::new, |exe| exe.to_vec());
    (String::from_utf8(exe).expect("text"), info.source)
}

/// Issue 11, Truth 2: a process may set what /proc shows of its executable and arguments.
#[test]
fn what_exec_reported_is_never_replaced_by_proc() {
    let (proc, counts) = (FakeProc::default(), FakeCounts::default());
    counts.put(10, 3);
    for counted_by in [None, Some(Box::new(counts) as Box<dyn CountExecs>)] {
        let mut table = proc.table().with_exec_counts(counted_by);
        exec(&mut table, 10, "/tmp/evil", 3);
        let before = table.seen(Pid(10), BootNs(T0)).expect("known").identity.clone();
        proc.put(10, T0, "/usr/bin/curl");
        table.scan().expect("read");
        table.refresh(&mut || {}).expect("read");
        table.resolve(&counted(10, 3), BootNs(T0 + SECOND));
        assert_eq!(image(&mut table, 10), ("/tmp/evil".into(), ProcessSource::Exec));
        assert_eq!(table.seen(Pid(10), BootNs(T0)).expect("known").identity, before, "with its hash");
        assert_eq!(table.stats().missed_execs, 0);
    }
}

#[test]
fn an_exec_that_the_kernel_counts_and_no_record_reported_is_found_by_a_repair() {
    let (proc, counts) = (FakeProc::default(), FakeCounts::default());
    let mut table = proc.table().with_exec_counts(Some(Box::new(counts.clone())));
    exec(&mut table, 10, "/bin/reported", 3);
    exec(&mut table, 11, "/bin/same", 3);
    table.on_fork(&fork_record((10, T0 + 1234), counted(12, 3)));
    table.on_fork(&fork_record((10, T0 + 1234), counted(13, 3)));
    for (pid, exe, execs) in
        [(10, "/bin/missed", 4), (11, "/bin/faked", 3), (12, "/bin/faked", 3), (13, "/bin/missed", 4)]
    {
        proc.put(pid, T0, exe);
        counts.put(pid, execs);
    }
    table.refresh(&mut || {}).expect("read");
    assert_eq!(image(&mut table, 10), ("/bin/missed".into(), ProcessSource::ProcScan));
    assert_eq!(image(&mut table, 11), ("/bin/same".into(), ProcessSource::Exec));
    assert_eq!(image(&mut table, 12), ("/bin/reported".into(), ProcessSource::Fork));
    assert_eq!(image(&mut table, 13), ("/bin/missed".into(), ProcessSource::ProcScan));
    assert_eq!(table.seen(Pid(10), BootNs(T0)).expect("known").start, BootNs(T0 + 1234), "exact as before");
    assert_eq!(table.stats().missed_execs, 2);
    // It stays what it was found to be, whatever it shows later.
    proc.put(10, T0, "/bin/faked");
    table.refresh(&mut || {}).expect("read");
    assert_eq!(image(&mut table, 10).0, "/bin/missed");
}

#[test]
fn where_nobody_counts_only_a_copy_is_read_again() {
    let proc = FakeProc::default();
    let mut table = proc.table();
    exec(&mut table, 10, "/bin/reported", 0);
    table.on_fork(&fork_record((10, T0 + 1234), counted(12, 0)));
    for pid in [10, 12] {
        proc.put(pid, T0, "/bin/other");
    }
    table.scan().expect("read");
    assert_eq!(image(&mut table, 12), ("/bin/reported".into(), ProcessSource::Fork), "nothing was lost");
    table.refresh(&mut || {}).expect("read");
    assert_eq!(image(&mut table, 10), ("/bin/reported".into(), ProcessSource::Exec));
    assert_eq!(image(&mut table, 12), ("/bin/other".into(), ProcessSource::ProcScan));
}

#[test]
fn the_next_record_of_a_process_finds_a_missed_exec() {
    let proc = FakeProc::default();
    let mut table = proc.table();
    for pid in 10..14 {
        exec(&mut table, pid, "/bin/reported", u32::MAX);
        proc.put(pid, T0, "/bin/missed");
    }
    // The count wraps.
    let info = table.resolve(&counted(10, 0), BootNs(T0 + SECOND));
    assert_eq!((info.exe.as_deref(), info.source), (Some(&b"/bin/missed"[..]), ProcessSource::ProcScan));
    assert_eq!(info.ppid, Some(Pid(1)));
    let child = table.on_fork(&fork_record((11, T0 + 1234), counted(20, 0)));
    assert_eq!(child.exe.as_deref(), Some(&b"/bin/missed"[..]));
    assert_eq!(image(&mut table, 11).1, ProcessSource::ProcScan);
    let gone = table.on_exit(&exit_record(counted(12, 0), T0 + SECOND)).expect("known");
    assert_eq!(gone.source, ProcessSource::ProcScan);
    proc.remove(13);
    let gone = table.on_exit(&exit_record(counted(13, 0), T0 + SECOND)).expect("known");
    assert_eq!(
        (gone.exe.as_deref(), gone.source),
        (None, ProcessSource::Hook),
        "nothing reports what it was"
    );
    let reads = proc.reads().len();
    table.resolve(&counted(10, 0), BootNs(T0 + SECOND));
    assert_eq!(proc.reads().len(), reads, "it is read once");
    // Its own record, late: the kernel's word again.
    exec(&mut table, 10, "/bin/late", 1);
    assert_eq!(image(&mut table, 10), ("/bin/late".into(), ProcessSource::Exec));
    assert_eq!(table.stats().missed_execs, 4);
}

#[test]
fn what_was_read_at_the_start_stays_while_nothing_is_executed() {
    let (proc, counts) = (FakeProc::default(), FakeCounts::default());
    let mut table = proc.table().with_exec_counts(Some(Box::new(counts.clone())));
    proc.put(10, T0, "/bin/early");
    counts.put(10, 1);
    table.scan().expect("read");
    proc.put(10, T0, "/usr/bin/curl");
    table.refresh(&mut || {}).expect("read");
    assert_eq!(image(&mut table, 10), ("/bin/early".into(), ProcessSource::ProcScan));
    counts.put(10, 2);
    table.refresh(&mut || {}).expect("read");
    assert_eq!(image(&mut table, 10), ("/usr/bin/curl".into(), ProcessSource::ProcScan));
}

/// Issue 13: a daemon that its web server started is not one that process 1 did, though /proc says so once it is alone.
#[test]
fn who_was_taken_over_by_process_1_has_no_parent() {
    let proc = FakeProc::default();
    let put = |pid: u32, ppid: u32, seconds: u64, cgroup: &str| {
        proc.put(pid, seconds * SECOND, "/usr/bin/one");
        let image = proc.read(Pid(pid)).expect("put");
        let cgroup = CgroupOf { id: 100 + cgroup.len() as u64, path: cgroup.as_bytes().into() };
        proc.put_image(ProcImage { ppid: Some(Pid(ppid)), cgroup: Some(cgroup), ..image });
    };
    proc.put(1, SECOND, "/sbin/init");
    put(20, 1, 10, "/system.slice/web.service");
    put(21, 20, 11, "/system.slice/web.service");
    put(30, 1, 50, "/system.slice/web.service");
    put(31, 30, 51, "/system.slice/web.service");
    put(40, 1, 50, "/user.slice/user-1000.slice/session-3.scope");
    put(50, 1, 60, "/system.slice/database.service");
    let mut table = proc.table();
    table.scan().expect("read");
    let task_of = |pid: u32| {
        let seconds = [(20, 10), (21, 11), (30, 50), (31, 51), (40, 50), (50, 60)];
        let of = seconds.iter().find(|of| of.0 == pid).expect("one of these");
        task(pid, of.1 * SECOND, "x")
    };
    let above = |table: &mut ProcessTable, pid: u32| -> Vec<u32> {
        let (info, _) = table.known(&task_of(pid)).expect("known");
        assert_ne!(info.ppid, None, "as /proc says");
        info.ancestors.iter().map(|one| one.pid.0).collect()
    };
    let all = [20, 21, 30, 31, 40, 50];
    let expected: [&[u32]; 6] = [&[1], &[20, 1], &[], &[30, 1], &[], &[1]];
    assert_eq!(all.map(|pid| above(&mut table, pid)), expected);
    // It stays so, whoever exits.
    proc.remove(20);
    table.on_exit(&exit_record(task_of(20), 70 * SECOND));
    table.refresh(&mut || {}).expect("read");
    assert_eq!(above(&mut table, 30), [0; 0]);
}

/// Whoever reads the ring meanwhile cannot wait for thousands of processes.
#[test]
fn a_scan_pauses() {
    let proc = FakeProc::default();
    for pid in 1..=100 {
        proc.put(pid, u64::from(pid) * SECOND, "/usr/bin/one");
    }
    let (mut table, mut pauses) = (proc.table(), 0);
    table.scan_and(&mut || pauses += 1).expect("scan");
    table.refresh(&mut || pauses += 1).expect("scan");
    assert_eq!(pauses, 2 * (100 / PIECE));
}

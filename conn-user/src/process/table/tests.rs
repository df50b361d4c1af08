//! The process table without a kernel: records in, processes out.

mod described;
mod scan;

use conn_common::record::{PF_EXITING, PF_KTHREAD};
use proptest::prelude::*;

use super::*;
use crate::process::cgroup::CgroupOf;
use crate::process::files::FileWorkers;
use crate::process::info::FileId;
use crate::process::procfs::ProcFs;
use crate::process::testing::{FakeProc, HOST_MNT_NS, SECOND, exec_record, exit_record, fork_record, task};

const T0: u64 = 100 * SECOND + 1_234_567;

fn exe(info: &ProcessInfo) -> &str {
    std::str::from_utf8(info.exe.as_deref().unwrap_or(b"-")).expect("text")
}

#[test]
fn exec_names_a_process_and_fork_inherits_it() {
    let proc = FakeProc::default();
    let mut table = proc.table();
    let mut exec = exec_record(10, T0, "/usr/sbin/httpd");
    exec.args_len = 8;
    let server = table.on_exec(&exec, b"httpd\0-f");
    assert_eq!(exe(&server), "/usr/sbin/httpd");
    assert_eq!(server.args.len(), 2);
    assert_eq!(server.source, ProcessSource::Exec);
    let child = table.on_fork(&fork_record((10, T0), task(11, T0 + SECOND, "httpd")));
    assert_eq!(exe(&child), "/usr/sbin/httpd");
    assert_eq!(child.args, server.args);
    assert_eq!((child.ppid, child.source), (Some(Pid(10)), ProcessSource::Fork));
    assert_eq!(child.login_uid, Some(1000));
    assert!(proc.reads().is_empty(), "nothing is read from /proc: {:?}", proc.reads());
}

#[test]
fn resolve_shares_and_updates() {
    let mut table = FakeProc::default().table();
    let first = table.on_exec(&exec_record(10, T0, "/bin/server"), b"");
    let mut who = task(10, T0, "server");
    let second = table.resolve(&who, BootNs(T0));
    assert!(Arc::ptr_eq(&first, &second));
    who.uid = 0;
    who.cgroup_id = 99;
    who.comm = task(0, 0, "renamed").comm;
    let third = table.resolve(&who, BootNs(T0));
    assert_eq!((third.uid, third.cgroup_id, &third.comm[..]), (0, 99, &b"renamed"[..]));
    assert_eq!(exe(&third), "/bin/server");
    assert_eq!(first.uid, 1000, "what was reported before stays");
    assert!(Arc::ptr_eq(&third, &table.resolve(&who, BootNs(T0))));
}

#[test]
fn unknown_process_is_read_once() {
    let proc = FakeProc::default();
    proc.put(10, T0, "/bin/old");
    let mut table = proc.table();
    let who = task(10, T0, "old");
    let info = table.resolve(&who, BootNs(T0));
    assert_eq!((exe(&info), info.source, &info.comm[..]), ("/bin/old", ProcessSource::ProcScan, &b"old"[..]));
    assert!(!info.start_is_coarse);
    let gone = task(11, T0, "gone");
    let info = table.resolve(&gone, BootNs(T0));
    assert_eq!((exe(&info), info.source), ("-", ProcessSource::Hook));
    for _ in 0..3 {
        table.resolve(&who, BootNs(T0));
        table.resolve(&gone, BootNs(T0));
    }
    assert_eq!(proc.reads(), [10, 11]);
}

#[test]
fn kernel_threads_are_not_read() {
    let proc = FakeProc::default();
    proc.put(2, T0, "/bin/wrong");
    let mut table = proc.table();
    let mut who = task(2, T0, "kworker/0:1");
    who.flags = PF_KTHREAD;
    let info = table.resolve(&who, BootNs(T0));
    assert!(info.kernel && info.exe.is_none());
    assert!(proc.reads().is_empty());
}

#[test]
fn proc_entry_of_another_process_is_refused() {
    let proc = FakeProc::default();
    proc.put(10, T0 + SECOND, "/bin/later");
    let info = proc.table().resolve(&task(10, T0, "first"), BootNs(T0 + 2 * SECOND));
    assert_eq!((exe(&info), &info.comm[..]), ("-", &b"first"[..]));
}

#[test]
fn reused_id_does_not_mix_processes() {
    let mut table = FakeProc::default().table();
    table.on_exec(&exec_record(10, T0, "/bin/first"), b"");
    let first = task(10, T0, "first");
    table.on_exit(&exit_record(first, T0 + SECOND));
    table.on_exec(&exec_record(10, T0 + SECOND + 5, "/bin/second"), b"");
    let second = task(10, T0 + SECOND + 5, "second");
    assert_eq!(exe(&table.resolve(&first, BootNs(T0 + SECOND + 9))), "/bin/first");
    assert_eq!(exe(&table.resolve(&second, BootNs(T0 + SECOND + 9))), "/bin/second");
    // The first one's grace ends; the second stays.
    table.on_exit(&exit_record(task(77, T0, "x"), T0 + 60 * SECOND));
    assert_eq!(exe(&table.resolve(&second, BootNs(T0 + 60 * SECOND))), "/bin/second");
    assert_eq!(table.stats().known, 2);
}

#[test]
fn reuse_within_one_tick_is_seen() {
    let mut table = FakeProc::default().table();
    table.on_exec(&exec_record(10, T0, "/bin/first"), b"");
    table.on_exec(&exec_record(10, T0 + 1000, "/bin/second"), b"");
    assert_eq!(exe(&table.resolve(&task(10, T0, "first"), BootNs(T0))), "/bin/first");
    assert_eq!(exe(&table.resolve(&task(10, T0 + 1000, "second"), BootNs(T0))), "/bin/second");
}

#[test]
fn exited_process_is_kept_for_its_grace() {
    let mut table = FakeProc::default().table();
    table.on_exec(&exec_record(10, T0, "/bin/short"), b"");
    let who = task(10, T0, "short");
    let gone = table.on_exit(&exit_record(who, T0 + SECOND)).expect("known");
    assert_eq!(exe(&gone), "/bin/short");
    drop(gone);
    table.on_exit(&exit_record(task(11, T0, "x"), T0 + 5 * SECOND));
    assert_eq!(exe(&table.resolve(&who, BootNs(T0 + 5 * SECOND))), "/bin/short");
    table.on_exit(&exit_record(task(12, T0, "x"), T0 + 7 * SECOND));
    assert_eq!(exe(&table.resolve(&who, BootNs(T0 + 7 * SECOND))), "-");
}

/// A connection refers to what its opener was: that one stays known until it is closed.
#[test]
fn exited_process_is_kept_while_something_refers_to_it() {
    let mut table = FakeProc::default().table();
    table.on_exec(&exec_record(10, T0, "/bin/first"), b"");
    let who = task(10, T0, "first");
    let opener = table.resolve(&who, BootNs(T0));
    // The reference is to the image before the exec.
    table.on_exec(&exec_record(10, T0, "/bin/second"), b"");
    table.on_exit(&exit_record(who, T0 + SECOND));
    for seconds in [7, 30, 60] {
        table.on_exit(&exit_record(task(11, T0, "x"), T0 + seconds * SECOND));
        assert_eq!(exe(&table.resolve(&who, BootNs(T0 + seconds * SECOND))), "/bin/second");
    }
    drop(opener);
    table.on_exit(&exit_record(task(11, T0, "x"), T0 + 70 * SECOND));
    assert_eq!(exe(&table.resolve(&who, BootNs(T0 + 70 * SECOND))), "-");
}

/// A backup program may report an exec that the first one has reported: it is the same image, of which no fact is lost.
#[test]
fn a_repeated_exec_is_the_same_image() {
    let mut table = FakeProc::default().table();
    let numbered = |number| {
        let mut record = exec_record(10, T0, "/bin/tool");
        record.task.exec_id = number;
        record
    };
    let first = table.on_exec(&numbered(3), b"tool");
    let repeated = table.on_exec(&numbered(3), b"tool");
    assert!(Arc::ptr_eq(&first, &repeated));
    let second = table.on_exec(&numbered(4), b"tool");
    assert_ne!(first.identity, second.identity, "it was executed again");
    let third = table.on_exec(&numbered(0), b"tool");
    assert_ne!(second.identity, third.identity, "this kernel does not number them");
}

#[test]
fn dying_process_keeps_its_ids() {
    let mut table = FakeProc::default().table();
    table.on_exec(&exec_record(10, T0, "/bin/short"), b"");
    let mut who = task(10, T0, "short");
    table.on_exit(&exit_record(who, T0 + SECOND));
    who.flags = PF_EXITING;
    who.cgroup_id = 1;
    assert_eq!(table.resolve(&who, BootNs(T0 + SECOND)).cgroup_id, 7);
}

#[test]
fn idle_task_has_no_exit() {
    assert_eq!(FakeProc::default().table().on_exit(&exit_record(task(0, 0, "swapper"), T0)), None);
}

#[test]
fn exec_path_falls_back() {
    let proc = FakeProc::default();
    proc.put(10, T0, "/real/path");
    let mut table = proc.table();
    let mut exec = exec_record(10, T0, "/typed");
    exec.flags = ExecFlags::ARGS_FAULT;
    let image = proc.read(Pid(10)).expect("put");
    proc.put_image(ProcImage { exe_file: FileId::from_kernel(exec.exe_dev, exec.exe_inode), ..image });
    let info = table.on_exec(&exec, b"");
    assert_eq!((exe(&info), info.args.len(), info.args_truncated), ("/real/path", 1, true));
    exec.task.tgid = 11;
    let info = table.on_exec(&exec, b"");
    assert_eq!((exe(&info), info.args_truncated), ("/typed", true));
    exec.task.tgid = 12;
    exec.filename_len = 0;
    assert_eq!(exe(&table.on_exec(&exec, b"")), "-");
}

#[test]
fn executable_without_links_is_deleted() {
    let mut exec = exec_record(10, T0, "/memfd:payload");
    exec.exe_nlink = 0;
    let info = FakeProc::default().table().on_exec(&exec, b"");
    assert!(info.exe_deleted);
    assert_eq!(exe(&info), "/memfd:payload");
}

#[test]
fn full_table_drops_exited_ones_first() {
    let proc = FakeProc::default();
    let mut table = proc.table_with(ProcessLimits { max: 4, ..ProcessLimits::default() });
    for pid in 1..=4 {
        proc.put(pid, T0, "/bin/x");
        table.on_exec(&exec_record(pid, T0, "/bin/x"), b"");
    }
    table.on_exit(&exit_record(task(2, T0, "x"), T0 + 2));
    table.on_exec(&exec_record(5, T0, "/bin/five"), b"");
    assert_eq!((table.stats().known, table.stats().evicted, table.stats().not_kept), (4, 1, 0));
    proc.put(5, T0, "/bin/five");
    let info = table.on_exec(&exec_record(6, T0, "/bin/six"), b"");
    assert_eq!(exe(&info), "/bin/six", "reported, if not kept");
    assert_eq!((table.stats().known, table.stats().not_kept), (4, 1));
    // An exit that was lost is found once the table is full, some time later.
    proc.remove(3);
    let mut late = exec_record(7, T0 + 20 * SECOND, "/bin/seven");
    late.header.boot_ns = T0 + 20 * SECOND;
    table.on_exec(&late, b"");
    assert_eq!((table.stats().known, table.stats().evicted, table.stats().not_kept), (4, 2, 1));
}

#[derive(Clone, Debug)]
enum Op {
    Fork(u32, u64, u32, u64),
    Exec(u32, u64),
    Exit(u32, u64),
    Resolve(u32, u64),
    Scan,
}

fn op() -> impl Strategy<Value = Op> {
    let pid = 0u32..6;
    // Some starts share a tick.
    let start = (0u64..4, 0u64..3).prop_map(|(tick, ns)| T0 + tick * 10_000_000 + ns);
    prop_oneof![
        (pid.clone(), start.clone(), pid.clone(), start.clone())
            .prop_map(|(a, b, c, d)| Op::Fork(a, b, c, d)),
        (pid.clone(), start.clone()).prop_map(|(a, b)| Op::Exec(a, b)),
        (pid.clone(), start.clone()).prop_map(|(a, b)| Op::Exit(a, b)),
        (pid, start).prop_map(|(a, b)| Op::Resolve(a, b)),
        Just(Op::Scan),
    ]
}

proptest! {
    /// Whatever the order: an answer is about the process asked for, an image never crosses to another start of the
    /// same id, the bound holds and the counts agree.
    #[test]
    fn never_mixes_never_grows(ops in prop::collection::vec((op(), 0u64..3), 0..120)) {
        let proc = FakeProc::default();
        proc.put(1, T0, "/scan");
        proc.put(2, T0 + 20_000_000, "/scan");
        let mut table = proc.table_with(ProcessLimits { max: 8, ..ProcessLimits::default() });
        let mut now = T0;
        for (op, seconds) in ops {
            now += seconds * SECOND;
            let reported = match op {
                Op::Fork(parent, parent_start, pid, start) => {
                    let mut record = fork_record((parent, parent_start), task(pid, start, "f"));
                    record.header.boot_ns = now;
                    Some((table.on_fork(&record), pid, start))
                }
                Op::Exec(pid, start) => {
                    let mut record = exec_record(pid, start, &format!("/exec/{pid}/{start}"));
                    record.header.boot_ns = now;
                    Some((table.on_exec(&record, b""), pid, start))
                }
                Op::Exit(pid, start) => {
                    table.on_exit(&exit_record(task(pid, start, "e"), now)).map(|info| (info, pid, start))
                }
                Op::Resolve(pid, start) => Some((table.resolve(&task(pid, start, "r"), BootNs(now)), pid, start)),
                Op::Scan => {
                    table.scan().expect("scan");
                    None
                }
            };
            if let Some((info, pid, start)) = reported {
                prop_assert_eq!((info.pid, info.start), (Pid(pid), BootNs(start)));
                if info.source == ProcessSource::Exec {
                    prop_assert_eq!(exe(&info), format!("/exec/{pid}/{start}"));
                }
            }
            let stats = table.stats();
            prop_assert!(stats.known <= 8 && stats.exited <= stats.known, "{:?}", stats);
            let counted: usize = table.entries.count();
            prop_assert_eq!(counted, stats.known);
        }
    }
}

/// A process may set where `/proc/PID/exe` leads, so a path from there counts only for the file that was executed.
#[test]
fn a_path_that_the_record_lacks_is_taken_from_proc_for_the_same_file_only() {
    let proc = FakeProc::default();
    let mut table = proc.table();
    let mut record = exec_record(10, T0, "/a/long/path");
    record.flags = 0;
    let own = FileId::from_kernel(record.exe_dev, record.exe_inode).expect("a file");
    for (file, expected) in [
        (Some(own), "/deep/own"),
        (Some(FileId { inode: own.inode + 1, ..own }), "/a/long/path"),
        (None, "/a/long/path"),
    ] {
        proc.put(10, T0, "/deep/own");
        let image = proc.read(Pid(10)).expect("put");
        proc.put_image(ProcImage { exe_file: file, ..image });
        let info = table.on_exec(&record, b"");
        assert_eq!((exe(&info), info.identity.exe_is_host()), (expected, None));
    }
}

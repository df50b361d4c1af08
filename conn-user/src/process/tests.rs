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
fn scan_fills_and_does_not_overwrite() {
    let proc = FakeProc::default();
    let mut table = proc.table();
    table.on_exec(&exec_record(10, T0, "/bin/exec"), b"");
    table.on_fork(&fork_record((10, T0), task(11, T0 + 1, "exec")));
    table.resolve(&task(12, T0, "hook"), BootNs(T0));
    for pid in [10, 11, 12, 13] {
        proc.put(pid, T0, "/bin/scan");
    }
    assert_eq!(table.scan().expect("scan"), 4);
    let mut exe_of = |pid, start, name| exe(&table.resolve(&task(pid, start, name), BootNs(T0))).to_owned();
    assert_eq!(exe_of(10, T0, "exec"), "/bin/exec");
    assert_eq!(exe_of(11, T0 + 1, "exec"), "/bin/exec");
    assert_eq!(exe_of(12, T0, "hook"), "/bin/scan");
    assert_eq!(exe_of(13, T0, "new"), "/bin/scan");
    let stats = table.stats();
    table.scan().expect("scan");
    assert_eq!(table.stats(), stats, "a second scan changes nothing");
}

#[test]
fn scanned_process_is_the_one_that_records_emit_of() {
    let proc = FakeProc::default();
    proc.put(10, T0, "/bin/after");
    let mut table = proc.table();
    table.scan().expect("scan");
    let coarse = table.resolve(&task(10, T0, "x"), BootNs(T0));
    assert_eq!((coarse.start, coarse.start_is_coarse), (BootNs(T0), false), "a hook makes the start exact");
    let exec = table.on_exec(&exec_record(10, T0, "/bin/newer"), b"");
    assert_eq!((exe(&exec), table.stats().known), ("/bin/newer", 1));
    table.scan().expect("scan");
    assert_eq!(exe(&table.resolve(&task(10, T0, "newer"), BootNs(T0))), "/bin/newer");
}

/// Fork, exec and a connection all happen between the attach and the scan, which sees the end state first.
#[test]
fn records_after_the_scan_replay_what_it_saw() {
    let proc = FakeProc::default();
    proc.put(9, T0 - SECOND, "/bin/sh");
    proc.put(10, T0, "/usr/bin/curl");
    let mut table = proc.table();
    table.scan().expect("scan");
    let forked = table.on_fork(&fork_record((9, T0 - SECOND), task(10, T0, "sh")));
    assert_eq!(exe(&forked), "/bin/sh");
    let execed = table.on_exec(&exec_record(10, T0, "/usr/bin/curl"), b"");
    assert_eq!(exe(&execed), "/usr/bin/curl");
    assert_eq!(table.stats().known, 2);
}

#[test]
fn fork_of_an_unknown_parent_reads_it() {
    let proc = FakeProc::default();
    proc.put(9, T0 - SECOND, "/bin/sh");
    let mut table = proc.table();
    let child = table.on_fork(&fork_record((9, T0 - SECOND), task(10, T0, "sh")));
    assert_eq!((exe(&child), child.source), ("/bin/sh", ProcessSource::Fork));
    let orphan = table.on_fork(&fork_record((8, T0 - SECOND), task(11, T0, "sh")));
    assert_eq!((exe(&orphan), orphan.source), ("-", ProcessSource::Hook));
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

#[test]
fn real_scan_finds_this_process() {
    let mut table = ProcessTable::default();
    assert!(table.scan().expect("/proc") > 0);
    let me = Pid(std::process::id());
    let seen = ProcFs::default().read(me).expect("self");
    let info = table.resolve(&task(me.0, seen.start.0 + 1, "test"), BootNs(T0));
    assert_eq!((info.source, info.exe.clone()), (ProcessSource::ProcScan, seen.exe));
    assert_eq!(table.stats().proc_reads, 0, "the scan knew it");
}

fn unit(info: &ProcessInfo) -> &str {
    let place = info.placement.as_ref().and_then(|place| place.unit.as_deref());
    std::str::from_utf8(place.unwrap_or(b"-")).expect("text")
}

#[test]
fn the_unit_is_that_of_the_cgroup_in_the_record() {
    let proc = FakeProc::default();
    proc.put_cgroup(7, "/system.slice/web.service");
    let mut table = proc.table();
    let server = table.on_exec(&exec_record(10, T0, "/bin/web"), b"");
    assert_eq!(unit(&server), "web.service");
    // The cgroup is gone, and a child is gone before anybody could look: it was in its parent's.
    proc.remove_cgroup(7);
    let child = table.on_fork(&fork_record((10, T0), task(11, T0 + 1, "web")));
    assert_eq!(unit(&child), "web.service");
    // A cgroup that came and went is not known, and not its former one.
    let mut moved = task(11, T0 + 1, "web");
    moved.cgroup_id = 8;
    assert_eq!(table.resolve(&moved, BootNs(T0 + 1)).placement, None);
    proc.put_cgroup(9, "/init.scope");
    moved.cgroup_id = 9;
    assert_eq!(unit(&table.resolve(&moved, BootNs(T0 + 1))), "init.scope");
    assert!(proc.reads().is_empty());
}

/// On a machine with cgroup v1 all records report the root of v2, and only /proc knows more.
#[test]
fn the_unit_with_cgroup_v1_comes_from_proc() {
    let proc = FakeProc::default();
    proc.put(10, T0, "/bin/web");
    proc.put(11, T0, "/bin/db");
    for (pid, name) in [(10, "web"), (11, "db")] {
        let mut image = proc.read(Pid(pid)).expect("put");
        let path = format!("/system.slice/{name}.service").into_bytes().into();
        image.cgroup = Some(CgroupOf { id: 0, path });
        proc.put_image(image);
    }
    let mut table = proc.table();
    for (pid, expected) in [(10, "web.service"), (11, "db.service"), (12, "-")] {
        let mut exec = exec_record(pid, T0, "/bin/x");
        exec.task.cgroup_id = 1;
        assert_eq!(unit(&table.on_exec(&exec, b"")), expected);
    }
}

#[test]
fn users_have_names() {
    let path = std::env::temp_dir().join(format!("conn-table-users-{}", std::process::id()));
    std::fs::write(&path, "ann:x:1000:100::/:\nroot:x:0:0::/:\n").expect("a file");
    let mut table = FakeProc::default().table().with_users(Users::at(&path));
    let process = table.on_exec(&exec_record(10, T0, "/bin/x"), b"");
    assert_eq!(process.user.as_deref(), Some(&b"ann"[..]));
    let mut who = task(10, T0, "x");
    who.uid = 0;
    assert_eq!(table.resolve(&who, BootNs(T0)).user.as_deref(), Some(&b"root"[..]));
    who.uid = 7;
    assert_eq!(table.resolve(&who, BootNs(T0)).user, None);
    std::fs::remove_file(&path).expect("removed");
}

fn chain(info: &ProcessInfo) -> Vec<u32> {
    info.ancestors.iter().map(|ancestor| ancestor.pid.0).collect()
}

#[test]
fn ancestors_are_those_of_the_fork() {
    let proc = FakeProc::default();
    proc.put(1, SECOND, "/sbin/init");
    proc.put(10, T0, "/usr/sbin/sshd");
    let mut table = proc.table();
    table.scan().expect("scan");
    table.on_fork(&fork_record((10, T0), task(11, T0 + SECOND, "sshd")));
    let shell = table.on_exec(&exec_record(11, T0 + SECOND, "/bin/sh"), b"");
    let first = table.on_fork(&fork_record((11, T0 + SECOND), task(12, T0 + 2 * SECOND, "sh")));
    let second = table.on_fork(&fork_record((11, T0 + SECOND), task(13, T0 + 3 * SECOND, "sh")));
    assert_eq!((chain(&shell), chain(&first)), (vec![10, 1], vec![11, 10, 1]));
    assert_eq!(first.ancestors[0].exe.as_deref(), Some(&b"/bin/sh"[..]));
    assert!(Arc::ptr_eq(&first.ancestors, &second.ancestors), "shared");
    // The shell is gone, its id is another process's, and the child executes something: nothing changes above it.
    table.on_exit(&exit_record(task(11, T0 + SECOND, "sh"), T0 + 4 * SECOND));
    table.on_exec(&exec_record(11, T0 + 20 * SECOND, "/bin/other"), b"");
    let mut exec = exec_record(12, T0 + 2 * SECOND, "/bin/nc");
    exec.parent_tgid = 1;
    let orphan = table.on_exec(&exec, b"");
    assert_eq!((chain(&orphan), orphan.ppid), (vec![11, 10, 1], Some(Pid(1))));
    assert_eq!(orphan.ancestors[0].exe.as_deref(), Some(&b"/bin/sh"[..]));
    // A parent that has become another program.
    table.on_exec(&exec_record(13, T0 + 3 * SECOND, "/bin/bash"), b"");
    let third = table.on_fork(&fork_record((13, T0 + 3 * SECOND), task(14, T0 + 5 * SECOND, "bash")));
    assert_eq!(third.ancestors[0].exe.as_deref(), Some(&b"/bin/bash"[..]));
}

#[test]
fn a_parent_is_never_younger_than_its_child() {
    let proc = FakeProc::default();
    let mut table = proc.table();
    // The fork was lost; the parent's id is another process's by now.
    table.on_exec(&exec_record(1, T0 + SECOND, "/bin/young"), b"");
    assert_eq!(chain(&table.on_exec(&exec_record(10, T0, "/bin/old"), b"")), Vec::<u32>::new());
    assert_eq!(chain(&table.on_exec(&exec_record(11, T0 + 2 * SECOND, "/bin/x"), b"")), [1]);
}

/// From /proc the start is in whole ticks, from a record exact: the printed id must not change with it.
#[test]
fn the_id_of_a_process_does_not_change_when_its_start_becomes_exact() {
    let proc = FakeProc::default();
    proc.put(10, T0, "/bin/x");
    let mut table = proc.table();
    table.scan().expect("scan");
    let scanned = Arc::clone(&table.entries.newest(Pid(10)).expect("known").info);
    let exact = table.resolve(&task(10, T0, "x"), BootNs(T0));
    assert_ne!(scanned.start, exact.start);
    assert_eq!(scanned.start_ticks(), exact.start_ticks());
}

/// What the background finds is seen by whoever held the process before, and asked for once.
#[test]
fn the_first_use_of_the_network_asks_for_everything() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let mut table = ProcessTable::default().with_inspector(inspector);
    table.scan().expect("/proc");
    let me = Pid(std::process::id());
    let start = table.entries.newest(me).expect("known").info.start;
    assert_eq!(table.stats().inspect.asked, 0, "nobody has used it");
    let before = table.seen(me, start).expect("self");
    for _ in 0..3 {
        table.resolve(&task(me.0, start.0 + 5, "test"), BootNs(T0));
    }
    assert!(table.settle(Duration::from_mins(1)));
    assert_eq!(table.stats().inspect.asked, 1);
    assert!(before.identity.state().is_some() && before.identity.sha256().is_some());
    // A child runs the same file; what it executes is another image.
    let child = table.on_fork(&fork_record((me.0, start.0 + 5), task(4_000_000_000, T0, "test")));
    assert_eq!(child.identity.sha256(), before.identity.sha256());
    assert!(child.identity.state().is_none(), "not looked at yet");
    let other = table.on_exec(&exec_record(4_000_000_000, T0, "/bin/x"), b"");
    assert_eq!((other.identity.sha256(), other.identity.executed()), (None, Some(BootNs(T0 + 1))));
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

#[test]
fn the_hosts_own_executables_are_known_by_their_mount() {
    let mut table = FakeProc::default().table();
    let facts = |info: &ProcessInfo| (info.mount_ns.map(|it| it.is_host), info.identity.exe_is_host());
    let host = table.on_exec(&exec_record(10, T0, "/usr/sbin/sshd"), b"");
    assert_eq!(facts(&host), (Some(true), Some(true)));
    let mut record = exec_record(11, T0, "/usr/sbin/sshd");
    (record.mnt_ns, record.exe_mnt_ns) = (HOST_MNT_NS + 1, HOST_MNT_NS + 1);
    assert_eq!(facts(&table.on_exec(&record, b"")), (Some(false), None), "asked in the background");
    // A descriptor from another namespace, by execveat(2): the process is in the host's, the file is not.
    record = exec_record(12, T0, "/usr/sbin/sshd");
    record.exe_mnt_ns = HOST_MNT_NS + 1;
    assert_eq!(facts(&table.on_exec(&record, b"")), (Some(true), None));
    // A detached mount, or a kernel that does not report.
    record = exec_record(13, T0, "/usr/sbin/sshd");
    (record.mnt_ns, record.exe_mnt_ns) = (0, 0);
    assert_eq!(facts(&table.on_exec(&record, b"")), (None, None));
    let mut fork = fork_record((10, T0), task(20, T0 + SECOND, "sshd"));
    fork.mnt_ns = HOST_MNT_NS + 1;
    let child = table.on_fork(&fork);
    assert_eq!(facts(&child), (Some(false), Some(true)), "another namespace, the same executable");
    assert_eq!(child.ancestors[0].exe_is_host, Some(true));
}

#[test]
fn ancestors_have_what_was_known_at_the_fork() {
    let mut table = FakeProc::default().table();
    let mut record = exec_record(10, T0, "/usr/sbin/sshd");
    record.exe_mnt_ns = 0;
    let parent = table.on_exec(&record, b"");
    let mut child = |pid| {
        let child = table.on_fork(&fork_record((10, T0), task(pid, T0 + SECOND, "sshd")));
        child.ancestors[0].exe_is_host
    };
    assert_eq!(child(20), None);
    parent.identity.set_exe_is_host(true);
    assert_eq!((child(21), child(22)), (Some(true), Some(true)));
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

/// Rules wait for what the background finds out: where it is not asked, that must be known at once.
#[test]
fn nobody_waits_for_facts_that_are_not_asked_for() {
    let proc = FakeProc::default();
    proc.put(4_000_000, 5 * SECOND, "/usr/bin/one");
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let limits = ProcessLimits { max: 1, ..ProcessLimits::default() };
    let mut table = proc.table_with(limits).with_inspector(inspector);
    let first = table.resolve(&task(4_000_000, 5 * SECOND, "one"), BootNs(6 * SECOND));
    assert!(!first.identity.is_settled(), "it is asked for");
    let not_kept = table.resolve(&task(4_000_001, 5 * SECOND, "two"), BootNs(6 * SECOND));
    assert_eq!(table.stats().not_kept, 1);
    assert!(not_kept.identity.is_settled());
    let kernel = Task { flags: PF_KTHREAD, ..task(4_000_002, 5 * SECOND, "kworker/0:1") };
    assert!(table.resolve(&kernel, BootNs(6 * SECOND)).identity.is_settled());

    let mut alone = FakeProc::default().table();
    assert!(alone.resolve(&task(4_000_000, 5 * SECOND, "one"), BootNs(6 * SECOND)).identity.is_settled());
    let executed = alone.on_exec(&exec_record(4_000_001, 5 * SECOND, "/usr/bin/two"), b"two\0");
    assert!(executed.identity.is_settled());
}

//! What a scan of /proc shows, beside what records say.

use super::*;

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
fn real_scan_finds_this_process() {
    let mut table = ProcessTable::default();
    assert!(table.scan().expect("/proc") > 0);
    let me = Pid(std::process::id());
    let seen = ProcFs::default().read(me).expect("self");
    let info = table.resolve(&task(me.0, seen.start.0 + 1, "test"), BootNs(T0));
    assert_eq!((info.source, info.exe.clone()), (ProcessSource::ProcScan, seen.exe));
    assert_eq!(table.stats().proc_reads, 0, "the scan knew it");
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

//! What is said of a process beside its image: unit, user, ancestors, and facts of the background.

use super::*;

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

//! What was there before, and what a loss of records left wrong.

use super::*;

#[test]
fn what_was_there_is_judged_and_recorded_but_not_reported() {
    let mut rig = Rig::new();
    let socket = snap::socket("10.0.0.1:40000", "203.0.113.9:443");
    let sockets = vec![
        crate::flow::snapshot::model::SnapSocket {
            cookie: Some(1),
            direction: Some(crate::flow::model::Direction::Out),
            ..socket
        },
        crate::flow::snapshot::model::SnapSocket { cookie: Some(2), ..snap::listener("0.0.0.0:80") },
    ];
    let at = BootNs(rig.now);
    rig.pipeline.merge_start(Snapshot { began: at, ended: at, sockets, ..Snapshot::default() });
    rig.begin(&set(vec![missing(), long(5)]));
    let seqs: Vec<u64> = rig.reported.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [0; 3], "{:?}", rig.reported());
    rig.reported();
    rig.on_time(rig.now + 20 * SECOND);
    assert_eq!(rig.reported().len(), 1, "the connection is open for long, and the listener is there");
}

/// Issue 13, 1.2. What a recording has is what the rules got.
#[test]
fn programs_from_before_are_judged_by_their_connections() {
    use crate::filter::Filter;
    use crate::flow::snapshot::model::{Holder, SnapSocket, StdioPeers};
    use crate::process::procfs::{ProcImage, ProcSource as _};
    use crate::rules::model::ProcessRule;

    const AGO: u64 = 10 * SECOND;
    let proc = FakeProc::default();
    let put = |pid: u32, ppid: u32, exe: &str| {
        proc.put(pid, AGO + u64::from(pid) * 10 * MS, exe);
        let image = proc.read(Pid(pid)).expect("put");
        proc.put_image(ProcImage { ppid: Some(Pid(ppid)), ..image });
    };
    proc.put(1, SECOND, "/sbin/init");
    put(10, 1, "/usr/bin/python3");
    put(11, 10, "/bin/on-stdio");
    put(12, 11, "/bin/below-stdio");
    put(20, 1, "/usr/bin/ruby");
    put(21, 20, "/bin/on-pipes");
    put(22, 20, "/usr/bin/ruby");
    put(30, 1, "/bin/elsewhere");
    put(31, 30, "/bin/below-elsewhere");
    let start = |pid: u32| BootNs(AGO + u64::from(pid) * 10 * MS);
    let holder = |(pid, fd): (u32, u32)| Holder { pid: Pid(pid), start: start(pid), fd };
    let conn = |cookie: u64, port: u16, holders: &[(u32, u32)]| SnapSocket {
        cookie: Some(cookie),
        direction: Some(crate::flow::model::Direction::Out),
        holders: holders.iter().copied().map(holder).collect(),
        ..snap::socket(&format!("10.0.0.1:{port}"), "203.0.113.9:443")
    };
    let mut rig = Rig::new();
    rig.pipeline.join.processes = proc.table();
    rig.pipeline.join.processes.scan().expect("scan");
    let of = |pid| (Pid(pid), start(pid));
    let snapshot = Snapshot {
        began: BootNs(rig.now),
        ended: BootNs(rig.now),
        sockets: vec![conn(1, 40_001, &[(10, 3), (11, 0), (11, 1), (11, 2)]), conn(2, 40_002, &[(20, 3)])],
        peers: vec![StdioPeers { process: of(21), peers: [of(20)].into_iter().collect() }],
        ..Snapshot::default()
    };
    rig.pipeline.merge_start(snapshot);
    let holds = Filter::new("dir:out").expect("a filter");
    let spawn = ProcessRule::Spawn { holds, beside: false, received: None, answered: None };
    let rules = [ProcessRule::Stdio, ProcessRule::ParentStdio, spawn];
    let rules = set(rules.into_iter().map(|detect| rule(Detect::Process(detect), "")).collect());
    rig.begin(&rules);
    let mut programs = Vec::new();
    let mut alerts = Vec::new();
    for event in &rig.reported {
        match &event.body {
            EventBody::Exec(exec) => {
                assert_eq!(event.seq, 0);
                programs.push((exec.process.pid.0, exec.stdio.is_some(), exec.parent_stdio.is_some()));
                assert_eq!(
                    exec.stdio_peers.to_vec(),
                    if exec.process.pid == Pid(21) { vec![of(20)] } else { vec![] }
                );
            }
            EventBody::Alert(alert) => {
                let running = alert.evidence.iter().any(|one| one.name == "running_for");
                assert!(running, "{alert:?}");
                alerts.push(alert.id.0);
            }
            _ => {}
        }
    }
    let expected =
        [(10, false, false), (11, true, false), (12, false, true), (20, false, false), (21, false, false)];
    assert_eq!(programs, expected, "who has to do with a connection, once, and no copy of a parent");
    assert_eq!(alerts, [1, 2, 3], "stdio, parent-stdio, spawn");
}

/// Issue 13: an exec record that is lost hides no shell. The repair finds the program, once, and a recording has it.
#[test]
fn programs_of_a_loss_are_judged_by_the_repair() {
    use crate::filter::Filter;
    use crate::flow::snapshot::model::{Holder, SnapSocket};
    use crate::process::procfs::{ProcImage, ProcSource as _};
    use crate::rules::model::ProcessRule;

    let proc = FakeProc::default();
    let put = |pid: u32, ppid: u32, start: u64, exe: &str| {
        proc.put(pid, start, exe);
        let image = proc.read(Pid(pid)).expect("put");
        proc.put_image(ProcImage { ppid: Some(Pid(ppid)), ..image });
    };
    proc.put(1, SECOND, "/sbin/init");
    put(10, 1, 10 * SECOND, "/usr/bin/python3");
    put(11, 1, 11 * SECOND, "/usr/bin/before");
    let mut rig = Rig::new();
    rig.pipeline.join.processes = proc.table();
    rig.pipeline.join.processes.scan().expect("scan");
    let holds = Filter::new("dir:out").expect("a filter");
    let spawn = ProcessRule::Spawn { holds, beside: false, received: None, answered: None };
    let rules = [ProcessRule::Stdio, spawn, ProcessRule::Exec];
    let matches = ["", "", "exe:/bin/alone"];
    let rules = rules.into_iter().zip(matches).map(|(detect, text)| rule(Detect::Process(detect), text));
    let rules = set(rules.collect());
    rig.begin(&rules);
    rig.opens(1);
    // In the loss the process starts a shell, a shell on the connection, and a worker that executes nothing.
    let then = rig.now + SECOND;
    put(31, 10, then, "/bin/sh");
    put(32, 10, then, "/bin/on-stdio");
    put(33, 10, then, "/usr/bin/python3");
    put(34, 1, then, "/bin/alone");
    rig.now += 2 * SECOND;
    let holder = |pid, start, fd| Holder { pid: Pid(pid), start: BootNs(start), fd };
    let held = [holder(10, 10 * SECOND, 3), holder(32, then, 0), holder(32, then, 1)];
    let socket = SnapSocket {
        cookie: Some(1),
        direction: Some(crate::flow::model::Direction::Out),
        holders: held.into_iter().collect(),
        ..snap::socket("10.0.0.1:40001", "203.0.113.9:443")
    };
    let mut losses = 0;
    let mut repair = |rig: &mut Rig| {
        losses += 1;
        let counts = [(HookId::ProcessExec, vec![CpuCount { attempted: losses, lost: losses, unmarked: 0 }])];
        rig.pipeline.audit(&counts, &[], BootNs(rig.now), &mut |event| rig.reported.push(event.clone()));
        assert!(rig.pipeline.has_lost_processes() && rig.pipeline.take_loss());
        let (began, sockets) = (BootNs(rig.now + MS), vec![socket.clone()]);
        let snapshot = Snapshot { began, ended: began, sockets, ..Snapshot::default() };
        rig.now += 2 * MS;
        let now = BootNs(rig.now);
        rig.pipeline.repair(&snapshot, now, &mut || {}, &mut |event| rig.reported.push(event.clone()));
        rig.pipeline.report_programs(now, &mut |event| rig.reported.push(event.clone()));
    };
    let executed = |reported: &[Event]| -> Vec<(u32, bool)> {
        let of = |event: &Event| match &event.body {
            EventBody::Exec(exec) if event.seq > 0 => Some((exec.process.pid.0, exec.stdio.is_some())),
            _ => None,
        };
        reported.iter().filter_map(of).collect()
    };
    repair(&mut rig);
    assert_eq!(executed(&rig.reported), [(31, false), (32, true), (34, false)], "and no copy of its parent");
    let reported = rig.reported.len();
    repair(&mut rig);
    assert_eq!(executed(&rig.reported[reported..]), [], "once");
    put(34, 1, then, "/bin/other");
    repair(&mut rig);
    assert_eq!(executed(&rig.reported[reported..]), [(34, false)], "another image is another program");
    let lines = std::mem::take(&mut rig.reported);
    let alerts: Vec<Alert> = lines
        .iter()
        .filter_map(
            |event| if let EventBody::Alert(alert) = &event.body { Some(Alert::clone(alert)) } else { None },
        )
        .collect();
    assert_eq!(alerts.len(), 3, "on the connection, below it, alone: {alerts:?}");
    for alert in &alerts {
        assert!(alert.evidence.iter().any(|one| one.name == "running_for"), "{alert:?}");
    }
    let events: Vec<Event> =
        lines.into_iter().filter(|event| !matches!(event.body, EventBody::Alert(_))).collect();
    crate::replay::tests::gives(&rules, &events, BootNs(rig.now), &alerts);
}

/// Records of an end were lost; the snapshot shows that the connection is gone.
#[test]
fn a_repair_ends_what_is_gone() {
    let mut rig = Rig::judging(vec![long(5)]);
    rig.opens(1);
    rig.now += 6 * SECOND;
    rig.seq[HookId::FentryTcpClose as usize] += 1;
    rig.opens(2);
    rig.closes(2);
    assert!(rig.pipeline.take_loss());
    assert_eq!(
        rig.reported()[3..],
        ["raised 6", "connect", "established", "gap fentry:tcp_close 1", "close"]
    );
    let began = BootNs(rig.now + MS);
    let snapshot = Snapshot { began, ended: began, ..Snapshot::default() };
    rig.pipeline.repair(&snapshot, BootNs(rig.now + 2 * MS), &mut || {}, &mut |event| {
        rig.reported.push(event.clone());
    });
    let reported = rig.reported();
    assert_eq!(reported[..2], ["close", "resolved 7"], "{reported:?}");
    assert_eq!(reported.last().map(String::as_str), Some("repair"));
}

/// One ledger: a loss that was repaired is said to be so in the alerts that it touches, and a replay says the same.
#[test]
fn alerts_know_of_the_repair() {
    let rules = set(vec![long(5)]);
    let mut rig = Rig::new();
    rig.begin(&rules);
    rig.opens(1);
    rig.seq[HookId::FentryTcpClose as usize] += 1;
    rig.opens(2);
    rig.closes(2);
    let socket = crate::flow::snapshot::model::SnapSocket {
        cookie: Some(1),
        direction: Some(crate::flow::model::Direction::Out),
        ..snap::socket("10.0.0.1:40001", "203.0.113.9:443")
    };
    let repair = |rig: &mut Rig| {
        let (began, sockets) = (BootNs(rig.now + MS), vec![socket.clone()]);
        let snapshot = Snapshot { began, ended: began, sockets, ..Snapshot::default() };
        rig.now += 2 * MS;
        rig.pipeline
            .repair(&snapshot, BootNs(rig.now), &mut || {}, &mut |event| rig.reported.push(event.clone()));
    };
    repair(&mut rig);
    rig.on_time(rig.now + 6 * SECOND);
    let lines = std::mem::take(&mut rig.reported);
    let alerts: Vec<Alert> = lines
        .iter()
        .filter_map(
            |event| if let EventBody::Alert(alert) = &event.body { Some(Alert::clone(alert)) } else { None },
        )
        .collect();
    let [alert] = &alerts[..] else { panic!("{alerts:?}") };
    assert_eq!(alert.covered, crate::event::alert::Covered::Except { lost: 1, repaired: true });
    let events: Vec<Event> =
        lines.into_iter().filter(|event| !matches!(event.body, EventBody::Alert(_))).collect();
    crate::replay::tests::gives(&rules, &events, BootNs(rig.now), &alerts);
}

//! Processes that use the network, each with its benign twin.

use std::sync::Arc;
use std::time::Duration;

use crate::event::alert::{Phase, Subject, Value};
use crate::event::model::{EventBody, ProcEvent};
use crate::filter::Filter;
use crate::flow::model::{Direction, EndedHow, Source};
use crate::process::Sleeper;
use crate::process::files::FileWorkers;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::process::inspect::Inspector;
use crate::process::procfs::ProcFs;
use crate::rules::model::{Detect, ProcessRule};
use crate::rules::testing::{Rig, child, evidence, process, rule, seconds};
use crate::units::DurationNs;

#[test]
fn use_of_the_network_is_reported_once_a_program() {
    let rule = rule(Detect::Process(ProcessRule::Network), "exe:/tmp/*");
    let mut rig = Rig::new(rule);
    rig.connect(&process(10, "/usr/bin/curl"), "203.0.113.9:443");
    assert!(rig.reported().is_empty());
    let id = rig.connect(&process(11, "/tmp/x"), "203.0.113.9:443");
    assert_eq!(rig.only().suppress.as_deref(), Some("exe:/tmp/x"));
    rig.connect(&process(12, "/tmp/x"), "203.0.113.10:443");
    rig.fail(id, 111);
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
    rig.pass(seconds(3_601));
    rig.listen(&process(13, "/tmp/x"), "0.0.0.0:4444");
    let alert = rig.only();
    assert_eq!((alert.id.0, alert.repeats), (2, 0));
}

/// A harmless use, made on purpose, hides nothing.
#[test]
fn a_decoy_hides_nothing() {
    let mut rig = Rig::new(rule(Detect::Process(ProcessRule::Network), "proc:bash"));
    let (login, web) = (process(8, "/usr/bin/login"), process(9, "/usr/sbin/nginx"));
    let shell = |pid| child(&login, pid, "/bin/bash");
    rig.connect(&shell(10), "127.0.0.1:1");
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
    rig.connect(&shell(11), "127.0.0.1:2");
    assert!(rig.reported().is_empty(), "the same");
    rig.connect(&shell(12), "203.0.113.9:4444");
    assert_eq!(rig.phases(), [(2, Phase::Raised)], "it goes farther");
    rig.connect(&shell(13), "10.0.0.9:22");
    assert_eq!(rig.phases(), [(3, Phase::Raised)]);
    rig.connect(&child(&web, 14, "/bin/bash"), "203.0.113.10:4444");
    assert_eq!(rig.phases(), [(4, Phase::Raised)], "somebody else started it");
    rig.connect(&shell(15), "203.0.113.11:4444");
    assert!(rig.reported().is_empty());
    let other = rig.connection(Direction::Out, Some(&shell(16)), None, "203.0.113.9:4444", Source::Live);
    let elsewhere = crate::flow::model::ConnEvent { netns: crate::units::NetNs(7), ..other };
    rig.opens(elsewhere, crate::flow::model::Change::Connect);
    assert_eq!(rig.phases(), [(5, Phase::Raised)], "in another network namespace");
}

#[test]
fn a_shell_whose_parent_has_the_connection() {
    let mut rig = Rig::new(rule(Detect::Process(ProcessRule::ParentStdio), "proc:sh"));
    let python = process(10, "/usr/bin/python3");
    let shell = child(&python, 11, "/bin/sh");
    let conn = rig.connection(Direction::Out, Some(&python), None, "203.0.113.9:443", Source::Live);
    let id = rig.opens(conn.clone(), crate::flow::model::Change::Connect);
    let conn = Some(Box::new(conn));
    rig.body(EventBody::Exec(ProcEvent { stdio: conn.clone(), ..ProcEvent::new(Arc::clone(&shell)) }));
    assert!(rig.reported().is_empty(), "its own is another rule's");
    rig.body(EventBody::Exec(ProcEvent { parent_stdio: conn, ..ProcEvent::new(Arc::clone(&shell)) }));
    let alert = rig.only();
    let Subject::Connection(subject) = &alert.subject else { panic!("{alert:?}") };
    assert!(subject.owner.process.as_ref().is_some_and(|owner| owner.is_same(&python)));
    assert_eq!(evidence(&alert, "started"), Some(&Value::Process(shell)));
    rig.close(id, EndedHow::PeerFin, None);
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
}

/// Connections that come and go do not hide the one that stays.
#[test]
fn a_shell_below_a_process_with_many_connections() {
    let spawn = |beside| ProcessRule::Spawn {
        holds: Filter::new("dir:out").expect("a filter"),
        beside,
        received: None,
        answered: None,
    };
    let mut rig = Rig::new(rule(Detect::Process(spawn(false)), "proc:sh"));
    let python = process(10, "/usr/bin/python3");
    let shell = child(&python, 11, "/bin/sh");
    let id = rig.open(&python, "203.0.113.9:443");
    let decoys: Vec<_> = (1..=20).map(|at| rig.open(&python, &format!("203.0.113.{}:80", at + 20))).collect();
    for decoy in decoys {
        rig.close(decoy, EndedHow::PeerFin, None);
    }
    rig.exec(&shell);
    let alert = rig.only();
    let Subject::Connection(subject) = &alert.subject else { panic!("{alert:?}") };
    assert_eq!(subject.id, id);
    rig.close(id, EndedHow::PeerFin, None);
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
    rig.exec(&child(&python, 12, "/bin/sh"));
    assert!(rig.reported().is_empty(), "it has no connection any more");

    // A tool beside the shell that runs the program; what runs below the tool itself is not beside it.
    let mut rig = Rig::new(rule(Detect::Process(spawn(true)), ""));
    let script = process(10, "/bin/sh");
    let (tool, shell) = (child(&script, 11, "/usr/bin/nc"), child(&script, 12, "/bin/sh"));
    rig.open(&tool, "203.0.113.9:443");
    rig.exec(&child(&child(&tool, 13, "/bin/sh"), 14, "/usr/bin/id"));
    rig.exec(&child(&script, 15, "/usr/bin/id"));
    assert!(rig.reported().is_empty());
    rig.exec(&child(&shell, 16, "/usr/bin/id"));
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
}

#[test]
fn a_shell_on_a_connection() {
    let mut rig = Rig::new(rule(Detect::Process(ProcessRule::Stdio), "-ancestor:sshd"));
    let python = process(10, "/usr/bin/python3");
    let shell = child(&python, 11, "/bin/sh");
    let conn = rig.connection(Direction::Out, Some(&python), None, "203.0.113.9:443", Source::Live);
    let id = rig.opens(conn.clone(), crate::flow::model::Change::Connect);
    rig.exec(&shell);
    assert!(rig.reported().is_empty(), "its standard input is none");
    let stdio = Some(Box::new(conn));
    let inherited = stdio.clone();
    rig.body(EventBody::Exec(ProcEvent { stdio, ..ProcEvent::new(Arc::clone(&shell)) }));
    let alert = rig.only();
    assert_eq!(evidence(&alert, "args"), Some(&Value::List(vec![Value::Text(b"/bin/sh"[..].into())])));
    let Subject::Connection(subject) = &alert.subject else { panic!("{alert:?}") };
    assert!(subject.owner.process.as_ref().is_some_and(|owner| owner.is_same(&shell)));
    // What the shell runs inherits it.
    let child = process(11, "/bin/bash");
    rig.body(EventBody::Exec(ProcEvent { stdio: inherited, ..ProcEvent::new(child) }));
    assert!(rig.reported().is_empty());
    rig.close(id, EndedHow::PeerFin, None);
    let alert = rig.only();
    assert_eq!((alert.id.0, alert.phase, alert.repeats), (1, Phase::Resolved, 1));
}

#[test]
fn a_replaced_executable_is_reported_until_the_process_ends() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let (sleeper, other) = (Sleeper::start("rule"), Sleeper::start("rule-other"));
    let (service, twin) = (Arc::new(sleeper.process()), Arc::new(other.process()));
    let mut rig = Rig::new(rule(Detect::Process(ProcessRule::Replaced), "proc:sleeper"))
        .comparing(inspector.comparer());
    let use_and_wait = |rig: &mut Rig, process: &Arc<ProcessInfo>| {
        rig.open_and_close(process, "203.0.113.9:443", None);
        assert!(inspector.settle(Duration::from_mins(1)));
        while let Some(answer) = inspector.next_answer() {
            answer.apply();
        }
        rig.pass(DurationNs(50_000_000));
        rig.reported()
    };
    assert!(use_and_wait(&mut rig, &service).is_empty());
    sleeper.replace();
    assert!(use_and_wait(&mut rig, &service).is_empty(), "compared a moment ago");
    assert_eq!(inspector.stats().compare_asked, 1);
    rig.pass(seconds(60));
    assert!(rig.reported().is_empty(), "nobody looks while the network is not used");
    let reported = use_and_wait(&mut rig, &service);
    let [alert] = &reported[..] else { panic!("{reported:?}") };
    assert_eq!(evidence(alert, "replaced"), Some(&Value::Text(b"upgraded"[..].into())));
    assert!(use_and_wait(&mut rig, &twin).is_empty(), "its benign twin");
    std::fs::remove_file(other.path()).expect("removed");
    rig.listen(&twin, "0.0.0.0:4444");
    rig.pass(seconds(61));
    let reported = use_and_wait(&mut rig, &twin);
    let [gone] = &reported[..] else { panic!("{reported:?}") };
    assert_eq!(evidence(gone, "replaced"), Some(&Value::Text(b"gone"[..].into())));
    rig.exit(&service, ExitStatus::Code(0));
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
    assert!(use_and_wait(&mut rig, &service).is_empty(), "within the throttle");
    assert_eq!(inspector.stats().compare_asked, 4);
    assert_eq!(rig.timers(), 0);
}

/// Issue 13, 1.2: what ran before conn is judged at its start, by the order in which connection and program began.
#[test]
fn programs_from_before() {
    use crate::flow::born::{Born, BornBy};
    use crate::rules::testing::SECOND;
    use crate::units::BootNs;

    let spawn = || {
        let holds = Filter::new("dir:out").expect("a filter");
        rule(
            Detect::Process(ProcessRule::Spawn { holds, beside: false, received: None, answered: None }),
            "proc:sh",
        )
    };
    let python = process(1_000, "/usr/bin/python3");
    // A start is its pid in ticks: it was started after 11 s, and the parent after 10 s.
    let shell = child(&python, 1_100, "/bin/sh");
    let raised = |earliest: u64, latest: u64, peer: bool| {
        let mut rig = Rig::before(vec![spawn()]);
        let conn = rig.connection(Direction::Out, Some(&python), None, "203.0.113.9:443", Source::Snapshot);
        let [earliest, latest] = [earliest, latest].map(|at| BootNs(at * SECOND));
        let (earliest_by, latest_by) = (BornBy::OwnerStart, BornBy::LastActivity);
        let born = Some(Born { earliest, latest, earliest_by, latest_by });
        rig.opens(
            crate::flow::model::ConnEvent { begun: BootNs(0), born, ..conn },
            crate::flow::model::Change::Established,
        );
        let stdio_peers = peer.then_some((python.pid, python.start)).into_iter().collect();
        rig.body(EventBody::Exec(ProcEvent { stdio_peers, ..ProcEvent::new(Arc::clone(&shell)) }));
        rig.begin();
        let alerts = rig.reported();
        if let [alert] = &alerts[..] {
            let running = DurationNs(rig.now.0 - 11 * SECOND);
            assert_eq!(evidence(alert, "running_for"), Some(&Value::Duration(running)));
        }
        alerts.len()
    };
    assert_eq!(raised(10, 10, false), 1, "the connection was there");
    assert_eq!(raised(10, 500, false), 0, "nobody knows which was first");
    assert_eq!(raised(10, 500, true), 1, "its owner drives the shell");
    assert_eq!(raised(12, 500, true), 0, "the connection is younger");
}

/// Returns how far the clock of a rig is behind the start of a real process.
fn behind(rig: &Rig, process: &ProcessInfo) -> DurationNs {
    DurationNs(process.start.0.saturating_sub(rig.now.0))
}

/// A program that removes itself is found whether it does so before it connects or after; an upgrade and a move are none.
#[test]
fn a_program_that_removes_itself_is_found() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let mut rig =
        Rig::new(rule(Detect::Process(ProcessRule::Deleted), "proc:sleeper")).comparing(inspector.comparer());
    let answers = |rig: &mut Rig| {
        assert!(inspector.settle(Duration::from_mins(1)));
        while let Some(answer) = inspector.next_answer() {
            answer.apply();
        }
        rig.pass(DurationNs(50_000_000));
        rig.reported()
    };
    let sleepers =
        ["before", "upgrade", "stays", "after"].map(|name| Sleeper::start(&format!("self-{name}")));
    let [before, upgrade, _, after] = &sleepers;
    let processes = sleepers.each_ref().map(|sleeper| Arc::new(sleeper.process()));
    rig.pass(behind(&rig, &processes[3]));
    std::fs::remove_file(before.path()).expect("removed");
    upgrade.replace();
    for process in &processes {
        rig.connect(process, "203.0.113.9:443");
    }
    let reported = answers(&mut rig);
    let [alert] = &reported[..] else { panic!("{reported:?}") };
    assert_eq!(evidence(alert, "replaced"), Some(&Value::Text(b"gone"[..].into())));
    assert!(processes[0].exe_is_deleted() && processes[1].exe_is_deleted(), "events have it from now on");
    std::fs::remove_file(after.path()).expect("removed");
    rig.pass(seconds(5));
    let reported = answers(&mut rig);
    let [alert] = &reported[..] else { panic!("{reported:?}") };
    assert_eq!(evidence(alert, "replaced"), Some(&Value::Text(b"gone"[..].into())));
    for process in &processes {
        rig.exit(process, ExitStatus::Code(0));
    }
    assert_eq!(rig.phases(), [(1, Phase::Resolved), (2, Phase::Resolved)]);
    assert_eq!(rig.timers(), 0, "nobody is compared again");
}

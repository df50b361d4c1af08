//! The pipeline without a kernel: bytes of records in, events out, on a clock that the test moves.

use std::net::SocketAddr;
use std::sync::Arc;

use conn_common::record::{
    EstablishedRecord, RecordHeader, RecordKind, Sock, SockEndRecord, SockFlags, SockRecord, Task,
};

use super::*;
use crate::event::alert::Alert;
use crate::event::alert::Severity;
use crate::event::names::Named as _;
use crate::filter::Names;
use crate::flow::model::Change;
use crate::flow::resolve::PortQuery;
use crate::flow::snapshot::testing as snap;
use crate::flow::testing::{MS, sock, who};
use crate::process::testing::FakeProc;
use crate::rules::RuleSet;
use crate::rules::model::{Detect, Expect, LongRule, MissingRule, Rule};
use crate::rules::testing::rule;
use crate::units::{DurationNs, Pid};

const SECOND: u64 = 1_000 * MS;
const ATTACHED: u64 = 100 * SECOND;
const SYN_SENT: u8 = 2;
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

fn bytes<T: Copy>(record: &T) -> Vec<u8> {
    // SAFETY: the records are repr(C) without padding (asserted in conn-common).
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// Answers every query with this port, and counts the queries.
struct Port(u16, std::rc::Rc<std::cell::Cell<usize>>);

impl PortResolver for Port {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
        self.1.set(self.1.get() + queries.len());
        vec![Some(SocketAddr::from(([10, 0, 0, 1], self.0))); queries.len()]
    }
}

struct Rig {
    pipeline: Pipeline,
    seq: [u64; 64],
    now: u64,
    reported: Vec<Event>,
}

impl Rig {
    fn new() -> Self {
        let flows = FlowTable::default();
        let mut pipeline = Pipeline::new(BootNs(ATTACHED), FakeProc::default().table(), flows);
        pipeline.session.set_clock(Clock::of(BootNs(0), crate::units::WallNs(0)));
        Self { pipeline, seq: [0; 64], now: ATTACHED, reported: Vec::new() }
    }

    fn judging(rules: Vec<Rule>) -> Self {
        let mut rig = Self::new();
        rig.begin(&set(rules));
        rig
    }

    fn begin(&mut self, rules: &RuleSet) {
        self.now += SECOND;
        self.pipeline.begin(Some(rules.into()), true, BootNs(self.now), &mut || {}, &mut |event| {
            self.reported.push(event.clone());
        });
    }

    fn header<T>(&mut self, kind: RecordKind, hook: HookId) -> RecordHeader {
        self.now += MS;
        let seq = &mut self.seq[hook as usize];
        *seq += 1;
        let len = u16::try_from(size_of::<T>()).expect("a record is short");
        RecordHeader { kind: kind as u16, hook: hook as u16, len, cpu: 0, seq: *seq - 1, boot_ns: self.now }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.pipeline.on_bytes(bytes, &mut |event| self.reported.push(event.clone()));
    }

    fn by(&mut self, kind: RecordKind, hook: HookId, task: Task, sock: Sock) {
        let header = self.header::<SockRecord>(kind, hook);
        self.feed(&bytes(&SockRecord { header, task, sock }));
    }

    fn listens(&mut self, key: u64) {
        let sock = Sock { old_state: CLOSE, new_state: LISTEN, ..sock(key, "0.0.0.0:80", "0.0.0.0:0") };
        self.by(RecordKind::Listen, HookId::FexitListenStart, who(20), sock);
    }

    fn unlistens(&mut self, key: u64) {
        let sock = Sock { old_state: LISTEN, new_state: CLOSE, ..sock(key, "0.0.0.0:80", "0.0.0.0:0") };
        self.by(RecordKind::Unlisten, HookId::State, who(20), sock);
    }

    fn opens(&mut self, key: u64) {
        let ends = client(key);
        let sock = Sock { old_state: SYN_SENT, new_state: SYN_SENT, ..ends };
        self.by(RecordKind::Connect, HookId::FentryTcpConnect, who(10), sock);
        let header = self.header::<EstablishedRecord>(RecordKind::Established, HookId::State);
        let sock = Sock { old_state: SYN_SENT, new_state: ESTABLISHED, ..ends };
        self.feed(&bytes(&EstablishedRecord { header, sock }));
    }

    fn closes(&mut self, key: u64) {
        let header = self.header::<SockEndRecord>(RecordKind::Close, HookId::FentryTcpClose);
        let flags = SockFlags::HAS_SOCKET | SockFlags::IN_CLOSE;
        let sock = Sock { old_state: ESTABLISHED, new_state: ESTABLISHED, flags, ..client(key) };
        self.feed(&bytes(&SockEndRecord { header, task: who(10), sock, ..SockEndRecord::default() }));
    }

    fn on_time(&mut self, now: u64) {
        self.now = now;
        self.pipeline.on_time(BootNs(now), &mut |event| self.reported.push(event.clone()));
    }

    /// The kinds of events since the last call; of alerts their step and when it was due.
    fn reported(&mut self) -> Vec<String> {
        self.reported.drain(..).map(|event| text(&event)).collect()
    }
}

fn client(key: u64) -> Sock {
    sock(key, &format!("10.0.0.1:{}", 40_000 + key), "203.0.113.9:443")
}

fn text(event: &Event) -> String {
    match &event.body {
        EventBody::Alert(alert) => {
            format!("{} {}", alert.phase.name(), (alert.at.0 - ATTACHED) / SECOND)
        }
        EventBody::Gap(gap) => format!("gap {} {}", gap.hook.label(), gap.lost),
        body => body.kind().name().to_owned(),
    }
}

fn set(rules: Vec<Rule>) -> RuleSet {
    let names = Arc::new(Names::builtin().clone());
    RuleSet { rules: rules.into_iter().map(Arc::new).collect(), names, baseline: Arc::default() }
}

fn missing() -> Rule {
    let detect = MissingRule { expect: Expect::Listeners(1), grace: DurationNs(10 * SECOND) };
    Rule { throttle: DurationNs(0), ..rule(Detect::Missing(detect), "lport:80") }
}

fn long(level: u64) -> Rule {
    let levels = [(DurationNs(level * SECOND), Severity::Low)].into();
    Rule { throttle: DurationNs(0), ..rule(Detect::Long(LongRule { levels, sum: false }), "dir:out") }
}

/// Whatever the reader's delay: records alone are read, and nobody says that time passes.
#[test]
fn a_late_reader_raises_what_a_replay_raises() {
    let rules = set(vec![missing(), long(5)]);
    let mut rig = Rig::new();
    rig.begin(&rules);
    rig.listens(1);
    rig.opens(2);
    rig.unlistens(1);
    rig.now += 7 * SECOND;
    rig.closes(2);
    rig.now += 4 * SECOND;
    rig.listens(3);
    let lines = std::mem::take(&mut rig.reported);
    let reported: Vec<String> = lines.iter().map(text).collect();
    assert_eq!(
        reported,
        [
            "start",
            "listen",
            "connect",
            "established",
            "unlisten",
            "raised 6",
            "close",
            "resolved 8",
            "raised 11",
            "listen",
            "resolved 12"
        ],
    );
    let (alerts, events): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|event| matches!(event.body, EventBody::Alert(_)));
    let alerts: Vec<_> = alerts
        .iter()
        .filter_map(
            |event| if let EventBody::Alert(alert) = &event.body { Some(Alert::clone(alert)) } else { None },
        )
        .collect();
    crate::replay::tests::gives(&rules, &events, BootNs(rig.now), &alerts);
}

#[test]
fn timers_fire_while_nothing_comes() {
    let mut rig = Rig::judging(vec![long(5)]);
    rig.opens(1);
    rig.reported();
    let due = rig.pipeline.next_deadline().expect("a timer");
    assert_eq!((due.0 - rig.now) / SECOND, 5);
    rig.on_time(due.0 - 1);
    assert!(rig.reported().is_empty());
    rig.on_time(due.0);
    assert_eq!(rig.reported(), ["raised 6"]);
    assert_eq!(rig.pipeline.next_deadline(), None);
}

/// A record from before a timer that fired and reported nothing: the recording shows that it did.
#[test]
fn the_clock_is_shown_where_the_events_do_not_show_it() {
    let mut rig = Rig::judging(vec![Rule { throttle: DurationNs(100 * SECOND), ..missing() }]);
    rig.now += 10 * SECOND;
    rig.on_time(rig.now);
    rig.listens(1);
    rig.unlistens(1);
    assert_eq!(rig.reported(), ["start", "raised 11", "listen", "resolved 11", "unlisten"]);
    rig.on_time(rig.now + 10 * SECOND);
    assert!(rig.reported().is_empty(), "within the throttle");
    rig.now -= SECOND;
    rig.listens(2);
    assert_eq!(rig.reported(), ["clock", "listen"]);
}

#[test]
fn a_port_that_was_chosen_late_is_asked_at_its_deadline() {
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let mut rig = Rig::new();
    rig.pipeline = rig.pipeline.with_resolver(Box::new(Port(4711, std::rc::Rc::clone(&asked))));
    let flags = SockFlags::PORT_PENDING;
    let sock =
        Sock { old_state: CLOSE, new_state: SYN_SENT, flags, ..sock(1, "10.0.0.1:0", "203.0.113.9:443") };
    rig.by(RecordKind::Connect, HookId::State, who(10), sock);
    assert!(rig.reported.is_empty(), "it waits for its port");
    let due = rig.pipeline.next_deadline().expect("a deadline");
    rig.on_time(due.0 - 1);
    assert_eq!((rig.reported.len(), asked.get()), (0, 0));
    rig.on_time(due.0);
    let [event] = &rig.reported[..] else { panic!("{:?}", rig.reported) };
    let EventBody::Flow(Change::Connect(conn)) = &event.body else { panic!("{event:?}") };
    assert_eq!((conn.local.port(), asked.get(), event.seq), (4711, 1, 1));
    assert!(event.boot < due, "it has the instant of its record");
}

/// What waits at the end is reported without waiting, and rules' timers that are not due do not fire.
#[test]
fn the_end_waits_for_nothing() {
    let mut rig = Rig::judging(vec![missing()]);
    let flags = SockFlags::PORT_PENDING;
    let sock =
        Sock { old_state: CLOSE, new_state: SYN_SENT, flags, ..sock(1, "10.0.0.1:0", "203.0.113.9:443") };
    rig.by(RecordKind::Connect, HookId::State, who(10), sock);
    rig.reported();
    let counts = [(HookId::State, vec![CpuCount { attempted: 3, lost: 0, unmarked: 0 }])];
    rig.pipeline.on_end(&counts, &[], BootNs(rig.now), &mut |event| rig.reported.push(event.clone()));
    assert_eq!(rig.reported(), ["connect", "gap tp_btf:inet_sock_set_state 2"], "two records never came");
}

#[test]
fn a_hole_in_the_numbers_is_a_gap_before_the_record() {
    let mut rig = Rig::new();
    rig.opens(1);
    rig.seq[HookId::FentryTcpClose as usize] += 3;
    rig.closes(1);
    assert_eq!(rig.reported(), ["connect", "established", "gap fentry:tcp_close 3", "close"]);
    assert!(rig.pipeline.take_loss() && !rig.pipeline.take_loss(), "once");
    let of_close = rig.pipeline.counts()[&HookId::FentryTcpClose];
    assert_eq!((of_close, rig.pipeline.gaps()), (RecordCount { seen: 1, lost: 3 }, 1));
    rig.feed(b"no record");
    assert_eq!((rig.pipeline.undecoded(), rig.pipeline.records()), (1, 4));
}

#[test]
fn the_kernels_counts_show_what_no_record_does() {
    let mut rig = Rig::new();
    rig.opens(1);
    rig.reported();
    let counts = [(HookId::FentryTcpClose, vec![CpuCount { attempted: 2, lost: 2, unmarked: 0 }])];
    let skipped =
        [(HookId::State, Some(1)), (HookId::KprobeTcpConnect, Some(3)), (HookId::FentryTcpConnect, None)];
    let audit = |rig: &mut Rig| {
        let now = BootNs(rig.now);
        rig.pipeline.audit(&counts, &skipped, now, &mut |event| rig.reported.push(event.clone()));
        rig.reported()
    };
    assert_eq!(audit(&mut rig), ["gap fentry:tcp_close 2", "gap kprobe:tcp_connect 3"]);
    // The backup program may have been running when the runs of the first were counted.
    assert!(rig.pipeline.suspects_loss());
    assert_eq!(audit(&mut rig), ["gap tp_btf:inet_sock_set_state 1"], "it is counted again");
    assert!(!rig.pipeline.suspects_loss());
    assert!(audit(&mut rig).is_empty(), "reported once");
    // The numbers of those that were lost are no second gap.
    rig.seq[HookId::FentryTcpClose as usize] += 2;
    rig.closes(1);
    assert_eq!(rig.reported(), ["close"]);
}

#[test]
fn the_self_tests_doings_are_not_reported() {
    let mut rig = Rig::new();
    rig.pipeline.watch(Watch::of_port(4711));
    let ours = sock(1, "127.0.0.1:50000", "127.0.0.1:4711");
    let sock = Sock { old_state: SYN_SENT, new_state: SYN_SENT, ..ours };
    rig.by(RecordKind::Connect, HookId::FentryTcpConnect, who(10), sock);
    rig.opens(2);
    assert_eq!(rig.reported(), ["connect", "established"], "of the other one");
    rig.pipeline.end_watch();
    let sock = Sock { key: 3, ..sock };
    rig.by(RecordKind::Connect, HookId::FentryTcpConnect, who(10), sock);
    assert_eq!(rig.reported(), ["connect"]);
}

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

/// Other rules take over: the timers of before fire first.
#[test]
fn rules_take_over_after_what_was_due() {
    let mut rig = Rig::judging(vec![long(5)]);
    rig.opens(1);
    rig.reported();
    let now = BootNs(rig.now + 6 * SECOND);
    rig.pipeline.set_rules((&set(vec![long(9)])).into(), now, &mut || {}, &mut |event| {
        rig.reported.push(event.clone());
    });
    assert_eq!(rig.reported(), ["raised 6", "resolved 7"]);
}

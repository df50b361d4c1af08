//! The pipeline without a kernel: bytes of records in, events out, on a clock that the test moves.

mod repair;

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
        self.pipeline.begin(
            Some(rules.into()),
            AtStart::Recording,
            BootNs(self.now),
            &mut || {},
            &mut |event| {
                self.reported.push(event.clone());
            },
        );
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

/// Nothing of it without being asked for; else after the event that shows it, and for who draws the stream with ids of its own.
#[test]
fn a_loss_is_an_alert_about_the_agent_itself() {
    for wanted in [false, true] {
        let mut rig = Rig::new();
        rig.pipeline = rig.pipeline.with_health(wanted);
        rig.opens(1);
        rig.seq[HookId::State as usize] += 3;
        rig.opens(2);
        let now = BootNs(rig.now);
        let mut alerts = Vec::new();
        let any = rig.pipeline.check_health(Vec::new(), now, &mut |event| alerts.push(event.clone()));
        assert_eq!((any, alerts.len()), (wanted, usize::from(wanted)));
        assert_eq!(rig.pipeline.open_severities().count(), usize::from(wanted));
        for event in alerts {
            let last = rig.reported.last().expect("events came before").seq;
            assert_eq!(event.seq, last + 1);
            let EventBody::Alert(alert) = &event.body else { panic!("{event:?}") };
            assert_eq!(alert.id, super::super::health::FIRST_ID);
        }
        assert!(!rig.pipeline.check_health(Vec::new(), now, &mut |_| panic!("it was reported")));
    }
}

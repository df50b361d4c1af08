//! The loop without a kernel: a ring, programs and snapshots of the test's own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use conn_common::hook::HookId;
use conn_common::record::{RecordHeader, RecordKind, Sock, SockRecord, TASK_COMPAT, Task};
use tokio::sync::Notify;

use super::*;
use crate::agent::AtStart;
use crate::event::model::EventBody;
use crate::event::names::Named as _;
use crate::flow::table::FlowTable;
use crate::flow::testing::{sock, who};
use crate::kernel::counters::CpuCount;
use crate::priority::Priority;
use crate::process::files::FileWorkers;
use crate::process::inspect::Inspector;
use crate::process::procfs::ProcFs;
use crate::process::testing::FakeProc;
use crate::rules::RuleSet;
use crate::rules::model::{Detect, LongRule, Rule};
use crate::rules::testing::rule;
use crate::units::{BootNs, DurationNs};

/// Turns of a ring: what each hands out, and what comes next.
#[derive(Default)]
struct Script {
    turns: VecDeque<(Vec<Vec<u8>>, Turn)>,
    /// What is there only when the ring is drained at the end, or caught up.
    late: Vec<Vec<u8>>,
    readable: Notify,
}

impl Records for Script {
    fn turn(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> Turn {
        let (records, turn) = self.turns.pop_front().unwrap_or((Vec::new(), Turn::Idle));
        assert!(records.len() <= limit);
        for record in &records {
            each(record);
        }
        turn
    }

    fn catch_up(&mut self, mut each: impl FnMut(&[u8])) {
        for record in self.late.drain(..) {
            each(&record);
        }
    }

    fn drain_all(&mut self, each: impl FnMut(&[u8])) {
        self.catch_up(each);
    }

    fn is_behind(&self) -> bool {
        false
    }

    async fn readable(&self) -> io::Result<()> {
        if self.turns.is_empty() {
            self.readable.notified().await;
        }
        Ok(())
    }
}

/// Counts of programs that lost what the test says.
#[derive(Default)]
struct Counts {
    lost: u64,
    traces_compat: bool,
    detached: bool,
}

impl Programs for Counts {
    fn all_counts(&self) -> Vec<(HookId, Vec<CpuCount>)> {
        vec![(HookId::FentryTcpClose, vec![CpuCount { attempted: self.lost, lost: self.lost, unmarked: 0 }])]
    }

    fn skipped_runs(&self) -> Vec<(HookId, Option<u64>)> {
        Vec::new()
    }

    fn trace_compat(&mut self) {
        self.traces_compat = true;
    }

    fn detach(&mut self) {
        self.detached = true;
    }
}

/// Keeps the kinds of events, and ends the loop at one of them.
#[derive(Default)]
struct Kinds {
    reported: RefCell<Vec<String>>,
    until: Option<&'static str>,
    flushes: Cell<usize>,
    waits_for_facts: bool,
    dropped: u64,
}

impl Consumer for Kinds {
    fn on_event(&mut self, event: &Event) {
        let kind = match &event.body {
            EventBody::Alert(alert) => alert.phase.name(),
            body => body.kind().name(),
        };
        self.reported.borrow_mut().push(kind.to_owned());
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes.set(self.flushes.get() + 1);
        Ok(())
    }

    fn dropped(&self) -> Vec<(Arc<str>, u64)> {
        vec![("output".into(), self.dropped)]
    }

    fn waits_for_facts(&self) -> bool {
        self.waits_for_facts && !self.reported.borrow().iter().any(|kind| kind == "facts")
    }

    fn is_done(&self) -> bool {
        self.until.is_some_and(|until| self.reported.borrow().iter().any(|kind| kind == until))
    }
}

struct Rig {
    records: Script,
    programs: Counts,
    pipeline: Pipeline,
    resync: Resync,
    rules: mpsc::Sender<Staged>,
    reloads: mpsc::Receiver<Staged>,
    priority: priority::Held,
    began: BootNs,
    seq: u64,
}

impl Rig {
    fn new() -> Self {
        let began = boot_now();
        let (rules, reloads) = mpsc::channel(1);
        Self {
            records: Script::default(),
            programs: Counts::default(),
            pipeline: Pipeline::new(began, FakeProc::default().table(), FlowTable::default()),
            resync: Resync::taking(|_| {
                Ok(Snapshot { began: boot_now(), ended: boot_now(), ..Snapshot::default() })
            }),
            rules,
            reloads,
            priority: priority::Held::begin(Priority::Normal).0,
            began,
            seq: 0,
        }
    }

    /// A record of a connect, `after` nanoseconds from the beginning.
    fn connect(&mut self, after: u64) -> Vec<u8> {
        self.connect_by(who(10), after)
    }

    fn connect_by(&mut self, task: Task, after: u64) -> Vec<u8> {
        let (kind, hook) = (RecordKind::Connect as u16, HookId::FentryTcpConnect as u16);
        let boot_ns = self.began.0 + after;
        let len = size_of::<SockRecord>() as u16;
        let header = RecordHeader { kind, hook, len, cpu: 0, seq: self.seq, boot_ns };
        self.seq += 1;
        let ends = sock(self.seq, &format!("10.0.0.1:{}", 40_000 + self.seq), "203.0.113.9:443");
        let sock = Sock { old_state: 2, new_state: 2, ..ends };
        let record = SockRecord { header, task, sock };
        // SAFETY: the record is repr(C) without padding (asserted in conn-common).
        unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(&record).cast::<u8>(), size_of::<SockRecord>())
        }
        .to_vec()
    }

    async fn run(&mut self, consumer: &mut Kinds, stop: impl Future<Output = ()>) {
        let parts = Parts {
            records: &mut self.records,
            programs: &mut self.programs,
            pipeline: &mut self.pipeline,
            resync: &mut self.resync,
            reloads: &mut self.reloads,
            priority: &mut self.priority,
        };
        parts.run(consumer, Limits::default(), stop).await.expect("it ends well");
    }
}

fn until(kind: &'static str) -> Kinds {
    Kinds { until: Some(kind), ..Kinds::default() }
}

fn never() -> impl Future<Output = ()> {
    std::future::pending()
}

fn rules(level: u64) -> RuleSet {
    let levels = [(DurationNs(level), crate::event::alert::Severity::Low)].into();
    let detect = Detect::Long(LongRule { levels, sum: false });
    let names = Arc::new(crate::filter::Names::builtin().clone());
    let rule: Rule = rule(detect, "dir:out");
    RuleSet { rules: vec![rule.into()], names, baseline: Arc::default() }
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_left_in_the_ring_is_reported_at_the_end() {
    let mut rig = Rig::new();
    let (first, last) = (rig.connect(1), rig.connect(2));
    rig.records.turns.push_back((vec![first], Turn::Idle));
    rig.records.late.push(last);
    rig.programs.lost = 2;
    let mut consumer = until("connect");
    rig.run(&mut consumer, never()).await;
    assert_eq!(*consumer.reported.borrow(), ["connect", "connect", "gap"], "and what the kernel counts more");
    assert!(rig.programs.detached);
}

/// Its accepts are reported by a program that is attached then.
#[tokio::test(flavor = "current_thread")]
async fn a_32_bit_program_is_traced() {
    for compat in [false, true] {
        let mut rig = Rig::new();
        let task = Task { flags: if compat { TASK_COMPAT } else { 0 }, ..who(10) };
        let record = rig.connect_by(task, 1);
        rig.records.turns.push_back((vec![record], Turn::Idle));
        rig.run(&mut until("connect"), never()).await;
        assert_eq!(rig.programs.traces_compat, compat);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn it_stops_at_once_and_still_drains() {
    let mut rig = Rig::new();
    let last = rig.connect(1);
    rig.records.late.push(last);
    let mut consumer = Kinds::default();
    rig.run(&mut consumer, std::future::ready(())).await;
    assert_eq!(*consumer.reported.borrow(), ["connect"]);
}

/// More turns without a rest, a nap, and then the rest: all is read, whatever comes between.
#[tokio::test(flavor = "current_thread")]
async fn every_turn_is_taken() {
    let mut rig = Rig::new();
    for (at, turn) in [(1, Turn::More), (2, Turn::Nap(Duration::from_micros(200))), (3, Turn::Idle)] {
        let record = rig.connect(at);
        rig.records.turns.push_back((vec![record], turn));
    }
    let mut consumer = Kinds::default();
    let stop = async {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    };
    rig.run(&mut consumer, stop).await;
    assert_eq!(consumer.reported.borrow().len(), 3);
    assert!(consumer.flushes.get() >= 3, "after each batch");
}

/// What an output drops is an event, at the end at the latest.
#[tokio::test(flavor = "current_thread")]
async fn what_an_output_drops_is_reported() {
    let mut rig = Rig::new();
    let record = rig.connect(1);
    rig.records.turns.push_back((vec![record], Turn::Idle));
    let mut consumer = Kinds { until: Some("connect"), dropped: 3, ..Kinds::default() };
    rig.run(&mut consumer, never()).await;
    assert_eq!(*consumer.reported.borrow(), ["connect", "degraded"]);
}

/// Nothing comes any more: the deadline alone wakes the loop.
#[tokio::test(flavor = "current_thread")]
async fn a_deadline_wakes_an_idle_loop() {
    let mut rig = Rig::new();
    rig.pipeline.begin(
        Some((&rules(2_000_000)).into()),
        AtStart::Nothing,
        rig.began,
        &mut || {},
        &mut |_| {},
    );
    let connect = rig.connect(1);
    rig.records.turns.push_back((vec![connect], Turn::Idle));
    let established = {
        let (kind, hook) = (RecordKind::Established as u16, HookId::State as u16);
        let len = size_of::<conn_common::record::EstablishedRecord>() as u16;
        let header = RecordHeader { kind, hook, len, cpu: 0, seq: 0, boot_ns: rig.began.0 + 2 };
        let ends = sock(1, "10.0.0.1:40001", "203.0.113.9:443");
        let sock = Sock { old_state: 2, new_state: 1, ..ends };
        let record = conn_common::record::EstablishedRecord { header, sock };
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts(
                std::ptr::from_ref(&record).cast::<u8>(),
                size_of::<conn_common::record::EstablishedRecord>(),
            )
        }
        .to_vec()
    };
    rig.records.turns.push_back((vec![established], Turn::Idle));
    let mut consumer = until("raised");
    rig.run(&mut consumer, never()).await;
    assert_eq!(*consumer.reported.borrow(), ["connect", "established", "raised"]);
}

/// Other rules are taken from the channel, also while nothing comes.
#[tokio::test(flavor = "current_thread")]
async fn rules_are_taken_while_idle() {
    let mut rig = Rig::new();
    rig.rules.try_send((&rules(1)).into()).expect("room");
    let stop = async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    rig.run(&mut Kinds::default(), stop).await;
    assert!(rig.pipeline.engine().is_some());
}

/// A loss is repaired by one snapshot, after the ring was read once more.
#[tokio::test(flavor = "current_thread")]
async fn a_loss_is_repaired_when_the_ring_is_drained() {
    let mut rig = Rig::new();
    let first = rig.connect(1);
    rig.seq += 1;
    let second = rig.connect(2);
    rig.records.turns.push_back((vec![first, second], Turn::More));
    let mut consumer = until("repair");
    rig.run(&mut consumer, never()).await;
    let reported = consumer.reported.borrow();
    assert_eq!(reported[..3], ["connect", "gap", "connect"]);
    assert!(reported.contains(&"close".to_owned()), "the snapshot has neither of them");
    assert_eq!(rig.resync.stats().done, 1);
}

/// The last record of a run asks for facts, and its judgement waits for their answer: not for a time.
#[tokio::test(flavor = "current_thread")]
async fn the_end_waits_for_facts() {
    let mut rig = Rig::new();
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let processes = FakeProc::default().table().with_inspector(inspector);
    rig.pipeline = Pipeline::new(rig.began, processes, FlowTable::default());
    let last = rig.connect(1);
    rig.records.late.push(last);
    let mut consumer = Kinds { waits_for_facts: true, ..Kinds::default() };
    rig.run(&mut consumer, std::future::ready(())).await;
    assert_eq!(*consumer.reported.borrow(), ["connect", "facts"]);
}

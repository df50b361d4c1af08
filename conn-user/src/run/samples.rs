//! Runs for tests.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use conn_common::hook::HookId;

use super::report::{Loss, Report};
use super::{Run, SharedTree};
use crate::event::model::{Event, EventBody, ProcEvent};
use crate::event::samples;
use crate::flow::model::{Actor, Change, ConnEvent, ConnId, EndedHow, Ending, Failure, ListenEvent, Traffic};
use crate::kernel::gap::{Gap, GapCause};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::process::lineage;
use crate::rules::host::Host;
use crate::rules::testing::{BEGAN, SECOND, process, seconds};
use crate::rules::{RuleSet, file};
use crate::units::{BootNs, DurationNs, Pid, WallNs};

/// When a run of the tests begins, on the wall clock.
const WALL: WallNs = WallNs(1_795_491_821_123_456_789);
/// `conn` itself.
const CONN: (Pid, BootNs) = (Pid(99), BootNs(99));

/// The command's own process.
pub(crate) fn client() -> Arc<ProcessInfo> {
    process(100, "/usr/bin/client")
}

/// One that is none of the run's.
pub(crate) fn other() -> Arc<ProcessInfo> {
    process(200, "/usr/bin/other")
}

/// A run whose events are a second apart.
pub(crate) struct Rig {
    pub(crate) tree: SharedTree,
    run: Run,
    seq: u64,
}

impl Rig {
    /// The command was started.
    pub(crate) fn new(rules: Option<&RuleSet>) -> Self {
        let tree = SharedTree::default();
        tree.borrow_mut().expect_root(CONN.0);
        tree.borrow_mut().on_fork(CONN.0, CONN.1, &client());
        Self { run: Run::new(rules, Rc::clone(&tree), BEGAN), tree, seq: 0 }
    }

    /// The command's process was not seen.
    pub(crate) fn blind(rules: Option<&RuleSet>) -> Self {
        let tree = SharedTree::default();
        Self { run: Run::new(rules, Rc::clone(&tree), BEGAN), tree, seq: 0 }
    }

    /// The instant of the last event.
    pub(crate) fn now(&self) -> BootNs {
        BootNs(BEGAN.0 + self.seq * SECOND)
    }

    pub(crate) fn emit(&mut self, body: EventBody) {
        self.seq += 1;
        let wall = WallNs(WALL.0 + self.seq * SECOND);
        self.run.on_event(&Event { seq: self.seq, boot: self.now(), wall, body });
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.emit(EventBody::Flow(change));
    }

    /// A process starts another one.
    pub(crate) fn fork(&mut self, creator: &ProcessInfo, child: &Arc<ProcessInfo>) {
        self.tree.borrow_mut().on_fork(creator.pid, creator.start, child);
    }

    pub(crate) fn gap(&mut self, from: BootNs, lost: u64) {
        let (hook, cause, cpu) = (HookId::State, GapCause::RingFull, Some(1));
        self.emit(EventBody::Gap(Gap { hook, cause, cpu, lost, from, to: self.now() }));
    }

    /// Ten seconds after its beginning the command ended.
    pub(crate) fn finish(self, ended: ExitStatus) -> Report {
        let command = [&b"client"[..], b"--url", b"two words", b"\x1b[2J\xff"];
        let end = BootNs(BEGAN.0 + 10 * SECOND);
        let now = end.max(self.now());
        self.run.finish(command.map(Into::into).into(), (ended, end), now, Loss::default())
    }
}

/// A connection that a process makes to this address.
pub(crate) fn to(id: u64, owner: &Arc<ProcessInfo>, remote: &str) -> ConnEvent {
    let remote: std::net::SocketAddr = remote.parse().expect("an address");
    let local = if remote.is_ipv4() { "192.0.2.1:40000" } else { "[2001:db8::1]:40000" };
    ConnEvent {
        id: ConnId(id),
        local: local.parse().expect("an address"),
        remote,
        owner: Actor::by(owner, HookId::FentryTcpConnect),
        ..samples::outgoing()
    }
}

/// A listener of a process.
pub(crate) fn at(id: u64, owner: &Arc<ProcessInfo>, local: &str) -> ListenEvent {
    ListenEvent::new(
        ConnId(id),
        local.parse().expect("an address"),
        samples::outgoing().netns,
        Actor::by(owner, HookId::FexitListenStart),
    )
}

pub(crate) fn closed(owner: &Arc<ProcessInfo>) -> Ending {
    Ending {
        how: EndedHow::LocalFin,
        errno: 0,
        closer: Actor::by(owner, HookId::FentryTcpClose),
        duration: Some(DurationNs(SECOND)),
        traffic: Some(Traffic { bytes_in: 5_300_000, bytes_out: 78, retransmits: None, srtt_us: 431 }),
    }
}

/// The rules of a text.
pub(crate) fn read(text: &str) -> RuleSet {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("conn-run-{}-{number}.toml", std::process::id()));
    fs::write(&path, text).expect("a file");
    let rules = file::load(std::slice::from_ref(&path), &Host::default());
    fs::remove_file(&path).expect("the file");
    rules.unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// Those of `golden/rules.toml`.
pub(crate) fn rules() -> RuleSet {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/run/golden/rules.toml");
    file::load(&[path], &Host::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A connection to the database.
fn asks_database(rig: &mut Rig) {
    let database = to(1, &client(), "192.0.2.5:5432");
    rig.change(Change::Connect(database.clone()));
    rig.change(Change::Established(database.clone()));
    rig.change(Change::Close(database, closed(&client())));
}

/// All is as expected; `lost`: as far as it was seen.
pub(crate) fn passed(lost: u64) -> Report {
    let mut rig = Rig::new(Some(&rules()));
    rig.change(Change::Listen(at(2, &client(), "127.0.0.1:9090")));
    asks_database(&mut rig);
    for id in 3..5 {
        rig.change(Change::Established(to(id, &client(), "198.51.100.7:443")));
    }
    if lost > 0 {
        rig.gap(BEGAN, lost);
    }
    rig.emit(EventBody::Exit(ProcEvent::new(client()), ExitStatus::Code(0)));
    rig.finish(ExitStatus::Code(0))
}

/// Everything that a report can know is wrong; names are hostile.
pub(crate) fn failed() -> Report {
    let mut rig = Rig::new(Some(&rules()));
    let (client, other) = (client(), other());
    let hostile = Arc::new(ProcessInfo {
        ancestors: lineage::below(&client),
        ..ProcessInfo::clone(&samples::hostile())
    });
    // Nothing more is found out about it.
    hostile.identity.settle();
    rig.fork(&client, &hostile);
    rig.change(Change::Listen(at(2, &client, "0.0.0.0:8080")));
    let mut incoming = samples::incoming();
    incoming.owner = Actor::by(&client, HookId::FentryInetAccept);
    rig.change(Change::Accept(incoming));
    asks_database(&mut rig);
    let refused = to(4, &client, "198.51.100.7:443");
    rig.change(Change::Connect(refused.clone()));
    rig.change(Change::Failed(refused, Failure { errno: 111, after: Some(seconds(1)) }));
    let forbidden = to(5, &hostile, "[2001:db8::bad]:4444");
    rig.change(Change::Connect(forbidden.clone()));
    rig.change(Change::Established(forbidden));
    rig.change(Change::Connect(to(6, &other, "203.0.113.1:1")));
    rig.gap(BEGAN, 3);
    rig.emit(EventBody::Exit(ProcEvent::new(client), ExitStatus::Signal(15)));
    rig.finish(ExitStatus::Signal(15))
}

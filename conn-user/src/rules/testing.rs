//! A rig for detectors: processes, an engine with one rule on a clock that the test moves, and the events of a machine.

mod asked;
mod sampling;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use conn_common::hook::HookId;

use super::baseline::Baseline;
use super::detector::Flows;
use super::model::{Advice, Detect, Rule};
use super::path_memory::PathMemory;
use super::{Engine, RuleSet};
use crate::clock::Clock;
use crate::event::alert::{Alert, Evidence, Phase, RuleKind, RuleRef, Severity, Value};
use crate::event::model::{Event, EventBody, ProcEvent, Start};
use crate::event::samples;
use crate::filter::{Filter, Names};
use crate::flow::born::Born;
use crate::flow::model::{
    Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, ListenEvent, Source, Traffic, Transport,
    UnknownReason, Unlisten,
};
use crate::kernel::gap::{Gap, GapCause};
use crate::process::identity::ExeFile;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::process::inspect::{Answer, Comparer};
use crate::process::lineage;
use crate::session::Session;
use crate::units::{BootNs, DurationNs, NetNs, Pid, WallNs};

/// A second in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// When engines of rigs begin.
pub(crate) const BEGAN: BootNs = BootNs(1_000 * SECOND);

/// So many seconds.
pub(crate) const fn seconds(count: u64) -> DurationNs {
    DurationNs(count * SECOND)
}

/// A child of init with everything known; its start is its pid in ticks.
pub(crate) fn process(pid: u32, exe: &str) -> Arc<ProcessInfo> {
    let init = ProcessInfo { comm: b"systemd"[..].into(), ..ProcessInfo::new(Pid(1), BootNs(0)) };
    child(&init, pid, exe)
}

/// Likewise, of another parent.
pub(crate) fn child(parent: &ProcessInfo, pid: u32, exe: &str) -> Arc<ProcessInfo> {
    let name = exe.rsplit('/').next().unwrap_or_default().as_bytes();
    let process = ProcessInfo {
        start: BootNs(u64::from(pid) * 10_000_000),
        ppid: Some(parent.pid),
        ancestors: lineage::below(parent),
        comm: name[..name.len().min(15)].into(),
        ..ProcessInfo::clone(&samples::process(pid, b"", exe, &[exe]))
    };
    process.identity.set_exe(ExeFile { writable: Some(false), ..ExeFile::default() });
    process.identity.set_sha256(None);
    process.identity.set_copy_of(None);
    process.identity.set_exe_is_host(true);
    Arc::new(process)
}

/// A rule of this id `test`, medium, that reports the same again after an hour.
pub(crate) fn rule(detect: Detect, matches: &str) -> Rule {
    let kind = match detect {
        Detect::Path(_) => RuleKind::Path,
        Detect::Process(_) => RuleKind::Process,
        Detect::Server(_) => RuleKind::Server,
        Detect::Long(_) => RuleKind::Long,
        Detect::Missing(_) => RuleKind::Missing,
    };
    Rule {
        about: Arc::new(RuleRef { id: "test".into(), kind, title: "A test".into(), attack: Box::default() }),
        severity: Severity::Medium,
        matches: Filter::new(matches).expect("a filter"),
        except: Box::default(),
        covers: Arc::default(),
        throttle: seconds(3_600),
        detect,
        advice: Advice::default(),
    }
}

/// The evidence of this name.
pub(crate) fn evidence<'a>(alert: &'a Alert, name: &str) -> Option<&'a Value> {
    let found = |evidence: &&Evidence| evidence.name == name;
    alert.evidence.iter().find(found).map(|evidence| &evidence.value)
}

fn set(rules: Vec<Rule>) -> RuleSet {
    let names = Arc::new(Names::builtin().clone());
    RuleSet { rules: rules.into_iter().map(Arc::new).collect(), names, baseline: Arc::default() }
}

/// Takes the alerts among what a session hands out.
pub(crate) fn taken(alerts: &mut Vec<Alert>) -> impl FnMut(&Event) {
    |event| {
        if let EventBody::Alert(alert) = &event.body {
            alerts.push(Alert::clone(alert));
        }
    }
}

#[derive(Default)]
struct Living(BTreeMap<u64, ConnEvent>);

impl Flows for Living {
    fn connection(&self, id: ConnId) -> Option<ConnEvent> {
        self.0.get(&id.0).cloned()
    }
}

/// A machine in which tests of rules let things happen. What happens, happens at [`Rig::now`]; [`Rig::pass`]
/// lets time pass and timers fire.
pub(crate) struct Rig {
    session: Session<Living>,
    /// Until it begins.
    engine: Option<Engine>,
    pub(crate) now: BootNs,
    listeners: BTreeMap<u64, ListenEvent>,
    /// What was there before; `None`: the engine has begun.
    existing: Option<Vec<Event>>,
    last_id: u64,
    seq: u64,
    reported: Vec<Alert>,
    rules: RuleSet,
    recording: Recording,
    why_nots: Vec<String>,
    holds: bool,
}

/// What a recording of what happens would have.
#[derive(Default)]
struct Recording {
    existing: Vec<Event>,
    events: Vec<Event>,
    alerts: Vec<Alert>,
    began: BootNs,
    /// Something happened that a recording does not have.
    is_partial: bool,
    /// Facts become known meanwhile: the lines are written as it happens, not at the end.
    has_facts: bool,
    lines: String,
}

/// Every test of a detector is one of the replay: the recording of it gives the same alerts.
impl Drop for Rig {
    fn drop(&mut self) {
        self.hand_over(|session, out| session.finish(&mut &mut *out));
        let Recording { existing, events, alerts, began, is_partial, has_facts, lines } =
            std::mem::take(&mut self.recording);
        if !std::thread::panicking() && !is_partial {
            let start = Event {
                seq: 0,
                boot: began,
                wall: WallNs(began.0),
                body: EventBody::Start(Start { attached: BEGAN, has_facts }),
            };
            let before = existing.len();
            let existing = existing.into_iter().map(|event| Event { seq: 0, ..event });
            let events: Vec<Event> = std::iter::once(start).chain(existing).chain(events).collect();
            if has_facts {
                let lines = crate::replay::tests::encoded(&events[..=before]) + &lines;
                crate::replay::tests::lines_give(&self.rules, &lines, self.now, &alerts);
            } else {
                crate::replay::tests::gives(&self.rules, &events, self.now, &alerts);
            }
        }
    }
}

impl Rig {
    /// An engine with this rule that has begun, with nothing there before.
    pub(crate) fn new(rule: Rule) -> Self {
        let mut rig = Self::before(vec![rule]);
        rig.begin();
        rig
    }

    /// With executables compared by this.
    pub(crate) fn comparing(mut self, comparer: Comparer) -> Self {
        let engine = Engine::new(&self.rules, BEGAN).with_comparer(Some(comparer));
        self.session.start(engine, self.now, [], &mut |_| {});
        self.is_not_recorded();
        self
    }

    /// The test has something that a recording does not have: what it gives is not compared with a replay.
    pub(crate) const fn is_not_recorded(&mut self) {
        self.recording.is_partial = true;
    }

    /// An engine that has not begun: what happens until [`Self::begin`] was there before, and is reported as a snapshot has
    /// it. Listeners and connections only.
    pub(crate) fn before(rules: Vec<Rule>) -> Self {
        Self::with_baseline(rules, Baseline::default())
    }

    /// Likewise, with a baseline.
    pub(crate) fn with_baseline(rules: Vec<Rule>, baseline: Baseline) -> Self {
        let rules = RuleSet { baseline: Arc::new(baseline), ..set(rules) };
        Self {
            session: Session::new(Living::default(), Clock::of(BEGAN, WallNs(BEGAN.0))),
            engine: Some(Engine::new(&rules, BEGAN)),
            now: BEGAN,
            listeners: BTreeMap::new(),
            existing: Some(Vec::new()),
            last_id: 0,
            seq: 0,
            reported: Vec::new(),
            rules,
            recording: Recording::default(),
            why_nots: Vec::new(),
            holds: false,
        }
    }

    /// Facts come as answers of a background ([`Rig::deliver`]); comparisons are answered so, too.
    pub(crate) fn with_facts(mut self) -> Self {
        let engine = Engine::new(&self.rules, BEGAN).with_delivered_facts().with_recorded_answers();
        self.engine = Some(engine);
        self.recording.has_facts = true;
        self
    }

    /// Alerts wait for facts of their process, as in the agent. To be called before [`Rig::begin`], after
    /// [`Rig::with_facts`].
    pub(crate) fn holding(mut self) -> Self {
        self.engine = self.engine.take().map(Engine::with_held_alerts);
        self.holds = true;
        self
    }

    /// With what rules learned in earlier runs.
    pub(crate) fn remembering(mut self, memory: PathMemory) -> Self {
        let engine = self.engine.take().unwrap_or_else(|| Engine::new(&self.rules, BEGAN));
        self.engine = Some(engine.with_memory(Some(memory)));
        self
    }

    /// Returns the events so far.
    pub(crate) fn happened(&self) -> Vec<Event> {
        self.recording.events.clone()
    }

    /// The tables evict a connection, and nobody saw its end.
    pub(crate) fn forget(&mut self, id: ConnId) {
        let conn = self.session.flows.connection(id).expect("it lives");
        self.hand_over(|session, out| session.forget(conn, &mut &mut *out));
    }

    /// An answer of the background has come.
    pub(crate) fn deliver(&mut self, answer: Answer) {
        self.hand_over(|session, out| session.deliver(answer, &mut &mut *out));
    }

    /// Has the session do something, and records what it hands out. Returns the alerts.
    fn hand_over(&mut self, act: impl FnOnce(&mut Session<Living>, &mut dyn FnMut(&Event))) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let Recording { events: lines, lines: written, .. } = &mut self.recording;
        act(&mut self.session, &mut |reported| match &reported.body {
            EventBody::Alert(alert) => alerts.push(Alert::clone(alert)),
            _ => {
                written.push_str(&crate::replay::tests::encoded([reported]));
                lines.push(reported.clone());
            }
        });
        self.add(alerts.clone());
        alerts
    }

    /// What was there before, as events. The rig is of no use any more.
    pub(crate) fn existing_events(mut self) -> Vec<Event> {
        self.is_not_recorded();
        self.existing.take().unwrap_or_default()
    }

    /// The engine begins.
    pub(crate) fn begin(&mut self) {
        let existing = self.existing.take().unwrap_or_default();
        self.recording.existing.clone_from(&existing);
        self.recording.began = self.now;
        let engine = self.engine.take().expect("it has not begun");
        self.session.record();
        self.session.note(
            self.now,
            EventBody::Start(Start { attached: BEGAN, has_facts: false }),
            &mut |_| {},
        );
        let mut alerts = Vec::new();
        self.session.start(engine, self.now, existing, &mut taken(&mut alerts));
        self.add(alerts);
    }

    /// Other rules are loaded.
    pub(crate) fn set_rules(&mut self, rules: Vec<Rule>) {
        self.set_rules_and(rules, Baseline::default());
    }

    /// Likewise, with a baseline.
    pub(crate) fn set_rules_and(&mut self, rules: Vec<Rule>, baseline: Baseline) {
        let rules = RuleSet { baseline: Arc::new(baseline), ..set(rules) };
        let open = self.session.flows.0.values().map(|conn| Change::Established(conn.clone()));
        let listening = self.listeners.values().map(|listener| Change::Listen(listener.clone()));
        let now = self.now;
        let event = |change| Event { seq: 0, boot: now, wall: WallNs(now.0), body: EventBody::Flow(change) };
        let existing: Vec<Event> = open.chain(listening).map(event).collect();
        self.recording.is_partial = true;
        let mut alerts = Vec::new();
        let replace = |flows: &Living, engine: &mut Option<Engine>| {
            engine.as_mut().expect("it has begun").set_rules(&rules, now, existing, flows)
        };
        self.session.set_rules(now, replace, &mut taken(&mut alerts));
        self.add(alerts);
    }

    fn engine(&self) -> &Engine {
        self.session.engine().expect("it has begun")
    }

    fn add(&mut self, alerts: Vec<Alert>) {
        self.recording.alerts.extend_from_slice(&alerts);
        self.reported.extend(alerts);
    }

    /// Takes the alerts that were reported since the last call.
    pub(crate) fn reported(&mut self) -> Vec<Alert> {
        std::mem::take(&mut self.reported)
    }

    /// Takes them, each as its number and phase.
    pub(crate) fn phases(&mut self) -> Vec<(u64, Phase)> {
        self.reported().iter().map(|alert| (alert.id.0, alert.phase)).collect()
    }

    /// Takes the only one.
    pub(crate) fn only(&mut self) -> Alert {
        let mut reported = self.reported();
        assert_eq!(reported.len(), 1, "alerts: {reported:#?}");
        reported.remove(0)
    }

    /// Timers that wait.
    pub(crate) fn timers(&self) -> usize {
        self.engine().stats().timers
    }

    /// Events that wait for facts.
    pub(crate) fn waiting(&self) -> usize {
        self.engine().waiting()
    }

    /// Connections and listeners that are followed.
    pub(crate) fn followed(&self) -> usize {
        self.engine().stats().followed
    }

    /// Lets time pass; each timer fires at its time.
    pub(crate) fn pass(&mut self, time: DurationNs) {
        self.now = BootNs(self.now.0 + time.0);
        let mut alerts = Vec::new();
        self.session.pass(self.now, &mut taken(&mut alerts));
        self.add(alerts);
    }

    /// Fires what is due: before anything changes that a timer may look at.
    fn settle(&mut self) {
        if self.existing.is_none() {
            self.pass(DurationNs(0));
        }
    }

    /// Does something by a clock that is so much behind, as another CPU's may be.
    pub(crate) fn behind(&mut self, by: DurationNs, act: impl FnOnce(&mut Self)) {
        let now = self.now;
        self.now = BootNs(now.0 - by.0);
        act(self);
        self.now = now;
    }

    /// A process opens a connection from 10.0.0.1 (or ::1), which is not established yet.
    pub(crate) fn connect(&mut self, process: &Arc<ProcessInfo>, remote: &str) -> ConnId {
        self.connect_as(Some(process), remote)
    }

    /// Likewise; the process may be unknown.
    pub(crate) fn connect_as(&mut self, process: Option<&Arc<ProcessInfo>>, remote: &str) -> ConnId {
        let conn = self.connection(Direction::Out, process, None, remote, Source::Live);
        self.opens(conn, Change::Connect)
    }

    /// The connection is established.
    pub(crate) fn established(&mut self, id: ConnId) {
        self.settle();
        let now = self.now;
        let conn = self.session.flows.0.get_mut(&id.0).expect("a connection that lives");
        conn.established = Some(now);
        let conn = conn.clone();
        self.emit(Change::Established(conn));
    }

    /// A process opens a connection, which is established at once.
    pub(crate) fn open(&mut self, process: &Arc<ProcessInfo>, remote: &str) -> ConnId {
        let id = self.connect(process, remote);
        self.established(id);
        id
    }

    /// A process opens a connection, which is established at once, and closes it.
    pub(crate) fn open_and_close(
        &mut self,
        process: &Arc<ProcessInfo>,
        remote: &str,
        traffic: Option<Traffic>,
    ) {
        let id = self.open(process, remote);
        self.close(id, EndedHow::LocalFin, traffic);
    }

    /// A process accepts a connection on `local` from `remote`.
    pub(crate) fn accept(&mut self, process: &Arc<ProcessInfo>, local: &str, remote: &str) -> ConnId {
        let mut conn = self.connection(Direction::In, Some(process), Some(local), remote, Source::Live);
        conn.established = Some(self.now);
        conn.begun = BootNs(0);
        conn.listener = Some(conn.owner.clone());
        self.opens(conn, Change::Accept)
    }

    /// A connection that was there before, at most as old as its process. `local`: as of an incoming one.
    pub(crate) fn existing(
        &mut self,
        direction: Direction,
        process: &Arc<ProcessInfo>,
        local: Option<&str>,
        remote: &str,
    ) -> ConnId {
        let mut conn = self.connection(direction, Some(process), local, remote, Source::Snapshot);
        conn.begun = BootNs(0);
        conn.born = Some(Born {
            earliest: process.start,
            latest: self.now,
            earliest_by: crate::flow::born::BornBy::OwnerStart,
            latest_by: crate::flow::born::BornBy::Snapshot,
        });
        self.opens(conn, Change::Established)
    }

    /// The attempt fails.
    pub(crate) fn fail(&mut self, id: ConnId, errno: i32) {
        self.settle();
        let conn = self.session.flows.0.remove(&id.0).expect("a connection that lives");
        let after = Some(self.now.since(conn.begun));
        let errno = u16::try_from(errno).expect("an errno");
        self.emit(Change::Failed(conn, Failure { errno, after }));
    }

    /// The connection ends; its owner is who closed it.
    pub(crate) fn close(&mut self, id: ConnId, how: EndedHow, traffic: Option<Traffic>) {
        self.settle();
        let conn = self.session.flows.0.remove(&id.0).expect("a connection that lives");
        let duration = conn.established.map(|since| self.now.since(since));
        let ending = Ending { how, errno: 0, closer: conn.owner.clone(), duration, traffic };
        self.emit(Change::Close(conn, ending));
    }

    /// A process begins to listen.
    pub(crate) fn listen(&mut self, process: &Arc<ProcessInfo>, local: &str) -> ConnId {
        self.listen_as(process, local, |_| {})
    }

    /// Likewise, of a listener that is changed before it is reported.
    pub(crate) fn listen_as(
        &mut self,
        process: &Arc<ProcessInfo>,
        local: &str,
        change: impl FnOnce(&mut ListenEvent),
    ) -> ConnId {
        let mut listener = ListenEvent {
            id: self.next_id(),
            transport: Transport::Tcp,
            local: local.parse().expect("an address"),
            netns: NetNs(1),
            source: if self.existing.is_some() { Source::Snapshot } else { Source::Live },
            born: None,
            kernel_socket: false,
            owner: samples::by(process, HookId::FexitListenStart),
            socket_unit: None,
            scope: None,
        };
        change(&mut listener);
        let id = listener.id;
        self.listeners.insert(id.0, listener.clone());
        self.emit(Change::Listen(listener));
        id
    }

    /// The listener ends, by its owner.
    pub(crate) fn unlisten(&mut self, id: ConnId) {
        let closer = self.listeners.get(&id.0).expect("a listener").owner.clone();
        self.unlisten_by(id, closer.process.as_ref());
    }

    /// The listener ends; `None`: it is not known by whom.
    pub(crate) fn unlisten_by(&mut self, id: ConnId, closer: Option<&Arc<ProcessInfo>>) {
        let listener = self.listeners.remove(&id.0).expect("a listener");
        let closer = closer.map_or(samples::unknown(UnknownReason::Lost), |closer| {
            samples::by(closer, HookId::FentryTcpClose)
        });
        self.emit(Change::Unlisten(listener, Unlisten { closer, duration: None }));
    }

    /// A process executes a program: it is as given after it.
    pub(crate) fn exec(&mut self, process: &Arc<ProcessInfo>) {
        self.body(EventBody::Exec(ProcEvent::new(Arc::clone(process))));
    }

    /// A process exits.
    pub(crate) fn exit(&mut self, process: &Arc<ProcessInfo>, status: ExitStatus) {
        self.body(EventBody::Exit(ProcEvent::new(Arc::clone(process)), status));
    }

    /// So many records are lost since then.
    pub(crate) fn gap(&mut self, from: BootNs, lost: u64) {
        let (cause, hook, to) = (GapCause::RingFull, HookId::State, self.now);
        self.body(EventBody::Gap(Gap { hook, cause, cpu: Some(0), lost, from, to }));
    }

    /// Reports any event.
    pub(crate) fn body(&mut self, body: EventBody) {
        self.settle();
        self.seq += 1;
        let event = Event { seq: self.seq, boot: self.now, wall: WallNs(self.now.0), body };
        match &mut self.existing {
            Some(existing) => existing.push(Event { seq: 0, ..event }),
            None => {
                // What waits is not handed out with its event.
                let expected = if self.holds { Vec::new() } else { self.ask(&event) };
                let body = event.body.clone();
                let alerts = self.hand_over(|session, out| session.emit(event.boot, body, &mut &mut *out));
                self.check(&event, &expected, &alerts);
            }
        }
    }

    /// A connection as it may be changed before [`Self::opens`] reports it.
    pub(crate) fn connection(
        &mut self,
        direction: Direction,
        process: Option<&Arc<ProcessInfo>>,
        local: Option<&str>,
        remote: &str,
        source: Source,
    ) -> ConnEvent {
        let id = self.next_id();
        let remote: SocketAddr = remote.parse().expect("an address");
        let host = if remote.is_ipv4() { "10.0.0.1" } else { "::1" };
        let ephemeral = SocketAddr::new(host.parse().expect("an address"), 32_768 + (id.0 % 28_000) as u16);
        ConnEvent {
            id,
            direction,
            transport: Transport::Tcp,
            local: local.map_or(ephemeral, |local| local.parse().expect("an address")),
            remote,
            mapped: false,
            device: None,
            netns: NetNs(1),
            source,
            born: None,
            kernel_socket: false,
            owner: process.map_or(samples::unknown(UnknownReason::Lost), |process| {
                samples::by(process, HookId::FentryTcpConnect)
            }),
            listener: None,
            begun: self.now,
            established: None,
        }
    }

    /// A connection begins to live and is reported.
    pub(crate) fn opens(&mut self, conn: ConnEvent, as_change: impl FnOnce(ConnEvent) -> Change) -> ConnId {
        self.settle();
        let id = conn.id;
        self.session.flows.0.insert(id.0, conn.clone());
        self.emit(as_change(conn));
        id
    }

    fn emit(&mut self, change: Change) {
        self.body(EventBody::Flow(change));
    }

    fn next_id(&mut self) -> ConnId {
        self.last_id += 1;
        ConnId(self.last_id)
    }
}

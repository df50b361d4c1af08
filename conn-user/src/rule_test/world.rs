//! Simulates the machine of a test: its processes, connections and listeners, and the events that its lines
//! cause.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use conn_common::hook::HookId;

use super::model::{Act, FlowNo, RuleTest, Step, TestProcess, Who};
use crate::event::model::{Event, EventBody, ProcEvent};
use crate::flow::born::{Born, BornBy};
use crate::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, ListenEvent, Method, Scope,
    Source, Traffic, UnknownReason, Unlisten,
};
use crate::flow::sample::{Counters, Sample};
use crate::host::interfaces::Device;
use crate::kernel::gap::{Gap, GapCause};
use crate::process::identity::{ExeFile, ProcessState, Replaced};
use crate::process::info::{MountNs, ProcessInfo, ProcessSource};
use crate::process::lineage::{self, Ancestor};
use crate::process::placement::{Container, Placement};
use crate::rules::detector::Flows;
use crate::units::{BootNs, MntNs, NetNs, Pid, WallNs};

const SECOND: u64 = 1_000_000_000;
/// When conn starts in every test: a day after the machine.
pub(super) const BEGAN: BootNs = BootNs(86_400 * SECOND);
/// The executable of process 1, by which lines name it.
const INIT: &str = "/usr/lib/systemd/systemd";
/// When processes that existed before conn started: an hour earlier.
const BEFORE: BootNs = BootNs(BEGAN.0 - 3_600 * SECOND);
/// The network namespace of everything.
const NETNS: NetNs = NetNs(4_026_531_840);
/// The wall clock at boot: fixed, so that tests give the same results on every day.
const WALL: u64 = 1_767_225_600 * SECOND;
/// The first process id.
const FIRST_PID: u32 = 1_000;

/// The simulated machine of one test.
#[derive(Debug)]
pub(super) struct World<'t> {
    spec: &'t BTreeMap<String, TestProcess>,
    pub(super) now: BootNs,
    processes: BTreeMap<String, Arc<ProcessInfo>>,
    living: BTreeMap<FlowNo, ConnEvent>,
    listening: BTreeMap<FlowNo, ListenEvent>,
    /// The traffic of connections so far.
    carried: BTreeMap<FlowNo, Carried>,
    last_pid: u32,
    seq: u64,
}

/// The traffic of a connection so far.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    traffic: Traffic,
    /// When data were last received, and sent.
    received: Option<BootNs>,
    sent: Option<BootNs>,
}

impl Carried {
    /// Adds what goes now. Of one line, what comes is before what goes: an answer.
    fn add(&mut self, more: &Traffic, now: BootNs) {
        for (bytes, more, at) in [
            (&mut self.traffic.bytes_in, more.bytes_in, &mut self.received),
            (&mut self.traffic.bytes_out, more.bytes_out, &mut self.sent),
        ] {
            *bytes = bytes.saturating_add(more);
            if more > 0 {
                *at = Some(now);
            }
        }
    }
}

impl Flows for World<'_> {
    fn connection(&self, id: ConnId) -> Option<ConnEvent> {
        self.living.values().find(|conn| conn.id == id).cloned()
    }
}

/// Returns the wall time of an instant.
pub(super) const fn wall(at: BootNs) -> WallNs {
    WallNs(WALL + at.0)
}

/// Returns the id of a connection or listener.
pub(super) const fn id(flow: FlowNo) -> ConnId {
    ConnId(flow as u64 + 1)
}

impl<'t> World<'t> {
    pub(super) fn new(test: &'t RuleTest) -> Self {
        Self {
            spec: &test.processes,
            now: BEGAN,
            processes: BTreeMap::new(),
            living: BTreeMap::new(),
            listening: BTreeMap::new(),
            carried: BTreeMap::new(),
            last_pid: FIRST_PID - 1,
            seq: 0,
        }
    }

    /// Returns the process of this name, if a line has named it.
    pub(super) fn process(&self, name: &str) -> Option<&Arc<ProcessInfo>> {
        self.processes.get(name)
    }

    /// Delivers what the background finds out about executables.
    pub(super) fn answer(&self) {
        for (name, process) in &self.processes {
            let answer = self.spec.get(name).and_then(|spec| spec.replaced).unwrap_or(Replaced::No);
            process.identity.set_replaced(answer);
            if answer.is_replaced() {
                process.identity.set_deleted();
            }
        }
    }

    /// Returns the sample of a connection at this instant.
    pub(super) fn sample(&self, id: ConnId) -> Sample {
        let counters = self.living.iter().find(|(_, conn)| conn.id == id).map(|(flow, conn)| {
            let Carried { traffic, received, sent } = self.carried.get(flow).copied().unwrap_or_default();
            let established = conn.established.or_else(|| Some(conn.born.as_ref()?.latest));
            let at = |carried: Option<BootNs>| carried.or(established).unwrap_or(self.now);
            let Traffic { bytes_in, bytes_out, .. } = traffic;
            Counters { asked: self.now, bytes_in, bytes_out, received: at(received), sent: at(sent) }
        });
        Sample { id, counters }
    }

    /// The event that a line reports; `None`: it lets time pass, or data go over a connection. `existing`: it was there when conn began.
    pub(super) fn event(&mut self, step: &Step, existing: bool) -> Option<Event> {
        let body = match &step.act {
            Act::Pass(_) => return None,
            Act::Data { flow, traffic } => {
                self.carried.entry(*flow).or_default().add(traffic, self.now);
                return None;
            }
            Act::Connect { flow, who, local, remote, device, established } => {
                let over = (*remote, device.clone());
                EventBody::Flow(self.connect(*flow, who, *local, over, *established || existing, existing))
            }
            Act::Accept { flow, who, local, remote, device } => {
                EventBody::Flow(self.accept(*flow, who, *local, (*remote, device.clone()), existing))
            }
            Act::Established(flow) => {
                let now = self.now;
                let conn = self.living.get_mut(flow)?;
                conn.established = Some(now);
                EventBody::Flow(Change::Established(conn.clone()))
            }
            Act::Failed(flow, errno) => {
                let conn = self.living.remove(flow)?;
                let after = Some(self.now.since(conn.begun));
                EventBody::Flow(Change::Failed(conn, Failure { errno: *errno, after }))
            }
            Act::Close { flow, how, traffic } => EventBody::Flow(self.close(*flow, *how, *traffic)?),
            Act::Listen { flow, who, local, scope } => {
                EventBody::Flow(self.listen(*flow, who, (*local, scope), existing))
            }
            Act::Unlisten(flow) => {
                let listener = self.listening.remove(flow)?;
                let closer = listener.owner.clone();
                EventBody::Flow(Change::Unlisten(listener, Unlisten { closer, duration: None }))
            }
            Act::Exec { who, stdio, parent_stdio, peer } => {
                let process = self.start(who, existing);
                let conn = |flow: &Option<FlowNo>| {
                    flow.as_ref().and_then(|flow| self.living.get(flow)).cloned().map(Box::new)
                };
                let (stdio, parent_stdio) = (conn(stdio), conn(parent_stdio));
                let peer = peer.as_ref().map(|name| self.start(name, existing));
                let stdio_peers = peer.iter().map(|peer| (peer.pid, peer.start)).collect();
                EventBody::Exec(ProcEvent { stdio, parent_stdio, stdio_peers, ..ProcEvent::new(process) })
            }
            Act::Exit(who, status) => {
                let process = self.start(who, existing);
                EventBody::Exit(ProcEvent::new(process), *status)
            }
            Act::Gap(lost) => EventBody::Gap(Gap {
                hook: HookId::State,
                cause: GapCause::RingFull,
                cpu: Some(0),
                lost: *lost,
                from: self.now,
                to: self.now,
            }),
        };
        self.seq += u64::from(!existing);
        let seq = if existing { 0 } else { self.seq };
        Some(Event { seq, boot: self.now, wall: wall(self.now), body })
    }

    /// Returns the process of this name; it starts now if no line has named it before.
    fn start(&mut self, name: &str, existing: bool) -> Arc<ProcessInfo> {
        if let Some(process) = self.processes.get(name) {
            return Arc::clone(process);
        }
        if name == INIT {
            let init = Arc::new(init());
            self.processes.insert(name.to_owned(), Arc::clone(&init));
            return init;
        }
        let nobody = TestProcess::default();
        let spec = self.spec;
        let spec = spec.get(name).unwrap_or(&nobody);
        let ancestors = self.above(spec, existing);
        self.last_pid = self.last_pid.saturating_add(1);
        let start = if existing || spec.exists { BEFORE } else { self.now };
        let process = Arc::new(made(name, spec, Pid(self.last_pid), start, ancestors));
        self.processes.insert(name.to_owned(), Arc::clone(&process));
        process
    }

    fn above(&mut self, spec: &TestProcess, existing: bool) -> Arc<[Ancestor]> {
        match spec.parent.as_deref() {
            None | Some(INIT) => lineage::below(&init()),
            Some(name) if self.spec.contains_key(name) || self.processes.contains_key(name) => {
                lineage::below(&self.start(name, existing || spec.exists))
            }
            Some(name) => {
                self.last_pid = self.last_pid.saturating_add(1);
                let exe = name.starts_with('/').then(|| name.to_owned());
                let spec = TestProcess {
                    exe,
                    comm: (!name.starts_with('/')).then(|| name.to_owned()),
                    ..TestProcess::default()
                };
                let parent = made(name, &spec, Pid(self.last_pid), BEFORE, lineage::below(&init()));
                lineage::below(&parent)
            }
        }
    }

    fn by(&mut self, who: &Who, hook: HookId, existing: bool) -> Actor {
        match who {
            Some(name) => {
                let process = self.start(name, existing);
                let method = if existing { Method::FdTable } else { Method::Hook(hook) };
                Actor { tid: (!existing).then_some(process.pid), process: Some(process), method }
            }
            None => {
                let reason = if existing { UnknownReason::NoHolder } else { UnknownReason::Lost };
                Actor::unknown(reason)
            }
        }
    }

    fn born(&self, existing: bool, owner: &Actor) -> Option<Born> {
        existing.then(|| Born {
            earliest: owner.process.as_ref().map_or(BootNs(0), |process| process.start),
            latest: self.now,
            earliest_by: if owner.process.is_some() { BornBy::OwnerStart } else { BornBy::Boot },
            latest_by: BornBy::Snapshot,
        })
    }

    /// Returns a connection of which neither the beginning nor the handshake is known.
    fn conn(
        &self,
        flow: FlowNo,
        direction: Direction,
        owner: Actor,
        (local, remote): (SocketAddr, SocketAddr),
        existing: bool,
    ) -> ConnEvent {
        ConnEvent {
            source: source(existing),
            born: self.born(existing, &owner),
            ..ConnEvent::new(id(flow), direction, (local, remote), NETNS, owner)
        }
    }

    fn connect(
        &mut self,
        flow: FlowNo,
        who: &Who,
        local: Option<SocketAddr>,
        (remote, device): (SocketAddr, Option<Arc<Device>>),
        established: bool,
        existing: bool,
    ) -> Change {
        let owner = self.by(who, HookId::FentryTcpConnect, existing);
        let ends = (local.unwrap_or_else(|| ephemeral(flow, remote)), remote);
        let conn = ConnEvent {
            device,
            begun: if existing { BootNs(0) } else { self.now },
            established: (established && !existing).then_some(self.now),
            ..self.conn(flow, Direction::Out, owner, ends, existing)
        };
        self.living.insert(flow, conn.clone());
        if existing {
            Change::Established(conn)
        } else {
            Change::Connect(ConnEvent { established: None, ..conn })
        }
    }

    fn accept(
        &mut self,
        flow: FlowNo,
        who: &Who,
        local: SocketAddr,
        (remote, device): (SocketAddr, Option<Arc<Device>>),
        existing: bool,
    ) -> Change {
        let owner = self.by(who, HookId::FentryInetAccept, existing);
        let conn = ConnEvent {
            device,
            listener: (!existing).then(|| owner.clone()),
            established: (!existing).then_some(self.now),
            ..self.conn(flow, Direction::In, owner, (local, remote), existing)
        };
        self.living.insert(flow, conn.clone());
        if existing { Change::Established(conn) } else { Change::Accept(conn) }
    }

    fn listen(
        &mut self,
        flow: FlowNo,
        who: &Who,
        (local, scope): (SocketAddr, &Scope),
        existing: bool,
    ) -> Change {
        let owner = self.by(who, HookId::FexitListenStart, existing);
        let listener = ListenEvent {
            source: source(existing),
            born: self.born(existing, &owner),
            scope: Some(scope.clone()),
            ..ListenEvent::new(id(flow), local, NETNS, owner)
        };
        self.listening.insert(flow, listener.clone());
        Change::Listen(listener)
    }

    fn close(&mut self, flow: FlowNo, how: EndedHow, traffic: Traffic) -> Option<Change> {
        let conn = self.living.remove(&flow)?;
        let carried = self.carried.remove(&flow).unwrap_or_default().traffic;
        let traffic = Traffic {
            bytes_in: traffic.bytes_in.max(carried.bytes_in),
            bytes_out: traffic.bytes_out.max(carried.bytes_out),
            ..traffic
        };
        // It was closed before the handshake completed.
        if conn.direction == Direction::Out && conn.established.is_none() && conn.source == Source::Live {
            let after = Some(self.now.since(conn.begun));
            return Some(Change::Failed(conn, Failure { errno: 0, after }));
        }
        let duration = conn.established.map(|since| self.now.since(since));
        let errno = match how {
            EndedHow::PeerReset => libc::ECONNRESET,
            EndedHow::Timeout => libc::ETIMEDOUT,
            EndedHow::Killed => libc::ECONNABORTED,
            _ => 0,
        };
        let errno = u16::try_from(errno).unwrap_or(0);
        let ending = Ending { how, errno, closer: conn.owner.clone(), duration, traffic: Some(traffic) };
        Some(Change::Close(conn, ending))
    }

    /// Returns the `established` event that `open` reports after its `connect` event.
    pub(super) fn established(&mut self, step: &Step) -> Option<Event> {
        let Act::Connect { flow, established: true, .. } = &step.act else { return None };
        self.event(&Step { text: step.text.clone(), act: Act::Established(*flow) }, false)
    }
}

const fn source(existing: bool) -> Source {
    if existing { Source::Snapshot } else { Source::Live }
}

/// Returns a local end for a connection to this remote end.
fn ephemeral(flow: FlowNo, remote: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match remote.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    SocketAddr::new(ip, 32_768 + (flow % 28_000) as u16)
}

/// Process 1.
fn init() -> ProcessInfo {
    let init = ProcessInfo {
        comm: b"systemd"[..].into(),
        exe: Some(INIT.as_bytes().into()),
        ..ProcessInfo::new(Pid(1), BootNs(0))
    };
    init.identity.set_exe_is_host(true);
    init
}

fn made(name: &str, spec: &TestProcess, pid: Pid, start: BootNs, ancestors: Arc<[Ancestor]>) -> ProcessInfo {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let short = spec.exe.as_deref().map_or_else(|| name.to_owned(), last);
    let comm = spec.comm.as_deref().unwrap_or(&short).as_bytes();
    let uid = spec.uid.unwrap_or(match spec.user.as_deref() {
        None | Some("root") => 0,
        Some(_) => 1_000,
    });
    let user = spec.user.as_deref().or((uid == 0).then_some("root"));
    let bytes = |text: &str| -> Box<[u8]> { text.as_bytes().into() };
    let placement = (spec.unit.is_some() || spec.container.is_some()).then(|| {
        let unit = spec.unit.as_deref();
        let cgroup = format!("/system.slice/{}", unit.or(spec.container.as_deref()).unwrap_or_default());
        let container =
            spec.container.as_deref().map(|id| Container { runtime: None, id: bytes(id), pod: None });
        Arc::new(Placement {
            cgroup: cgroup.into_bytes().into(),
            unit: unit.map(bytes),
            user_unit: None,
            slice: Some(bytes("system.slice")),
            container,
        })
    });
    let process = ProcessInfo {
        ppid: ancestors.first().map(|parent| parent.pid),
        ancestors,
        // The kernel keeps 15 bytes of a name.
        comm: comm.get(..comm.len().min(15)).unwrap_or_default().into(),
        exe: spec.exe.as_deref().map(|exe| exe.as_bytes().into()),
        exe_deleted: spec.deleted,
        exe_is_conn: spec.conn,
        args: match &spec.args {
            Some(args) => args.iter().map(|arg| bytes(arg)).collect(),
            None => [bytes(&short)].into(),
        },
        args_truncated: spec.args_truncated,
        uid,
        gid: uid,
        login_uid: spec.login_uid,
        user: user.map(|user| user.as_bytes().into()),
        placement,
        mount_ns: Some(MountNs { id: MntNs(1), is_host: !spec.foreign }),
        source: ProcessSource::Exec,
        ..ProcessInfo::new(pid, start)
    };
    process.identity.set_exe(ExeFile {
        writable: Some(spec.writable),
        user_writable: Some(spec.user_writable),
        ..ExeFile::default()
    });
    process.identity.set_exe_is_host(!spec.foreign && !process.exe_is_memfd());
    process.identity.set_sha256(spec.sha256);
    process.identity.set_copy_of(spec.copy_of.as_deref().map(Into::into));
    process.identity.set_state(ProcessState {
        cwd: Some(bytes(spec.cwd.as_deref().unwrap_or("/"))),
        tty: spec.tty.clone(),
        netns: Some(NETNS),
    });
    process
}

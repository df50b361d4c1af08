//! Events for tests: one of each kind and shape, and strategies for arbitrary ones.

mod any;

use std::net::SocketAddr;
use std::sync::Arc;

use conn_common::hook::HookId;

pub(crate) use self::any::{any_event, any_process};
use super::alert::{Alert, AlertId, Covered, Evidence, Phase, RuleKind, RuleRef, Severity, Subject, Value};
use super::degraded::{Degradation, Degraded};
use super::json::StreamIdentity;
use super::model::{Event, EventBody, Facts, ProcEvent, Repair, Start};
use crate::flow::born::{Born, BornBy};
use crate::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, ListenEvent, Method, Scope,
    Source, Traffic, Transport, UnknownReason, Unlisten,
};
use crate::flow::sample::{Counters, Sample};
use crate::host::interfaces::Device;
use crate::kernel::gap::{Gap, GapCause};
use crate::process::identity::{ExeFile, ProcessState, Tty};
use crate::process::info::{ExitStatus, MountNs, ProcessInfo, ProcessSource};
use crate::process::lineage::Ancestor;
use crate::process::placement::Placement;
use crate::units::{BootNs, DurationNs, MntNs, NetNs, Pid, WallNs};

const BOOT: u64 = 5_000_000_000_000;
const WALL: u64 = 1_795_491_821_123_456_789;
const HOST_NETNS: NetNs = NetNs(4_026_531_840);

pub(crate) fn identity() -> StreamIdentity {
    StreamIdentity {
        host: "web-1".to_owned(),
        boot_id: "3f2a9c1e-0b7d-4c58-9f11-6a5d2b3c4e5f".to_owned(),
        agent_start: BootNs(0x12_3456_789a),
    }
}

pub(crate) fn process(pid: u32, comm: &[u8], exe: &str, args: &[&str]) -> Arc<ProcessInfo> {
    Arc::new(ProcessInfo {
        ppid: Some(Pid(1)),
        comm: comm.into(),
        exe: Some(exe.as_bytes().into()),
        args: args.iter().map(|arg| arg.as_bytes().into()).collect(),
        uid: 1000,
        gid: 1000,
        login_uid: Some(1000),
        cgroup_id: 4711,
        source: ProcessSource::Exec,
        ..ProcessInfo::new(Pid(pid), BootNs(u64::from(pid) * 1_000_000))
    })
}

fn ancestor(pid: u32, comm: &[u8], exe: &str) -> Ancestor {
    let exe = Some(exe.as_bytes().into());
    Ancestor { pid: Pid(pid), start: BootNs(1), comm: comm.into(), exe, exe_is_host: Some(true) }
}

const fn mount_ns(inode: u32, is_host: bool) -> MountNs {
    MountNs { id: MntNs(inode), is_host }
}

fn place(path: &str) -> Arc<Placement> {
    Arc::new(Placement::of(path.as_bytes()))
}

fn state(cwd: &str, tty: Tty) -> ProcessState {
    ProcessState { cwd: Some(cwd.as_bytes().into()), tty, netns: Some(HOST_NETNS) }
}

/// Everything is known of it; it runs in a user's session.
pub(crate) fn curl() -> Arc<ProcessInfo> {
    let curl = process(4242, b"curl", "/usr/bin/curl", &["curl", "-s", "http://127.0.0.1:8080/"]);
    curl.identity.set_state(state("/home/ann", Tty::Named("pts/3".into())));
    curl.identity.set_exe(ExeFile {
        fs: Some(b"ext4".as_slice().into()),
        mount: Some(b"/".as_slice().into()),
        writable: Some(false),
        user_writable: Some(false),
    });
    curl.identity.set_exe_is_host(true);
    curl.identity.set_sha256(Some(std::array::from_fn(|at| at as u8 * 8)));
    Arc::new(ProcessInfo {
        mount_ns: Some(mount_ns(4_026_531_841, true)),
        user: Some(b"ann".as_slice().into()),
        placement: Some(place("/user.slice/user-1000.slice/session-3.scope")),
        ancestors: [
            ancestor(4100, b"bash", "/usr/bin/bash"),
            ancestor(901, b"sshd", "/usr/sbin/sshd"),
            ancestor(1, b"systemd", "/usr/lib/systemd/systemd"),
        ]
        .into(),
        ..ProcessInfo::clone(&curl)
    })
}

/// A worker in a container.
pub(crate) fn nginx() -> Arc<ProcessInfo> {
    let nginx = process(812, b"nginx", "/usr/sbin/nginx", &["nginx: worker process"]);
    nginx.identity.set_state(state("/", Tty::None));
    nginx.identity.set_exe_is_host(false);
    Arc::new(ProcessInfo {
        uid: 33,
        gid: 33,
        login_uid: None,
        source: ProcessSource::Fork,
        mount_ns: Some(mount_ns(4_026_532_207, false)),
        user: Some(b"www-data".as_slice().into()),
        placement: Some(place(
            "/kubepods.slice/kubepods-burstable.slice/\
             kubepods-burstable-pod2c48913c_b29f_11e7_9350_020968147796.slice/\
             cri-containerd-0f7d84f32c4d7a9b9fd4c3d1c1a1e6d8b1c6a5f0c7b4a39e28f17d06c5b4a392.scope",
        )),
        ancestors: [Ancestor { exe_is_host: Some(false), ..ancestor(800, b"nginx", "/usr/sbin/nginx") }]
            .into(),
        ..ProcessInfo::clone(&nginx)
    })
}

/// A name that tries to act on the terminal, to be another line, and is no UTF-8.
pub(crate) fn hostile() -> Arc<ProcessInfo> {
    let process = process(666, b"\x1b[2J\n\xff\\", "/tmp/\u{202e}gpj.exe", &["a b", "\u{200b}", ""]);
    process.identity.set_state(state("/tmp/\u{200b}", Tty::Unknown));
    process.identity.set_exe(ExeFile { writable: Some(true), ..ExeFile::default() });
    process.identity.set_exe_is_host(false);
    Arc::new(ProcessInfo {
        exe_deleted: true,
        args_truncated: true,
        placement: Some(place("/user.slice/user-0.slice/user@0.service/app.slice/\u{202e}x.service")),
        ancestors: [ancestor(665, b"\x1b[2J\xff", "/tmp/\n")].into(),
        ..ProcessInfo::clone(&process)
    })
}

/// Memory with a name.
pub(crate) fn memfd() -> Arc<ProcessInfo> {
    let process = process(667, b"x", "/memfd:x", &["x"]);
    Arc::new(ProcessInfo { exe_deleted: true, ..ProcessInfo::clone(&process) })
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

pub(crate) fn outgoing() -> ConnEvent {
    ConnEvent {
        begun: BootNs(BOOT - 250_000),
        ..ConnEvent::new(
            ConnId(7),
            Direction::Out,
            (address("127.0.0.1:40000"), address("127.0.0.1:8080")),
            HOST_NETNS,
            Actor::by(&curl(), HookId::FentryTcpConnect),
        )
    }
}

pub(crate) fn incoming() -> ConnEvent {
    ConnEvent {
        id: ConnId(8),
        direction: Direction::In,
        local: address("127.0.0.1:8080"),
        remote: address("127.0.0.1:40000"),
        owner: Actor::by(&nginx(), HookId::FentryInetAccept),
        listener: Some(Actor::by(&nginx(), HookId::FexitListenStart)),
        begun: BootNs(0),
        established: Some(BootNs(BOOT)),
        ..outgoing()
    }
}

/// Between so many seconds ago.
fn born(at_most: u64, at_least: u64) -> Born {
    Born {
        earliest: BootNs(BOOT - at_most * 1_000_000_000),
        latest: BootNs(BOOT - at_least * 1_000_000_000),
        earliest_by: BornBy::OwnerStart,
        latest_by: BornBy::LastActivity,
    }
}

fn listening(local: &str) -> ListenEvent {
    ListenEvent::new(ConnId(3), address(local), HOST_NETNS, Actor::by(&nginx(), HookId::FexitListenStart))
}

pub(crate) fn systemd() -> Arc<ProcessInfo> {
    Arc::new(ProcessInfo {
        uid: 0,
        gid: 0,
        ppid: None,
        user: Some(b"root".as_slice().into()),
        placement: Some(place("/init.scope")),
        ..ProcessInfo::clone(&process(1, b"systemd", "/usr/lib/systemd/systemd", &["/sbin/init"]))
    })
}

/// For whom systemd listens, if that is known.
fn activated(local: &str, unit: Option<&str>) -> ListenEvent {
    let owner = Actor::by(&systemd(), HookId::FexitListenStart);
    ListenEvent { owner, socket_unit: unit.map(Into::into), ..listening(local) }
}

fn ending(how: EndedHow, closer: Actor) -> Ending {
    Ending {
        how,
        errno: 0,
        closer,
        duration: Some(DurationNs(1_234_567_890)),
        traffic: Some(Traffic { bytes_in: 5_300_000, bytes_out: 78, retransmits: Some(2), srtt_us: 431 }),
    }
}

pub(crate) fn event(seq: u64, body: EventBody) -> Event {
    Event { seq, boot: BootNs(BOOT + seq * 1_000_000), wall: WallNs(WALL + seq * 1_000_000), body }
}

fn alert(phase: Phase, subject: Subject, covered: Covered) -> Alert {
    Alert {
        id: AlertId(7),
        phase,
        severity: Severity::High,
        rule: Arc::new(RuleRef {
            id: "path.metadata".into(),
            kind: RuleKind::Path,
            title: "a program asks the cloud's metadata service".into(),
            attack: ["T1552.005".into()].into(),
        }),
        subject,
        evidence: vec![
            Evidence::duration("open_for", DurationNs(3_725_000_000_000)),
            Evidence::number("bytes_out", 42),
        ],
        covered,
        suppress: None,
        at: BootNs(BOOT),
        raised: BootNs(BOOT),
        repeats: 0,
    }
}

/// One event of each kind and shape.
pub(crate) fn all() -> Vec<Event> {
    let (closed, ended) = (outgoing(), listening("0.0.0.0:8080"));
    let v6 = ConnEvent {
        id: ConnId(9),
        local: address("[2001:db8::1]:40001"),
        remote: address("[2001:db8:0:1::aaaa]:443"),
        transport: Transport::Mptcp,
        owner: Actor::by(&hostile(), HookId::KprobeTcpConnect),
        ..outgoing()
    };
    let pending = ConnEvent {
        id: ConnId(10),
        local: address("0.0.0.0:0"),
        mapped: true,
        owner: Actor::by(&curl(), HookId::State),
        ..outgoing()
    };
    let late = ConnEvent {
        id: ConnId(11),
        direction: Direction::Unknown,
        source: Source::Late,
        device: Some(Arc::new(Device::new("vrf\u{202e}1"))),
        owner: Actor::unknown(UnknownReason::BeforeAttach),
        listener: None,
        ..incoming()
    };
    let before = ConnEvent {
        id: ConnId(13),
        source: Source::Snapshot,
        born: Some(born(4_000, 3_150)),
        owner: Actor { process: Some(nginx()), tid: None, method: Method::FdTable },
        listener: None,
        ..incoming()
    };
    let mut unwatched = ending(EndedHow::PeerFin, Actor::by(&nginx(), HookId::FentryTcpClose));
    unwatched.duration = None;
    let found = ConnEvent {
        id: ConnId(14),
        source: Source::Resync,
        born: Some(Born { earliest: BootNs(0), earliest_by: BornBy::Boot, ..born(0, 2) }),
        kernel_socket: true,
        local: address("[fe80::1]:40000"),
        remote: address("[fe80::2]:2049"),
        device: Some(Arc::new(Device::new("eth0"))),
        owner: Actor::unknown(UnknownReason::NoHolder),
        ..outgoing()
    };
    let old_listener = ListenEvent {
        scope: Some(Scope { device: Some(Arc::new(Device::new("eth0"))), v6only: true }),
        source: Source::Snapshot,
        born: Some(born(4_000, 3)),
        owner: before.owner.clone(),
        ..listening("[::1]:8080")
    };
    let by_listener = Actor { process: Some(nginx()), tid: None, method: Method::Listener };
    let inferred = ConnEvent {
        id: ConnId(12),
        owner: by_listener.clone(),
        listener: Some(Actor::unknown(UnknownReason::BeforeAttach)),
        ..incoming()
    };
    let mut reset = ending(EndedHow::PeerReset, Actor::unknown(UnknownReason::Kernel));
    (reset.errno, reset.duration, reset.traffic) = (104, None, None);
    let bodies = [
        EventBody::Flow(Change::Listen(listening("[::]:8080"))),
        EventBody::Flow(Change::Connect(outgoing())),
        EventBody::Flow(Change::Accept(incoming())),
        EventBody::Flow(Change::Established(ConnEvent { established: Some(BootNs(BOOT)), ..outgoing() })),
        EventBody::Flow(Change::Close(
            closed.clone(),
            ending(
                EndedHow::LocalFin,
                Actor { method: Method::Hook(HookId::FentryTcpClose), ..closed.owner },
            ),
        )),
        EventBody::Flow(Change::Close(
            incoming(),
            ending(EndedHow::PeerFin, Actor::by(&hostile(), HookId::KprobeTcpClose)),
        )),
        EventBody::Flow(Change::Connect(v6.clone())),
        EventBody::Flow(Change::Failed(v6, Failure { errno: 111, after: Some(DurationNs(250_000)) })),
        EventBody::Flow(Change::Connect(pending.clone())),
        EventBody::Flow(Change::Failed(pending.clone(), Failure { errno: 0, after: None })),
        EventBody::Flow(Change::Failed(pending, Failure { errno: 524, after: None })),
        EventBody::Flow(Change::Close(late, reset)),
        EventBody::Flow(Change::Accept(inferred.clone())),
        EventBody::Flow(Change::Close(
            inferred,
            ending(EndedHow::Timeout, Actor { method: Method::Closer, ..by_listener }),
        )),
        EventBody::Flow(Change::Listen(listening("[::ffff:127.0.0.1]:0"))),
        EventBody::Flow(Change::Unlisten(
            ended.clone(),
            Unlisten {
                closer: Actor { method: Method::Hook(HookId::FentryTcpClose), ..ended.owner },
                duration: Some(DurationNs(90_061_000_000_000)),
            },
        )),
        EventBody::Exec(ProcEvent { parent_stdio: Some(Box::new(outgoing())), ..ProcEvent::new(hostile()) }),
        EventBody::Exec(ProcEvent::new(curl())),
        EventBody::Exit(ProcEvent::new(curl()), ExitStatus::Code(7)),
        EventBody::Exit(ProcEvent::new(nginx()), ExitStatus::Signal(9)),
        EventBody::Flow(Change::Close(before, unwatched)),
        EventBody::Flow(Change::Established(found.clone())),
        EventBody::Flow(Change::Unlisten(
            old_listener,
            Unlisten { closer: Actor::by(&nginx(), HookId::FentryTcpClose), duration: None },
        )),
        EventBody::Exec(ProcEvent::new(memfd())),
        EventBody::Flow(Change::Listen(activated("[::]:22", Some("ssh.socket")))),
        EventBody::Flow(Change::Listen(activated("127.0.0.1:9", None))),
        EventBody::Exec(ProcEvent {
            stdio: Some(Box::new(found)),
            stdio_peers: [(Pid(812), BootNs(1_230_000_000)), (Pid(900), BootNs(1_240_000_000))]
                .into_iter()
                .collect(),
            ..ProcEvent::new(memfd())
        }),
        EventBody::Alert(Box::new(Alert {
            suppress: Some("exe:/usr/bin/curl dport:443".into()),
            ..alert(Phase::Raised, Subject::Connection(Box::new(outgoing())), Covered::All)
        })),
        EventBody::Alert(Box::new(Alert {
            evidence: vec![
                Evidence::text("args", *b"\x1b[2J\xff"),
                Evidence::new("score", Value::Score(0.975)),
                Evidence::new("from", Value::End(address("203.0.113.9:0"))),
                Evidence::new("via", Value::List(vec![Value::Process(nginx()), Value::Process(hostile())])),
            ],
            repeats: 3,
            ..alert(
                Phase::Escalated,
                Subject::Process(hostile()),
                Covered::Except { lost: 12, repaired: false },
            )
        })),
        EventBody::Alert(Box::new(alert(
            Phase::Resolved,
            Subject::Listener(Box::new(listening("[::]:8080"))),
            Covered::Since(BootNs(BOOT)),
        ))),
        EventBody::Alert(Box::new(alert(Phase::Raised, Subject::Absence, Covered::Unknown))),
        EventBody::Start(Start { attached: BootNs(BOOT), has_facts: false }),
        EventBody::Gap(Gap {
            hook: HookId::FentryTcpClose,
            cause: GapCause::RingFull,
            cpu: Some(1),
            lost: 12,
            from: BootNs(BOOT + 19_000_000),
            to: BootNs(BOOT + 21_000_000),
        }),
        EventBody::Gap(Gap {
            hook: HookId::State,
            cause: GapCause::Skipped,
            cpu: None,
            lost: 1,
            from: BootNs(BOOT + 20_000_000),
            to: BootNs(BOOT + 22_000_000),
        }),
        EventBody::Repair(Repair { seen: BootNs(BOOT + 20_000_000) }),
        EventBody::Degraded(Degraded {
            what: Degradation::Output,
            place: Some("/var/log/\\u{202e}events.jsonl".into()),
            count: 12,
            total: 40,
        }),
        EventBody::Facts(Facts { process: curl(), is_settled: true }),
        EventBody::Sample(Sample {
            id: ConnId(17),
            counters: Some(Counters {
                asked: BootNs(BOOT + 30_000_000),
                bytes_in: 120,
                bytes_out: 3_400,
                received: BootNs(BOOT + 4_000_000),
                sent: BootNs(BOOT + 8_000_000),
            }),
        }),
        EventBody::Clock,
    ];
    bodies.into_iter().zip(1..).map(|(body, seq)| event(seq, body)).collect()
}

/// Compares with a file in `src/event/golden/`; with `CONN_BLESS` set it writes the file instead.
pub(crate) fn golden(name: &str, actual: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/event/golden/").to_owned() + name;
    compare_file(&path, actual);
}

/// Compares with any file, such as a page of the documentation that is made from the code; with `CONN_BLESS`
/// set it writes the file instead.
pub(crate) fn compare_file(path: &str, actual: &str) {
    if std::env::var_os("CONN_BLESS").is_some() {
        std::fs::write(path, actual).expect("a writable file");
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        actual == expected,
        "{path} is not what the code gives; CONN_BLESS=1 cargo test writes it:\n{actual}"
    );
}

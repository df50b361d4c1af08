//! Arbitrary events, made of few values, so that filters and rules match them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use conn_common::hook::HookId;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::event::degraded::{Degradation, Degraded};
use crate::event::model::{Event, EventBody, ProcEvent, Start};
use crate::event::names::Named;
use crate::flow::born::{Born, BornBy};
use crate::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, ListenEvent, Method, Scope,
    Source, Traffic, Transport, UnknownReason, Unlisten, canonical_ip,
};
use crate::host::interfaces::Device;
use crate::kernel::gap::{Gap, GapCause};
use crate::process::identity::{ExeFile, Identity, ProcessState, Tty};
use crate::process::info::{ExitStatus, MountNs, ProcessInfo, ProcessSource};
use crate::process::lineage::Ancestor;
use crate::process::placement::Placement;
use crate::units::{BootNs, DurationNs, MntNs, NetNs, Pid, WallNs};

/// A few names and numbers that filters ask for, and anything else.
fn bytes(known: &'static [&'static str]) -> impl Strategy<Value = Box<[u8]>> {
    prop_oneof![
        3 => select(known).prop_map(|name| name.as_bytes().into()),
        1 => vec(any::<u8>(), 0..20).prop_map(Vec::into_boxed_slice),
    ]
}

fn any_place() -> impl Strategy<Value = Option<Arc<Placement>>> {
    option::of(prop_oneof![
        select(vec![
            "/system.slice/nginx.service",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/curl.service",
            "/docker/0f7d84f32c4d7a9b9fd4c3d1c1a1e6d8b1c6a5f0c7b4a39e28f17d06c5b4a392",
            "/machine.slice/machine-nginx.scope/payload",
            "/",
        ])
        .prop_map(|path| path.as_bytes().to_vec()),
        vec(any::<u8>(), 0..20),
    ])
    .prop_map(|path| path.map(|path| Arc::new(Placement::of(&path))))
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let name = || bytes(&["/", "/tmp", "nginx", "/usr/sbin/nginx"]);
    let tty = prop_oneof![Just(Tty::Unknown), Just(Tty::None), Just(Tty::Named("pts/3".into()))];
    let state = (option::of(name()), tty, option::of(0..3_u32)).prop_map(|(cwd, tty, netns)| ProcessState {
        cwd,
        tty,
        netns: netns.map(NetNs),
    });
    let file = (option::of(name()), option::of(name()), option::of(any::<bool>()))
        .prop_map(|(fs, mount, writable)| ExeFile { fs, mount, writable, user_writable: writable });
    let hash = option::of(option::of((0..2_u8).prop_map(|byte| [byte * 0xab; 32])));
    let is_host = option::of(any::<bool>());
    (option::of(state), option::of(file), hash, is_host).prop_map(|(state, file, hash, is_host)| {
        let identity = Identity::default();
        if let Some(state) = state {
            identity.set_state(state);
        }
        if let Some(file) = file {
            identity.set_exe(file);
        }
        if let Some(is_host) = is_host {
            identity.set_exe_is_host(is_host);
        }
        if let Some(hash) = hash {
            identity.set_sha256(hash);
        }
        identity
    })
}

fn any_ancestor() -> impl Strategy<Value = Ancestor> {
    let exe = option::of(bytes(&["/usr/sbin/nginx", "/usr/bin/curl"]));
    let names = (bytes(&["nginx", "curl"]), exe, option::of(any::<bool>()));
    (0..6_u32, names, any::<u64>()).prop_map(|(pid, (comm, exe, exe_is_host), start)| Ancestor {
        pid: Pid(pid),
        start: BootNs(start),
        comm,
        exe: exe.map(Into::into),
        exe_is_host,
    })
}

pub(crate) fn any_process() -> BoxedStrategy<Arc<ProcessInfo>> {
    let names = (
        bytes(&["nginx", "curl", "tmux: server", "kworker/0:1"]),
        option::of(bytes(&["/usr/sbin/nginx", "/usr/bin/curl", "/tmp/a", "/memfd:x"])),
        vec(bytes(&["-s", "--all", "a b"]), 0..4).prop_map(Vec::into_boxed_slice),
        option::of(bytes(&["nginx", "curl"])),
    );
    let numbers = (0..6_u32, option::of(0..6_u32), 0..3_u32, 0..3_u32, option::of(0..3_u32), any::<u64>());
    let mount_ns = option::of((0..3_u32, any::<bool>()));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), select(ProcessSource::ALL), mount_ns);
    let identity = (any_place(), any_identity(), vec(any_ancestor(), 0..3));
    (names, numbers, flags, identity)
        .prop_map(|(names, numbers, flags, (placement, identity, ancestors))| {
            Arc::new(ProcessInfo {
                ppid: numbers.1.map(Pid),
                comm: names.0,
                exe: names.1.map(Into::into),
                exe_deleted: flags.0,
                exe_is_conn: numbers.5 % 3 == 0,
                args: names.2,
                args_truncated: flags.1,
                uid: numbers.2,
                gid: numbers.3,
                user: names.3.map(Into::into),
                login_uid: numbers.4,
                cgroup_id: numbers.5,
                kernel: flags.2,
                source: flags.3,
                mount_ns: flags.4.map(|(inode, is_host)| MountNs { id: MntNs(inode), is_host }),
                placement,
                identity,
                ancestors: ancestors.into(),
                ..ProcessInfo::new(Pid(numbers.0), BootNs(numbers.5))
            })
        })
        .boxed()
}

fn any_actor() -> BoxedStrategy<Actor> {
    let method = prop_oneof![
        select(HookId::ALL).prop_map(Method::Hook),
        Just(Method::Listener),
        Just(Method::Closer),
        Just(Method::FdTable),
        select(UnknownReason::ALL).prop_map(Method::Unknown),
    ];
    (option::of(any_process()), option::of(any::<u32>()), method)
        .prop_map(|(process, tid, method)| Actor { process, tid: tid.map(Pid), method })
        .boxed()
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..3_u8, 0..3_u8).prop_map(|(a, b)| IpAddr::V4(Ipv4Addr::new(10, 0, a, b))),
        (0..3_u16).prop_map(|a| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, a))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
    .prop_map(|ip| canonical_ip(ip).0)
}

fn any_end() -> impl Strategy<Value = SocketAddr> {
    (any_ip(), prop_oneof![select(vec![0_u16, 80, 443, 8080]), any::<u16>()])
        .prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn any_born() -> impl Strategy<Value = Born> {
    (option::of(any::<u64>()), any::<u64>(), select(BornBy::ALL), select(BornBy::ALL)).prop_map(|of| Born {
        earliest: BootNs(of.0.unwrap_or(0)),
        latest: BootNs(of.1),
        earliest_by: of.2,
        latest_by: of.3,
    })
}

fn any_conn() -> BoxedStrategy<ConnEvent> {
    let kinds =
        (select(Direction::ALL), select(Transport::ALL), select(Source::ALL), any::<bool>(), 0..3_u32);
    (any::<u64>(), kinds, any_end(), any_end(), any_actor(), option::of(any_actor()), option::of(any_born()))
        .prop_map(|(id, kinds, local, remote, owner, listener, born)| ConnEvent {
            id: ConnId(id),
            direction: kinds.0,
            transport: kinds.1,
            local,
            remote,
            mapped: kinds.3,
            device: kinds.3.then(|| Arc::new(Device::new("nginx"))),
            netns: NetNs(kinds.4),
            source: kinds.2,
            born: born.filter(|_| kinds.2 != Source::Live),
            kernel_socket: kinds.4 == 2,
            owner,
            listener,
            begun: BootNs(id / 2),
            established: (id % 2 == 0).then_some(BootNs(id)),
        })
        .boxed()
}

fn any_listen() -> BoxedStrategy<ListenEvent> {
    any_conn()
        .prop_map(|conn| ListenEvent {
            id: conn.id,
            transport: conn.transport,
            local: conn.local,
            netns: conn.netns,
            source: conn.source,
            socket_unit: conn.id.0.is_multiple_of(3).then(|| "nginx.service".into()),
            born: conn.born,
            kernel_socket: conn.kernel_socket,
            owner: conn.owner,
            scope: (!conn.id.0.is_multiple_of(4)).then(|| Scope {
                device: conn.id.0.is_multiple_of(5).then(|| Arc::new(Device::new("nginx"))),
                v6only: conn.id.0.is_multiple_of(2),
            }),
        })
        .boxed()
}

fn any_ending() -> BoxedStrategy<Ending> {
    let traffic = (any::<u64>(), any::<u64>(), option::of(any::<u32>()), any::<u32>()).prop_map(|numbers| {
        Traffic { bytes_in: numbers.0, bytes_out: numbers.1, retransmits: numbers.2, srtt_us: numbers.3 }
    });
    (
        select(EndedHow::ALL),
        select(vec![0_u16, 104, 110, 524]),
        any_actor(),
        option::of(any::<u64>()),
        option::of(traffic),
    )
        .prop_map(|(how, errno, closer, duration, traffic)| Ending {
            how,
            errno,
            closer,
            duration: duration.map(DurationNs),
            traffic,
        })
        .boxed()
}

/// Any event.
pub(crate) fn any_event() -> BoxedStrategy<Event> {
    let failure = (select(vec![0_u16, 111, 113, 524]), option::of(any::<u64>()))
        .prop_map(|(errno, after)| Failure { errno, after: after.map(DurationNs) });
    let change = prop_oneof![
        any_conn().prop_map(Change::Connect),
        any_conn().prop_map(Change::Accept),
        any_conn().prop_map(Change::Established),
        (any_conn(), failure).prop_map(|(conn, failure)| Change::Failed(conn, failure)),
        (any_conn(), any_ending()).prop_map(|(conn, ending)| Change::Close(conn, ending)),
        any_listen().prop_map(Change::Listen),
        (any_listen(), any_actor(), option::of(any::<u64>())).prop_map(|(listener, closer, duration)| {
            Change::Unlisten(listener, Unlisten { closer, duration: duration.map(DurationNs) })
        }),
    ];
    let status =
        prop_oneof![any::<u8>().prop_map(ExitStatus::Code), any::<u8>().prop_map(ExitStatus::Signal)];
    let body = prop_oneof![
        8 => change.prop_map(EventBody::Flow),
        1 => any_process().prop_map(|process| EventBody::Exec(ProcEvent::new(process))),
        1 => (any_process(), status).prop_map(|(process, status)| EventBody::Exit(ProcEvent::new(process), status)),
        1 => (select(HookId::ALL), option::of(any::<u16>()), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(hook, cpu, lost, from, to)| {
                let cause = if cpu.is_some() { GapCause::RingFull } else { GapCause::Skipped };
                EventBody::Gap(Gap { hook, cause, cpu, lost, from: BootNs(from), to: BootNs(to) })
            }
        ),
        1 => (select(Degradation::ALL), option::of("[a-z/\"\\\\]{0,9}"), any::<u64>(), any::<u64>()).prop_map(
            |(what, place, count, total)| {
                let place = place.map(Into::into);
                EventBody::Degraded(Degraded { what, place, count, total })
            }
        ),
        1 => any::<u64>().prop_map(|at| EventBody::Start(Start { attached: BootNs(at), has_facts: false })),
    ];
    (any::<u64>(), any::<u64>(), any::<u64>(), body)
        .prop_map(|(seq, boot, wall, body)| Event { seq, boot: BootNs(boot), wall: WallNs(wall), body })
        .boxed()
}

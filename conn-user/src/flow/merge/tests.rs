//! Snapshots and records of the same sockets, in every order that the start and a loss can bring.

mod repair;

use std::sync::Arc;

use conn_common::record::{Sock, SockFlags};

use smallvec::SmallVec;

use super::{Merged, SnapshotKeys};
use crate::flow::how::state::{CLOSE_WAIT, ESTABLISHED, SYN_RECV, SYN_SENT};
use crate::flow::model::{Change, Direction};
use crate::flow::scenarios::{CLIENT, SERVER, child, client, listener, open};
use crate::flow::snapshot::model::{Holder, NoHolder, Note, SnapSocket, Snapshot, TcpState};
use crate::flow::snapshot::testing as snap;
use crate::flow::table::FlowTable;
use crate::flow::testing::{Backend, MS, Rig, sock};
use crate::host::interfaces::Device;
use crate::units::{BootNs, NetNs, Pid};

fn holder(pid: u32) -> Holder {
    Holder { pid: Pid(pid), start: BootNs(u64::from(pid) * 1000 * MS), fd: 3 }
}

fn held_by(socket: &SnapSocket, pids: &[u32]) -> SnapSocket {
    SnapSocket { holders: pids.iter().copied().map(holder).collect(), ..socket.clone() }
}

fn snap_client() -> SnapSocket {
    let socket =
        SnapSocket { cookie: Some(1), direction: Some(Direction::Out), ..snap::socket(CLIENT, SERVER) };
    held_by(&socket, &[10])
}

fn snap_child() -> SnapSocket {
    let socket =
        SnapSocket { cookie: Some(2), direction: Some(Direction::In), ..snap::socket(SERVER, CLIENT) };
    held_by(&socket, &[20])
}

fn snap_waiting() -> SnapSocket {
    SnapSocket { holders: SmallVec::new(), inode: 0, no_holder: Some(NoHolder::NotAccepted), ..snap_child() }
}

fn snap_listener() -> SnapSocket {
    held_by(&SnapSocket { cookie: Some(3), ..snap::listener("0.0.0.0:80") }, &[20])
}

/// A snapshot that takes from now on for 10 ms.
fn snapshot(rig: &Rig, sockets: &[SnapSocket]) -> Snapshot {
    Snapshot {
        began: BootNs(rig.now),
        ended: BootNs(rig.now + 10 * MS),
        sockets: sockets.to_vec(),
        ..Snapshot::default()
    }
}

fn start(rig: &mut Rig, sockets: &[SnapSocket]) -> Merged {
    let snapshot = snapshot(rig, sockets);
    rig.flows.merge_start(snapshot, &mut rig.procs)
}

/// A kernel without the cookie helper.
fn by_address() -> Rig {
    let mut rig = Rig::new(Backend::Fentry);
    rig.flows = FlowTable::default().with_cookies(false);
    rig
}

/// What a repair reports, with a snapshot that is taken now and whose earlier records are handled.
fn repair(rig: &mut Rig, sockets: &[SnapSocket]) -> (Merged, Vec<String>) {
    rig.now += MS;
    let snapshot = snapshot(rig, sockets);
    rig.now += 20 * MS;
    let merged = rig.flows.merge_repair(&snapshot, &mut rig.procs, &mut || {}, &mut rig.out);
    (merged, rig.reported())
}

/// Runs a scenario after a start with these sockets, on both backends.
fn after(late: bool, sockets: &[SnapSocket], scenario: impl Fn(&mut Rig), expected: &[&str]) {
    for backend in [Backend::Fentry, Backend::Tracepoint] {
        let mut rig = Rig::new(backend);
        let merged = start(&mut rig, sockets);
        assert_eq!(
            (merged.added, rig.reported().len()),
            (sockets.len(), 0),
            "nothing is reported at the start"
        );
        if late {
            rig.now += 20 * MS;
        }
        scenario(&mut rig);
        assert_eq!(rig.reported(), expected, "{backend:?}");
    }
}

#[test]
fn what_was_there_has_its_holders() {
    after(
        true,
        &[snap_listener(), snap_client(), snap_child()],
        |rig| {
            rig.closes(10, ESTABLISHED, client());
            rig.closes(21, CLOSE_WAIT, child());
            rig.unlistens(20, listener());
        },
        &[
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 snapshot by 10(FdTable) LocalFin closer 10",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 snapshot by 20(FdTable) PeerFin closer 21",
            "unlisten 1 0.0.0.0:80 by 20(FdTable) closer 20 snapshot",
        ],
    );
}

/// `sock_diag` does not report it, so nobody seems to hold them; the records do.
#[test]
fn the_kernels_own_are_flagged_by_their_records() {
    let unheld =
        |socket| SnapSocket { holders: SmallVec::new(), no_holder: Some(NoHolder::NotFound), ..socket };
    let kernels = |sock: Sock| Sock { flags: sock.flags | SockFlags::KERNEL, ..sock };
    after(
        true,
        &[unheld(snap_listener()), unheld(snap_client())],
        |rig| {
            rig.closes(9, ESTABLISHED, kernels(client()));
            rig.unlistens(8, kernels(listener()));
        },
        &[
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 snapshot kernel by ?(Unknown(NoHolder)) LocalFin closer 9",
            "unlisten 1 0.0.0.0:80 kernel by ?(Unknown(NoHolder)) closer 8 snapshot",
        ],
    );
}

#[test]
fn of_several_holders_the_first_process_owns() {
    let shared = held_by(&snap_client(), &[12, 11, 13]);
    after(
        true,
        &[shared],
        |rig| rig.closes(13, ESTABLISHED, client()),
        &["close 1 Out 127.0.0.1:40000>127.0.0.1:80 snapshot by 11(FdTable) LocalFin closer 13"],
    );
}

#[test]
fn what_waits_is_accepted_later() {
    after(
        true,
        &[snap_listener(), snap_waiting()],
        |rig| {
            rig.accepts(20, child());
            rig.closes(20, ESTABLISHED, child());
        },
        &[
            "accept 2 In 127.0.0.1:80>127.0.0.1:40000 snapshot by 20 of 20(FdTable)",
            "close 2 In 127.0.0.1:80>127.0.0.1:40000 snapshot by 20 LocalFin closer 20",
        ],
    );
}

#[test]
fn an_attempt_goes_on() {
    let attempt = SnapSocket { state: TcpState::SynSent, ..snap_client() };
    after(
        true,
        &[attempt],
        |rig| rig.established(SYN_SENT, client()),
        &["established 1 Out 127.0.0.1:40000>127.0.0.1:80 snapshot by 10(FdTable)"],
    );
}

/// The attach came first, then all this, then the snapshot, which has it all: each is reported once, as it happened.
#[test]
fn what_began_between_the_attach_and_the_snapshot_is_live() {
    for backend in [Backend::Fentry, Backend::Tracepoint] {
        let mut rig = Rig::new(backend);
        rig.now -= MS;
        start(&mut rig, &[snap_listener(), snap_client(), snap_child()]);
        rig.listens(20, listener());
        rig.connects(10, client());
        rig.established(SYN_RECV, child());
        rig.established(SYN_SENT, client());
        rig.accepts(20, child());
        rig.closes(10, ESTABLISHED, client());
        rig.closes(20, CLOSE_WAIT, child());
        assert_eq!(
            rig.reported(),
            [
                "listen 4 0.0.0.0:80 by 20",
                "connect 5 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
                "established 5 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
                "accept 6 In 127.0.0.1:80>127.0.0.1:40000 by 20 of 20",
                "close 5 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer 10",
                "close 6 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerFin closer 20",
            ],
            "{backend:?}"
        );
        assert_eq!(rig.flows.stats().live, 0);
    }
}

#[test]
fn what_was_only_completed_after_the_attach() {
    after(
        false,
        &[snap_listener(), snap_client(), snap_child()],
        |rig| {
            rig.established(SYN_SENT, client());
            rig.accepts(20, child());
        },
        &[
            "established 2 Out 127.0.0.1:40000>127.0.0.1:80 snapshot by 10(FdTable)",
            "accept 3 In 127.0.0.1:80>127.0.0.1:40000 snapshot by 20 of 20(FdTable)",
        ],
    );
}

/// A record that is repeated, as a backup program may, reports nothing twice.
#[test]
fn what_was_completed_is_reported_once() {
    after(
        false,
        &[snap_listener(), snap_child()],
        |rig| {
            rig.accepts(20, child());
            rig.accepts(20, child());
        },
        &["accept 2 In 127.0.0.1:80>127.0.0.1:40000 snapshot by 20 of 20(FdTable)"],
    );
}

/// A listener that a repair finds by its address alone.
#[test]
fn listeners_are_there_without_cookies() {
    let mut rig = by_address();
    start(&mut rig, &[snap_listener()]);
    assert_eq!(repair(&mut rig, &[snap_listener()]), (Merged::default(), Vec::new()));
    assert_eq!(repair(&mut rig, &[]).0.ended, 1);
}

/// After the snapshot an accept of what it says is accepted is somebody else's descriptor.
#[test]
fn no_second_accept() {
    after(true, &[snap_listener(), snap_child()], |rig| rig.accepts(21, child()), &[]);
}

#[test]
fn remains_are_not_followed() {
    let mut rig = Rig::new(Backend::Fentry);
    let orphan = SnapSocket {
        state: TcpState::FinWait1,
        holders: SmallVec::new(),
        no_holder: Some(NoHolder::Orphan),
        ..snap_client()
    };
    let request = SnapSocket { cookie: Some(8), state: TcpState::SynRecv, ..snap_waiting() };
    let rest = SnapSocket { cookie: Some(9), state: TcpState::TimeWait, ..snap_waiting() };
    assert_eq!(start(&mut rig, &[orphan, request, rest]), Merged::default());
}

/// Records of kernels without the cookie helper carry addresses.
#[test]
fn by_ends_where_records_have_no_cookies() {
    let mut rig = by_address();
    start(&mut rig, &[snap_listener(), snap_client()]);
    rig.now += 20 * MS;
    let address = |sock: Sock| Sock { key: sock.key + (0xffff << 48), flags: SockFlags::ADDRESS_KEY, ..sock };
    rig.closes(10, ESTABLISHED, address(client()));
    rig.unlistens(20, address(listener()));
    assert_eq!(
        rig.reported(),
        [
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 snapshot by 10(FdTable) LocalFin closer 10",
            "unlisten 1 0.0.0.0:80 by 20(FdTable) closer 20 snapshot",
        ]
    );
}

/// The address of a socket that ended is given again, and the records of the new one are lost but for its close.
#[test]
fn an_address_that_is_used_again() {
    let mut rig = by_address();
    start(&mut rig, &[]);
    rig.now += 20 * MS;
    let address = |sock: Sock| Sock { key: 0xffff << 48, flags: SockFlags::ADDRESS_KEY, ..sock };
    rig.connects(10, address(sock(0, "127.0.0.1:39999", SERVER)));
    rig.closes(10, ESTABLISHED, address(sock(0, "127.0.0.1:39999", SERVER)));
    let (merged, _) = repair(&mut rig, &[snap_client()]);
    assert_eq!(merged.added, 1);
    rig.closes(10, ESTABLISHED, address(client()));
    assert_eq!(
        rig.reported(),
        ["close 2 Out 127.0.0.1:40000>127.0.0.1:80 resync by 10(FdTable) LocalFin closer 10"]
    );
}

#[test]
fn without_cookies_in_the_snapshot() {
    let mut rig = Rig::new(Backend::Fentry);
    let nameless = |socket: SnapSocket| SnapSocket { cookie: None, ..socket };
    start(&mut rig, &[nameless(snap_listener()), nameless(snap_client()), nameless(snap_child())]);
    rig.now += 20 * MS;
    rig.closes(10, ESTABLISHED, client());
    rig.unlistens(20, listener());
    assert_eq!(rig.reported().len(), 2);
    assert_eq!(rig.flows.stats().live, 1, "each by its own ends");
}

#[test]
fn a_socket_without_a_cookie_gets_a_key_of_its_own() {
    let mut keys = SnapshotKeys::new(true);
    assert!(!keys.may_differ() && keys.may_have(BootNs(0)) && !keys.may_have(BootNs(1)));
    assert_eq!(keys.key(&snap_client()), 1);
    assert!(!keys.may_differ() && !keys.is_by_ends(&snap_client()));
    let without = SnapSocket { cookie: None, ..snap_client() };
    assert_ne!(keys.key(&without), keys.key(&without));
    assert!(keys.may_differ() && keys.is_by_ends(&without));
    let by_address = SnapshotKeys::new(false);
    assert!(by_address.may_differ() && by_address.is_by_ends(&snap_client()));
}

#[test]
fn a_full_table_counts_what_it_leaves_out() {
    let limits = crate::flow::FlowLimits { connections: 1, listeners: 0, ..Default::default() };
    let mut rig = Rig::with(Backend::Fentry, limits);
    let other = SnapSocket { cookie: Some(9), ..snap::socket("127.0.0.1:5", SERVER) };
    let merged = start(&mut rig, &[snap_listener(), snap_client(), other]);
    assert_eq!((merged.added, merged.not_kept), (1, 2));
    rig.now += 20 * MS;
    rig.closes(10, ESTABLISHED, sock(9, "127.0.0.1:5", SERVER));
    assert_eq!(
        rig.reported(),
        ["close 2 Unknown 127.0.0.1:5>127.0.0.1:80 late by ?(Unknown(BeforeAttach)) LocalFin closer 10"]
    );
}

/// What the start-up snapshot saw bound to an interface has its name at once, and so has what begins over it just then.
#[test]
fn a_snapshot_names_interfaces() {
    let over = |socket: SnapSocket| SnapSocket {
        device: Some(Arc::new(Device::new("eth0"))),
        device_index: 7,
        ..socket
    };
    let mut rig = Rig::new(Backend::Fentry);
    assert_eq!(start(&mut rig, &[over(snap_listener()), over(snap_client())]).added, 2);
    let devices: Vec<_> = rig
        .flows
        .existing()
        .map(|change| match change {
            Change::Listen(listener) => listener.scope.and_then(|scope| scope.device),
            change => change.connection().and_then(|conn| conn.device.clone()),
        })
        .collect();
    assert_eq!(devices, vec![Some(Arc::new(Device::new("eth0"))); 2]);
    rig.now += 20 * MS;
    rig.closes(10, ESTABLISHED, client());
    rig.connects(10, Sock { key: 9, device: 7, ..client() });
    assert!(rig.reported().iter().all(|reported| reported.contains("%eth0 ")));
    assert_eq!(rig.flows.next_deadline(), None, "nothing is asked for");
    // A repair names what it finds.
    let other = SnapSocket { netns: NetNs(2), cookie: Some(99), ..over(snap_child()) };
    let (_, reported) = repair(&mut rig, &[over(snap_listener()), other]);
    assert!(
        reported.iter().any(|reported| reported.starts_with("accept") && reported.contains("%eth0 ")),
        "{reported:?}"
    );
}

/// Records of MPTCP connections carry addresses, and all accepted ones have the cookie of their listener.
#[test]
fn mptcp_connections_share_the_cookie_of_their_listener() {
    use crate::flow::model::Transport;
    let mptcp = |socket: SnapSocket| SnapSocket { transport: Transport::Mptcp, ..socket };
    let by_address = |sock: Sock| Sock {
        key: sock.key + (0xffff << 48),
        flags: SockFlags::ADDRESS_KEY | SockFlags::MPTCP,
        ..sock
    };
    let listening = mptcp(snap_listener());
    let inherited = |socket: SnapSocket| SnapSocket { cookie: listening.cookie, ..mptcp(socket) };
    let other = snap::socket(SERVER, "127.0.0.1:40001");
    let other = held_by(&SnapSocket { direction: Some(Direction::In), ..other }, &[20]);
    let sockets = [listening.clone(), mptcp(snap_client()), inherited(snap_child()), inherited(other)];
    let other = || Sock { key: 5, ..sock(5, SERVER, "127.0.0.1:40001") };
    let mut rig = Rig::new(Backend::Fentry);
    assert_eq!(start(&mut rig, &sockets).added, 4);
    rig.now += 20 * MS;
    assert_eq!(repair(&mut rig, &sockets), (Merged::default(), Vec::new()), "all are known");
    rig.closes(20, CLOSE_WAIT, by_address(child()));
    rig.closes(20, CLOSE_WAIT, by_address(other()));
    rig.closes(10, ESTABLISHED, by_address(client()));
    rig.unlistens(20, Sock { flags: SockFlags::MPTCP, ..listener() });
    assert_eq!(
        rig.reported(),
        [
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 snapshot by 20(FdTable) PeerFin closer 20",
            "close 4 In 127.0.0.1:80>127.0.0.1:40001 snapshot by 20(FdTable) PeerFin closer 20",
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 snapshot by 10(FdTable) LocalFin closer 10",
            "unlisten 1 0.0.0.0:80 by 20(FdTable) closer 20 snapshot",
        ]
    );
    let (merged, _) = repair(&mut rig, &[listening]);
    assert_eq!(merged.ended, 0, "nothing is left");
}

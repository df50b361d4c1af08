//! Lists for tests.

use std::sync::Arc;

use smallvec::SmallVec;

use super::json::{self, Asked};
use super::model::{HeldBy, Listed, Listing, Selection};
use crate::event::samples::{self, curl, hostile, nginx, systemd};
use crate::flow::born::{Born, BornBy};
use crate::flow::model::{Direction, Traffic, Transport};
use crate::flow::snapshot::model::{NoHolder, Note, SnapSocket, TcpState};
use crate::host::interfaces::Device;
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, NetNs, WallNs};

pub(crate) const ENDED: BootNs = BootNs(5_000_000_000_000);
pub(crate) const WALL: WallNs = WallNs(1_795_491_821_123_456_789);
const HOST_NETNS: NetNs = NetNs(4_026_531_840);

/// Between so many seconds ago.
fn born(at_most: u64, at_least: u64) -> Born {
    Born {
        earliest: BootNs(ENDED.0 - at_most * 1_000_000_000),
        latest: BootNs(ENDED.0 - at_least * 1_000_000_000),
        earliest_by: BornBy::OwnerStart,
        latest_by: BornBy::LastActivity,
    }
}

/// An outgoing connection that nobody holds.
pub(crate) fn connection() -> SnapSocket {
    SnapSocket {
        cookie: Some(0x1001),
        inode: 7001,
        netns: HOST_NETNS,
        state: TcpState::Established,
        transport: Transport::Tcp,
        local: "127.0.0.1:40000".parse().expect("address"),
        remote: "127.0.0.1:8080".parse().expect("address"),
        mapped: false,
        v6only: false,
        device: None,
        device_index: 0,
        uid: 1000,
        recv_queue: 0,
        send_queue: 0,
        direction: Some(Direction::Out),
        traffic: Some(Traffic { bytes_in: 5_300_000, bytes_out: 78, retransmits: Some(2), srtt_us: 431 }),
        holders: SmallVec::new(),
        no_holder: None,
        born: Some(born(4_000, 3_150)),
    }
}

/// A listener that nobody holds.
pub(crate) fn listener(local: &str) -> SnapSocket {
    let local: std::net::SocketAddr = local.parse().expect("address");
    SnapSocket {
        cookie: Some(0x2000 + u64::from(local.port())),
        inode: 7002,
        state: TcpState::Listen,
        local,
        remote: if local.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().expect("address"),
        direction: None,
        traffic: None,
        send_queue: 511,
        born: Some(Born { latest: ENDED, latest_by: BornBy::Snapshot, ..born(4_100, 0) }),
        ..connection()
    }
}

pub(crate) fn held(socket: SnapSocket, by: &[(&Arc<ProcessInfo>, u32)]) -> Listed {
    let holders = by
        .iter()
        .map(|(process, fd)| HeldBy { pid: process.pid, process: Some(Arc::clone(process)), fds: vec![*fd] })
        .collect();
    Listed { socket, holders, socket_unit: None, user: None }
}

/// A worker of nginx.
pub(crate) fn worker() -> Arc<ProcessInfo> {
    samples::process(813, b"nginx", "/usr/sbin/nginx", &["nginx: worker process"])
}

/// One socket of each shape.
pub(crate) fn listing() -> Listing {
    let in_state = |state, no_holder, cookie| SnapSocket {
        cookie: Some(cookie),
        inode: 0,
        state,
        direction: Some(Direction::In),
        local: "127.0.0.1:8080".parse().expect("address"),
        remote: format!("127.0.0.1:{}", 40_000 + cookie).parse().expect("address"),
        traffic: None,
        no_holder: Some(no_holder),
        born: None,
        ..connection()
    };
    let hidden = SnapSocket {
        cookie: None,
        mapped: true,
        direction: Some(Direction::Unknown),
        local: "10.0.0.1:22".parse().expect("address"),
        remote: "192.168.7.7:50123".parse().expect("address"),
        no_holder: Some(NoHolder::NotFound),
        netns: NetNs(4_026_532_001),
        recv_queue: 12,
        send_queue: 300,
        traffic: None,
        born: Some(Born { earliest: BootNs(0), earliest_by: BornBy::Boot, ..born(0, 3) }),
        ..connection()
    };
    let v6 = SnapSocket {
        cookie: Some(0xffff_ffff_ffff_fff0),
        transport: Transport::Mptcp,
        local: "[2001:db8::1]:40001".parse().expect("address"),
        remote: "[2001:db8:0:1::aaaa]:443".parse().expect("address"),
        state: TcpState::CloseWait,
        traffic: Some(Traffic { bytes_in: 0, bytes_out: 0, retransmits: Some(0), srtt_us: 0 }),
        born: Some(born(17, 17)),
        ..connection()
    };
    let gone = HeldBy { pid: crate::units::Pid(4300), process: None, fds: vec![3, 5] };
    let mut by_the_gone = held(v6, &[(&hostile(), 9)]);
    by_the_gone.holders.push(gone);
    let mut full = listener("[::1]:8080");
    (full.recv_queue, full.v6only) = (3, true);
    full.device = Some(Arc::new(Device::new("eth0")));
    let mut activated = held(listener("[::]:22"), &[(&systemd(), 40)]);
    activated.socket_unit = Some("ssh.socket".into());
    Listing {
        began: BootNs(ENDED.0 - 2_000_000),
        ended: ENDED,
        sockets: vec![
            held(connection(), &[(&curl(), 5)]),
            held(listener("0.0.0.0:8080"), &[(&nginx(), 6), (&worker(), 6)]),
            held(full, &[(&nginx(), 7), (&worker(), 7), (&curl(), 3)]),
            held(in_state(TcpState::Established, NoHolder::NotAccepted, 3), &[]),
            held(in_state(TcpState::FinWait2, NoHolder::Orphan, 4), &[]),
            held(in_state(TcpState::TimeWait, NoHolder::TimeWait, 5), &[]),
            held(hidden, &[]),
            by_the_gone,
            activated,
        ],
        notes: vec![Note::HiddenProcesses { count: 3 }],
    }
}

/// Compares with a file in `src/sockets/golden/`.
pub(crate) fn golden(name: &str, actual: &str) {
    samples::compare_file(
        &(concat!(env!("CARGO_MANIFEST_DIR"), "/src/sockets/golden/").to_owned() + name),
        actual,
    );
}

/// That list as JSON.
pub(crate) fn json() -> String {
    let asked = Asked { selection: Selection::All, filter: String::new() };
    let mut out = Vec::new();
    json::write(&listing(), &asked, &samples::identity(), WALL, &mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

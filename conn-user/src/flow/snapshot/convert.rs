//! What the kernel reports of a socket, as a socket of a snapshot.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use conn_common::record::Counters;
use smallvec::SmallVec;

use super::age;
use super::model::{SnapSocket, TcpState};
use crate::clock::boot_now;
use crate::flow::how::payload;
use crate::flow::model::{Traffic, Transport, canonical_ip};
use crate::host::netlink::Filled;
use crate::host::sockdiag::{DiagKind, DiagSocket, MptcpInfo, TcpInfo};
use crate::host::tcp_file::TcpLine;
use crate::units::{BootNs, DurationNs, NetNs};

/// Both ends in the form in which events carry them, and whether they were mapped.
fn canonical(local: SocketAddr, remote: SocketAddr) -> (SocketAddr, SocketAddr, bool) {
    let (mut laddr, local_mapped) = canonical_ip(local.ip());
    let (mut raddr, remote_mapped) = canonical_ip(remote.ip());
    if local_mapped && raddr.is_unspecified() {
        raddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    } else if remote_mapped && laddr.is_unspecified() {
        laddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    }
    let mapped = local_mapped || remote_mapped;
    (SocketAddr::new(laddr, local.port()), SocketAddr::new(raddr, remote.port()), mapped)
}

/// A socket as `sock_diag` reports it; `None`: in a state that nobody knows.
pub(super) fn from_diag(reported: &DiagSocket, netns: NetNs, suspended: DurationNs) -> Option<SnapSocket> {
    let state = TcpState::from_number(reported.state)?;
    let (local, remote, mapped) = canonical(reported.local, reported.remote);
    let is_mptcp = matches!(reported.kind, DiagKind::Mptcp { .. });
    let info = reported.info.as_ref().filter(|_| state != TcpState::Listen);
    Some(SnapSocket {
        cookie: Some(reported.cookie),
        inode: reported.inode,
        netns,
        state,
        transport: if is_mptcp { Transport::Mptcp } else { Transport::Tcp },
        local,
        remote,
        mapped,
        v6only: reported.v6only,
        device: None,
        device_index: reported.device,
        uid: reported.uid,
        recv_queue: reported.recv_queue,
        send_queue: reported.send_queue,
        direction: None,
        traffic: match &reported.mptcp_info {
            Some(info) if state != TcpState::Listen => Some(mptcp_traffic(info)),
            _ => info.map(|info| traffic(state, info)),
        },
        holders: SmallVec::new(),
        no_holder: None,
        born: Some(age::of_socket(state, info, reported.filled, suspended)),
    })
}

/// A FIN that was processed shows in the state (`tcp_fin`).
pub(in crate::flow) fn traffic(state: TcpState, info: &TcpInfo) -> Traffic {
    let peer_fin = matches!(state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing);
    let counters = Counters {
        bytes_sent: info.bytes_sent,
        bytes_retrans: info.bytes_retrans,
        bytes_received: info.bytes_received,
        total_retrans: info.total_retrans,
        srtt_us: info.rtt_us,
    };
    payload(&counters, peer_fin)
}

/// The MPTCP socket counts no segments, and measures no round trips; its subflows do.
fn mptcp_traffic(info: &MptcpInfo) -> Traffic {
    Traffic { bytes_in: info.bytes_received, bytes_out: info.bytes_sent, retransmits: None, srtt_us: 0 }
}

/// A socket as /proc/net/tcp shows it, which was read from then on; `None`: in a state that nobody knows.
pub(super) fn from_line(line: &TcpLine, netns: NetNs, from: BootNs) -> Option<SnapSocket> {
    let state = TcpState::from_number(line.state)?;
    let (local, remote, mapped) = canonical(line.local, line.remote);
    let filled = Filled { from, to: boot_now() };
    Some(SnapSocket {
        cookie: None,
        inode: line.inode,
        netns,
        state,
        transport: Transport::Tcp,
        local,
        remote,
        mapped,
        v6only: false,
        device: None,
        device_index: 0,
        uid: line.uid,
        recv_queue: line.recv_queue,
        send_queue: line.send_queue,
        direction: None,
        traffic: None,
        holders: SmallVec::new(),
        no_holder: None,
        born: Some(age::of_socket(state, None, filled, DurationNs(0))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processed_fin_is_no_payload() {
        let info = TcpInfo { bytes_received: 11, bytes_sent: 30, bytes_retrans: 10, ..TcpInfo::default() };
        for (state, bytes_in) in [
            (TcpState::Established, 11),
            (TcpState::FinWait2, 11),
            (TcpState::CloseWait, 10),
            (TcpState::LastAck, 10),
            (TcpState::Closing, 10),
        ] {
            let traffic = traffic(state, &info);
            assert_eq!((traffic.bytes_in, traffic.bytes_out), (bytes_in, 20), "{state:?}");
        }
    }

    #[test]
    fn mapped_ends_become_ipv4() {
        let of = |local: &str, remote: &str| {
            let end = |text: &str| text.parse().expect("address");
            let (local, remote, mapped) = canonical(end(local), end(remote));
            (local.to_string(), remote.to_string(), mapped)
        };
        assert_eq!(
            of("[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.2]:2"),
            ("10.0.0.1:1".into(), "10.0.0.2:2".into(), true)
        );
        assert_eq!(of("[::ffff:10.0.0.1]:1", "[::]:0"), ("10.0.0.1:1".into(), "0.0.0.0:0".into(), true));
        assert_eq!(of("[::]:1", "[::]:0"), ("[::]:1".into(), "[::]:0".into(), false));
    }
}

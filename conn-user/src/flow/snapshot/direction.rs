//! Which way the connections of a namespace were opened.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::flow::listeners::fit;
use crate::flow::model::Direction;
use crate::flow::snapshot::model::{SnapSocket, TcpState};
use crate::process::hash::IntMap;

/// `net.ipv4.ip_local_port_range` of a kernel that nobody told otherwise.
pub(super) const DEFAULT_PORTS: RangeInclusive<u16> = 32768..=60999;

/// What `/proc/sys/net/ipv4/ip_local_port_range` says.
pub(super) fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_ascii_whitespace();
    let (low, high) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    (low <= high).then_some(low..=high)
}

/// Sets the direction of every connection. `sockets` are those of one namespace, sorted by [`by_ends`]; `ports` are
/// those that the kernel gives to outgoing connections.
///
/// A listener that fits the local end says `In`: the kernel gives no port to an outgoing connection that somebody is
/// bound to (`__inet_hash_connect`). Without a listener it says `Out` only if the ports do not contradict it, because a
/// listener may have closed since.
pub(super) fn infer(sockets: &mut [SnapSocket], ports: &RangeInclusive<u16>) {
    let mut listeners: IntMap<u16, Vec<(IpAddr, bool)>> = IntMap::default();
    for socket in sockets.iter().filter(|socket| socket.state == TcpState::Listen) {
        listeners.entry(socket.local.port()).or_default().push((socket.local.ip(), socket.v6only));
    }
    let listens = |end: SocketAddr| {
        let here = listeners.get(&end.port());
        here.is_some_and(|all| all.iter().any(|&(addr, v6only)| fit(addr, v6only, end.ip()) > 0))
    };
    for at in 0..sockets.len() {
        let direction = direction(&sockets[at], sockets, &listens, ports);
        sockets[at].direction = direction;
    }
}

fn direction(
    socket: &SnapSocket,
    all: &[SnapSocket],
    listens: &impl Fn(SocketAddr) -> bool,
    ports: &RangeInclusive<u16>,
) -> Option<Direction> {
    let waits = socket.inode == 0 && matches!(socket.state, TcpState::Established | TcpState::CloseWait);
    match socket.state {
        TcpState::Listen => return None,
        TcpState::SynSent => return Some(Direction::Out),
        TcpState::SynRecv => return Some(Direction::In),
        _ if waits => return Some(Direction::In),
        _ => {}
    }
    let peer_is_here = || find(all, socket.remote, socket.local);
    Some(match (listens(socket.local), listens(socket.remote)) {
        // Each end of a pair has a listener on its port: one of the two came later.
        (true, true) if peer_is_here() => Direction::Unknown,
        (true, _) => Direction::In,
        (false, true) if peer_is_here() => Direction::Out,
        (false, _) => match (ports.contains(&socket.local.port()), ports.contains(&socket.remote.port())) {
            (true, false) => Direction::Out,
            // Seen from the other end that is `Out`; a listener of this one was there.
            (false, true) if peer_is_here() => Direction::In,
            _ => Direction::Unknown,
        },
    })
}

/// The order of sockets in a namespace.
pub(super) fn by_ends(one: &SnapSocket, other: &SnapSocket) -> Ordering {
    (one.local, one.remote).cmp(&(other.local, other.remote))
}

/// The sockets with these ends, of sorted ones.
pub(super) fn range(all: &[SnapSocket], local: SocketAddr, remote: SocketAddr) -> std::ops::Range<usize> {
    let from = all.partition_point(|socket| (socket.local, socket.remote) < (local, remote));
    let rest = all.get(from..).unwrap_or_default();
    let count = rest.iter().take_while(|socket| (socket.local, socket.remote) == (local, remote)).count();
    from..from + count
}

fn find(all: &[SnapSocket], local: SocketAddr, remote: SocketAddr) -> bool {
    !range(all, local, remote).is_empty()
}

//! Which way the connections of a namespace were opened.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::flow::listeners::fit;
use crate::flow::model::Direction;
use crate::flow::snapshot::model::{SnapSocket, TcpState};
use crate::process::hash::IntMap;

/// `net.ipv4.ip_local_port_range` of a kernel that nobody reported otherwise.
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
/// listener may have closed since. Nothing reports an outgoing connection that its process bound to the port of a listener
/// (`SO_REUSEADDR`), to a host elsewhere, from an incoming one.
pub(super) fn infer(sockets: &mut [SnapSocket], ports: &RangeInclusive<u16>) {
    let mut listeners: IntMap<u16, Vec<(IpAddr, bool, u32)>> = IntMap::default();
    for socket in sockets.iter().filter(|socket| socket.state == TcpState::Listen) {
        let listener = (socket.local.ip(), socket.v6only, socket.device_index);
        listeners.entry(socket.local.port()).or_default().push(listener);
    }
    // What a listener accepts is bound to its interface (`inet_request_bound_dev_if`).
    let listens = |end: SocketAddr, device: Option<u32>| {
        let fits = |&(addr, v6only, own): &(IpAddr, bool, u32)| {
            fit(addr, v6only, end.ip()) > 0 && (own == 0 || device.is_none_or(|device| device == own))
        };
        listeners.get(&end.port()).is_some_and(|all| all.iter().any(fits))
    };
    for at in 0..sockets.len() {
        let direction = direction(&sockets[at], sockets, &listens, ports);
        sockets[at].direction = direction;
    }
}

fn direction(
    socket: &SnapSocket,
    all: &[SnapSocket],
    listens: &impl Fn(SocketAddr, Option<u32>) -> bool,
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
    Some(match (listens(socket.local, Some(socket.device_index)), listens(socket.remote, None)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::snapshot::testing::{listener, socket};

    fn directions(mut all: Vec<SnapSocket>) -> Vec<(String, Option<Direction>)> {
        all.sort_unstable_by(by_ends);
        infer(&mut all, &DEFAULT_PORTS);
        all.iter().map(|socket| (format!("{} {}", socket.local, socket.remote), socket.direction)).collect()
    }

    fn of(all: &[SnapSocket], local: &str, remote: &str) -> Option<Direction> {
        let all = directions(all.iter().cloned().chain([socket(local, remote)]).collect());
        let name = format!("{local} {remote}");
        all.into_iter().find(|(other, _)| *other == name).expect("there").1
    }

    #[test]
    fn a_listener_that_fits_says_in() {
        for (on, local) in [
            ("0.0.0.0:80", "10.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::]:80", "10.0.0.1:80"),
            ("[::]:80", "[2001:db8::1]:80"),
        ] {
            let remote = if local.starts_with('[') { "[2001:db8::2]:5000" } else { "10.0.0.2:5000" };
            assert_eq!(of(&[listener(on)], local, remote), Some(Direction::In), "{on} {local}");
        }
    }

    #[test]
    fn one_that_does_not_fit_says_nothing() {
        let v6only = SnapSocket { v6only: true, ..listener("[::]:40000") };
        let elsewhere = SnapSocket { device_index: 7, ..listener("0.0.0.0:40000") };
        for on in [
            v6only,
            elsewhere,
            listener("10.0.0.9:40000"),
            listener("[::1]:40000"),
            listener("0.0.0.0:40001"),
        ] {
            assert_eq!(of(&[on], "10.0.0.1:40000", "10.0.0.2:80"), Some(Direction::Out));
        }
    }

    #[test]
    fn our_own_listener_on_the_port_of_a_remote_host_is_another() {
        let on = listener("0.0.0.0:443");
        assert_eq!(of(&[on], "10.0.0.1:40000", "10.9.9.9:443"), Some(Direction::Out));
    }

    #[test]
    fn without_a_listener_the_ports_decide_or_nobody() {
        assert_eq!(of(&[], "10.0.0.1:40000", "10.0.0.2:80"), Some(Direction::Out));
        for (local, remote) in [
            ("10.0.0.1:80", "10.0.0.2:40000"),
            ("10.0.0.1:40000", "10.0.0.2:50000"),
            ("10.0.0.1:800", "10.0.0.2:2049"),
        ] {
            assert_eq!(of(&[], local, remote), Some(Direction::Unknown), "{local} {remote}");
        }
    }

    #[test]
    fn both_ends_of_a_pair() {
        let pair = |on: Option<&str>, one: &str, other: &str| {
            let mut all: Vec<_> = on.map(listener).into_iter().collect();
            all.push(socket(other, one));
            let first = of(&all, one, other);
            all.pop();
            all.push(socket(one, other));
            (first, of(&all, other, one))
        };
        let (out, inward) = (Some(Direction::Out), Some(Direction::In));
        // The listener's port is an ephemeral one too.
        assert_eq!(pair(Some("127.0.0.1:40000"), "127.0.0.1:50000", "127.0.0.1:40000"), (out, inward));
        assert_eq!(pair(Some("[::]:40000"), "127.0.0.1:50000", "127.0.0.1:40000"), (out, inward));
        assert_eq!(pair(Some("[::1]:80"), "[::1]:50000", "[::1]:80"), (out, inward));
        // The listener is gone.
        assert_eq!(pair(None, "127.0.0.1:50000", "127.0.0.1:80"), (out, inward));
        let unknown = Some(Direction::Unknown);
        assert_eq!(pair(None, "127.0.0.1:50000", "127.0.0.1:40000"), (unknown, unknown));
        assert_eq!(pair(None, "127.0.0.1:600", "127.0.0.1:80"), (unknown, unknown));
    }

    #[test]
    fn a_pair_with_two_listeners_is_not_known() {
        let all = directions(vec![
            listener("0.0.0.0:80"),
            listener("0.0.0.0:90"),
            socket("127.0.0.1:80", "127.0.0.1:90"),
            socket("127.0.0.1:90", "127.0.0.1:80"),
        ]);
        let reported: Vec<_> = all.iter().map(|(_, direction)| *direction).collect();
        assert_eq!(reported, [None, None, Some(Direction::Unknown), Some(Direction::Unknown)]);
    }

    #[test]
    fn the_state_may_emit() {
        let of_state = |state, inode| {
            let socket = SnapSocket { inode, state, ..socket("10.0.0.1:40000", "10.0.0.2:80") };
            directions(vec![socket])[0].1
        };
        assert_eq!(of_state(TcpState::SynSent, 7), Some(Direction::Out));
        assert_eq!(of_state(TcpState::SynRecv, 0), Some(Direction::In));
        assert_eq!(of_state(TcpState::Established, 0), Some(Direction::In), "it waits to be accepted");
        assert_eq!(of_state(TcpState::Established, 7), Some(Direction::Out));
        assert_eq!(of_state(TcpState::TimeWait, 0), Some(Direction::Out));
    }

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("32768\t60999\n"), Some(DEFAULT_PORTS));
        for text in ["", "1", "5 4", "a b", "1 70000"] {
            assert_eq!(port_range(text), None);
        }
    }
}

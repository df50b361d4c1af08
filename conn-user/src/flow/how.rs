//! How a connection ended, from one record: kernel.md section 4, "Recommended event derivation".

use conn_common::record::{Counters, Sock, SockFlags};

use super::ends::transport;
use super::model::{EndedHow, Traffic, Transport};

/// States of a TCP socket (include/net/tcp_states.h).
pub(super) mod state {
    pub(in crate::flow) const ESTABLISHED: u8 = 1;
    pub(in crate::flow) const SYN_SENT: u8 = 2;
    pub(in crate::flow) const SYN_RECV: u8 = 3;
    pub(in crate::flow) const FIN_WAIT1: u8 = 4;
    pub(in crate::flow) const FIN_WAIT2: u8 = 5;
    pub(in crate::flow) const CLOSE: u8 = 7;
    pub(in crate::flow) const CLOSE_WAIT: u8 = 8;
    pub(in crate::flow) const LAST_ACK: u8 = 9;
    pub(in crate::flow) const LISTEN: u8 = 10;
    pub(in crate::flow) const CLOSING: u8 = 11;
}

/// Errors that end a connection (include/uapi/asm-generic/errno.h).
mod errno {
    pub(super) const EPIPE: u16 = 32;
    pub(super) const ECONNABORTED: u16 = 103;
    pub(super) const ECONNRESET: u16 = 104;
    pub(super) const ETIMEDOUT: u16 = 110;
}

/// Both directions shut down (`SHUTDOWN_MASK`, include/net/sock.h).
pub(super) const SHUTDOWN_BOTH: u8 = 3;

/// How a connection ended, and whether the record's task is the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    pub(super) how: EndedHow,
    pub(super) by_task: bool,
}

/// Of a close in the closer's context; `sock.old_state` is the state that it found.
pub(super) fn closed(sock: &Sock) -> EndedHow {
    if sock.old_state == state::CLOSE {
        // The end itself was lost; the error, if still there, reports.
        return if sock.err == 0 { EndedHow::Disconnect } else { by_error(sock.err) };
    }
    if sock.flags & (SockFlags::LINGER_ZERO | SockFlags::UNREAD) != 0 {
        return EndedHow::LocalReset;
    }
    if sock.new_state == state::CLOSE {
        if sock.err != 0 {
            return by_error(sock.err);
        }
        if matches!(sock.old_state, state::ESTABLISHED | state::CLOSE_WAIT | state::SYN_RECV) {
            return EndedHow::LocalReset;
        }
    }
    match sock.old_state {
        state::CLOSE_WAIT | state::LAST_ACK => EndedHow::PeerFin,
        _ => EndedHow::LocalFin,
    }
}

/// Of a transition to CLOSE of a connection that somebody owns (or owned: then the socket is gone).
pub(super) fn ended(sock: &Sock) -> How {
    let by_network = |how| How { how, by_task: false };
    if sock.err != 0 {
        // `tcp_abort` runs in the killer; every other error arrives with a packet or a timer.
        return How { how: by_error(sock.err), by_task: sock.err == errno::ECONNABORTED };
    }
    let has_socket = sock.flags & SockFlags::HAS_SOCKET != 0;
    match sock.old_state {
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING
            if has_socket || sock.shutdown == SHUTDOWN_BOTH =>
        {
            by_network(EndedHow::LocalFin)
        }
        state::LAST_ACK if has_socket || sock.shutdown == SHUTDOWN_BOTH => by_network(EndedHow::PeerFin),
        state::ESTABLISHED | state::CLOSE_WAIT | state::SYN_RECV if sock.shutdown == SHUTDOWN_BOTH => {
            How { how: EndedHow::LocalReset, by_task: has_socket }
        }
        state::ESTABLISHED | state::CLOSE_WAIT | state::SYN_RECV => {
            How { how: EndedHow::Disconnect, by_task: has_socket }
        }
        _ => by_network(EndedHow::Disconnect),
    }
}

fn by_error(err: u16) -> EndedHow {
    match err {
        errno::ECONNRESET | errno::EPIPE => EndedHow::PeerReset,
        errno::ECONNABORTED => EndedHow::Killed,
        errno::ETIMEDOUT => EndedHow::Timeout,
        _ => EndedHow::Error,
    }
}

/// Payload, where the hook read the counters. `bytes_received` of TCP counts a processed FIN as one byte (`tcp_fin`).
pub(super) fn traffic(sock: &Sock, counters: &Counters) -> Option<Traffic> {
    if sock.flags & SockFlags::COUNTERS == 0 {
        return None;
    }
    Some(match transport(sock) {
        Transport::Tcp => payload(counters, sock.flags & SockFlags::PEER_FIN != 0),
        Transport::Mptcp => Traffic { retransmits: None, ..payload(counters, false) },
    })
}

/// Payload, from the kernel's counters.
pub(super) fn payload(counters: &Counters, peer_fin: bool) -> Traffic {
    Traffic {
        bytes_in: counters.bytes_received.saturating_sub(peer_fin.into()),
        bytes_out: counters.bytes_sent.saturating_sub(counters.bytes_retrans),
        retransmits: Some(counters.total_retrans),
        srtt_us: counters.srtt_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCK: u16 = SockFlags::HAS_SOCKET;

    fn sock(old_state: u8, err: u16, shutdown: u8, flags: u16) -> Sock {
        Sock { old_state, new_state: state::CLOSE, err, shutdown, flags, ..Sock::default() }
    }

    #[test]
    fn transitions_to_close() {
        for (old, err, shut, flags, how, by_task) in [
            (1, 104, 0, SOCK, EndedHow::PeerReset, false),
            (8, 32, 1, SOCK, EndedHow::PeerReset, false),
            (1, 103, 0, SOCK, EndedHow::Killed, true),
            (1, 110, 0, SOCK, EndedHow::Timeout, false),
            (1, 113, 0, SOCK, EndedHow::Error, false),
            (5, 104, 3, SOCK, EndedHow::PeerReset, false),
            (5, 0, 3, SOCK, EndedHow::LocalFin, false),
            (4, 0, 3, SOCK, EndedHow::LocalFin, false),
            (11, 0, 2, SOCK, EndedHow::LocalFin, false),
            (9, 0, 3, SOCK, EndedHow::PeerFin, false),
            (1, 0, 0, SOCK, EndedHow::Disconnect, true),
            (8, 0, 1, SOCK, EndedHow::Disconnect, true),
            (1, 0, 3, SOCK, EndedHow::LocalReset, true),
            (3, 0, 3, SOCK, EndedHow::LocalReset, true),
            // Its close was lost.
            (5, 0, 3, 0, EndedHow::LocalFin, false),
            (9, 0, 3, 0, EndedHow::PeerFin, false),
            (1, 0, 0, 0, EndedHow::Disconnect, false),
            (5, 0, 0, 0, EndedHow::Disconnect, false),
        ] {
            assert_eq!(
                ended(&sock(old, err, shut, flags)),
                How { how, by_task },
                "{old} {err} {shut} {flags}"
            );
        }
    }

    #[test]
    fn closes() {
        for (old, new, err, flags, how) in [
            (1, 1, 0, 0, EndedHow::LocalFin),
            (1, 4, 0, 0, EndedHow::LocalFin),
            (4, 4, 0, 0, EndedHow::LocalFin),
            (5, 5, 0, 0, EndedHow::LocalFin),
            (3, 3, 0, 0, EndedHow::LocalFin),
            (8, 8, 0, 0, EndedHow::PeerFin),
            (8, 9, 0, 0, EndedHow::PeerFin),
            (9, 9, 0, 0, EndedHow::PeerFin),
            (1, 1, 0, SockFlags::LINGER_ZERO, EndedHow::LocalReset),
            (8, 8, 0, SockFlags::UNREAD, EndedHow::LocalReset),
            (1, 7, 0, 0, EndedHow::LocalReset),
            (8, 7, 0, 0, EndedHow::LocalReset),
            (5, 7, 0, 0, EndedHow::LocalFin),
            (4, 7, 104, 0, EndedHow::PeerReset),
            (7, 7, 104, 0, EndedHow::PeerReset),
            (7, 7, 0, 0, EndedHow::Disconnect),
        ] {
            let sock = Sock { new_state: new, ..sock(old, err, 0, flags) };
            assert_eq!(closed(&sock), how, "{old} {new} {err} {flags}");
        }
    }

    #[test]
    fn traffic_is_payload() {
        let counters =
            Counters { bytes_sent: 150, bytes_retrans: 50, bytes_received: 51, total_retrans: 1, srtt_us: 9 };
        let flags = SockFlags::COUNTERS | SockFlags::PEER_FIN;
        let seen = traffic(&sock(8, 0, 0, flags), &counters).expect("counters");
        assert_eq!((seen.bytes_out, seen.bytes_in, seen.retransmits, seen.srtt_us), (100, 50, Some(1), 9));
        assert_eq!(traffic(&sock(8, 0, 0, SockFlags::COUNTERS), &counters).map(|t| t.bytes_in), Some(51));
        assert_eq!(traffic(&sock(8, 0, 0, 0), &counters), None);
        let none = Counters { bytes_retrans: 1, ..Counters::default() };
        assert_eq!(traffic(&sock(8, 0, 0, flags), &none).map(|t| (t.bytes_in, t.bytes_out)), Some((0, 0)));
    }
}

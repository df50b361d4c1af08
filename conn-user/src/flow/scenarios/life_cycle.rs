//! A connection from its beginning to its end, in both directions and over each protocol.

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{Counters, Sock, SockEndRecord, SockFlags};

use super::{SERVER, both, child, client, listener};
use crate::flow::how::state::{
    CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
};
use crate::flow::model::{Change, EndedHow, Traffic};
use crate::flow::testing::{Backend, MS, Rig, held, sock, who};
use crate::units::{BootNs, DurationNs};

#[test]
fn connect_accept_close() {
    both(
        |rig| {
            rig.listens(20, listener());
            rig.connects(10, client());
            rig.established(SYN_RECV, child());
            rig.established(SYN_SENT, client());
            rig.accepts(20, child());
            rig.closes(10, ESTABLISHED, client());
            rig.closes(20, CLOSE_WAIT, child());
            rig.unlistens(20, listener());
        },
        &[
            "listen 1 0.0.0.0:80 by 20",
            "connect 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "established 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "accept 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 of 20",
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer 10",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerFin closer 20",
            "unlisten 1 0.0.0.0:80 by 20 closer 20",
        ],
    );
}

#[test]
fn times_and_traffic() {
    let mut rig = Rig::new(Backend::Fentry);
    let start = rig.now;
    rig.connects(10, client());
    rig.established(SYN_SENT, client());
    let flags = SockFlags::COUNTERS | SockFlags::PEER_FIN;
    let counters =
        Counters { bytes_sent: 150, bytes_retrans: 50, bytes_received: 51, total_retrans: 2, srtt_us: 30 };
    let header = rig.header(HookId::FentryTcpClose);
    let sock = Sock { old_state: CLOSE_WAIT, new_state: CLOSE_WAIT, flags, ..client() };
    rig.feed(&Record::Close(SockEndRecord { header, task: who(10), sock, counters }));
    let [connect, established, close] = &rig.out[..] else { panic!("three events: {:?}", rig.out) };
    assert_eq!(connect.boot, BootNs(start + MS));
    let Change::Connect(conn) = &connect.change else { panic!("connect") };
    assert_eq!((conn.begun, conn.established), (connect.boot, None));
    let Change::Established(conn) = &established.change else { panic!("established") };
    assert_eq!((conn.begun, conn.established), (connect.boot, Some(established.boot)));
    let Change::Close(_, ending) = &close.change else { panic!("close") };
    assert_eq!((ending.how, ending.duration), (EndedHow::PeerFin, Some(DurationNs(MS))));
    let traffic = Traffic { bytes_in: 50, bytes_out: 100, retransmits: Some(2), srtt_us: 30 };
    assert_eq!(ending.traffic, Some(traffic));
}

#[test]
fn connect_to_self() {
    both(
        |rig| {
            let own = sock(1, "127.0.0.1:40000", "127.0.0.1:40000");
            rig.connects(10, own);
            rig.established(SYN_RECV, own);
            rig.closes(10, ESTABLISHED, own);
            rig.ends(10, CLOSING, 0, 3, own);
        },
        &[
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:40000 by 10",
            "established 1 Out 127.0.0.1:40000>127.0.0.1:40000 by 10",
            "close 1 Out 127.0.0.1:40000>127.0.0.1:40000 by 10 LocalFin closer 10",
        ],
    );
}

#[test]
fn one_socket_two_connections() {
    both(
        |rig| {
            rig.connects(10, client());
            rig.established(SYN_SENT, client());
            rig.ends(11, ESTABLISHED, 0, 0, held(client()));
            let again = sock(1, "127.0.0.1:40001", SERVER);
            rig.connects(10, again);
            rig.ends(0, SYN_SENT, 111, 0, held(again));
            rig.connects(10, again);
            rig.established(SYN_SENT, again);
            rig.closes(10, ESTABLISHED, again);
        },
        &[
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "established 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "close 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10 Disconnect closer 11",
            "connect 2 Out 127.0.0.1:40001>127.0.0.1:80 by 10",
            "failed 2 Out 127.0.0.1:40001>127.0.0.1:80 by 10 errno 111",
            "connect 3 Out 127.0.0.1:40001>127.0.0.1:80 by 10",
            "established 3 Out 127.0.0.1:40001>127.0.0.1:80 by 10",
            "close 3 Out 127.0.0.1:40001>127.0.0.1:80 by 10 LocalFin closer 10",
        ],
    );
}

#[test]
fn ipv6_and_mapped() {
    both(
        |rig| {
            rig.listens(20, sock(3, "[::]:80", "[::]:0"));
            for (key, server, client) in
                [(4, "[::1]:80", "[::1]:40000"), (5, "[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.2]:40000")]
            {
                rig.established(SYN_RECV, sock(key, server, client));
                rig.accepts(20, sock(key, server, client));
            }
            let mapped = sock(6, "[::ffff:10.0.0.2]:40000", "[::ffff:10.0.0.1]:80");
            rig.connects(10, mapped);
            rig.established(SYN_SENT, mapped);
        },
        &[
            "listen 1 [::]:80 by 20",
            "accept 2 In [::1]:80>[::1]:40000 by 20 of 20",
            "accept 3 In 10.0.0.1:80>10.0.0.2:40000 mapped by 20 of 20",
            "connect 4 Out 10.0.0.2:40000>10.0.0.1:80 mapped by 10",
            "established 4 Out 10.0.0.2:40000>10.0.0.1:80 mapped by 10",
        ],
    );
}

#[test]
fn mptcp() {
    let mptcp = |sock: Sock| Sock { flags: sock.flags | SockFlags::MPTCP, ..sock };
    both(
        |rig| {
            rig.listens(20, mptcp(listener()));
            rig.connects(10, mptcp(sock(1, "0.0.0.0:0", "0.0.0.0:0")));
            // The passive side's ends are not set yet.
            rig.established(LISTEN, mptcp(sock(2, "0.0.0.0:0", "0.0.0.0:0")));
            rig.established(SYN_SENT, mptcp(client()));
            rig.accepts(20, mptcp(child()));
            rig.closes(10, ESTABLISHED, mptcp(client()));
            rig.closes(20, CLOSE_WAIT, mptcp(child()));
        },
        &[
            "listen 1 0.0.0.0:80 by 20",
            "connect 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "established 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "accept 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 of 20",
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer 10",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerFin closer 20",
        ],
    );
}

#[test]
fn older_than_the_agent() {
    both(
        |rig| {
            rig.listens(20, listener());
            // Queued before the attach.
            rig.accepts(20, child());
            rig.closes(20, CLOSE_WAIT, child());
            // On its way before the attach.
            rig.established(SYN_SENT, client());
            rig.closes(10, ESTABLISHED, client());
            // Open before the attach.
            rig.closes(10, ESTABLISHED, sock(5, "10.0.0.1:1", "10.0.0.2:2"));
            rig.ends(0, FIN_WAIT2, 0, 3, sock(5, "10.0.0.1:1", "10.0.0.2:2"));
            rig.closes(20, ESTABLISHED, sock(6, SERVER, "10.0.0.2:2"));
            rig.ends(0, ESTABLISHED, 104, 0, held(sock(7, "10.0.0.1:3", "10.0.0.2:2")));
            rig.ends(0, SYN_SENT, 111, 0, held(sock(8, "10.0.0.1:4", "10.0.0.2:2")));
            // Queued before the attach, and never accepted.
            rig.ends(20, ESTABLISHED, 0, 0, sock(9, "10.0.0.1:5", "10.0.0.2:2"));
            // Closed before the attach: an orphan.
            rig.ends(0, LAST_ACK, 0, 3, sock(11, "10.0.0.1:6", "10.0.0.2:2"));
            rig.unlistens(21, sock(12, "0.0.0.0:81", "0.0.0.0:0"));
        },
        &[
            "listen 1 0.0.0.0:80 by 20",
            "accept 2 In 127.0.0.1:80>127.0.0.1:40000 late by 20 of 20",
            "close 2 In 127.0.0.1:80>127.0.0.1:40000 late by 20 PeerFin closer 20",
            "established 3 Out 127.0.0.1:40000>127.0.0.1:80 late by ?(Unknown(BeforeAttach))",
            "close 3 Out 127.0.0.1:40000>127.0.0.1:80 late by ?(Unknown(BeforeAttach)) LocalFin closer 10",
            "close 4 Unknown 10.0.0.1:1>10.0.0.2:2 late by ?(Unknown(BeforeAttach)) LocalFin closer 10",
            "close 5 In 127.0.0.1:80>10.0.0.2:2 late by ?(Unknown(BeforeAttach)) LocalFin closer 20",
            "close 6 Unknown 10.0.0.1:3>10.0.0.2:2 late by ?(Unknown(BeforeAttach)) PeerReset errno 104 closer ?(Unknown(Kernel))",
            "failed 7 Out 10.0.0.1:4>10.0.0.2:2 late by ?(Unknown(BeforeAttach)) errno 111",
            "close 8 In 10.0.0.1:5>10.0.0.2:2 late by ?(Unknown(NeverAccepted)) NeverAccepted closer ?(Unknown(Kernel))",
            "unlisten 9 0.0.0.0:81 by ?(Unknown(BeforeAttach)) closer 21 late",
        ],
    );
}

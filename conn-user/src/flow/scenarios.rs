//! The scenarios of kernel.md section 4, as the records that each backend writes for them.

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{Counters, EstablishedRecord, Sock, SockEndRecord, SockFlags};

use super::how::state::{
    CLOSE, CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
};
use super::model::{Change, EndedHow, Traffic};
use super::testing::{Always, Backend, MS, Rig, held, sock, who};
use crate::process::testing::exit_record;
use crate::units::{BootNs, DurationNs};

pub(super) const SERVER: &str = "127.0.0.1:80";
pub(super) const CLIENT: &str = "127.0.0.1:40000";

pub(super) fn client() -> Sock {
    sock(1, CLIENT, SERVER)
}

pub(super) fn child() -> Sock {
    sock(2, SERVER, CLIENT)
}

pub(super) fn listener() -> Sock {
    sock(3, "0.0.0.0:80", "0.0.0.0:0")
}

/// Runs a scenario on both backends, which have to report the same.
pub(super) fn both(scenario: impl Fn(&mut Rig), expected: &[&str]) {
    for backend in [Backend::Fentry, Backend::Tracepoint] {
        let mut rig = Rig::new(backend);
        scenario(&mut rig);
        assert_eq!(rig.reported(), expected, "{backend:?}");
        assert_eq!(rig.flows.next_deadline(), None, "{backend:?}: nothing waits");
    }
}

/// Process 20 listens, 10 connects, 20 accepts. The listener is number 1, the client 2, the child 3.
pub(super) fn open(rig: &mut Rig) {
    rig.listens(20, listener());
    rig.connects(10, client());
    rig.established(SYN_RECV, child());
    rig.established(SYN_SENT, client());
    rig.accepts(20, child());
    rig.reported();
}

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
fn refused() {
    both(
        |rig| {
            rig.connects(10, client());
            rig.ends(99, SYN_SENT, 111, 0, held(client()));
        },
        &[
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "failed 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10 errno 111",
        ],
    );
}

#[test]
fn timed_out_in_a_timer() {
    both(
        |rig| {
            rig.connects(10, client());
            rig.wait_with(25, &mut Always(CLIENT.parse().ok(), Vec::new()));
            rig.ends(0, SYN_SENT, 110, 0, held(client()));
            let Change::Failed(_, failure) = &rig.out[1].change else { panic!("failed") };
            assert_eq!(failure.after, Some(DurationNs(26 * MS)));
        },
        &[
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "failed 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10 errno 110",
        ],
    );
}

#[test]
fn cancelled_by_close() {
    both(
        |rig| {
            rig.connects(10, client());
            rig.ends(10, SYN_SENT, 0, 3, Sock { flags: SockFlags::IN_CLOSE, ..held(client()) });
        },
        &[
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "failed 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10 errno 0",
        ],
    );
    // A close record from SYN_SENT says the same; what follows is a second end.
    both(
        |rig| {
            rig.connects(10, client());
            rig.closes(10, SYN_SENT, client());
            rig.ends(10, SYN_SENT, 0, 3, held(client()));
        },
        &[
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "failed 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10 errno 0",
        ],
    );
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
fn reset_in_a_simultaneous_open_is_a_failure() {
    both(
        |rig| {
            rig.connects(10, client());
            rig.ends(0, SYN_RECV, 104, 0, held(client()));
        },
        &[
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "failed 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10 errno 104",
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
fn the_closer_is_not_the_owner() {
    both(
        |rig| {
            open(rig);
            rig.closes(11, ESTABLISHED, client());
            rig.closes(21, ESTABLISHED, child());
        },
        &[
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer 11",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 LocalFin closer 21",
        ],
    );
}

#[test]
fn killed_process_closes_after_its_exit() {
    both(
        |rig| {
            open(rig);
            rig.procs.on_exit(&exit_record(who(10), rig.now));
            rig.closes(10, ESTABLISHED, client());
            let Change::Close(_, ending) = &rig.out[0].change else { panic!("close") };
            let closer = ending.closer.process.as_ref().expect("closer");
            assert_eq!(closer.exe.as_deref(), Some(&b"/bin/p10"[..]));
        },
        &["close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer 10"],
    );
}

#[test]
fn abortive_closes_and_their_echo() {
    for flag in [SockFlags::LINGER_ZERO, SockFlags::UNREAD] {
        both(
            |rig| {
                open(rig);
                rig.closes(10, ESTABLISHED, Sock { flags: flag, ..client() });
                rig.ends(10, ESTABLISHED, 0, 3, held(client()));
                rig.ends(10, ESTABLISHED, 104, 0, held(child()));
            },
            &[
                "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalReset closer 10",
                "close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerReset errno 104 closer ?(Unknown(Kernel))",
            ],
        );
    }
}

#[test]
fn killed_from_outside() {
    both(
        |rig| {
            open(rig);
            rig.ends(15, ESTABLISHED, 103, 0, held(client()));
            rig.ends(15, ESTABLISHED, 104, 0, held(child()));
        },
        &[
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 Killed errno 103 closer 15",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerReset errno 104 closer ?(Unknown(Kernel))",
        ],
    );
}

#[test]
fn listener_killed_from_outside() {
    both(
        |rig| {
            rig.listens(20, listener());
            rig.unlistens(15, listener());
        },
        &["listen 1 0.0.0.0:80 by 20", "unlisten 1 0.0.0.0:80 by 20 closer 15"],
    );
}

#[test]
fn shut_down_before_a_late_close() {
    // Both FINs are done while the file is open; its close finds the state CLOSE, which only a lost end makes a record.
    both(
        |rig| {
            open(rig);
            rig.ends(0, FIN_WAIT2, 0, 3, held(client()));
            rig.ends(0, LAST_ACK, 0, 3, held(child()));
            rig.closes(10, CLOSE, client());
        },
        &[
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer ?(Unknown(Kernel))",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerFin closer ?(Unknown(Kernel))",
        ],
    );
    both(
        |rig| {
            open(rig);
            rig.ends(0, FIN_WAIT2, 104, 3, held(client()));
        },
        &["close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 PeerReset errno 104 closer ?(Unknown(Kernel))"],
    );
}

#[test]
fn close_while_half_closed() {
    both(
        |rig| {
            open(rig);
            rig.closes(10, FIN_WAIT2, client());
            rig.ends(0, FIN_WAIT2, 0, 3, client());
            rig.closes(20, LAST_ACK, child());
            rig.ends(0, LAST_ACK, 0, 3, held(child()));
        },
        &[
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer 10",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerFin closer 20",
        ],
    );
}

#[test]
fn listener_closed_with_connections_queued() {
    both(
        |rig| {
            rig.listens(20, listener());
            rig.established(SYN_RECV, child());
            rig.established(SYN_RECV, sock(4, SERVER, "127.0.0.1:40004"));
            rig.unlistens(20, listener());
            rig.ends(20, ESTABLISHED, 0, 0, child());
            rig.ends(20, CLOSE_WAIT, 0, 1, sock(4, SERVER, "127.0.0.1:40004"));
            let Change::Close(conn, _) = &rig.out[2].change else { panic!("close") };
            let listener = conn.listener.as_ref().and_then(|by| by.process.as_ref()).expect("listener");
            assert_eq!(listener.pid.0, 20);
        },
        &[
            "listen 1 0.0.0.0:80 by 20",
            "unlisten 1 0.0.0.0:80 by 20 closer 20",
            "close 2 In 127.0.0.1:80>127.0.0.1:40000 by ?(Unknown(NeverAccepted)) NeverAccepted closer ?(Unknown(Kernel))",
            "close 3 In 127.0.0.1:80>127.0.0.1:40004 by ?(Unknown(NeverAccepted)) NeverAccepted closer ?(Unknown(Kernel))",
        ],
    );
}

#[test]
fn peer_closes_before_the_accept() {
    both(
        |rig| {
            rig.established(SYN_RECV, child());
            rig.accepts_in(20, CLOSE_WAIT, child());
            rig.closes(20, CLOSE_WAIT, child());
        },
        &[
            "accept 1 In 127.0.0.1:80>127.0.0.1:40000 by 20",
            "close 1 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerFin closer 20",
        ],
    );
}

#[test]
fn reset_in_the_accept_queue() {
    let accept = "accept 1 In 127.0.0.1:80>127.0.0.1:40000 by 20";
    let never = "close 1 In 127.0.0.1:80>127.0.0.1:40000 by ?(Unknown(NeverAccepted)) NeverAccepted errno 104 closer ?(Unknown(Kernel))";
    // Accepted soon: in order.
    both(
        |rig| {
            rig.established(SYN_RECV, child());
            rig.ends(10, ESTABLISHED, 104, 0, child());
            rig.accepts_in(20, CLOSE, child());
        },
        &[
            accept,
            "close 1 In 127.0.0.1:80>127.0.0.1:40000 by 20 PeerReset errno 104 closer ?(Unknown(Kernel))",
        ],
    );
    // Not accepted: reported when the hold is over, and the accept when it comes after all, once.
    both(
        |rig| {
            rig.established(SYN_RECV, child());
            rig.ends(10, ESTABLISHED, 104, 0, child());
            rig.wait(101);
            rig.accepts_in(20, CLOSE, child());
            rig.accepts_in(20, CLOSE, child());
        },
        &[never, accept],
    );
}

#[test]
fn reset_between_the_accept_and_the_return_of_its_system_call() {
    let mut rig = Rig::new(Backend::Tracepoint);
    rig.listens(20, listener());
    rig.established(SYN_RECV, child());
    rig.ends(10, ESTABLISHED, 104, 0, held(child()));
    rig.accepts_in(21, CLOSE, child());
    rig.established(SYN_RECV, sock(4, SERVER, "127.0.0.1:40004"));
    rig.ends(10, ESTABLISHED, 104, 0, held(sock(4, SERVER, "127.0.0.1:40004")));
    rig.wait(101);
    assert_eq!(
        rig.reported(),
        [
            "listen 1 0.0.0.0:80 by 20",
            "accept 2 In 127.0.0.1:80>127.0.0.1:40000 by 21 of 20",
            "close 2 In 127.0.0.1:80>127.0.0.1:40000 by 21 PeerReset errno 104 closer ?(Unknown(Kernel))",
            // No record came: the listener's owner.
            "accept 3 In 127.0.0.1:80>127.0.0.1:40004 by 20(Listener) of 20",
            "close 3 In 127.0.0.1:80>127.0.0.1:40004 by 20(Listener) PeerReset errno 104 closer ?(Unknown(Kernel))",
        ]
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
fn reuseport_names_the_acceptors_own_listener() {
    both(
        |rig| {
            rig.listens(20, listener());
            rig.listens(21, Sock { key: 4, ..listener() });
            for (key, pid, from) in [(5, 21, "10.0.0.1:1"), (6, 20, "10.0.0.1:2"), (7, 22, "10.0.0.1:3")] {
                rig.established(SYN_RECV, sock(key, SERVER, from));
                rig.accepts(pid, sock(key, SERVER, from));
            }
        },
        &[
            "listen 1 0.0.0.0:80 by 20",
            "listen 2 0.0.0.0:80 by 21",
            "accept 3 In 127.0.0.1:80>10.0.0.1:1 by 21 of 21",
            "accept 4 In 127.0.0.1:80>10.0.0.1:2 by 20 of 20",
            // It got the listener by other ways, and there are two.
            "accept 5 In 127.0.0.1:80>10.0.0.1:3 by 22",
        ],
    );
}

#[test]
fn fast_open_is_accepted_before_it_is_established() {
    both(
        |rig| {
            rig.accepts_in(20, SYN_RECV, child());
            rig.established(SYN_RECV, child());
            rig.closes(20, ESTABLISHED, child());
            let Change::Close(_, ending) = &rig.out[1].change else { panic!("close") };
            assert_eq!(ending.duration, Some(DurationNs(MS)), "from the handshake");
        },
        &[
            "accept 1 In 127.0.0.1:80>127.0.0.1:40000 by 20",
            "close 1 In 127.0.0.1:80>127.0.0.1:40000 by 20 LocalFin closer 20",
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
fn a_backup_program_reports_what_was_missed_and_repeats_nothing() {
    for repeated in [false, true] {
        let mut rig = Rig::new(Backend::Fentry);
        rig.listens(20, listener());
        if repeated {
            rig.connects(10, client());
        }
        let again = rig.sock_record(HookId::FentryTcpConnectBackup, who(10), client());
        rig.feed(&Record::Connect(again));
        rig.established(SYN_RECV, child());
        rig.established(SYN_SENT, client());
        if repeated {
            rig.accepts(20, child());
        }
        let again = rig.sock_record(HookId::FentryInetAcceptBackup, who(20), child());
        rig.feed(&Record::Accept(again));
        for repetition in 0..=u8::from(repeated) {
            let hook = [HookId::FentryTcpCloseBackup, HookId::FentryTcpClose][usize::from(repetition)];
            let header = rig.header(hook);
            let sock = Sock { old_state: ESTABLISHED, new_state: ESTABLISHED, ..client() };
            let record = SockEndRecord { header, task: who(10), sock, counters: Counters::default() };
            rig.feed(&Record::Close(record));
        }
        let reported = rig.reported();
        assert_eq!(
            reported,
            [
                "listen 1 0.0.0.0:80 by 20",
                "connect 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
                "established 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
                "accept 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 of 20",
                "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer 10",
            ],
            "repeated: {repeated}"
        );
    }
}

#[test]
fn a_handshake_that_is_repeated_after_the_end_begins_nothing() {
    let mut rig = Rig::new(Backend::Fentry);
    rig.listens(20, listener());
    rig.established(SYN_RECV, child());
    rig.accepts(20, child());
    rig.reported();
    let repeat = |rig: &mut Rig| {
        let header = rig.header(HookId::StateBackup);
        let sock = Sock { old_state: SYN_RECV, new_state: ESTABLISHED, ..child() };
        rig.feed(&Record::Established(EstablishedRecord { header, sock }));
    };
    repeat(&mut rig);
    assert!(rig.reported().is_empty(), "it is established");
    rig.closes(20, ESTABLISHED, child());
    assert_eq!(rig.reported().len(), 1);
    repeat(&mut rig);
    rig.closes(20, ESTABLISHED, child());
    assert!(rig.reported().is_empty(), "it is over");
}

#[test]
fn a_backup_program_ends_a_listener_once_known_or_not() {
    for known in [false, true] {
        for repeated in [false, true] {
            let mut rig = Rig::new(Backend::Fentry);
            if known {
                rig.listens(20, listener());
                rig.reported();
            }
            if repeated {
                rig.unlistens(20, listener());
            }
            let sock = Sock { old_state: LISTEN, new_state: CLOSE, ..listener() };
            let again = rig.sock_record(HookId::StateBackup, who(20), sock);
            rig.feed(&Record::Unlisten(again));
            assert_eq!(rig.reported().len(), 1, "known: {known}, repeated: {repeated}");
        }
    }
}

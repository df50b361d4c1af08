//! How a connection ends, and who is reported as its closer.

use conn_common::record::{Sock, SockFlags};

use super::{both, child, client, listener, open};
use crate::flow::how::state::{CLOSE, ESTABLISHED, FIN_WAIT2, LAST_ACK, SYN_SENT};
use crate::flow::model::Change;
use crate::flow::testing::{held, who};
use crate::process::testing::exit_record;

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
fn close_in_state_close_ends_what_lost_its_end() {
    both(
        |rig| {
            open(rig);
            rig.closes(10, CLOSE, Sock { err: 104, ..client() });
            rig.closes(20, CLOSE, child());
        },
        &[
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 PeerReset errno 104 closer 10",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 Disconnect closer 20",
        ],
    );
}

#[test]
fn only_a_close_names_the_closer_of_mptcp() {
    let mptcp = |sock: Sock| Sock { flags: sock.flags | SockFlags::MPTCP, ..sock };
    both(
        |rig| {
            rig.established(SYN_SENT, mptcp(client()));
            // The kernel's worker ends it for the network, and sets the error afterwards.
            rig.ends(2, ESTABLISHED, 0, 0, held(mptcp(client())));
            rig.established(SYN_SENT, client());
            // The same of TCP is connect(AF_UNSPEC), by whoever calls it.
            rig.ends(10, ESTABLISHED, 0, 0, held(client()));
        },
        &[
            "established 1 Out 127.0.0.1:40000>127.0.0.1:80 late by ?(Unknown(BeforeAttach))",
            "close 1 Out 127.0.0.1:40000>127.0.0.1:80 late by ?(Unknown(BeforeAttach)) Disconnect closer ?(Unknown(Backend))",
            "established 2 Out 127.0.0.1:40000>127.0.0.1:80 late by ?(Unknown(BeforeAttach))",
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 late by ?(Unknown(BeforeAttach)) Disconnect closer 10",
        ],
    );
}

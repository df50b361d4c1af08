//! Attempts that fail.

use conn_common::record::{Sock, SockFlags};

use super::{CLIENT, SERVER, both, client};
use crate::flow::how::state::{SYN_RECV, SYN_SENT};
use crate::flow::model::Change;
use crate::flow::testing::{Always, Backend, MS, Rig, held, sock};
use crate::units::DurationNs;

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
fn attempt_that_fails_before_its_syn() {
    // No free port: `tcp_v4_connect` returns before `tcp_connect`, so no function hook ran. The tracepoint reported it.
    let mut rig = Rig::new(Backend::Fentry);
    rig.ends(10, SYN_SENT, 0, 0, held(sock(1, "127.0.0.1:0", SERVER)));
    assert_eq!(rig.reported(), ["failed 1 Out 127.0.0.1:0>127.0.0.1:80 late by 10 errno 0"]);
}

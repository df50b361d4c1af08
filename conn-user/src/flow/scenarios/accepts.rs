//! Who accepts: seen by a hook, inferred where none saw it, in the accept queue, and whose listener it was.

use conn_common::record::{Sock, SockFlags};

use super::{CLIENT, SERVER, both, child, client, listener, open};
use crate::flow::how::state::{CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, SYN_RECV, SYN_SENT};
use crate::flow::model::Change;
use crate::flow::testing::{Backend, MS, Names, Rig, held, sock};
use crate::units::DurationNs;

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
fn accept_that_no_hook_saw_is_inferred_at_the_close() {
    // io_uring does not pass the system call tracepoints; a kretprobe misses calls blocked since before the attach.
    for (closer, owner) in [(20, "20(Closer)"), (21, "20(Listener)")] {
        both(
            |rig| {
                rig.listens(20, listener());
                rig.established(SYN_RECV, child());
                rig.closes(closer, ESTABLISHED, child());
            },
            &[
                "listen 1 0.0.0.0:80 by 20",
                &format!("accept 2 In 127.0.0.1:80>127.0.0.1:40000 by {owner} of 20"),
                &format!("close 2 In 127.0.0.1:80>127.0.0.1:40000 by {owner} LocalFin closer {closer}"),
            ],
        );
    }
    both(
        |rig| {
            rig.established(SYN_RECV, child());
            rig.closes(20, ESTABLISHED, child());
        },
        &[
            "accept 1 In 127.0.0.1:80>127.0.0.1:40000 by 20(Closer)",
            "close 1 In 127.0.0.1:80>127.0.0.1:40000 by 20(Closer) LocalFin closer 20",
        ],
    );
    both(
        |rig| {
            rig.listens(20, listener());
            rig.listens(21, Sock { key: 4, ..listener() });
            rig.established(SYN_RECV, child());
            rig.closes(22, ESTABLISHED, child());
        },
        &[
            "listen 1 0.0.0.0:80 by 20",
            "listen 2 0.0.0.0:80 by 21",
            "accept 3 In 127.0.0.1:80>127.0.0.1:40000 by ?(Unknown(Backend))",
            "close 3 In 127.0.0.1:80>127.0.0.1:40000 by ?(Unknown(Backend)) LocalFin closer 22",
        ],
    );
}

#[test]
fn accept_by_the_kernel_is_not_its_listeners_owners() {
    let kernels = |sock: Sock| Sock { flags: sock.flags | SockFlags::KERNEL, ..sock };
    both(
        |rig| {
            rig.listens(20, kernels(listener()));
            rig.established(SYN_RECV, kernels(child()));
            rig.closes(9, ESTABLISHED, kernels(child()));
        },
        &[
            "listen 1 0.0.0.0:80 kernel by 20",
            "accept 2 In 127.0.0.1:80>127.0.0.1:40000 kernel by ?(Unknown(Backend)) of 20",
            "close 2 In 127.0.0.1:80>127.0.0.1:40000 kernel by ?(Unknown(Backend)) LocalFin closer 9",
        ],
    );
}

#[test]
fn accept_inferred_at_an_end_that_its_owner_made() {
    both(
        |rig| {
            rig.listens(20, listener());
            rig.established(SYN_RECV, child());
            rig.ends(0, FIN_WAIT2, 0, 3, held(child()));
        },
        &[
            "listen 1 0.0.0.0:80 by 20",
            "accept 2 In 127.0.0.1:80>127.0.0.1:40000 by 20(Listener) of 20",
            "close 2 In 127.0.0.1:80>127.0.0.1:40000 by 20(Listener) LocalFin closer ?(Unknown(Kernel))",
        ],
    );
}

#[test]
fn system_call_return_names_only_what_waits() {
    let mut rig = Rig::new(Backend::Tracepoint);
    open(&mut rig);
    // Another thread put these where the accepted one was.
    rig.accepts(21, client());
    rig.accepts(21, child());
    rig.accepts_in(21, SYN_SENT, sock(7, CLIENT, SERVER));
    rig.closes(20, ESTABLISHED, child());
    rig.accepts(21, child());
    assert_eq!(rig.reported(), ["close 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 LocalFin closer 20"]);
    assert_eq!(rig.flows.stats().accepts_ignored, 4);
}

/// Two daemons on one port, each bound to its interface: who accepted is the one whose interface the connection has.
#[test]
fn the_interface_reports_whose_listener_it_was() {
    let mut rig = Rig::new(Backend::Tracepoint);
    for (key, pid, device) in [(3, 20, 7), (4, 21, 8)] {
        rig.listens(pid, Sock { device, ..sock(key, "0.0.0.0:80", "0.0.0.0:0") });
    }
    let over = |key, device| Sock { device, ..sock(key, SERVER, CLIENT) };
    rig.established(SYN_RECV, over(5, 8));
    rig.wait_with(1, &mut Names(Some("eth0"), Vec::new()));
    rig.reported();
    rig.closes(22, ESTABLISHED, over(5, 8));
    assert_eq!(
        rig.reported()[0],
        "accept 3 In 127.0.0.1:80>127.0.0.1:40000%eth0 by 21(Listener) of 21",
        "by another process than the one that closed it"
    );
}

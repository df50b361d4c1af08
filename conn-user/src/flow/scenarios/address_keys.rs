//! Sockets that are known by their address, which the kernel gives again.

use conn_common::record::{Sock, SockFlags};

use super::{SERVER, child, client};
use crate::flow::how::state::{CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, SYN_RECV, SYN_SENT};
use crate::flow::testing::{Backend, Rig, held, sock};

/// The kernel gives the address of a socket that has ended to a child that is accepted with data in the SYN.
#[test]
fn fast_open_at_an_address_that_was_used_before() {
    let at = |sock: Sock| Sock { key: 77, flags: SockFlags::ADDRESS_KEY, ..sock };
    let next = at(sock(2, SERVER, "127.0.0.1:40009"));
    let mut rig = Rig::new(Backend::Tracepoint);
    rig.established(SYN_RECV, at(child()));
    rig.accepts(20, at(child()));
    rig.closes(20, ESTABLISHED, at(child()));
    rig.accepts_in(20, SYN_RECV, next);
    rig.established(SYN_RECV, next);
    rig.closes(20, CLOSE_WAIT, next);
    assert_eq!(
        rig.reported(),
        [
            "accept 1 In 127.0.0.1:80>127.0.0.1:40000 by 20",
            "close 1 In 127.0.0.1:80>127.0.0.1:40000 by 20 LocalFin closer 20",
            "accept 2 In 127.0.0.1:80>127.0.0.1:40009 by 20",
            "close 2 In 127.0.0.1:80>127.0.0.1:40009 by 20 PeerFin closer 20",
        ]
    );
    let stats = rig.flows.stats();
    assert_eq!((stats.accepts_ignored, stats.accepts_inferred), (0, 0), "the hook names who accepted");
}

#[test]
fn one_socket_under_its_address_and_its_cookie() {
    let address = |sock: Sock| Sock { key: 0xffff_8880_0000_1000, flags: SockFlags::ADDRESS_KEY, ..sock };
    let mut rig = Rig::new(Backend::Fentry);
    // A kprobe accepts a connection that was queued before the attach; its close knows the cookie.
    rig.accepts(20, address(child()));
    rig.closes(20, ESTABLISHED, child());
    rig.ends(0, FIN_WAIT2, 0, 3, held(child()));
    // Closed under the address, finished (lingering) under the cookie.
    rig.closes(10, ESTABLISHED, address(client()));
    rig.ends(0, FIN_WAIT2, 0, 3, held(client()));
    assert_eq!(
        rig.reported(),
        [
            "accept 1 In 127.0.0.1:80>127.0.0.1:40000 late by 20",
            "close 1 In 127.0.0.1:80>127.0.0.1:40000 late by 20 LocalFin closer 20",
            "close 2 Unknown 127.0.0.1:40000>127.0.0.1:80 late by ?(Unknown(BeforeAttach)) LocalFin closer 10",
        ]
    );
    assert_eq!(rig.flows.stats().live, 0);
}

#[test]
fn address_used_again_without_an_end() {
    let at = |sock: Sock| Sock { key: 77, flags: SockFlags::ADDRESS_KEY, ..sock };
    let mut rig = Rig::new(Backend::Fentry);
    rig.connects(10, at(client()));
    rig.connects(11, at(client()));
    rig.established(SYN_SENT, at(client()));
    rig.established(SYN_RECV, at(child()));
    rig.established(SYN_RECV, at(child()));
    rig.accepts(20, at(child()));
    rig.accepts(21, at(child()));
    assert_eq!(
        rig.reported(),
        [
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "close 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10 Unseen closer ?(Unknown(Lost))",
            "connect 2 Out 127.0.0.1:40000>127.0.0.1:80 by 11",
            "established 2 Out 127.0.0.1:40000>127.0.0.1:80 by 11",
            "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 11 Unseen closer ?(Unknown(Lost))",
            "accept 4 In 127.0.0.1:80>127.0.0.1:40000 by 20",
            "close 4 In 127.0.0.1:80>127.0.0.1:40000 by 20 Unseen closer ?(Unknown(Lost))",
            "accept 5 In 127.0.0.1:80>127.0.0.1:40000 late by 21",
        ]
    );
    assert_eq!(rig.flows.stats().ends_missed, 4);
}

/// After a loss a record may be of the next socket at an address, whose beginning was lost too.
#[test]
fn a_close_of_the_next_socket_at_an_address_is_not_that_of_the_last() {
    let at = |sock: Sock| Sock { key: 77, flags: SockFlags::ADDRESS_KEY, ..sock };
    let next = at(sock(2, "127.0.0.1:40001", "127.0.0.1:443"));
    let mut rig = Rig::new(Backend::Fentry);
    rig.connects(10, at(client()));
    rig.established(SYN_SENT, at(client()));
    rig.closes(11, ESTABLISHED, next);
    rig.ends(0, FIN_WAIT2, 0, 3, held(next));
    assert_eq!(
        rig.reported(),
        [
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "established 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "close 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10 Unseen closer ?(Unknown(Lost))",
            "close 2 Unknown 127.0.0.1:40001>127.0.0.1:443 late by ?(Unknown(BeforeAttach)) LocalFin closer 11",
        ]
    );
}

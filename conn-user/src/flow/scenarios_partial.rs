//! Scenarios of which a backend sees only a part: no accept hook, no port yet, older than the agent, lost records.

use std::net::SocketAddr;

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{Sock, SockFlags};

use super::how::state::{CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_RECV, SYN_SENT};
use super::limits::FlowLimits;
use super::model::{Change, Scope};
use super::resolve::{DeviceQuery, PortQuery, PortResolver};
use super::scenarios::{CLIENT, SERVER, both, child, client, listener, open};
use super::testing::{Always, Backend, MS, Names, Rig, held, sock, who};
use crate::host::interfaces::Device;
use crate::units::{BootNs, DurationNs, NetNs, Pid};

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

#[test]
fn attempt_that_fails_before_its_syn() {
    // No free port: `tcp_v4_connect` returns before `tcp_connect`, so no function hook ran. The tracepoint reported it.
    let mut rig = Rig::new(Backend::Fentry);
    rig.ends(10, SYN_SENT, 0, 0, held(sock(1, "127.0.0.1:0", SERVER)));
    assert_eq!(rig.reported(), ["failed 1 Out 127.0.0.1:0>127.0.0.1:80 late by 10 errno 0"]);
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
fn port_that_the_resolver_finds() {
    let mut rig = Rig::new(Backend::Tracepoint);
    rig.connects(10, Sock { inode: 4711, ..client() });
    let begun = rig.now;
    assert_eq!(rig.flows.next_deadline(), Some(BootNs(begun + 20 * MS)));
    let mut resolver = Always(CLIENT.parse().ok(), Vec::new());
    rig.wait_with(10, &mut resolver);
    assert_eq!((rig.reported().len(), resolver.1.len()), (0, 0), "not due, not asked");
    rig.connects(11, sock(5, "127.0.0.1:0", SERVER));
    rig.wait_with(30, &mut resolver);
    assert_eq!(resolver.1.len(), 1, "one batch");
    assert_eq!(resolver.1[0].len(), 2);
    assert_eq!((resolver.1[0][0].inode, resolver.1[0][0].remote), (4711, SERVER.parse().ok()));
    assert_eq!(rig.out[0].boot, BootNs(begun), "its own time");
    assert_eq!(
        rig.reported(),
        [
            "connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
            "connect 2 Out 127.0.0.1:40000>127.0.0.1:80 by 11",
        ]
    );
    assert_eq!(rig.flows.next_deadline(), None);
    // What comes later is not reported twice, and corrects the port.
    rig.established(SYN_SENT, sock(1, "127.0.0.1:40001", SERVER));
    assert_eq!(rig.reported(), ["established 1 Out 127.0.0.1:40001>127.0.0.1:80 by 10"]);
}

/// The thread that reads waits for a look-up: whoever connects very often must not keep it waiting all the time.
#[test]
fn ports_are_looked_up_for_a_tenth_of_the_time() {
    struct Slow(Always);
    impl PortResolver for Slow {
        fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
            self.0.resolve(queries)
        }

        fn took(&self) -> DurationNs {
            DurationNs(10 * MS)
        }
    }
    let mut rig = Rig::new(Backend::Tracepoint);
    let mut resolver = Slow(Always(CLIENT.parse().ok(), Vec::new()));
    for id in 1..=90 {
        rig.connects(10, sock(id, "127.0.0.1:0", SERVER));
        rig.wait_with(10, &mut resolver);
    }
    let asked = &resolver.0.1;
    assert_eq!(asked.len(), 9, "in 900 ms");
    assert_eq!(asked.iter().map(Vec::len).max(), Some(10), "all that wait by then");
    let next = rig.flows.next_deadline().expect("some wait");
    rig.wait_with(next.0.saturating_sub(rig.now) / MS, &mut resolver);
    assert_eq!(resolver.0.1.len(), 10);
}

#[test]
fn port_that_nobody_finds() {
    let mut rig = Rig::new(Backend::Tracepoint);
    rig.connects(10, client());
    rig.connects(10, Sock { key: 5, ..client() });
    rig.established(SYN_SENT, client());
    assert_eq!(rig.reported().len(), 2);
    rig.wait(25);
    assert_eq!(rig.reported(), ["connect 2 Out 127.0.0.1:0>127.0.0.1:80 by 10"]);
}

#[test]
fn unset_local_address_waits_too() {
    let mut rig = Rig::new(Backend::Fentry);
    rig.connects(10, sock(1, "0.0.0.0:40000", SERVER));
    assert!(rig.reported().is_empty());
    rig.wait_with(25, &mut Always(CLIENT.parse().ok(), Vec::new()));
    assert_eq!(rig.reported(), ["connect 1 Out 127.0.0.1:40000>127.0.0.1:80 by 10"]);
}

#[test]
fn too_many_connects_wait() {
    let mut rig = Rig::with(Backend::Tracepoint, FlowLimits { held: 2, ..FlowLimits::default() });
    for key in 1..=3 {
        rig.connects(10, Sock { key, ..client() });
    }
    assert_eq!(rig.reported(), ["connect 1 Out 127.0.0.1:0>127.0.0.1:80 by 10"]);
    assert_eq!((rig.flows.stats().released_early, rig.flows.stats().held), (1, 2));
}

fn auto_bound(key: u64) -> Sock {
    Sock { flags: SockFlags::PORT_PENDING, ..sock(key, "0.0.0.0:0", "0.0.0.0:0") }
}

/// Records have the index of the interface that a listener is bound to.
#[test]
fn a_listener_waits_for_the_name_of_its_interface() {
    let mut rig = Rig::new(Backend::Fentry);
    let mut names = Names(Some("eth0"), Vec::new());
    rig.listens(20, Sock { flags: SockFlags::V6ONLY, ..sock(9, SERVER, "0.0.0.0:0") });
    let Change::Listen(listener) = &rig.out[0].change else { panic!("{:?}", rig.out) };
    assert_eq!(listener.scope, Some(Scope { device: None, v6only: true }), "at once: it is bound to none");
    rig.out.clear();
    rig.listens(20, Sock { device: 7, ..sock(3, SERVER, "0.0.0.0:0") });
    let since = rig.now;
    assert!(rig.reported().is_empty());
    assert_eq!(rig.flows.next_deadline(), Some(BootNs(since)), "at once");
    rig.wait_with(1, &mut names);
    assert_eq!(rig.out[0].boot, BootNs(since));
    let device = |rig: &Rig| match &rig.out[0].change {
        Change::Listen(listener) | Change::Unlisten(listener, _) => {
            listener.scope.as_ref().and_then(|scope| scope.device.clone())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(device(&rig).expect("a device").name(), "eth0");
    rig.out.clear();
    rig.unlistens(20, Sock { device: 7, ..sock(3, SERVER, "0.0.0.0:0") });
    assert_eq!(device(&rig).expect("a device").name(), "eth0");
    rig.out.clear();
    // Nobody answers: it is reported with the index.
    rig.listens(20, Sock { device: 8, ..sock(4, SERVER, "0.0.0.0:0") });
    rig.wait(1);
    assert_eq!(device(&rig).expect("a device").name(), "8");
    let query = DeviceQuery { netns: NetNs(1), index: 7, pids: vec![Pid(20)] };
    assert_eq!(names.1, [vec![query]]);
}

/// All events of a connection have the name of its interface, in their order, and its index where nobody answers.
#[test]
fn a_connection_waits_for_the_name_of_its_interface() {
    for backend in [Backend::Fentry, Backend::Tracepoint] {
        let mut rig = Rig::new(backend);
        let (over, child) = (Sock { device: 7, ..client() }, Sock { device: 7, ..child() });
        rig.listens(20, listener());
        rig.connects(10, over);
        rig.established(SYN_SENT, over);
        rig.established(SYN_RECV, child);
        rig.accepts(20, child);
        assert_eq!(rig.reported(), ["listen 1 0.0.0.0:80 by 20"], "the others wait");
        rig.closes(10, ESTABLISHED, over);
        assert_eq!(rig.flows.stats().held, 4);
        rig.wait_with(1, &mut Names(Some("eth0"), Vec::new()));
        let ends = "127.0.0.1:40000>127.0.0.1:80%eth0";
        assert_eq!(
            rig.reported(),
            [
                format!("connect 2 Out {ends} by 10"),
                format!("established 2 Out {ends} by 10"),
                "accept 3 In 127.0.0.1:80>127.0.0.1:40000%eth0 by 20 of 20".to_owned(),
                format!("close 2 Out {ends} by 10 LocalFin closer 10"),
            ],
            "{backend:?}"
        );
        rig.closes(20, CLOSE_WAIT, child);
        assert_eq!(rig.reported().len(), 1, "its name is known");
        rig.connects(10, Sock { key: 9, device: 8, ..client() });
        rig.wait(30);
        assert!(rig.reported()[0].contains("%8"), "{backend:?}");
        assert_eq!((rig.flows.stats().held, rig.flows.next_deadline()), (0, None));
    }
}

/// Interfaces are renamed, and the numbers of namespaces are used again: what begins later has the name of then.
#[test]
fn the_name_of_an_interface_is_asked_for_again() {
    let mut rig = Rig::new(Backend::Fentry);
    let over = |key| Sock { key, device: 7, ..client() };
    let mut names = Names(Some("eth0"), Vec::new());
    let mut begins = |key, ms, name| {
        rig.now += ms * MS;
        rig.connects(10, over(key));
        names.0 = name;
        rig.wait_with(1, &mut names);
        (rig.reported().pop().expect("an event"), names.1.len())
    };
    assert!(matches!(begins(1, 0, Some("eth0")), (reported, 1) if reported.contains("%eth0 ")));
    assert!(matches!(begins(2, 100, Some("lan0")), (reported, 1) if reported.contains("%eth0 ")));
    assert!(matches!(begins(3, 1_000, Some("lan0")), (reported, 2) if reported.contains("%lan0 ")));
    // Without an answer the name stays, and the next one asks again.
    assert!(matches!(begins(4, 1_000, None), (reported, 3) if reported.contains("%lan0 ")));
    assert!(matches!(begins(5, 0, Some("wan0")), (reported, 4) if reported.contains("%wan0 ")));
    rig.now += 1_000 * MS;
    rig.closes(10, ESTABLISHED, over(1));
    assert!(rig.reported()[0].contains("%wan0 "), "an end asks for nothing");
}

/// Bound to another interface while the name of the first one is asked for.
#[test]
fn events_of_a_connection_that_waits_stay_in_their_order() {
    let mut rig = Rig::new(Backend::Fentry);
    rig.connects(10, Sock { device: 8, ..sock(9, "127.0.0.1:1", SERVER) });
    rig.wait_with(1, &mut Names(Some("eth0"), Vec::new()));
    rig.reported();
    rig.connects(10, Sock { device: 7, ..client() });
    rig.closes(10, ESTABLISHED, Sock { device: 8, ..client() });
    assert!(rig.reported().is_empty());
    rig.wait_with(1, &mut Names(Some("eth1"), Vec::new()));
    let reported = rig.reported();
    assert!(reported[0].starts_with("connect 2") && reported[0].contains("%eth1 "), "{reported:?}");
    assert!(reported[1].starts_with("close 2") && reported[1].contains("%eth0 "), "{reported:?}");
}

/// Short-lived namespaces are asked at once, but not all the time.
#[test]
fn names_are_asked_for_a_tenth_of_the_time() {
    struct Slow(Names);
    impl PortResolver for Slow {
        fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
            self.0.resolve(queries)
        }

        fn devices(&mut self, queries: &[DeviceQuery]) -> Vec<Option<Device>> {
            self.0.devices(queries)
        }

        fn took(&self) -> DurationNs {
            DurationNs(5 * MS)
        }
    }
    let mut rig = Rig::new(Backend::Fentry);
    let mut names = Slow(Names(Some("eth0"), Vec::new()));
    let mut begins = |key, ms: u64| {
        rig.now += ms * MS;
        rig.connects(10, Sock { key, netns: key as u32, device: 7, ..client() });
        let due = rig.flows.next_deadline().map_or(0, |due| due.0.saturating_sub(rig.now) / MS);
        rig.flows.poll_pending(BootNs(rig.now), &mut names, &mut rig.out);
        (rig.reported().len(), due)
    };
    for key in 1..=3 {
        assert_eq!(begins(key, 0), (1, 0), "{key}");
    }
    // Three have taken 15 ms, of which 150 ms have to pass but for 100 that look-ups may be ahead.
    assert_eq!(begins(4, 0), (0, 47));
    assert_eq!(begins(5, 50), (2, 0));
    assert_eq!(names.0.1.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 2]);
}

#[test]
fn too_many_events_wait_for_a_name() {
    let mut rig = Rig::with(Backend::Fentry, FlowLimits { held: 2, ..FlowLimits::default() });
    for key in 1..=3 {
        rig.connects(10, Sock { key, device: 7, ..client() });
    }
    assert_eq!((rig.reported().len(), rig.flows.stats().released_early, rig.flows.stats().held), (3, 3, 0));
    assert_eq!(rig.flows.next_deadline(), None);
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

#[test]
fn auto_bound_listener_is_looked_up_at_once() {
    let mut rig = Rig::new(Backend::Tracepoint);
    rig.listens(20, auto_bound(3));
    assert_eq!(rig.flows.next_deadline(), Some(BootNs(rig.now)));
    let since = rig.now;
    rig.wait(0);
    assert!(rig.reported().is_empty());
    assert_eq!(rig.flows.next_deadline(), Some(BootNs(since + 20 * MS)), "once more");
    rig.wait_with(20, &mut Always("0.0.0.0:5000".parse().ok(), Vec::new()));
    assert_eq!(rig.out[0].boot, BootNs(since));
    rig.established(SYN_RECV, sock(4, "127.0.0.1:5000", CLIENT));
    rig.accepts(21, sock(4, "127.0.0.1:5000", CLIENT));
    rig.unlistens(20, sock(3, "0.0.0.0:5000", "0.0.0.0:0"));
    assert_eq!(
        rig.reported(),
        [
            "listen 1 0.0.0.0:5000 by 20",
            "accept 2 In 127.0.0.1:5000>127.0.0.1:40000 by 21 of 20",
            "unlisten 1 0.0.0.0:5000 by 20 closer 20",
        ]
    );
}

#[test]
fn auto_bound_listener_is_shown_by_its_child_or_its_end() {
    let mut rig = Rig::new(Backend::Tracepoint);
    rig.listens(20, auto_bound(3));
    rig.listens(21, auto_bound(4));
    rig.established(SYN_RECV, sock(5, "127.0.0.1:5000", CLIENT));
    // Another process's listener is not concerned.
    rig.accepts(20, sock(5, "127.0.0.1:5000", CLIENT));
    rig.unlistens(21, sock(4, "0.0.0.0:5001", "0.0.0.0:0"));
    rig.listens(22, auto_bound(6));
    rig.wait(0);
    rig.wait(30);
    assert_eq!(
        rig.reported(),
        [
            "listen 1 0.0.0.0:5000 by 20",
            "accept 3 In 127.0.0.1:5000>127.0.0.1:40000 by 20 of 20",
            "listen 2 0.0.0.0:5001 by 21",
            "unlisten 2 0.0.0.0:5001 by 21 closer 21",
            "listen 4 0.0.0.0:0 by 22",
        ]
    );
    assert_eq!(rig.flows.next_deadline(), None);
}

#[test]
fn full_table_drops_the_oldest() {
    let mut rig =
        Rig::with(Backend::Fentry, FlowLimits { connections: 3, ended: 2, ..FlowLimits::default() });
    for key in 1..=5 {
        rig.connects(10, Sock { key, ..client() });
        rig.established(SYN_SENT, Sock { key, ..client() });
    }
    let stats = rig.flows.stats();
    assert_eq!((stats.live, stats.evicted), (3, 2));
    rig.reported();
    for key in 1..=5 {
        rig.closes(10, FIN_WAIT1, Sock { key, ..client() });
    }
    let reported = rig.reported();
    assert_eq!(reported.len(), 5);
    assert_eq!(reported.iter().filter(|line| line.contains(" late ")).count(), 2);
    let stats = rig.flows.stats();
    assert_eq!((stats.live, stats.ended, rig.flows.connections.store.indexed()), (0, 2, 2));
}

#[test]
fn unknown_hook_is_counted() {
    let mut rig = Rig::new(Backend::Fentry);
    let mut record = rig.sock_record(HookId::FentryTcpConnect, who(10), client());
    record.header.hook = 999;
    rig.feed(&Record::Connect(record));
    assert!(rig.reported().is_empty());
    assert_eq!(rig.flows.stats().ignored, 1);
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

//! Connects and listeners that wait for a port that the kernel chooses late.

use std::net::SocketAddr;

use conn_common::record::{Sock, SockFlags};

use super::{CLIENT, SERVER, client};
use crate::flow::how::state::{SYN_RECV, SYN_SENT};
use crate::flow::limits::FlowLimits;
use crate::flow::resolve::{PortQuery, PortResolver};
use crate::flow::testing::{Always, Backend, MS, Rig, sock};
use crate::units::{BootNs, DurationNs};

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

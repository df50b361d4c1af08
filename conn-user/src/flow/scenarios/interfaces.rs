//! Events that wait for the name of an interface.

use std::net::SocketAddr;

use conn_common::record::{Sock, SockFlags};

use super::{SERVER, child, client, listener};
use crate::flow::how::state::{CLOSE_WAIT, ESTABLISHED, SYN_RECV, SYN_SENT};
use crate::flow::limits::FlowLimits;
use crate::flow::model::{Change, Scope};
use crate::flow::resolve::{DeviceQuery, PortQuery, PortResolver};
use crate::flow::testing::{Backend, MS, Names, Rig, sock};
use crate::host::interfaces::Device;
use crate::units::{BootNs, DurationNs, NetNs, Pid};

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

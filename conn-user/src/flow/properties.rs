//! What holds for any sequence of records, also one that no kernel writes.

use std::collections::HashMap;

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{Counters, EstablishedRecord, Sock, SockEndRecord, SockFlags, SockRecord};
use proptest::prelude::*;

use super::limits::FlowLimits;
use super::model::{Change, EndedHow, Source};
use super::testing::{Always, Backend, MS, Rig, sock, who};
use crate::units::DurationNs;

const LIMITS: FlowLimits = FlowLimits {
    connections: 6,
    ended: 5,
    listeners: 3,
    held: 3,
    port_hold: DurationNs(20 * MS),
    accept_hold: DurationNs(100 * MS),
};

#[derive(Clone, Debug)]
enum Step {
    Record(u8, HookId, u32, Sock),
    Wait(u64, bool),
}

fn any_sock() -> impl Strategy<Value = Sock> {
    let ends = (0usize..4, 0usize..4, any::<bool>());
    let bits =
        prop::collection::vec(0u16..9, 0..4).prop_map(|bits| bits.iter().fold(0, |all, bit| all | 1 << bit));
    let err = prop::sample::select(vec![0u16, 0, 0, 32, 103, 104, 110, 111]);
    (0u64..10, ends, bits, err, 0u8..13, 0u8..13, 0u8..4, (any::<bool>(), 0u32..3)).prop_map(
        |(key, (local, remote, listens), flags, err, old_state, new_state, shutdown, (mptcp, device))| {
            const LOCAL: [&str; 4] = ["127.0.0.1:80", "0.0.0.0:80", "10.0.0.1:0", "0.0.0.0:0"];
            const REMOTE: [&str; 4] = ["127.0.0.1:1", "10.0.0.2:2", "0.0.0.0:0", "10.0.0.2:3"];
            let remote = if listens { "0.0.0.0:0" } else { REMOTE[remote] };
            Sock {
                flags: flags | if mptcp { SockFlags::MPTCP } else { 0 },
                device,
                err,
                old_state,
                new_state,
                shutdown,
                ..sock(key, LOCAL[local], remote)
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u8..8, prop::sample::select(HookId::ALL.to_vec()), 10u32..14, any_sock())
            .prop_map(|(kind, hook, pid, sock)| Step::Record(kind, hook, pid, sock)),
        1 => (0u64..120, any::<bool>()).prop_map(|(ms, found)| Step::Wait(ms, found)),
    ]
}

fn feed(rig: &mut Rig, kind: u8, hook: HookId, pid: u32, sock: Sock) {
    let header = rig.header(hook);
    let task = who(pid);
    let counters = Counters { bytes_retrans: 7, ..Counters::default() };
    let record = match kind {
        1 => Record::Connect(SockRecord { header, task, sock }),
        2 => Record::Accept(SockRecord { header, task, sock }),
        3 => Record::Close(SockEndRecord { header, task, sock, counters }),
        4 => Record::Established(EstablishedRecord { header, sock }),
        5 => Record::End(SockEndRecord { header, task, sock, counters }),
        6 => Record::Listen(SockRecord { header, task, sock }),
        _ => Record::Unlisten(SockRecord { header, task, sock }),
    };
    rig.feed(&record);
}

/// What was reported one connection or listener.
#[derive(Default, Debug)]
struct Reported {
    first: u32,
    accepts: u32,
    established: u32,
    ends: u32,
    never_accepted: bool,
}

fn check(rig: &Rig) -> Result<HashMap<u64, Reported>, TestCaseError> {
    let mut all: HashMap<u64, Reported> = HashMap::new();
    for event in &rig.out {
        let (id, source) = match &event.change {
            Change::Connect(conn) | Change::Accept(conn) | Change::Established(conn) => {
                (conn.id, conn.source)
            }
            Change::Failed(conn, _) | Change::Close(conn, _) => (conn.id, conn.source),
            Change::Listen(listener) | Change::Unlisten(listener, _) => (listener.id, listener.source),
        };
        let reported = all.entry(id.0).or_default();
        match &event.change {
            Change::Connect(conn) => {
                prop_assert!(
                    reported.first == 0 && reported.ends == 0 && conn.established.is_none(),
                    "{reported:?}"
                );
                reported.first += 1;
            }
            Change::Listen(_) => {
                prop_assert!(reported.first == 0 && reported.ends == 0, "{reported:?}");
                reported.first += 1;
            }
            Change::Accept(_) => {
                prop_assert!(
                    reported.accepts == 0 && (reported.ends == 0 || reported.never_accepted),
                    "{reported:?}"
                );
                reported.accepts += 1;
                reported.first += 1;
            }
            Change::Established(_) => {
                prop_assert!(reported.ends == 0 && reported.established == 0, "{reported:?}");
                prop_assert!(reported.first == 1 || source == Source::Late, "{reported:?}");
                reported.established += 1;
                reported.first = 1;
            }
            Change::Failed(..) | Change::Close(..) | Change::Unlisten(..) => {
                let never =
                    matches!(&event.change, Change::Close(_, end) if end.how == EndedHow::NeverAccepted);
                prop_assert_eq!(reported.ends, 0, "a second end");
                prop_assert!(reported.first == 1 || source == Source::Late || never, "{:?}", event);
                reported.ends += 1;
                reported.never_accepted = never;
            }
        }
    }
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_records(steps in prop::collection::vec(step(), 0..120)) {
        let mut rig = Rig::with(Backend::Tracepoint, LIMITS);
        for step in steps {
            match step {
                Step::Record(kind, hook, pid, sock) => feed(&mut rig, kind, hook, pid, sock),
                Step::Wait(ms, found) => {
                    let answer = if found { "127.0.0.1:80".parse().ok() } else { None };
                    rig.wait_with(ms, &mut Always(answer, Vec::new()));
                }
            }
            let stats = rig.flows.stats();
            prop_assert!(stats.live <= 6 && stats.ended <= 5 && stats.listeners <= 3, "{:?}", stats);
            // Connects, listens, deaths, and what waits for the name of an interface.
            prop_assert!(stats.held <= 12, "{:?}", stats);
            prop_assert!(rig.flows.connections.store.indexed() <= stats.live + stats.ended);
        }
        // Nothing waits for ever, and then a look changes nothing.
        rig.wait(1000);
        rig.wait(1000);
        prop_assert_eq!(rig.flows.next_deadline(), None);
        prop_assert_eq!(rig.flows.stats().held, 0);
        let reported = check(&rig)?;
        // What is reported and has no end is in the tables, or was evicted.
        let stats = rig.flows.stats();
        let open = reported.values().filter(|reported| reported.ends == 0).count();
        let dropped = (stats.evicted + stats.listeners_not_kept) as usize;
        prop_assert!(open <= stats.live + stats.listeners + dropped, "{} open, {:?}", open, stats);
    }

    /// An honest kernel: every connection is reported from its beginning to its end, once, whatever the interleaving.
    #[test]
    fn interleaved_connections_are_complete(picks in prop::collection::vec(0usize..8, 40)) {
        let mut rig = Rig::new(Backend::Tracepoint);
        let mut at = [0u8; 8];
        for pick in picks.into_iter().chain((0..8).flat_map(|pick| [pick; 4])) {
            let key = pick as u64 + 1;
            let own = sock(key, &format!("127.0.0.1:{}", 40000 + key), "127.0.0.1:80");
            let state = &mut at[pick];
            match *state % 4 {
                0 => rig.connects(10, own),
                1 => rig.established(2, own),
                2 => rig.closes(10, 1, own),
                _ => rig.ends(0, 5, 0, 3, Sock { flags: SockFlags::HAS_SOCKET, ..own }),
            }
            *state += 1;
        }
        let reported = check(&rig)?;
        let begun: u32 = at.iter().map(|&steps| u32::from(steps.div_ceil(4))).sum();
        let ended: u32 = at.iter().map(|&steps| u32::from((steps + 1) / 4)).sum();
        rig.wait(100);
        let connects = rig.out.iter().filter(|event| matches!(event.change, Change::Connect(_))).count();
        prop_assert_eq!(connects as u32, begun);
        prop_assert_eq!(reported.values().map(|reported| reported.ends).sum::<u32>(), ended);
        let ports = rig.out.iter().filter_map(|event| match &event.change {
            Change::Close(conn, _) => Some(conn.local.port()),
            _ => None,
        });
        for port in ports {
            prop_assert!(port > 40000);
        }
    }
}

/// Not a test: prints what a record costs. Run it optimised, with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_record() {
    use std::time::Instant;
    for backend in [Backend::Fentry, Backend::Tracepoint] {
        let mut rig = Rig::new(backend);
        rig.listens(20, sock(u64::MAX, "0.0.0.0:80", "0.0.0.0:0"));
        // Connections that stay open: the tables do not fit the cache.
        for key in 1_000_000..1_200_000 {
            rig.established(3, sock(key, "127.0.0.1:80", "127.0.0.1:9"));
        }
        let mut best = u128::MAX;
        let mut key = 0;
        for _ in 0..10 {
            let begin = Instant::now();
            for _ in 0..20_000 {
                let (client, child) = (key + 1, key + 2);
                key += 2;
                let from = (key % 50_000 + 1024) as u16;
                let client = Sock { lport: from, rport: 80, key: client, ..TEMPLATE };
                let child = Sock { lport: 80, rport: from, key: child, ..TEMPLATE };
                rig.connects(10, client);
                rig.established(3, child);
                rig.established(2, client);
                rig.accepts(20, child);
                rig.closes(10, 1, client);
                rig.closes(20, 8, child);
                if rig.out.len() > 512 {
                    rig.out.clear();
                }
            }
            best = best.min(begin.elapsed().as_nanos() / 120_000);
        }
        println!("{backend:?}: {best} ns a record, {:?}", rig.flows.stats());
    }
}

const TEMPLATE: Sock = Sock {
    key: 0,
    laddr: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    raddr: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    netns: 1,
    inode: 0,
    lport: 0,
    rport: 0,
    device: 0,
    err: 0,
    flags: 0,
    old_state: 0,
    new_state: 0,
    shutdown: 0,
    family: 2,
};

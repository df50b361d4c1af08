//! What a sensor's lines become: events of the host that had the connection.

use std::collections::HashSet;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::json;
use super::*;
use crate::event::names::Named as _;
use crate::flow::model::Method;

const SECOND: u64 = 1_000_000_000;
/// When the first line begins, seconds.
const BEGAN: u64 = 1_700_000_000;
/// Every state, in the order of Zeek's documentation.
const STATES: [&str; 13] =
    ["S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH"];

/// An internal host's connection to the outside of 10 s, closed by whoever asked, with what is said otherwise: the values of keys,
/// and of those that are not to be there `null`.
fn line(changes: &[(&str, &str)]) -> String {
    let began = BEGAN.to_string();
    let mut values = vec![
        ("ts", &*began),
        ("uid", "\"C1\""),
        ("id.orig_h", "\"10.0.0.5\""),
        ("id.orig_p", "40000"),
        ("id.resp_h", "\"203.0.113.9\""),
        ("id.resp_p", "443"),
        ("proto", "\"tcp\""),
        ("duration", "10.0"),
        ("orig_bytes", "300"),
        ("resp_bytes", "9000"),
        ("conn_state", "\"SF\""),
        ("history", "\"ShADadFf\""),
    ];
    for change in changes {
        values.retain(|(key, _)| *key != change.0);
        values.push(*change);
    }
    let mut out = String::new();
    for (at, (key, value)) in values.iter().enumerate() {
        let before = if at == 0 { '{' } else { ',' };
        write!(out, "{before}\"{key}\":{value}").expect("a text");
    }
    out + "}"
}

fn network(lines: &[String]) -> Network {
    let mut network = Network::default();
    for line in lines {
        let reported = json::read(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
        network.add(reported).expect("room");
    }
    network
}

/// When it is, and what it reports, in a word or two.
fn short(read: &Recorded) -> String {
    let event = match read {
        Recorded::Event(event) => event,
        Recorded::Time(at) => return format!("{} time", (at.0 / SECOND) - BEGAN),
        Recorded::Alert(_) | Recorded::Facts(..) | Recorded::Sample(..) => panic!("{read:?}"),
    };
    let late = |conn: &ConnEvent| if conn.source == Source::Late { " late" } else { "" };
    let what = match &event.body {
        EventBody::Start(_) => "start".to_owned(),
        EventBody::Flow(Change::Connect(conn)) => format!("connect{}", late(conn)),
        EventBody::Flow(Change::Accept(conn)) => format!("accept{}", late(conn)),
        EventBody::Flow(Change::Established(conn)) => format!("established{}", late(conn)),
        EventBody::Flow(Change::Failed(_, failure)) => format!("failed {}", failure.errno),
        EventBody::Flow(Change::Close(_, ending)) => format!("close {}", ending.how.name()),
        _ => panic!("{event:?}"),
    };
    assert_eq!(event.boot.0, event.wall.0, "one clock");
    format!("{} {what}", event.wall.0 / SECOND - BEGAN)
}

/// The events of these lines but the start, joined; and what was left out.
fn reported(lines: &[String]) -> (String, NetworkStats) {
    let mut events = network(lines).into_events(Names::builtin());
    let reported: Vec<String> = events.by_ref().map(|read| short(&read)).collect();
    assert_eq!(reported.first().map(String::as_str), Some("0 start"));
    (reported[1..].join(", "), events.stats().clone())
}

/// The connections that these lines report.
fn connections(lines: &[String]) -> Vec<Change> {
    let events = network(lines).into_events(Names::builtin());
    let change = |read| match read {
        Recorded::Event(Event { body: EventBody::Flow(change), .. }) => Some(change),
        _ => None,
    };
    events.filter_map(change).collect()
}

#[test]
fn each_state_reports_its_end_to_the_one_who_asked() {
    for (state, expected) in STATES.into_iter().zip([
        "0 connect, 10 failed 110",
        "0 connect, 0 established, 10 close unseen",
        "0 connect, 0 established, 10 close local_fin",
        "0 connect, 10 failed 111",
        "0 connect, 0 established, 10 close local_fin",
        "0 connect, 0 established, 10 close peer_fin",
        "0 connect, 0 established, 10 close local_reset",
        "0 connect, 0 established, 10 close peer_reset",
        "0 connect, 10 failed 0",
        "0 connect, 10 failed 104",
        "0 connect, 10 failed 0",
        "0 connect, 10 failed 0",
        "0 established late, 10 close unseen",
    ]) {
        let (reported, _) = reported(&[line(&[("conn_state", &format!("\"{state}\""))])]);
        assert_eq!(reported, expected, "{state}");
    }
}

#[test]
fn each_state_reports_its_end_to_the_one_who_was_asked() {
    for (state, expected) in STATES.into_iter().zip([
        None,
        Some("0 accept, 10 close unseen"),
        Some("0 accept, 10 close peer_fin"),
        None,
        Some("0 accept, 10 close peer_fin"),
        Some("0 accept, 10 close local_fin"),
        Some("0 accept, 10 close peer_reset"),
        Some("0 accept, 10 close local_reset"),
        None,
        None,
        None,
        None,
        Some("0 established late, 10 close unseen"),
    ]) {
        let outside = [("id.orig_h", "\"203.0.113.9\""), ("id.resp_h", "\"10.0.0.5\"")];
        let lines = [line(&[&outside[..], &[("conn_state", &format!("\"{state}\""))]].concat())];
        let (reported, stats) = reported(&lines);
        assert_eq!(reported, expected.unwrap_or_default(), "{state}");
        assert_eq!(stats.failed_in, u64::from(expected.is_none()), "{state}");
    }
}

#[test]
fn who_closed_is_in_the_history() {
    for (history, expected) in [
        ("\"ShADadfF\"", "peer_fin"),
        ("\"ShADadFf\"", "local_fin"),
        ("\"ShADad\"", "unseen"),
        ("null", "unseen"),
    ] {
        let (reported, _) = reported(&[line(&[("history", history)])]);
        assert_eq!(reported, format!("0 connect, 0 established, 10 close {expected}"), "{history}");
    }
}

/// What Zeek says, where it says it of one side only; else the internal one, where only one is; else the originator.
#[test]
fn this_host_is_the_local_side() {
    const INSIDE: &str = "10.0.0.5";
    const OUTSIDE: &str = "203.0.113.9";
    let other = |ip: &str| if ip == INSIDE { "10.0.0.6" } else { "203.0.113.8" };
    for (orig, resp, local_orig, local_resp, is_out) in [
        (INSIDE, OUTSIDE, "null", "null", true),
        (OUTSIDE, INSIDE, "null", "null", false),
        (INSIDE, INSIDE, "null", "null", true),
        (OUTSIDE, OUTSIDE, "null", "null", true),
        // Zeek knows the networks better.
        (INSIDE, OUTSIDE, "false", "true", false),
        (OUTSIDE, INSIDE, "true", "false", true),
        (OUTSIDE, OUTSIDE, "false", "true", false),
        // It does not help where both are.
        (OUTSIDE, INSIDE, "true", "true", false),
        (INSIDE, OUTSIDE, "false", "false", true),
        (OUTSIDE, INSIDE, "true", "null", false),
    ] {
        let (orig, resp) = (orig, if orig == resp { other(resp) } else { resp });
        let lines = [line(&[
            ("id.orig_h", &format!("\"{orig}\"")),
            ("id.resp_h", &format!("\"{resp}\"")),
            ("local_orig", local_orig),
            ("local_resp", local_resp),
        ])];
        let case = format!("{orig} {local_orig}, {resp} {local_resp}");
        let reported = connections(&lines);
        let Some(Change::Connect(conn) | Change::Accept(conn)) = reported.first() else {
            panic!("{reported:?}")
        };
        let Some(Change::Close(_, ending)) = reported.last() else { panic!("{reported:?}") };
        let (local, remote) = if is_out {
            (format!("{orig}:40000"), format!("{resp}:443"))
        } else {
            (format!("{resp}:443"), format!("{orig}:40000"))
        };
        assert_eq!((conn.local.to_string(), conn.remote.to_string()), (local, remote), "{case}");
        assert_eq!(conn.direction, if is_out { Direction::Out } else { Direction::In }, "{case}");
        let traffic = ending.traffic.map(|traffic| (traffic.bytes_out, traffic.bytes_in));
        assert_eq!(traffic, Some(if is_out { (300, 9000) } else { (9000, 300) }), "{case}");
    }
}

#[test]
fn what_is_not_known_is_not_reported() {
    let reported =
        connections(&[line(&[("duration", "null"), ("orig_bytes", "null"), ("resp_bytes", "null")])]);
    let [Change::Connect(asked), Change::Established(open), Change::Close(_, ending)] = &reported[..] else {
        panic!("{reported:?}")
    };
    assert_eq!((asked.established, open.established), (None, Some(BootNs(BEGAN * SECOND))));
    assert_eq!((ending.duration, ending.traffic, asked.begun), (None, None, BootNs(0)));
    assert_eq!(asked.owner.method, Method::Unknown(UnknownReason::NoProcesses));
    // Of one that was there before, the log reports how long it was watched, not how long it was open.
    let reported = connections(&[line(&[("conn_state", "\"OTH\"")])]);
    let [Change::Established(open), Change::Close(_, ending)] = &reported[..] else { panic!("{reported:?}") };
    assert_eq!((open.established, ending.duration), (None, None));
}

#[test]
fn an_end_without_a_duration_comes_at_once() {
    let unset = ("duration", "null");
    let (shown, _) = reported(&[line(&[unset]), line(&[("uid", "\"C2\""), ("id.orig_p", "40001")])]);
    assert_eq!(
        shown,
        "0 connect, 0 established, 0 close local_fin, 0 connect, 0 established, 10 close local_fin"
    );
    let (shown, _) = reported(&[line(&[unset, ("conn_state", "\"S0\"")])]);
    assert_eq!(shown, "0 connect, 0 failed 110");
}

#[test]
fn an_open_connection_has_no_end_but_time_comes_to_its_last_packet() {
    let open = |uid: &str, lasted: &str| {
        line(&[("_path", "\"open_conn\""), ("uid", uid), ("duration", lasted), ("conn_state", "\"S1\"")])
    };
    let (shown, stats) = reported(&[open("\"C1\"", "60.0")]);
    assert_eq!((&*shown, stats.repeated), ("0 connect, 0 established, 60 time", 0));
    // The log has it again every hour; the last line reports all.
    let again = [open("\"C1\"", "60.0"), open("\"C1\"", "180.0"), open("\"C1\"", "120.0")];
    let (shown, stats) = reported(&again);
    assert_eq!((&*shown, stats.repeated), ("0 connect, 0 established, 180 time", 2));
    // Its line in conn.log, wherever it is.
    for at in 0..=again.len() {
        let mut lines = again.to_vec();
        lines.insert(at, line(&[("duration", "200.0")]));
        let (shown, stats) = reported(&lines);
        assert_eq!((&*shown, stats.repeated), ("0 connect, 0 established, 200 close local_fin", 3));
    }
    // Which of them are the same is not known.
    let (shown, stats) = reported(&[open("null", "60.0"), open("null", "60.0")]);
    assert_eq!((shown.matches("connect").count(), stats.repeated), (2, 0));
}

#[test]
fn other_protocols_are_counted() {
    let lines: Vec<String> = (0..PROTOCOLS_MAX + 4)
        .flat_map(|at| {
            // Nothing else is asked of such a line.
            let row = format!("{{\"id.orig_h\":\"x\",\"proto\":\"p{at:02}\"}}");
            [row.clone(), row]
        })
        .chain([line(&[])])
        .collect();
    let (shown, stats) = reported(&lines);
    assert_eq!(shown, "0 connect, 0 established, 10 close local_fin");
    assert_eq!(stats.lines, lines.len() as u64);
    assert_eq!((stats.others.len(), stats.others["p00"], stats.others["others"]), (PROTOCOLS_MAX + 1, 2, 8));
    let nothing = network(&lines[..2]);
    assert!(!nothing.is_empty() && Network::default().is_empty());
    let mut events = nothing.into_events(Names::builtin());
    assert!(events.next().is_none() && events.next().is_none());
}

proptest! {
    /// Whatever the order of the lines: time never goes back, each connection begins before it ends, and both once.
    #[test]
    fn events_are_in_the_order_of_time(rows in proptest::collection::vec((0..40_u64, 0..30_u64, 0..STATES.len(), any::<bool>(), any::<bool>()), 1..40)) {
        let lines: Vec<String> = (0..)
            .zip(&rows)
            .map(|(at, (begins, lasts, state, is_open, is_in))| {
                let mut changes = vec![
                    ("ts", (BEGAN + begins).to_string()),
                    ("uid", format!("\"C{at}\"")),
                    ("duration", lasts.to_string()),
                    ("conn_state", format!("\"{}\"", STATES[*state])),
                    ("local_orig", (!is_in).to_string()),
                    ("local_resp", is_in.to_string()),
                ];
                if *is_open {
                    changes.push(("_path", "\"open_conn\"".to_owned()));
                }
                let changes: Vec<(&str, &str)> = changes.iter().map(|(key, value)| (*key, &**value)).collect();
                line(&changes)
            })
            .collect();
        let mut events = network(&lines).into_events(Names::builtin());
        let (mut now, mut open, mut ended) = (BootNs(0), HashSet::new(), 0_u64);
        for read in events.by_ref() {
            let at = match &read {
                Recorded::Event(event) => event.boot,
                Recorded::Time(at) => *at,
                Recorded::Alert(_) | Recorded::Facts(..) | Recorded::Sample(..) => panic!("{read:?}"),
            };
            prop_assert!(at >= now, "{at:?} after {now:?}");
            now = at;
            let Recorded::Event(Event { body: EventBody::Flow(change), .. }) = &read else { continue };
            match change {
                Change::Connect(conn) | Change::Accept(conn) => {
                    prop_assert!(open.insert(conn.id), "begun twice");
                }
                Change::Established(conn) => {
                    prop_assert_eq!(open.insert(conn.id), conn.source == Source::Late);
                }
                Change::Close(conn, _) | Change::Failed(conn, _) => {
                    prop_assert!(open.remove(&conn.id), "ended before it began");
                    ended += 1;
                }
                _ => panic!("{change:?}"),
            }
        }
        prop_assert_eq!(ended + open.len() as u64 + events.stats().failed_in, rows.len() as u64);
        let still = rows.iter().filter(|row| row.3).count() as u64;
        prop_assert!(open.len() as u64 <= still);
    }
}

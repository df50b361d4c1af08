//! From events to a file, and back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;

use super::accept::{AcceptError, Accepted};
use super::diff::{Side, diff};
use super::places::tests::{Added, added};
use super::*;
use crate::event::json::JsonEncoder;
use crate::event::model::{Event, EventBody};
use crate::event::samples;
use crate::filter::Names;
use crate::flow::model::{Actor, Change, ConnEvent, Direction, ListenEvent, Source};
use crate::kernel::gap::{Gap, GapCause};
use crate::process::info::ProcessInfo;
use crate::rules::baseline::tests::service;
use crate::rules::baseline::{Entry, What};
use crate::rules::file;
use crate::rules::host::Host;
use crate::rules::testing::process;
use crate::rules::{Engine, RuleSet};
use crate::units::{BootNs, NetNs, WallNs};
use conn_common::hook::HookId;

/// 2026-11-26 21:00:00 UTC.
const BEGAN: u64 = 1_795_726_800_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn event(at: u64, body: EventBody) -> Event {
    let boot = BootNs(1_000 * SECOND + at * SECOND);
    Event { seq: at + 1, boot, wall: WallNs(BEGAN + at * SECOND), body }
}

fn conn(process: &Arc<ProcessInfo>, direction: Direction, local: &str, remote: &str) -> ConnEvent {
    ConnEvent {
        direction,
        local: local.parse().expect("an address"),
        remote: remote.parse().expect("an address"),
        owner: Actor::by(process, HookId::FentryTcpConnect),
        source: Source::Live,
        ..samples::outgoing()
    }
}

fn connect(at: u64, process: &Arc<ProcessInfo>, remote: &str) -> Event {
    let conn = conn(process, Direction::Out, "10.0.0.1:40000", remote);
    event(at, EventBody::Flow(Change::Connect(conn)))
}

fn accept(at: u64, process: &Arc<ProcessInfo>, local: &str, remote: &str) -> Event {
    event(at, EventBody::Flow(Change::Accept(conn(process, Direction::In, local, remote))))
}

fn listen(at: u64, process: &Arc<ProcessInfo>, local: &str) -> Event {
    let listener = ListenEvent::new(
        crate::flow::model::ConnId(at + 1_000),
        local.parse().expect("an address"),
        NetNs(1),
        Actor::by(process, HookId::FexitListenStart),
    );
    event(at, EventBody::Flow(Change::Listen(listener)))
}

/// A web server, its database, and somebody with a shell.
fn day() -> Vec<Event> {
    let nginx = service(10, "/usr/sbin/nginx", "nginx.service");
    let postgres = service(11, "/usr/lib/postgresql/15/bin/postgres", "postgresql@15-main.service");
    let (curl, odd) = (process(12, "/usr/bin/curl"), process(13, "/opt/app-1.2.3/a \"b\"*"));
    let mut events = vec![
        listen(0, &nginx, "0.0.0.0:80"),
        listen(1, &postgres, "127.0.0.1:5432"),
        connect(2, &nginx, "127.0.0.1:5432"),
        accept(3, &postgres, "127.0.0.1:5432", "127.0.0.1:40001"),
        connect(4, &curl, "192.0.2.1:443"),
        connect(5, &curl, "192.0.2.1:443"),
        connect(6, &odd, "[2001:db8::1]:443"),
    ];
    for client in 0..40 {
        let remote = format!("203.0.{client}.1:50000");
        events.push(accept(7 + client, &nginx, "10.0.0.1:80", &remote));
    }
    for host in 0..9 {
        events.push(connect(60 + host, &odd, &format!("10.5.0.{host}:22")));
    }
    for port in 0..9 {
        events.push(connect(70 + port, &odd, &format!("10.6.0.1:{}", 40_000 + port * 7)));
    }
    events
}

fn learnt(events: &[Event]) -> Learnt {
    let mut learner = Learner::default();
    for event in events {
        learner.take(event);
    }
    learner.learnt()
}

fn read(name: &str, text: &str) -> RuleSet {
    // Tests that run at the same time read rules of one name.
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let unique = format!("conn-baseline-{name}-{}-{number}.toml", std::process::id());
    let path = std::env::temp_dir().join(unique);
    std::fs::write(&path, text).expect("a file");
    let set = file::load(std::slice::from_ref(&path), &Host::default());
    std::fs::remove_file(&path).expect("removed");
    set.unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// The alerts of these rules on events, as JSON.
fn judged(set: &RuleSet, events: &[Event]) -> Vec<String> {
    let mut engine = Engine::new(set, BootNs(0));
    let mut alerts = engine.start(BootNs(1), [], &crate::flow::table::FlowTable::default());
    for event in events {
        alerts.extend(engine.on_event(event, &crate::flow::table::FlowTable::default()));
    }
    let mut encoder = JsonEncoder::new(&samples::identity());
    let line = |alert: crate::event::alert::Alert| {
        let mut out = Vec::new();
        let body = EventBody::Alert(Box::new(alert));
        encoder.encode(&Event { seq: 9, boot: BootNs(5), wall: WallNs(BEGAN), body }, &mut out);
        String::from_utf8(out).expect("UTF-8")
    };
    alerts.into_iter().map(line).collect()
}

fn rules_of(alerts: &[String]) -> Vec<String> {
    let rule = |line: &String| {
        let alert: serde_json::Value = serde_json::from_str(line).expect("JSON");
        alert["alert"]["rule"].as_str().expect("a rule").to_owned()
    };
    alerts.iter().map(rule).collect()
}

/// A file is read table by table.
fn sorted(entries: &[Entry]) -> Vec<String> {
    let mut shown: Vec<String> = entries.iter().map(|entry| format!("{entry:?}")).collect();
    shown.sort();
    shown
}

#[test]
fn the_file_of_a_day() {
    let text = learnt(&day()).text("web1", "from day.jsonl");
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/src/learn/baseline/golden.toml"), &text);
    let set = read("golden", &text);
    assert_eq!(set.rules.len(), 3);
    assert_eq!(set.baseline.entries().len(), text.matches("\ncount = ").count());
}

#[test]
fn what_was_learnt_is_read_again_and_suppresses_what_it_was_learnt_from() {
    let events = day();
    let learnt = learnt(&events);
    let set = read("day", &learnt.text("web1", "live"));
    assert_eq!(sorted(set.baseline.entries()), sorted(&learnt.entries));
    assert_eq!(set.baseline.windows(), learnt.windows);
    assert_eq!(judged(&set, &events), [""; 0]);
}

#[test]
fn news_are_reported_once_each_and_can_be_accepted() {
    let text = learnt(&day()).text("web1", "live");
    let set = read("news", &text);
    let (curl, new) = (process(12, "/usr/bin/curl"), process(99, "/tmp/x"));
    let news = [
        connect(100, &curl, "198.51.100.7:443"),
        listen(101, &curl, "0.0.0.0:4444"),
        connect(102, &new, "198.51.100.8:443"),
        connect(103, &service(14, "/bin/sh", "nginx.service"), "198.51.100.9:4444"),
        listen(104, &new, "[::]:9999"),
    ];
    let alerts = judged(&set, &news);
    assert_eq!(
        rules_of(&alerts),
        ["baseline.path", "baseline.server", "baseline.process", "baseline.process"]
    );
    let accepted = Accepted::read(&alerts.concat()).expect("alerts");
    let (addition, entries) =
        accepted.addition(set.baseline.entries(), &set.names, "by ann at 2026-11-27T08:00:00Z");
    assert_eq!(entries, 5, "of the shell in the service its program, too: {addition}");
    assert!(addition.contains("# Accepted by ann at 2026-11-27T08:00:00Z, from alerts of baseline.path"));
    let set = read("accepted", &(text + &addition));
    assert_eq!(judged(&set, &news[..4]), [""; 0]);
    assert_eq!(rules_of(&judged(&set, &news[4..])), ["baseline.server"], "that was not distinguished");
    assert_eq!(accepted.addition(set.baseline.entries(), &set.names, "").1, 0, "it is known");
}

#[test]
fn other_alerts_are_refused_with_the_exception() {
    let rule = "[[rule]]\nid = 'x'\nkind = 'path'\nfind = 'forbidden'\nmatch = 'dport:443'\n";
    let alerts = judged(&read("other", rule), &day());
    let error = Accepted::read(&alerts[0]).expect_err("another rule").to_string();
    let except = "[[override]]\nid = \"x\"\nexcept = 'exe:/usr/bin/curl dport:443 raddr:192.0.2.1'";
    assert!(error.starts_with("line 1: ") && error.ends_with(except), "{error}");
    assert!(matches!(Accepted::read(""), Err(AcceptError::None)));
    assert!(matches!(Accepted::read("{}\n"), Err(AcceptError::Line { line: 1, .. })));
}

fn side<'a>(learnt: &'a Learnt, names: &'a Names) -> Side<'a> {
    Side { entries: &learnt.entries, windows: &learnt.windows, names }
}

#[test]
fn the_difference_is_what_one_has_and_the_other_has_not() {
    let (old, mut events) = (learnt(&day()), day());
    let names = Names::builtin();
    let compare = |new: &Learnt| diff(side(&old, names), side(new, names)).text();
    // Counts are no change, nor is an address of a network that is known.
    events.push(connect(200, &process(13, "/opt/app-2.0/a \"b\"*"), "10.5.0.200:22"));
    events.extend(day());
    assert_eq!(compare(&learnt(&events)), "0 new, 0 gone\n");
    events
        .retain(|event| !matches!(&event.body, EventBody::Flow(Change::Listen(of)) if of.local.port() == 80));
    events.push(listen(201, &process(12, "/usr/bin/curl"), "127.0.0.1:99"));
    let text = compare(&learnt(&events));
    let expected = "+ exe /usr/bin/curl: listens on loopback port 99  (127.0.0.1:99 by /usr/bin/curl)\n\
                    - unit nginx.service: listens on 0.0.0.0/0 port 80  (0.0.0.0:80 by /usr/sbin/nginx)\n\
                    1 new, 1 gone\n";
    assert_eq!(text, expected);
    let new = learnt(&events);
    let json = diff(side(&old, names), side(&new, names)).json();
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[2], serde_json::json!({"kind": "baseline_diff", "new": 1, "gone": 1, "lost": 0}));
    assert_eq!((&lines[0]["change"], &lines[1]["unit"]), (&"new".into(), &"nginx.service".into()));
}

fn of_file(set: &RuleSet) -> Side<'_> {
    Side { entries: set.baseline.entries(), windows: set.baseline.windows(), names: &set.names }
}

/// What is new (`+`) and gone (`-`) from one file to another; an entry a line: `exe /bin/x out 10.0.0.0/24 443`.
fn changes(old: &str, new: &str) -> Vec<String> {
    let file = |entries: &str| {
        let table = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [key, who, "listen", local, port] => {
                format!("[[baseline.listener]]\n{key} = '{who}'\nlocal = '{local}'\nport = '{port}'\n")
            }
            [key, who, dir, remote, port] => format!(
                "[[baseline.connection]]\n{key} = '{who}'\ndir = '{dir}'\nremote = '{remote}'\nport = '{port}'\n"
            ),
            [_, who, exe] => format!("[[baseline.program]]\nunit = '{who}'\nexe = '{exe}'\n"),
            _ => panic!("{line}"),
        };
        let tables: Vec<String> = entries.lines().map(table).collect();
        let text = format!("[zones]\noffice = ['10.9.0.0/16']\n{}", tables.concat());
        read("changes", &text)
    };
    let (old, new) = (file(old), file(new));
    let text = diff(of_file(&old), of_file(&new)).text();
    let line = |line: &str| line.strip_prefix(['+', '-']).map(|_| line.to_owned());
    text.lines().filter_map(line).collect()
}

#[test]
fn what_is_said_in_another_way_is_no_difference() {
    for (one, other) in [
        ("exe /bin/x out 10.0.0.7 443", "exe /bin/x out 10.0.0.7/32 443"),
        ("exe /bin/x out office 443", "exe /bin/x out 10.9.0.0/16 443"),
        (
            "exe /bin/x out 10.0.0.0/25 443\nexe /bin/x out 10.0.0.128/25 443",
            "exe /bin/x out 10.0.0.0/24 443",
        ),
        ("exe /bin/x out host 443", "exe /bin/x out host 443"),
    ] {
        assert_eq!(changes(one, other), [""; 0], "{one} {other}");
        assert_eq!(changes(other, one), [""; 0], "{other} {one}");
    }
}

/// What the wider one has is new; of the narrower one nothing is gone.
#[test]
fn what_is_wider_is_new_and_nothing_is_gone() {
    for (narrow, wide) in [
        ("exe /bin/x out 10.0.0.7 443", "exe /bin/x out 10.0.0.0/24 443"),
        ("exe /bin/x out 10.0.0.0/24 443", "exe /bin/x out rfc1918 443"),
        ("exe /bin/x out rfc1918 443", "exe /bin/x out internal 443"),
        ("exe /bin/x out 10.9.1.0/24 443", "exe /bin/x out office 443"),
        ("exe /bin/x out external 443", "exe /bin/x out 8.0.0.0/6 443\nexe /bin/x out any 443"),
        ("exe /bin/x out 10.0.0.7 40000", "exe /bin/x out 10.0.0.7 32768-65535"),
        ("exe /bin/x listen 127.0.0.1 80", "exe /bin/x listen 0.0.0.0/0 80"),
        ("unit a.service /bin/x", "unit a.service *"),
        ("exe /bin/python3 out 10.0.0.7 443", "exe /bin/python* out 10.0.0.7 443"),
        ("unit app-1.service out 10.0.0.7 443", "unit app-?.service out 10.0.0.7 443"),
    ] {
        assert_eq!(changes(wide, narrow), [""; 0], "{wide} {narrow}");
        let news = changes(narrow, wide);
        assert!(!news.is_empty() && news.iter().all(|line| line.starts_with('+')), "{narrow}: {news:?}");
    }
    // Wider in one way and narrower in another: a part is new, and a part is there still.
    let (one, other) = ("exe /bin/x out 10.0.0.7 32768-65535", "exe /bin/x out 10.0.0.0/24 40000");
    assert_eq!(changes(one, other), ["+ exe /bin/x: out 10.0.0.0/24 port 40000"]);
    assert_eq!(changes(other, one), ["+ exe /bin/x: out 10.0.0.7 port 32768-65535"]);
}

#[test]
fn what_has_nothing_in_common_is_new_and_gone() {
    for (one, other) in [
        ("exe /bin/x out 10.0.0.7 443", "exe /bin/x out 10.0.0.8 443"),
        ("exe /bin/x out 10.0.0.7 443", "exe /bin/x in 10.0.0.7 443"),
        ("exe /bin/x out 10.0.0.7 443", "exe /bin/x out 10.0.0.7 80"),
        ("exe /bin/x out 10.0.0.7 443", "exe /bin/y out 10.0.0.7 443"),
        ("exe /bin/x out 10.0.0.7 443", "exe /bin/x listen 10.0.0.7 443"),
        ("exe /bin/x out external 443", "exe /bin/x out internal 443"),
        ("exe /bin/x listen 0.0.0.0/0 80", "exe /bin/x listen ::/0 80"),
        ("unit a.service /bin/x", "unit a.service /bin/y"),
    ] {
        let changes = changes(one, other);
        let signs: Vec<&str> = changes.iter().map(|line| &line[..1]).collect();
        assert_eq!(signs, ["+", "-"], "{changes:?}");
    }
    // The ends of a network say nothing of what is between them: this one has 10.0.0.0/8.
    assert_eq!(changes("exe /bin/x out external 1", "exe /bin/x out 8.0.0.0/6 1").len(), 1);
    // No zone is all addresses that one can listen on.
    assert_eq!(changes("exe /bin/x listen any 1", "exe /bin/x listen 0.0.0.0/0 1").len(), 1);
}

#[test]
fn a_unit_without_programs_may_run_any() {
    let (any, one) = ("unit a.service out 10.0.0.7 443", "unit a.service /bin/x");
    assert_eq!(changes(any, &format!("{any}\n{one}")), [""; 0]);
    // To accept a connection of it must not make of its one program the only one.
    let nginx = service(10, "/usr/sbin/nginx", "nginx.service");
    let set = read(
        "any-program",
        &format!(
            "[[rule]]\nid = 'b'\nkind = 'path'\nbaseline = true\nmatch = ''\n{}",
            "[[baseline.connection]]\nunit = 'nginx.service'\ndir = 'out'\nremote = '10.0.0.1'\nport = 1\n"
        ),
    );
    let alerts = judged(&set, &[connect(100, &nginx, "198.51.100.7:443")]);
    let accepted = Accepted::read(&alerts.concat()).expect("alerts");
    let (addition, entries) = accepted.addition(set.baseline.entries(), &set.names, "by ann");
    assert!(entries == 1 && addition.contains("[[baseline.connection]]"), "{addition}");
}

#[test]
fn programs_do_not_depend_on_the_order_of_events() {
    let of = |exe| connect(1, &service(10, exe, "app.service"), "10.0.0.1:443");
    let mut events = [of("/opt/app-9b/x"), of("/opt/app-9/x"), of("/opt/app-10/x")];
    let programs = |events: &[Event]| {
        let entries = learnt(events).entries;
        let of = |entry: Entry| matches!(entry.what, What::Program { .. }).then_some(entry.what);
        entries.into_iter().filter_map(of).collect::<Vec<What>>()
    };
    let one = programs(&events);
    events.reverse();
    assert_eq!((one.len(), &one), (2, &programs(&events)));
}

#[test]
fn a_loss_is_marked() {
    let mut events = day();
    let (cause, hook) = (GapCause::RingFull, HookId::State);
    let gap = Gap { hook, cause, cpu: Some(0), lost: 7, from: BootNs(1), to: BootNs(2) };
    events.push(event(90, EventBody::Gap(gap)));
    let text = learnt(&events).text("web1", "live");
    assert!(text.contains("\nlost = 7\n") && text.contains("# LOSS: 7 records"), "{text}");
    let path = std::env::temp_dir().join(format!("conn-baseline-loss-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a file");
    let warnings = file::read(std::slice::from_ref(&path), &Host::default()).warnings;
    std::fs::remove_file(&path).expect("removed");
    assert!(warnings.len() == 1 && warnings[0].contains("7 records were lost"), "{warnings:?}");
}

#[test]
fn runs_are_windows() {
    let mut learner = Learner::default();
    learner.take(&day()[0]);
    learner.end_run();
    learner.take(&day()[1]);
    learner.take(&day()[2]);
    let events: Vec<u64> = learner.learnt().windows.iter().map(|window| window.events).collect();
    assert_eq!(events, [1, 2]);
}

#[test]
fn too_many_are_counted() {
    let mut learner = Learner::default();
    for number in 0..5_000 {
        learner.take(&connect(0, &process(5, &format!("/opt/x{number}x")), "10.0.0.2:1"));
    }
    let learnt = learner.learnt();
    assert_eq!((learnt.entries.len(), learnt.not_kept), (4_096, 904));
    let text = learnt.text("h", "live");
    assert!(text.contains("# 904 connections and listeners were not learnt"), "{}", &text[..400]);
    assert_eq!(read("many", &text).baseline.entries().len(), 4_096);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Who sees more has nothing less, however it is generalised.
    #[test]
    fn of_more_nothing_is_gone(some in added(), others in added()) {
        let (curl, names) = (process(12, "/usr/bin/curl"), Names::builtin());
        let learnt = |added: &Added| {
            let event = |(port, ip): &(u16, IpAddr)| connect(1, &curl, &SocketAddr::new(*ip, *port).to_string());
            learnt(&added.iter().map(event).collect::<Vec<Event>>())
        };
        let (less, more) = (learnt(&some), learnt(&[some, others].concat()));
        prop_assert_eq!(diff(side(&less, names), side(&more, names)).gone, Vec::<&Entry>::new());
        let difference = diff(side(&more, names), side(&less, names));
        prop_assert_eq!(difference.new, Vec::<&Entry>::new());
        prop_assert!(diff(side(&more, names), side(&more, names)).is_empty());
    }
}

/// Each start of conn connects to itself over loopback, at other ports.
#[test]
fn a_self_test_is_not_learnt() {
    let own = ProcessInfo { exe_is_conn: true, ..ProcessInfo::clone(&process(20, "/usr/bin/conn")) };
    let (own, thief) = (Arc::new(own), process(21, "/tmp/conn"));
    let test = |of: &Arc<ProcessInfo>| {
        let (port, client) = ("127.0.0.1:40001", "127.0.0.1:40002");
        let out = conn(of, Direction::Out, client, port);
        [listen(0, of, port), event(1, EventBody::Flow(Change::Connect(out))), accept(2, of, port, client)]
    };
    let nothing = learnt(&test(&own));
    assert_eq!((nothing.entries.len(), nothing.of_unknown), (0, 0));
    assert!(!learnt(&test(&thief)).entries.is_empty(), "a name is nothing");
    assert!(
        !learnt(&[connect(0, &own, "192.0.2.1:443")]).entries.is_empty(),
        "conn that talks to another host"
    );
}

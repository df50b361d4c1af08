//! The comparison finds nothing wrong with a perfect agent, and everything that is made wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::*;
use crate::fake;
use crate::truth::{Dir, End, Kind, SockFact, Via};

const SERVER: u32 = 100;
const CLIENT: u32 = 200;

fn process(pid: u32) -> ProcessFact {
    ProcessFact {
        pid,
        ppid: Some(1),
        comm: format!("comm{pid}"),
        exe: "/bin/workload".into(),
        args: vec![b"workload".to_vec(), pid.to_string().into_bytes()],
        uid: 0,
        gid: 0,
        start_ticks: Some(77),
        from_ns: 0,
    }
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn sock(lport: u16, rport: Option<u16>) -> SockFact {
    let remote = rport.map(|port| SocketAddr::new(V4, port));
    SockFact {
        mptcp: false,
        kernel: false,
        mapped: false,
        netns: 4,
        device: None,
        laddr: V4,
        lport: Some(lport),
        remote,
    }
}

fn fact(kind: Kind, sock: SockFact, pid: Option<u32>, at: u64) -> Fact {
    let dir = match (&sock.remote, kind) {
        (None, _) => None,
        (Some(remote), _) if remote.port() == 80 => Some(Dir::Out),
        _ => Some(Dir::In),
    };
    Fact {
        kind,
        dir,
        sock,
        pid,
        tid: pid,
        from_ns: at * 10_000_000,
        until_ns: (at + 1) * 10_000_000,
        errno: 0,
        end: None,
        or: Vec::new(),
        bytes_in: None,
        bytes_out: None,
        via: Via::Syscall,
        early: false,
        begun_ns: None,
    }
}

fn close(sock: SockFact, pid: Option<u32>, at: u64, end: End, bytes: (u64, u64)) -> Fact {
    let (bytes_in, bytes_out) = (Some(bytes.0), Some(bytes.1));
    Fact { end: Some(end), bytes_in, bytes_out, ..fact(Kind::Close, sock, pid, at) }
}

/// A connection (twice on the same four-tuple), its listener, and a refusal.
fn truth() -> Truth {
    let mut lines: Vec<Line> = vec![Line::Process(process(SERVER)), Line::Process(process(CLIENT))];
    let (out, inn) = (|| sock(5000, Some(80)), || sock(80, Some(5000)));
    lines.push(Line::Fact(fact(Kind::Listen, sock(80, None), Some(SERVER), 1)));
    for at in [10, 20] {
        lines.push(Line::Fact(fact(Kind::Connect, out(), Some(CLIENT), at)));
        lines.push(Line::Fact(fact(Kind::Established, out(), None, at)));
        lines.push(Line::Fact(fact(Kind::Accept, inn(), Some(SERVER), at + 1)));
        lines.push(Line::Fact(close(out(), Some(CLIENT), at + 3, End::LocalFin, (5, 7))));
        lines.push(Line::Fact(close(inn(), Some(SERVER), at + 4, End::PeerFin, (7, 5))));
    }
    let refused = SockFact { lport: None, ..sock(0, Some(80)) };
    lines.push(Line::Fact(fact(Kind::Connect, refused.clone(), Some(CLIENT), 30)));
    lines.push(Line::Fact(Fact { errno: 111, ..fact(Kind::Failed, refused, None, 30) }));
    lines.push(Line::Fact(fact(Kind::Unlisten, sock(80, None), Some(SERVER), 40)));
    Truth::new(&lines)
}

fn perfect() -> (Truth, Vec<Event>) {
    let truth = truth();
    let events = fake::events(&truth, Backend::Fentry).unwrap();
    assert_eq!(events.len(), truth.facts.len());
    (truth, events)
}

/// The problems after a change to the first event of this kind.
fn after(kind: &str, change: impl FnOnce(&mut Event)) -> Vec<Problem> {
    let (truth, mut events) = perfect();
    change(events.iter_mut().find(|e| e.kind == kind).unwrap());
    compare(&truth, &events, Backend::Fentry)
}

fn wrong(kind: &str, words: &str, change: impl FnOnce(&mut Event)) {
    let problems = after(kind, change);
    let found = problems.iter().any(|p| matches!(p, Problem::Wrong(text) if text.contains(words)));
    assert!(found, "wanted a problem with {words:?}: {problems:#?}");
}

#[test]
fn a_listener_that_another_process_ends_is_one_life() {
    let listen = |pid, at| fact(Kind::Listen, sock(80, None), Some(pid), at);
    let end = |pid| fact(Kind::Unlisten, sock(80, None), Some(pid), 9);
    let reported = |facts: &[Fact]| lives(facts).into_iter().map(|life| life.facts).collect::<Vec<_>>();
    assert_eq!(reported(&[listen(SERVER, 1), end(CLIENT)]), [[0, 1]]);
    // Its own comes first.
    assert_eq!(reported(&[listen(CLIENT, 1), listen(SERVER, 2), end(CLIENT)]), [vec![0, 2], vec![1]]);
}

#[test]
fn nothing_is_wrong_with_a_perfect_agent() {
    for backend in Backend::ALL {
        let truth = truth();
        let events = fake::events(&truth, backend).unwrap();
        assert_eq!(compare(&truth, &events, backend), []);
    }
}

#[test]
fn each_missing_event_is_found() {
    let (truth, events) = perfect();
    for i in 0..events.len() {
        let mut fewer = events.clone();
        let gone = fewer.remove(i);
        let problems = compare(&truth, &fewer, Backend::Fentry);
        assert!(
            problems.iter().any(|p| matches!(p, Problem::Missing(text) if text.contains(&gone.kind))),
            "without {}: {problems:#?}",
            gone.brief()
        );
    }
}

#[test]
fn each_invented_event_is_found() {
    let (truth, events) = perfect();
    for i in 0..events.len() {
        let mut more = events.clone();
        let mut twin = more[i].clone();
        twin.seq += 1_000;
        more.push(twin);
        let problems = compare(&truth, &more, Backend::Fentry);
        let invented = |p: &Problem| matches!(p, Problem::Invented(_));
        assert_eq!(problems.iter().filter(|p| invented(p)).count(), 1, "{problems:#?}");
    }
    // One of another process on a port of the workload, and one of the workload on another port.
    let mut stranger = events[1].clone();
    stranger.process.as_mut().unwrap().pid = 999;
    stranger.lport = Some(4_444);
    let mut elsewhere = events[1].clone();
    elsewhere.rport = Some(81);
    for event in [stranger, elsewhere] {
        let mut more = events.clone();
        more.push(Event { seq: 1_000, ..event });
        let problems = compare(&truth, &more, Backend::Fentry);
        assert!(matches!(problems.as_slice(), [Problem::Invented(_)]), "{problems:#?}");
    }
}

#[test]
fn strangers_do_not_matter() {
    let (truth, mut events) = perfect();
    let mut stranger = events[1].clone();
    (stranger.seq, stranger.rport, stranger.lport) = (1_000, Some(443), Some(4_444));
    stranger.process.as_mut().unwrap().pid = 999;
    events.push(stranger);
    assert_eq!(compare(&truth, &events, Backend::Fentry), []);
}

#[test]
fn a_module_that_listens_in_unknown_namespaces_does_not_matter() {
    let (truth, mut events) = perfect();
    let mut listener = events.iter().find(|e| e.kind == "listen").expect("one listens").clone();
    listener.kernel_socket = true;
    listener.seq = u64::MAX;
    listener.netns = Some(5);
    events.push(listener.clone());
    assert_eq!(compare(&truth, &events, Backend::Fentry), []);
    listener.netns = Some(4);
    *events.last_mut().expect("it was pushed") = listener;
    assert!(matches!(compare(&truth, &events, Backend::Fentry)[..], [Problem::Invented(_)]));
}

#[test]
fn a_wrong_owner_is_found() {
    let owner = |e: &mut Event, pid| e.process.as_mut().unwrap().pid = pid;
    wrong("connect", "owner pid", |e| owner(e, SERVER));
    wrong("accept", "owner pid", |e| owner(e, CLIENT));
    wrong("listen", "owner pid", |e| owner(e, CLIENT));
    wrong("established", "owner pid", |e| owner(e, SERVER));
    wrong("connect", "owner comm", |e| e.process.as_mut().unwrap().comm = "thread".into());
    wrong("connect", "owner args", |e| e.process.as_mut().unwrap().args.clear());
    wrong("connect", "owner exe", |e| e.process.as_mut().unwrap().exe = None);
    wrong("connect", "owner uid", |e| e.process.as_mut().unwrap().uid = 1);
    wrong("connect", "owner start", |e| e.process.as_mut().unwrap().start_ns += 10_000_000);
    wrong("connect", "owner tid", |e| e.tid = Some(1));
    wrong("connect", "reported nobody", |e| e.process = None);
    wrong("accept", "owner method", |e| e.method = Some("listener".into()));
    wrong("accept", "not of backend", |e| e.hook = Some("kprobe:__inet_accept".into()));
}

#[test]
fn a_wrong_closer_is_found() {
    wrong("close", "closer pid", |e| e.closer.as_mut().unwrap().process.as_mut().unwrap().pid = SERVER);
    wrong("close", "closer tid", |e| e.closer.as_mut().unwrap().tid = None);
    wrong("unlisten", "no closer", |e| e.closer = None);
}

#[test]
fn a_closer_where_nobody_closed_is_found() {
    let mut truth = truth();
    let at = truth.facts.iter().position(|f| f.kind == Kind::Close).unwrap();
    let events = fake::events(&truth, Backend::Fentry).unwrap();
    truth.facts[at].pid = None;
    let problems = compare(&truth, &events, Backend::Fentry);
    assert!(matches!(problems.as_slice(), [Problem::Wrong(text)] if text.contains("nobody can know it")));
}

#[test]
fn wrong_outcomes_are_found() {
    wrong("close", "end:", |e| e.end = Some("peer_fin".into()));
    wrong("close", "bytes_in", |e| e.bytes_in = Some(6));
    wrong("close", "bytes_out", |e| e.bytes_out = None);
    wrong("close", "ns since established", |e| e.duration_ns = Some(1));
    wrong("failed", "errno", |e| e.errno = Some(110));
    wrong("failed", "error:", |e| e.error = None);
    wrong("established", "ns since connect", |e| e.connect_ns = None);
}

#[test]
fn wrong_sockets_are_found() {
    wrong("connect", "dir", |e| e.dir = Some("in".into()));
    wrong("connect", "mapped", |e| e.mapped = Some(true));
    wrong("connect", "family", |e| e.family = Some("ipv6".into()));
    wrong("connect", "device", |e| e.device = Some("eth0".into()));
    wrong("connect", "source", |e| e.source = Some("late".into()));
    wrong("connect", "community_id", |e| e.community_id = None);
    wrong("accept", "two Community IDs", |e| e.community_id = Some("1:other".into()));
    wrong("close", "conn_id", |e| e.conn_id = Some("other".into()));
    // A wrong end is a missing event and an invented one.
    for change in
        [|e: &mut Event| e.lport = Some(9), |e: &mut Event| e.netns = Some(9), |e: &mut Event| e.lport = None]
    {
        let problems = after("connect", change);
        assert!(problems.iter().any(|p| matches!(p, Problem::Missing(_))), "{problems:#?}");
        assert!(problems.iter().any(|p| matches!(p, Problem::Invented(_))), "{problems:#?}");
    }
}

#[test]
fn a_wrong_time_is_found() {
    wrong("connect", "before it could happen", |e| e.boot_ns -= 50_000_000);
    wrong("unlisten", "after it had happened", |e| e.boot_ns += 50_000_000);
}

#[test]
fn one_number_for_two_connections_is_found() {
    let (truth, mut events) = perfect();
    let id = events.iter().find(|e| e.kind == "connect").unwrap().conn_id.clone();
    events.iter_mut().filter(|e| e.dir.as_deref() == Some("out")).for_each(|e| e.conn_id.clone_from(&id));
    let problems = compare(&truth, &events, Backend::Fentry);
    assert!(problems.iter().any(|p| matches!(p, Problem::Wrong(t) if t.contains("two connections"))));
}

#[test]
fn a_gap_is_found() {
    let (truth, mut events) = perfect();
    events.push(Event { kind: "gap".into(), seq: 1_000, raw: "a gap".into(), ..Event::default() });
    assert_eq!(compare(&truth, &events, Backend::Fentry), [Problem::Gap("a gap".into())]);
}

#[test]
fn a_tracepoint_may_lack_the_port_of_an_auto_bound_listener_but_not_have_a_wrong_one() {
    let mut truth = truth();
    truth.facts.iter_mut().filter(|f| f.kind == Kind::Listen).for_each(|f| f.via = Via::AutoBind);
    let with = |backend, port| {
        let mut events = fake::events(&truth, backend).unwrap();
        events.iter_mut().find(|e| e.kind == "listen").unwrap().lport = port;
        compare(&truth, &events, backend)
    };
    assert_eq!(with(Backend::Tracepoint, None), []);
    assert!(!with(Backend::Tracepoint, Some(1)).is_empty());
    assert!(!with(Backend::Kprobe, None).is_empty());
}

#[test]
fn a_tracepoint_connect_may_lack_its_port_but_not_have_a_wrong_one() {
    let truth = truth();
    let mut events = fake::events(&truth, Backend::Tracepoint).unwrap();
    for event in events.iter_mut().filter(|e| e.kind == "connect") {
        (event.lport, event.community_id) = (None, None);
    }
    assert_eq!(compare(&truth, &events, Backend::Tracepoint), []);
    events.iter_mut().find(|e| e.kind == "connect").unwrap().lport = Some(1);
    assert!(!compare(&truth, &events, Backend::Tracepoint).is_empty());
}

#[test]
fn contradictions_of_a_workload_are_found() {
    assert_eq!(contradictions(&truth()), Vec::<String>::new());
    let without = |i: usize| {
        let mut truth = truth();
        truth.facts.remove(i);
        contradictions(&truth)
    };
    for i in 0..truth().facts.len() {
        assert!(!without(i).is_empty(), "without {}", brief(&truth().facts[i]));
    }
    assert!(!contradictions(&Truth::default()).is_empty());
}

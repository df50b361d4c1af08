//! The hot path of an event allocates nothing once it is warm: filter, JSON and text; rules, few or many.

mod rules_load;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;

use conn_common::hook::HookId;
use conn_user::event::alert::{Alert, Subject};
use conn_user::event::json::{JsonEncoder, StreamIdentity};
use conn_user::event::model::{Event, EventBody};
use conn_user::event::text::{TextFormatter, TextOptions};
use conn_user::filter::Filter;
use conn_user::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Method, Traffic,
};
use conn_user::process::info::{ProcessInfo, ProcessSource};
use conn_user::rules::{Engine, RuleSet};
use conn_user::units::{BootNs, DurationNs, NetNs, Pid, WallNs};

/// Counts what each thread asks of it: the harness has threads of its own.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// What this thread has asked for so far.
fn allocations() -> u64 {
    ALLOCATIONS.get()
}

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn close() -> Event {
    let process = Arc::new(ProcessInfo {
        ppid: Some(Pid(1)),
        comm: b"nginx".as_slice().into(),
        exe: Some(b"/usr/sbin/nginx".as_slice().into()),
        args: [b"nginx: worker \xff".as_slice().into()].into(),
        uid: 33,
        gid: 33,
        cgroup_id: 1,
        source: ProcessSource::Exec,
        ..ProcessInfo::new(Pid(4242), BootNs(1))
    });
    let actor = |hook| Actor { process: Some(Arc::clone(&process)), tid: None, method: Method::Hook(hook) };
    let conn = ConnEvent::new(
        ConnId(1),
        Direction::In,
        ("[2001:db8::1]:443".parse().expect("address"), "[2001:db8::2]:40000".parse().expect("address")),
        NetNs(1),
        actor(HookId::FentryInetAccept),
    );
    let ending = Ending {
        how: EndedHow::PeerReset,
        errno: 104,
        closer: actor(HookId::FentryTcpClose),
        duration: Some(DurationNs(1_234_567_890)),
        traffic: Some(Traffic { bytes_in: 5_300_000, bytes_out: 78, retransmits: Some(1), srtt_us: 431 }),
    };
    Event { seq: 1, boot: BootNs(2), wall: WallNs(3), body: EventBody::Flow(Change::Close(conn, ending)) }
}

#[test]
fn a_warm_path_allocates_nothing() {
    let event = close();
    let filter = Filter::new(
        "kind:close port:400-500 proc:ngin* exe:/nginx$/ -dst:10.0.0.0/8,rfc1918 errno:ECONNRESET end:peer_reset \
         duration:>1s,<1ms bytes_in:1M-6M retransmits:<10 closer:* hook:fentry:* mapped:false community_id:1:*",
    )
    .expect("a filter");
    let identity =
        StreamIdentity { host: "h".to_owned(), boot_id: "3f2a9c1e".to_owned(), agent_start: BootNs(0) };
    let zone = jiff::tz::TimeZone::UTC;
    let options = TextOptions { color: true, width: Some(80), netns: None, zone, dated: false };
    let (mut json, mut text) = (JsonEncoder::new(&identity), TextFormatter::new(options));
    let mut out = Vec::with_capacity(1 << 16);
    let mut once = || {
        out.clear();
        assert!(filter.passes(black_box(&event)));
        json.encode(black_box(&event), &mut out);
        text.format(black_box(&event), &mut out);
    };
    once();
    let before = allocations();
    (0..1000).for_each(|_| once());
    assert_eq!(allocations() - before, 0, "in 1000 events");
}

/// How often an engine with these rules allocates in some hundred thousand events, and how many alerts it had reported before.
fn in_engine(rules: &RuleSet) -> (u64, u64) {
    let events = rules_load::events();
    let mut engine = Engine::new(rules, BootNs(0));
    engine.start(BootNs(1), [], &rules_load::NoFlows);
    let mut reported = 0;
    let mut round = |engine: &mut Engine| {
        for event in &events {
            let alerts = engine.on_event(black_box(event), &rules_load::NoFlows);
            // What rules of kind `missing` expect and nothing matches is absent: their timers fire with the first event.
            let is_found = |alert: &&Alert| !matches!(alert.subject, Subject::Absence);
            reported += alerts.iter().filter(is_found).count() as u64;
        }
    };
    // Memories that are bounded grow until they are full: of the ends of processes, 4096.
    for _ in 0..600 {
        round(&mut engine);
    }
    let before = allocations();
    for _ in 0..100 {
        round(&mut engine);
    }
    (allocations() - before, reported)
}

#[test]
fn rules_that_match_nothing_allocate_nothing() {
    for (name, rules) in [
        ("default rules", rules_load::defaults()),
        ("1000 rules", rules_load::rules(1000)),
        ("both", rules_load::defaults_and(1000)),
    ] {
        assert_eq!(in_engine(&rules), (0, 0), "{name}: allocations and alerts");
    }
}

#[test]
fn what_a_baseline_knows_allocates_nothing() {
    assert_eq!(in_engine(&rules_load::with_baseline()), (0, 0), "allocations and alerts");
}

#[test]
fn findings_that_were_reported_allocate_nothing() {
    let rules = rules_load::that_find();
    let expected = rules.rules.len() as u64;
    let (allocated, reported) = in_engine(&rules);
    assert_eq!(allocated, 0);
    assert!(reported >= expected, "{reported} alerts of {expected} rules");
}

//! The hot paths of an event: encoding it and filtering it.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::sync::Arc;

use conn_common::hook::HookId;
use conn_user::event::community;
use conn_user::event::json::{JsonEncoder, StreamIdentity};
use conn_user::event::model::{Event, EventBody};
use conn_user::filter::Filter;
use conn_user::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Method, Traffic,
};
use conn_user::process::info::{ProcessInfo, ProcessSource};
use conn_user::units::{BootNs, DurationNs, NetNs, Pid, WallNs};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn process() -> Arc<ProcessInfo> {
    Arc::new(ProcessInfo {
        ppid: Some(Pid(1)),
        comm: b"curl".as_slice().into(),
        exe: Some(b"/usr/bin/curl".as_slice().into()),
        args: ["curl", "-s", "http://127.0.0.1:8080/"].map(|arg| arg.as_bytes().into()).into(),
        uid: 1000,
        gid: 1000,
        login_uid: Some(1000),
        cgroup_id: 4711,
        source: ProcessSource::Exec,
        ..ProcessInfo::new(Pid(4242), BootNs(1_234_567_890))
    })
}

/// A storm as the agent sees it: connects and closes over changing ports.
fn storm(v6: bool) -> Vec<Event> {
    let process = process();
    let actor = |hook| Actor {
        process: Some(Arc::clone(&process)),
        tid: Some(Pid(4242)),
        method: Method::Hook(hook),
    };
    let host = if v6 { "[2001:db8::1]" } else { "127.0.0.1" };
    let mut events = Vec::new();
    for at in 0..1000_u64 {
        let conn = ConnEvent::new(
            ConnId(at),
            Direction::Out,
            (
                format!("{host}:{}", 30_000 + at).parse().expect("address"),
                format!("{host}:8080").parse().expect("address"),
            ),
            NetNs(4_026_531_840),
            actor(HookId::FentryTcpConnect),
        );
        let ending = Ending {
            how: EndedHow::LocalFin,
            errno: 0,
            closer: actor(HookId::FentryTcpClose),
            duration: Some(DurationNs(1_234_567)),
            traffic: Some(Traffic { bytes_in: 5_300_000, bytes_out: 78, retransmits: Some(0), srtt_us: 31 }),
        };
        for change in [Change::Connect(conn.clone()), Change::Close(conn, ending)] {
            events.push(Event {
                seq: at,
                boot: BootNs(5_000_000_000_000 + at * 4_000),
                wall: WallNs(1_795_491_821_123_456_789 + at * 4_000),
                body: EventBody::Flow(change),
            });
        }
    }
    events
}

fn encode(c: &mut Criterion) {
    let identity = StreamIdentity {
        host: "web-1".to_owned(),
        boot_id: "3f2a9c1e-0b7d-4c58-9f11-6a5d2b3c4e5f".to_owned(),
        agent_start: BootNs(77),
    };
    let mut group = c.benchmark_group("event/json");
    for (name, v6) in [("ipv4", false), ("ipv6", true)] {
        let events = storm(v6);
        group.throughput(Throughput::Elements(events.len() as u64));
        group.bench_function(name, |b| {
            let (mut encoder, mut out) = (JsonEncoder::new(&identity), Vec::new());
            b.iter(|| {
                out.clear();
                for event in &events {
                    encoder.encode(black_box(event), &mut out);
                }
                out.len()
            });
        });
    }
    group.finish();
    let (one, other) =
        ("127.0.0.1:40000".parse().expect("address"), "127.0.0.1:80".parse().expect("address"));
    c.bench_function("event/community_id", |b| b.iter(|| community::id(black_box(one), black_box(other))));
}

fn filter(c: &mut Criterion) {
    let events = storm(false);
    let mut group = c.benchmark_group("event/filter");
    group.throughput(Throughput::Elements(events.len() as u64));
    for text in [
        "port:8080",
        "proc:nginx*",
        "dport:443 proc:nginx -dst:10.0.0.0/8,fd00::/8",
        "exe:/^.usr.(bin|sbin).[^\\/]+$/",
    ] {
        let filter = Filter::new(text).expect("a filter");
        group.bench_function(text, |b| {
            b.iter(|| events.iter().filter(|event| filter.passes(black_box(event))).count());
        });
    }
    group.finish();
}

criterion_group!(benches, encode, filter);
criterion_main!(benches);

//! What an event costs in the rule engine: with few rules and with many, with little remembered and with much.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use conn_user::rules::Engine;
use conn_user::units::BootNs;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/rules_load/mod.rs"]
mod load;

fn rules(c: &mut Criterion) {
    let events = load::events();
    let mut group = c.benchmark_group("rules/event");
    group.throughput(Throughput::Elements(events.len() as u64));
    let sets = [
        ("none", load::rules(0)),
        ("10 rules", load::rules(10)),
        ("1000 rules", load::rules(1000)),
        ("default rules", load::defaults()),
        ("default rules and 1000", load::defaults_and(1000)),
        ("baseline", load::with_baseline()),
    ];
    for (name, set) in &sets {
        let mut engine = Engine::new(set, BootNs(0));
        engine.start(BootNs(1), [], &load::NoFlows);
        group.bench_function(*name, |b| {
            b.iter(|| {
                for event in &events {
                    black_box(engine.on_event(black_box(event), &load::NoFlows));
                }
            });
        });
    }
    group.finish();
}

/// What a connection from outside costs when so many were accepted in the last ten minutes: as much with many as with few.
fn visits(c: &mut Criterion) {
    const EACH: u32 = 100;
    let set = load::defaults();
    let mut group = c.benchmark_group("rules/external connection");
    group.throughput(Throughput::Elements(EACH.into()));
    group.sample_size(20);
    for remembered in [1_000_u32, 25_000] {
        let mut engine = Engine::new(&set, BootNs(0));
        engine.start(BootNs(1), [], &load::NoFlows);
        let mut visits = load::Visits::of_ten_minutes(remembered.into());
        for event in visits.next(remembered + remembered / 10) {
            engine.on_event(&event, &load::NoFlows);
        }
        group.bench_function(format!("{remembered} remembered"), |b| {
            b.iter_batched(
                || visits.next(EACH),
                |events| {
                    for event in &events {
                        black_box(engine.on_event(black_box(event), &load::NoFlows));
                    }
                    events
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, rules, visits);
criterion_main!(benches);

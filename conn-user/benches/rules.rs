//! What an event costs in the rule engine, with few rules and with many.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use conn_user::rules::Engine;
use conn_user::units::BootNs;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

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

criterion_group!(benches, rules);
criterion_main!(benches);

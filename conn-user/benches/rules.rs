//! What an event costs in the rule engine: with few rules and with many, with little remembered and with much.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conn_user::event::alert::Severity;
use conn_user::rules::model::Rule;
use conn_user::rules::{Engine, RuleSet};
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

/// An engine that has judged so many connections from outside in the last ten minutes, and those that come next.
fn remembering(set: &RuleSet, remembered: u32) -> (Engine, load::Visits) {
    let mut engine = Engine::new(set, BootNs(0));
    engine.start(BootNs(1), [], &load::NoFlows);
    let mut visits = load::Visits::of_ten_minutes(remembered.into());
    for event in visits.next(remembered + remembered / 10) {
        engine.on_event(&event, &load::NoFlows);
    }
    (engine, visits)
}

/// What a connection from outside costs when so many were accepted in the last ten minutes: as much with many as with few.
fn visits(c: &mut Criterion) {
    const EACH: u32 = 100;
    let set = load::defaults();
    let mut group = c.benchmark_group("rules/external connection");
    group.throughput(Throughput::Elements(EACH.into()));
    group.sample_size(20);
    for remembered in [1_000_u32, 25_000] {
        let (mut engine, mut visits) = remembering(&set, remembered);
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

/// What it costs to explain an event by all rules: each copies what its detector remembers.
fn explanations(c: &mut Criterion) {
    let set = load::defaults();
    let mut group = c.benchmark_group("rules/explain an event");
    group.sample_size(20);
    for remembered in [1_000_u32, 25_000] {
        let (engine, mut visits) = remembering(&set, remembered);
        let events = visits.next(1);
        group.bench_function(format!("{remembered} remembered"), |b| {
            b.iter(|| {
                for rule in &set.rules {
                    let event = black_box(&events[0]);
                    black_box(engine.explain(event, event.boot, &rule.about.id, &load::NoFlows));
                }
            });
        });
    }
    group.finish();
}

/// What it costs to load rules again: elsewhere (stage), and on the thread that judges (apply), when all have changed and when none has.
fn reloads(c: &mut Criterion) {
    const RULES: usize = 1_000;
    let one = load::rules(RULES);
    let changed =
        one.rules.iter().map(|rule| Arc::new(Rule { severity: Severity::High, ..Rule::clone(rule) }));
    let other = RuleSet { rules: changed.collect(), ..one.clone() };
    let mut engine = Engine::new(&one, BootNs(0));
    engine.start(BootNs(1), [], &load::NoFlows);
    let mut group = c.benchmark_group("rules/reload of 1000");
    group.sample_size(20);
    group.bench_function("stage", |b| b.iter(|| black_box(engine.layout().stage(&other))));
    let mut sets = [&other, &one].into_iter().cycle();
    group.bench_function("apply, all changed", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for set in sets.by_ref().take(times as usize) {
                let staged = engine.layout().stage(set);
                let began = Instant::now();
                black_box(engine.apply(staged, BootNs(2), [], &load::NoFlows));
                spent += began.elapsed();
            }
            spent
        });
    });
    let same = engine.layout().set();
    group.bench_function("apply, none changed", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let staged = engine.layout().stage(&same);
                let began = Instant::now();
                black_box(engine.apply(staged, BootNs(2), [], &load::NoFlows));
                spent += began.elapsed();
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, rules, visits, explanations, reloads);
criterion_main!(benches);

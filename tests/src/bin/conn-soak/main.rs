//! `conn agent` under mixed load for a long time: `cargo xtask soak --for 1h`.
//!
//! `conn-soak CONN CONN-SCENARIO SECONDS`, as root. Beside each other: storms of connections, short programs, rules that change and are read
//! again every ten seconds, events into a pipe whose reader sleeps every other minute, alerts into a file system that is full for
//! one minute in five. Each minute an intrusion is planted. It fails if one of them is not raised, if records or lines are missing
//! that the agent does not report, or if its memory grows.

mod load;
mod service;
mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::service::Service;
use crate::watch::Watch;

/// Between two lines of the table, and two intrusions.
const MINUTE: Duration = Duration::from_mins(1);
/// Between two SIGHUPs.
const RELOAD: Duration = Duration::from_secs(10);
/// How long the alert of an intrusion may take, on a machine that is as busy as this one is made.
const PATIENCE: Duration = Duration::from_secs(30);
/// By how much memory may differ between two thirds of the time.
const GROWTH: f64 = 1.1;
const SLACK_MB: f64 = 4.0;

/// What the load has done so far.
#[derive(Default)]
struct Done {
    connections: AtomicU64,
    programs: AtomicU64,
    stop: AtomicBool,
}

impl Done {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [conn, scenario, seconds] = &words[..] else { bail!("see the beginning of {}", file!()) };
    let time = Duration::from_secs(seconds.parse().context("SECONDS is a number")?);
    let absolute = |program: &str| std::fs::canonicalize(program).with_context(|| format!("find {program}"));
    let problems = soak(&absolute(conn)?, &absolute(scenario)?, time)?;
    for problem in &problems {
        println!("FAILED: {problem}");
    }
    if problems.is_empty() {
        println!("passed: every intrusion raised, every loss reported, memory flat");
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn soak(conn: &Path, scenario: &Path, time: Duration) -> Result<Vec<String>> {
    let service = Service::start(conn)?;
    let watch = Watch::start(service.syslog()?);
    let done = Done::default();
    let mut memory = Vec::new();
    let mut problems = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let loads = [
            scope.spawn(|| load::storms(scenario, &done)),
            scope.spawn(|| load::programs(&done)),
            scope.spawn(|| load::slow_reader(&service.events(), &done)),
            scope.spawn(|| load::full_disk(&service.small(), &done)),
        ];
        let watched = minutes(time, &service, &watch, &done, &mut memory, &mut problems);
        done.stop.store(true, Ordering::Relaxed);
        for load in loads {
            load.join().map_err(|_| anyhow::anyhow!("a load panicked"))??;
        }
        watched
    })?;
    let totals = service.end()?;
    problems.extend(watch.unreported(&totals));
    problems.extend(grew(&memory));
    println!("{totals}");
    Ok(problems)
}

/// Reloads and plants intrusions until the time is over, and prints a line a minute.
fn minutes(
    time: Duration,
    service: &Service,
    watch: &Watch,
    done: &Done,
    memory: &mut Vec<f64>,
    problems: &mut Vec<String>,
) -> Result<()> {
    println!(
        "minute  connections  programs  reloads  memory MB  intrusions  records lost  reports of dropping"
    );
    let (began, mut reloads) = (Instant::now(), 0);
    for minute in 1.. {
        let _intrusion = service::plant(minute)?;
        let planted = Instant::now();
        while !watch.has_raised(service::port(minute)) {
            if planted.elapsed() > PATIENCE {
                problems.push(format!("the intrusion of minute {minute} was not raised"));
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let end = began + MINUTE * minute;
        while Instant::now() < end {
            thread::sleep(RELOAD.min(end.saturating_duration_since(Instant::now())));
            service.reload(reloads)?;
            reloads += 1;
        }
        memory.push(service.memory()?);
        println!(
            "{minute:>6}  {:>11}  {:>8}  {reloads:>7}  {:>9.1}  {:>10}  {:>12}  {:>19}",
            done.connections.load(Ordering::Relaxed),
            done.programs.load(Ordering::Relaxed),
            memory.last().copied().unwrap_or_default(),
            watch.raised(),
            watch.lost(),
            watch.degraded(),
        );
        if began.elapsed() >= time {
            break;
        }
    }
    Ok(())
}

/// The last third of the time against the one before.
fn grew(memory: &[f64]) -> Option<String> {
    let third = memory.len() / 3;
    let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let (before, last) = (most(memory.get(third..2 * third)?), most(memory.get(2 * third..)?));
    (third > 0 && last > before * GROWTH + SLACK_MB)
        .then(|| format!("memory grew from {before:.1} to {last:.1} MB"))
}

//! A scenario against the agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use conn_tests::compare::{Problem, Truth, compare};
use conn_tests::expect::Backend;
use conn_tests::fake;
use conn_tests::truth::Line;

use crate::agent::Agent;
use crate::alerts;
use crate::preempted;
use crate::settings;
use crate::workload::{self, Workload};

/// The scenarios whose workload starts before the agent.
const BEFORE_THE_AGENT: [&str; 4] =
    ["preattach", "preexisting", "timens-preexisting", "kernel-sockets-preexisting"];

/// The scenarios whose namespaces stay until the agent has printed everything: it asks in them for the names of interfaces.
const STAYS_FOR_THE_AGENT: [&str; 3] = ["link-local", "bound", "bound-client"];

/// Tests run side by side, except a storm: that one is alone.
static ALONE: RwLock<()> = RwLock::new(());

/// Does it beside others.
pub(crate) fn together(run: impl FnOnce() -> Result<()>) -> Result<()> {
    let _together = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    run()
}

/// Does it while no other test starts a program: a child holds every descriptor of this process until it executes.
pub(crate) fn without_forks(run: impl FnOnce() -> Result<()>) -> Result<()> {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    run()
}

/// Does it alone, and with no other agent.
pub(crate) fn alone(run: impl FnOnce() -> Result<()>) -> Result<()> {
    without_forks(|| {
        stop_shared()?;
        run()
    })
}

/// One agent for all scenarios and violations, started with the first: loading BPF programs is slow under emulation.
static SHARED: Mutex<Option<Result<Arc<Agent>, String>>> = Mutex::new(None);

pub(crate) fn shared() -> Result<Arc<Agent>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let agent = shared.get_or_insert_with(|| alerts::agent().map(Arc::new).map_err(|e| format!("{e:#}")));
    match agent {
        Ok(agent) => Ok(Arc::clone(agent)),
        Err(e) => bail!("{e}"),
    }
}

/// Ends the common agent, if it ran: it must have lost nothing all the while.
pub(crate) fn stop_shared() -> Result<()> {
    let agent = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Ok(agent)) = agent else { return Ok(()) };
    let Some(agent) = Arc::into_inner(agent) else { bail!("a test still uses the agent") };
    let backend = agent.backend;
    let totals = agent.stop()?.lost_nothing()?;
    eprintln!("agent, backend {}: {:?}, nothing lost", backend.name(), totals.events);
    Ok(())
}

/// Compares what the agent reports a scenario with what happened.
pub(crate) fn scenario(name: &str) -> Result<()> {
    if BEFORE_THE_AGENT.contains(&name) {
        return early(name);
    }
    let agent = shared()?;
    // The same workload may just have run without being compared, at the same port: its events come before the mark.
    agent.fence()?;
    let mark = agent.mark();
    let mut workload = Workload::start(&[name])?;
    if STAYS_FOR_THE_AGENT.contains(&name) {
        workload.ready()?;
        verify(&agent, mark, workload.reported())?;
        workload.go()?;
    }
    verify(&agent, mark, &workload.finish()?)
}

/// What came of each scenario whose workload starts before the agent. One agent serves all: its start is what
/// takes long.
fn early(name: &str) -> Result<()> {
    static OUTCOMES: Mutex<Option<Outcomes>> = Mutex::new(None);
    let mut outcomes = OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner);
    match outcomes.get_or_insert_with(all_early).get(name) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => bail!("{error}"),
        None => bail!("it was not run"),
    }
}

type Outcomes = BTreeMap<&'static str, Result<(), String>>;

fn all_early() -> Outcomes {
    let mut outcomes = Outcomes::new();
    let mut keep = |name: &'static str, outcome: Result<()>| {
        // The first failure says why.
        let slot = outcomes.entry(name).or_insert(Ok(()));
        if let (Ok(()), Err(error)) = (&slot, outcome) {
            *slot = Err(format!("{error:#}"));
        }
    };
    let mut workloads = Vec::new();
    for name in BEFORE_THE_AGENT {
        match ready(name) {
            Ok(Some(workload)) => workloads.push((name, workload)),
            Ok(None) => {}
            Err(error) => keep(name, Err(error)),
        }
    }
    let started = workloads.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let agent = match Agent::start(&[]) {
        Ok(agent) => agent,
        Err(error) => {
            for name in &started {
                keep(name, Err(anyhow::anyhow!("{error:#}")));
            }
            return outcomes;
        }
    };
    for (name, mut workload) in workloads {
        let compared = workload.go().and_then(|()| verify(&agent, 0, &workload.finish()?));
        keep(name, compared);
    }
    if let Err(error) = agent.stop().and_then(|output| output.lost_nothing()) {
        for name in &started {
            keep(name, Err(anyhow::anyhow!("{error:#}")));
        }
    }
    outcomes
}

/// A workload that waits for the agent; none, if this kernel cannot run it.
fn ready(name: &str) -> Result<Option<Workload>> {
    let mut workload = Workload::start(&[name])?;
    let is_ready = workload.ready_again()?;
    if !is_ready && workload.reported().iter().any(|line| matches!(line, Line::Skip { .. })) {
        return Ok(None);
    }
    ensure!(is_ready, "the workload ended before it was ready");
    Ok(Some(workload))
}

/// An agent whose own clock, and what it reads in /proc, are shifted.
pub(crate) fn shifted_agent() -> Result<()> {
    const SHIFT_S: u64 = 2_000_000;
    let mut workload = Workload::start(&["timens-preexisting"])?;
    workload.ready()?;
    let agent = Agent::start_shifted(SHIFT_S)?;
    workload.go()?;
    verify(&agent, 0, &workload.finish()?)?;
    agent.stop()?.lost_nothing()?;
    let agent = Agent::start_shifted(SHIFT_S)?;
    verify(&agent, 0, &workload::run(&["timens"])?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the wall clock")?.as_nanos();
    for event in agent.since(0) {
        let wall = event.wall_ns().with_context(|| format!("no time: {}", event.raw))?;
        let off = wall.abs_diff(now.cast_signed()) / 1_000_000_000;
        ensure!(off < u128::from(SHIFT_S / 2), "the wall clock is off by {off} s: {}", event.raw);
    }
    agent.stop()?.lost_nothing().map(drop)
}

fn verify(agent: &Agent, mark: usize, lines: &[Line]) -> Result<()> {
    for line in lines {
        // It was able to when it was asked at the start.
        ensure!(!matches!(line, Line::Skip { .. }), "the workload skipped itself: {line:?}");
    }
    let truth = Truth::new(lines);
    agent.fence()?;
    // The agent may report an event late, when it first had to learn something; but not forever.
    let deadline = Instant::now() + settings::seconds(3);
    loop {
        // This program's own connections (the fences) use ports that are free again.
        let me = std::process::id();
        let mut events = agent.since(mark);
        let reported = events.len();
        events.retain(|e| e.process.as_ref().is_none_or(|p| p.pid != me) && !preempted::accounts_for(e));
        let problems = compare(&truth, &events, agent.backend);
        if problems.is_empty() {
            return Ok(());
        }
        let late = problems.iter().any(|p| matches!(p, Problem::Missing(_)));
        let left = deadline.saturating_duration_since(Instant::now());
        if late && agent.wait_for_more(mark + reported, left) {
            continue;
        }
        let list: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let concern = truth.concern();
        let ours: Vec<_> = events.iter().filter(|e| concern.has(e)).map(|e| e.raw.as_str()).collect();
        bail!(
            "backend {}: {} problems\n  {}\nall that the agent reported:\n  {}",
            agent.backend.name(),
            list.len(),
            list.join("\n  "),
            ours.join("\n  ")
        );
    }
}

/// Without the agent: the workload contradicts itself nowhere, the comparison finds nothing wrong with a perfect
/// agent, and finds each event that this one leaves out.
pub(crate) fn truth(name: &str) -> Result<()> {
    let mut workload = Workload::start(&[name])?;
    if BEFORE_THE_AGENT.contains(&name) {
        workload.ready()?;
        workload.go()?;
    }
    let truth = Truth::new(&workload.finish()?);
    for backend in Backend::ALL {
        let events = match fake::events(&truth, backend) {
            Ok(events) => events,
            Err(wrong) => bail!("the truth contradicts itself:\n  {}", wrong.join("\n  ")),
        };
        let problems = compare(&truth, &events, backend);
        ensure!(problems.is_empty(), "a perfect agent is blamed: {problems:#?}");
    }
    let backend = Backend::Fentry;
    let events = fake::events(&truth, backend).unwrap_or_default();
    // A sample is enough where there are hundreds, a small one where there are thousands: each costs a comparison of all.
    let samples = (20_000 / events.len().max(1)).clamp(3, 20);
    for i in (0..events.len()).step_by(1 + events.len() / samples) {
        let mut fewer = events.clone();
        let gone = fewer.remove(i);
        ensure!(!compare(&truth, &fewer, backend).is_empty(), "nobody misses {}", gone.brief());
    }
    Ok(())
}

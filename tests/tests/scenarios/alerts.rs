//! Violations of rules against the agent: exactly the alerts that the workload says, none for its benign twin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use conn_tests::compare::CLOCK_SLACK_NS;
use conn_tests::event::{Alert, Event};
use conn_tests::truth::{AlertFact, Line, Phase};

use crate::agent::Agent;
use crate::preempted;
use crate::settings;
use crate::workload::{self, Workload};

/// The violation that begins before the agent does.
pub(crate) const BEFORE_THE_AGENT: &str = "before";

/// Held while [`BEFORE_THE_AGENT`] runs: what its rules expect is present as long as another run of it has it.
static EXPECTED: Mutex<()> = Mutex::new(());

/// Waits until no other test runs [`BEFORE_THE_AGENT`].
pub(crate) fn alone_expected() -> MutexGuard<'static, ()> {
    EXPECTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A violation that the workload knows.
pub(crate) struct Violation {
    pub(crate) name: String,
    /// The ids of its rules.
    rules: BTreeSet<String>,
}

/// All violations, and the rule file that they violate beside the built-in rules.
fn known() -> Result<&'static (Vec<Violation>, PathBuf)> {
    static KNOWN: OnceLock<Result<(Vec<Violation>, PathBuf), String>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| read().map_err(|e| format!("{e:#}")));
    known.as_ref().map_err(|e| anyhow::anyhow!("the violations: {e}"))
}

fn read() -> Result<(Vec<Violation>, PathBuf)> {
    let mut file = "use = \"defaults\"\n".to_owned();
    let (mut violations, mut rules) = (Vec::new(), BTreeSet::new());
    for line in workload::run(&["violation"])? {
        match line {
            Line::Rules { toml } => {
                file += &toml;
                let id = |line: &str| Some(line.strip_prefix("id = \"")?.strip_suffix('"')?.to_owned());
                rules = toml.lines().filter_map(id).collect();
            }
            Line::Scenario { name, .. } => {
                violations.push(Violation { name, rules: std::mem::take(&mut rules) });
            }
            other => bail!("not asked for: {other:?}"),
        }
    }
    let path = std::env::temp_dir().join(format!("conn-violations-{}.toml", std::process::id()));
    std::fs::write(&path, file).with_context(|| format!("write {}", path.display()))?;
    Ok((violations, path))
}

/// The names of all violations.
pub(crate) fn names() -> Result<Vec<&'static str>> {
    Ok(known()?.0.iter().map(|violation| violation.name.as_str()).collect())
}

/// The file with the built-in rules and those that are violated.
pub(crate) fn rules() -> Result<&'static std::path::Path> {
    Ok(&known()?.1)
}

/// Starts an agent that judges by the built-in rules and those that are violated.
pub(crate) fn agent() -> Result<Agent> {
    Agent::start(&["--rules", &known()?.1.to_string_lossy()])
}

/// Removes the rule file.
pub(crate) fn clean() {
    if let Ok((_, path)) = known() {
        let _ = std::fs::remove_file(path);
    }
}

/// Runs a violation and compares the alerts, with the agent that the scenarios share or one of its own.
pub(crate) fn violated(name: &str, shared: impl FnOnce() -> Result<std::sync::Arc<Agent>>) -> Result<()> {
    let found = known()?.0.iter().find(|violation| violation.name == name);
    let violation = found.with_context(|| format!("no violation {name}"))?;
    if name != BEFORE_THE_AGENT {
        let agent = shared()?;
        let mark = agent.mark();
        let lines = workload::run(&["violation", name])?;
        return verify(&agent, mark, violation, &lines);
    }
    let _expected = alone_expected();
    let mut workload = Workload::start(&["violation", name])?;
    workload.ready()?;
    let agent = agent()?;
    workload.go()?;
    let lines = workload.finish()?;
    verify(&agent, 0, violation, &lines)?;
    agent.stop()?.lost_nothing().map(drop)
}

/// A step of an alert: rule, phase and process.
type Step<'a> = (&'a str, &'a str, Option<u32>);

fn verify(agent: &Agent, mark: usize, violation: &Violation, lines: &[Line]) -> Result<()> {
    let mut facts: Vec<&AlertFact> = lines
        .iter()
        .filter_map(|line| if let Line::Alert(fact) = line { Some(fact) } else { None })
        .collect();
    ensure!(!facts.is_empty(), "the workload violates nothing");
    facts.sort_by_key(|fact| (&fact.rule, fact.until_ns));
    let expected: Vec<Step<'_>> =
        facts.iter().map(|fact| (fact.rule.as_str(), fact.phase.name(), fact.pid)).collect();
    agent.fence()?;
    let deadline = Instant::now() + settings::seconds(3);
    loop {
        let events = agent.since(mark);
        let mut reported: Vec<(&Event, &Alert)> = events
            .iter()
            .filter_map(|event| Some((event, event.alert.as_ref()?)))
            .filter(|(_, alert)| violation.rules.contains(&alert.rule))
            .collect();
        reported.sort_by_key(|(event, alert)| (&alert.rule, event.seq));
        let steps: Vec<Step<'_>> = reported
            .iter()
            .map(|(event, alert)| {
                let pid = event.process.as_ref().map(|process| process.pid);
                (alert.rule.as_str(), alert.phase.as_str(), pid)
            })
            .collect();
        if steps == expected {
            return reported
                .iter()
                .zip(&facts)
                .try_for_each(|((event, _), fact)| at_its_time(event, fact, skipped(agent)))
                .and_then(|()| {
                    let alerts: Vec<_> = reported.iter().map(|(_, alert)| *alert).collect();
                    one_id_each(&alerts)
                });
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if steps.len() < expected.len() && agent.wait_for_more(mark + events.len(), left) {
            continue;
        }
        let raw: Vec<_> = reported.iter().map(|(event, _)| event.raw.as_str()).collect();
        let backend = agent.backend.name();
        bail!("backend {backend}: expected {expected:?}\ngot {steps:?}\n  {}", raw.join("\n  "));
    }
}

/// The runs that the kernel skipped as far as the agent has reported, where it may skip any; 0 if anything
/// else was lost too.
fn skipped(agent: &Agent) -> u64 {
    let gaps: Vec<_> = agent.since(0).into_iter().filter(|event| event.kind == "gap").collect();
    if !gaps.iter().all(preempted::accounts_for) {
        return 0;
    }
    gaps.iter().filter_map(|gap| gap.lost).sum()
}

/// An alert of an event of the kernel has its time; one of a timer comes when it is due, or later.
fn at_its_time(event: &Event, fact: &AlertFact, skipped: u64) -> Result<()> {
    let too_early = event.boot_ns + CLOCK_SLACK_NS < fact.from_ns;
    let too_late =
        !fact.timer && fact.phase != Phase::Resolved && event.boot_ns > fact.until_ns + CLOCK_SLACK_NS;
    ensure!(!too_early && !too_late, "not at its time, {fact:?}: {}", event.raw);
    let covered = event.alert.as_ref().is_some_and(|alert| match alert.coverage.seen.as_str() {
        "all" | "since" => true,
        "except" => (1..=skipped).contains(&alert.coverage.lost),
        _ => false,
    });
    ensure!(covered, "nothing was lost: {}", event.raw);
    let due = event.boot_ns.min(fact.until_ns);
    DELAYS.lock().unwrap_or_else(PoisonError::into_inner).push(event.read_ns.saturating_sub(due));
    Ok(())
}

/// The steps of an alert have one id, and no two alerts have the same.
fn one_id_each(alerts: &[&Alert]) -> Result<()> {
    let mut lives: BTreeMap<&str, Vec<&Alert>> = BTreeMap::new();
    for alert in alerts {
        lives.entry(&alert.id).or_default().push(alert);
    }
    let raised = alerts.iter().filter(|alert| alert.phase == Phase::Raised.name()).count();
    ensure!(lives.len() == raised, "{raised} were raised, under {} ids", lives.len());
    for (id, steps) in lives {
        let ends = steps.iter().filter(|alert| alert.phase == Phase::Resolved.name()).count();
        ensure!(steps[0].phase == Phase::Raised.name() && ends <= 1, "{id}: {steps:?}");
    }
    Ok(())
}

/// Nanoseconds from the instant at which each alert was due until this program read it.
static DELAYS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// How soon the alerts came. A time depends on the machine and its load: it is shown, not asserted.
pub(crate) fn print_delays() {
    let mut delays = std::mem::take(&mut *DELAYS.lock().unwrap_or_else(PoisonError::into_inner));
    delays.sort_unstable();
    let (Some(last), Some(middle)) = (delays.last(), delays.get(delays.len() / 2)) else { return };
    let within = delays.iter().filter(|delay| **delay <= 100_000_000).count();
    let ms = |ns: u64| ns / 1_000_000;
    eprintln!(
        "alerts: {} steps, read {} ms after they were due (median), {} ms at most; {within} within 100 ms",
        delays.len(),
        ms(*middle),
        ms(*last)
    );
}

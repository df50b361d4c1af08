//! A live run with violations of all kinds is recorded, and the replay gives the same alerts.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, Output};
use crate::alerts::{self, BEFORE_THE_AGENT};
use crate::settings;
use crate::workload::Workload;

/// The five kinds of rules.
const KINDS: [&str; 5] = ["path", "process", "server", "long", "missing"];

pub(crate) fn equals_the_live_run() -> Result<()> {
    compare("run", |_| Ok(()), |_| Ok(()))
}

/// How long the agent is stopped: longer than the violations take, but for one that begins before it.
const STOPPED: Duration = Duration::from_secs(10);

/// The agent stands still during the violations (SIGSTOP; a paused machine, a stall), and then reads all of them at once.
pub(crate) fn equals_the_stopped_run() -> Result<()> {
    let stopped = Cell::new(None);
    compare(
        "stopped",
        |agent| {
            agent.signal(libc::SIGSTOP)?;
            stopped.set(Some(Instant::now()));
            Ok(())
        },
        |agent| {
            let since = stopped.get().context("it was not stopped")?;
            std::thread::sleep(STOPPED.saturating_sub(since.elapsed()));
            agent.signal(libc::SIGCONT)
        },
    )
}

/// Records a run with violations of all kinds and compares its alerts with those of its replay. `at_begin` is called before the
/// violations, `at_end` when they are over.
fn compare(
    name: &str,
    at_begin: impl FnOnce(&Agent) -> Result<()>,
    at_end: impl FnOnce(&Agent) -> Result<()>,
) -> Result<()> {
    let rules = alerts::rules()?.to_string_lossy().into_owned();
    let _expected = alerts::alone_expected();
    let mut before = Workload::start(&["violation", BEFORE_THE_AGENT])?;
    before.ready()?;
    let path = std::env::temp_dir().join(format!("conn-recording-{name}-{}.jsonl", std::process::id()));
    let mut file = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let write = move |mut stdout| drop(std::io::copy(&mut stdout, &mut file));
    let agent = Agent::start_with(&["--record", "--rules", &rules], Output::Reader(Box::new(write)))?;
    at_begin(&agent)?;
    before.go()?;
    let names = alerts::names()?.into_iter().filter(|name| *name != BEFORE_THE_AGENT);
    let others: Vec<Workload> =
        names.map(|name| Workload::start(&["violation", name])).collect::<Result<_>>()?;
    for workload in others.into_iter().chain([before]) {
        workload.finish()?;
    }
    at_end(&agent)?;
    // The timers of what they did.
    std::thread::sleep(settings::seconds(2));
    agent.stop()?.lost_nothing()?;

    let recorded = std::fs::read_to_string(&path).context("read the recording")?;
    let replay = Command::new(settings::conn()?)
        .args(["replay", "--json", "--exit-code", "--rules", &rules])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .context("start conn replay")?;
    let said = String::from_utf8_lossy(&replay.stderr);
    ensure!(replay.status.code() == Some(6), "conn replay ended with {}: {said}", replay.status);
    ensure!(!said.contains("the start of the agent"), "the recording has its start: {said}");
    let (then, now) = (steps(&recorded)?, steps(&String::from_utf8_lossy(&replay.stdout))?);
    let kinds = KINDS.iter().filter(|kind| then.keys().any(|(_, of, ..)| of == *kind));
    ensure!(kinds.count() == KINDS.len(), "an alert of each kind: {:?}", then.keys());
    ensure!(
        then.keys().eq(now.keys()),
        "not the same alerts\nthen: {:?}\nnow: {:?}\n{said}",
        then.keys(),
        now.keys()
    );
    for (step, then) in &then {
        let now = &now[step];
        ensure!(then.len() == now.len(), "{step:?}: {} then, {} now", then.len(), now.len());
        for (then, now) in then.iter().zip(now) {
            ensure!(is_same(then, now, ""), "{step:?}\nthen: {then}\nnow: {now}");
        }
    }
    let steps: usize = then.values().map(Vec::len).sum();
    writeln!(std::io::stderr(), "replay: {steps} steps of alerts, as then ({name})")?;
    std::fs::remove_file(&path).context("remove the recording")
}

/// The steps of alerts on the workloads' own rules: by rule, its kind, phase, and the connection or process.
type Steps = BTreeMap<(String, String, String, String), Vec<Value>>;

fn steps(lines: &str) -> Result<Steps> {
    let mut steps = Steps::new();
    for line in lines.lines().filter(|line| line.contains("\"kind\":\"alert\"")) {
        let mut event: Value = serde_json::from_str(line).with_context(|| format!("an alert: {line}"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alert = &event["alert"];
        let subject = if event["conn_id"].is_null() { &event["process"]["id"] } else { &event["conn_id"] };
        let step = (text(&alert["rule"]), text(&alert["rule_kind"]), text(&alert["phase"]), text(subject));
        if !step.0.starts_with("v.") {
            continue;
        }
        event["seq"] = Value::Null;
        event["alert"]["id"] = Value::Null;
        steps.entry(step).or_default().push(event);
    }
    Ok(steps)
}

/// Whether they are equal, but for the wall clock, which the agent reads anew each second.
fn is_same(then: &Value, now: &Value, key: &str) -> bool {
    match (then, now) {
        (Value::Object(then_keys), Value::Object(now_keys)) => {
            let mut keys = then_keys.keys().chain(now_keys.keys());
            keys.all(|key| is_same(&then[key], &now[key], key))
        }
        (Value::Array(then), Value::Array(now)) => {
            then.len() == now.len() && then.iter().zip(now).all(|(then, now)| is_same(then, now, key))
        }
        (Value::String(then), Value::String(now)) if key == "ts" => {
            let wall = |ts: &str| ts.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_nanosecond);
            wall(then).zip(wall(now)).is_some_and(|(then, now)| then.abs_diff(now) < 1_000_000_000)
        }
        _ => then == now,
    }
}

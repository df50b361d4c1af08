//! The scenarios against the agent, and the agent's command line.
//!
//! Environment: `CONN_BIN`, `CONN_SCENARIO_BIN` (the programs), `CONN_BACKEND` (default `auto`), `CONN_TIME_FACTOR`
//! (stretches every time limit), `CONN_MAY_SUSPEND` (this machine may be put to sleep), `CONN_STORM` (connections of the
//! storm), `CONN_SHORT_LIVED`, `CONN_PREEXISTING` (sizes of the scenarios of these names), `CONN_MILLION` (connections of
//! the leak test; without it the tests of memory, of the tables after losses that go on, and of a hung file system are left
//! out: machines under emulation are too slow, and have no shell).
//!
//! `truth::NAME` runs a workload without the agent, `scenario::NAME` with it; `alert::NAME` violates rules.

mod after_loss;
mod agent;
mod alerts;
mod alive;
mod attack;
mod baseline;
mod cli;
mod compared;
mod compat;
mod copied;
mod disguise;
mod history;
mod identity;
mod list;
mod loss;
mod memory;
mod preempted;
mod replay;
mod run;
mod service;
mod settings;
mod slowest;
mod storm;
mod suspend;
mod workload;

use std::process::ExitCode;

use anyhow::{Context, Result};
use conn_tests::truth::Line;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    // No test is to find the agent of this machine.
    // SAFETY: there is one thread.
    unsafe { std::env::set_var("CONN_SOCKET", "") };
    let arguments = Arguments::from_args();
    let trials = match trials() {
        Ok(trials) => trials,
        Err(e) => {
            eprintln!("scenarios: {e:#}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    let stopped = compared::stop_shared();
    alerts::clean();
    alerts::print_delays();
    slowest::print();
    if let Err(e) = &stopped {
        eprintln!("scenarios: FAILED at the end: {e:#}");
    }
    if stopped.is_err() { ExitCode::from(101) } else { conclusion.exit_code() }
}

fn trials() -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for line in workload::run(&["list"]).context("list the scenarios")? {
        let Line::Scenario { name, skip, .. } = line else { continue };
        // libtest-mimic prints the kind of a test: the place to say why it is ignored.
        let kind = skip.as_ref().map(|reason| format!("not on this kernel: {reason}")).unwrap_or_default();
        for (group, run) in
            [("truth", compared::truth as fn(&str) -> Result<()>), ("scenario", compared::scenario)]
        {
            let scenario = name.clone();
            let trial = trial(&format!("{group}::{name}"), move || compared::together(|| run(&scenario)));
            trials.push(trial.with_ignored_flag(skip.is_some()).with_kind(kind.clone()));
        }
        if name == "timens" {
            let trial = trial("timens::of-the-agent", || compared::together(compared::shifted_agent));
            trials.push(trial.with_ignored_flag(skip.is_some()).with_kind(kind));
        }
    }
    for name in alerts::names()? {
        let run = move || compared::together(|| alerts::violated(name, compared::shared));
        trials.push(trial(&format!("alert::{name}"), run));
    }
    trials.push(trial("storm::one-thread", || compared::alone(|| storm::counts(1))));
    trials.push(trial("storm::two-threads", || compared::alone(|| storm::counts(2))));
    trials.push(trial("storm::in-a-crowd", || compared::alone(storm::in_a_crowd)));
    trials.push(trial("identity::of-a-live-process", || compared::together(identity::of_a_live_process)));
    let in_namespace = disguise::is_seen_through_in_a_mount_namespace;
    trials.push(trial("disguise::in-a-mount-namespace", move || compared::together(in_namespace)));
    let refusal = compat::refusal();
    let compat = trial("compat::accepts", || compared::together(compat::accepts));
    trials.push(compat.with_ignored_flag(refusal.is_some()).with_kind(refusal.unwrap_or_default()));
    let after_loss = disguise::is_seen_through_after_a_loss;
    trials.push(trial("disguise::after-a-loss", move || compared::alone(after_loss)));
    trials.push(trial("replay::equals-the-live-run", || compared::together(replay::equals_the_live_run)));
    trials
        .push(trial("replay::equals-the-stopped-run", || compared::together(replay::equals_the_stopped_run)));
    trials.push(trial("baseline::reports-what-is-new", || compared::together(baseline::reports_what_is_new)));
    trials.push(trial("loss::is-exact", || compared::alone(loss::is_exact)));
    trials.push(trial("loss::skipped-runs-are-counted", || compared::alone(loss::skipped_runs_are_counted)));
    let asleep = trial("suspend::is-counted", || compared::alone(suspend::is_counted));
    let refusal = suspend::refusal();
    let due = trial("suspend::deadlines-fall-due", || compared::alone(suspend::deadlines_fall_due));
    for trial in [asleep, due] {
        trials.push(trial.with_ignored_flag(refusal.is_some()).with_kind(refusal.unwrap_or_default()));
    }
    if let Some(connections) = settings::million() {
        trials.push(trial("memory::no-leak", move || compared::alone(|| memory::no_leak(connections))));
        trials.push(trial("loss::then-equals-ss", || compared::alone(after_loss::equals_the_kernel)));
        let hung = alive::beside_a_hung_file_system;
        trials.push(trial("alive::beside-a-hung-file-system", move || compared::together(hung)));
        let refusal = attack::refusal();
        let corpus = trial("attack::corpus", || compared::alone(attack::corpus));
        trials.push(corpus.with_ignored_flag(refusal.is_some()).with_kind(refusal.unwrap_or_default()));
        trials.push(trial("memory::of-many", || compared::alone(memory::of_many)));
    }
    for (name, test) in run::OF_BACKEND {
        trials.push(trial(&format!("run::{name}"), move || compared::together(test)));
    }
    trials.push(trial("history::equals-the-stream", || compared::alone(history::equals_the_stream)));
    trials.push(trial("history::survives-a-kill", || compared::alone(history::survives_a_kill)));
    trials.push(trial("history::tail-goes-on", || compared::together(history::tail_goes_on)));
    trials.push(trial("list::equals-proc", || compared::without_forks(list::equals_proc)));
    for (name, run) in cli::ALL.into_iter().chain(run::OF_COMMAND_LINE) {
        trials.push(trial(&format!("cli::{name}"), move || compared::together(run)));
    }
    for (name, run) in cli::OF_KERNEL {
        trials.push(trial(&format!("kernel::{name}"), move || compared::together(run)));
    }
    Ok(trials)
}

fn trial(name: &str, run: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    let timed = name.to_owned();
    Trial::test(name, move || slowest::timed(timed, run).map_err(|e| Failed::from(format!("{e:#}"))))
}

//! A workload that does known things with TCP over loopback and prints what it did, as JSON lines: the ground truth
//! of the scenario tests. It knows nothing of the agent.
//!
//! `conn-scenario list` names the scenarios, `conn-scenario NAME` runs one; `conn-scenario violation` and `conn-scenario
//! violation NAME` list and run what rules are violated by.

mod busy;
mod conn;
mod diag;
mod disguise;
mod facts;
mod fetch;
mod many;
mod netdev;
mod overhead;
mod pidns;
mod process;
mod scenario;
mod storm;
mod sys;
mod uring;
mod violation;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use conn_tests::truth::Line;

use crate::scenario::Skip;

const USAGE: &str = "usage: conn-scenario NAME | list | fetch ADDRESS | pidns PROGRAM | violation [NAME] | storm N [--threads T] [--payload BYTES] [--wait] | \
                     many N | busy THREADS | overhead --conn PATH [--pairs N] [--connections M] [--backend B] \
                     [--one-core] [--base CONFIG --with CONFIG]";

fn main() -> ExitCode {
    let mut args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let name = if args.is_empty() { String::new() } else { args.remove(0) };
    let result = match name.as_str() {
        "list" => list(),
        "fetch" => fetch::run(&args),
        "pidns" => pidns::run(&args),
        "storm" => storm::run(&args),
        "busy" => busy::run(&args),
        "many" => many::run(&args),
        many::PART => many::part(&args),
        "overhead" => overhead::run(&args),
        "violation" => violation::run(&args),
        violation::ACTOR => violation::actor(&args),
        disguise::IMPOSTOR => disguise::impostor(&args),
        disguise::MOUNTER => disguise::mounter(&args),
        scenario::CONNECTOR => scenario::connector(&args),
        scenario::OPENER => scenario::opener(&args),
        scenario::WAITER => scenario::waiter(&args),
        _ => scenario(&name),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("conn-scenario: {name}: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<()> {
    for s in scenario::ALL {
        let skip = s.needs.and_then(|probe| probe());
        facts::emit(&Line::Scenario { name: s.name.into(), about: s.about.into(), skip })?;
    }
    Ok(())
}

fn scenario(name: &str) -> Result<()> {
    let Some(found) = scenario::ALL.iter().find(|s| s.name == name) else {
        bail!("no such scenario\n{USAGE}")
    };
    facts::emit_me().context("describe this process")?;
    match (found.run)() {
        Err(e) if e.is::<Skip>() => facts::emit(&Line::Skip { reason: e.to_string() }),
        other => other,
    }
}

//! Runs a corpus of attacks and of benign work against `conn` with its default rules: `cargo xtask attack`.
//!
//! `conn-attack CONN CORPUS... [-- NAME...]`, as root: with names, only cases whose names contain one of them. Each case is a shell
//! script (see [`corpus`]) that runs in a network namespace of its own kind: this host at 10.10.0.5, an external host at
//! 203.0.113.66 and an inner one at 10.10.0.9. It prints a table of what was detected, by which rules, and fails if too
//! few attacks are detected or benign work raises too much.
//!
//! `conn-attack outside NAMESPACE PORT LINE...` connects from the external host to this one, sends the lines and prints what comes back:
//! the attacker's side of bind shells and web shells. Scripts have it as `$OUTSIDE`.

mod corpus;
mod net;
mod outside;
mod run;
mod services;
mod table;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::corpus::{Case, Kind};
use crate::net::Network;
use crate::run::Outcome;
use crate::trace::Tracer;

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("outside", rest)) = words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        outside::visit(rest)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (files, names) = match words.iter().position(|word| word == "--") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (&words[..], &[][..]),
    };
    let (conn, files) = files.split_first().with_context(|| format!("usage: see {}", file!()))?;
    let mut cases = Vec::new();
    for file in files {
        cases.extend(corpus::read(&PathBuf::from(file))?);
    }
    cases.retain(|case| names.is_empty() || names.iter().any(|name| case.name.contains(name)));
    ensure!(!cases.is_empty(), "no case has such a name");
    // SAFETY: no arguments; cannot fail.
    ensure!(unsafe { libc::geteuid() } == 0, "network namespaces and tracing need root");

    let network = Network::new()?;
    services::start(&network)?;
    let (before, cases): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| case.before);
    let mut started = Vec::new();
    for case in before {
        let running = match case.missing_program() {
            Some(program) => Err(program),
            None => Ok(run::start_before(&case, &network)?),
        };
        started.push((case, running));
    }
    let tracer = Tracer::start(&PathBuf::from(conn))?;
    let began = Instant::now();
    let mut results = Vec::new();
    for (case, running) in started {
        let outcome = match running {
            Err(program) => Outcome::Skipped(program),
            Ok(running) => run::judge_before(&case, running, &network, &tracer, began)?,
        };
        table::row(&case, &outcome);
        results.push((case, outcome));
    }
    for case in cases {
        let outcome = match case.missing_program() {
            Some(program) => Outcome::Skipped(program),
            None => run::case(&case, &network, &tracer)?,
        };
        table::row(&case, &outcome);
        results.push((case, outcome));
    }
    tracer.stop()?;
    Ok(table::summary(&results))
}

/// Returns the results of one kind.
fn of(kind: Kind, results: &[(Case, Outcome)]) -> impl Iterator<Item = &(Case, Outcome)> {
    results.iter().filter(move |(case, _)| case.kind == kind)
}

//! The table and the verdict.

use std::collections::BTreeMap;
use std::process::ExitCode;

use crate::corpus::{Case, Kind, Severity};
use crate::of;
use crate::run::Outcome;

/// Of a hundred attacks so many must be detected at MEDIUM or above.
const DETECTED: usize = 90;
/// Benign cases that may raise MEDIUM.
const MEDIUM_MAX: usize = 3;

/// Prints the row of a case.
pub(crate) fn row(case: &Case, outcome: &Outcome) {
    let kind = match case.kind {
        Kind::Attack => "attack",
        Kind::Benign => "benign",
    };
    let name = &case.name;
    match outcome {
        Outcome::Skipped(program) => println!("{kind}  {name:<32} skipped   {program} is not installed"),
        Outcome::Ran { worst, rules, delay, failure } => {
            let worst = worst.map_or("-", Severity::name);
            let rules = rules.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            let delay = delay.map_or(String::new(), |delay| format!("{} ms", delay.as_millis()));
            let failure = failure.as_ref().map_or(String::new(), |failure| format!("  [script: {failure}]"));
            let note = case.missed.as_ref().map_or(String::new(), |why| format!("  [not expected: {why}]"));
            println!("{kind}  {name:<32} {worst:<9} {delay:>8}  {rules}{failure}{note}");
        }
    }
}

fn worst(outcome: &Outcome) -> Option<Severity> {
    match outcome {
        Outcome::Ran { worst, .. } => *worst,
        Outcome::Skipped(_) => None,
    }
}

fn ran(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Ran { .. })
}

/// Prints the totals, and judges.
pub(crate) fn summary(results: &[(Case, Outcome)]) -> ExitCode {
    let mut problems = Vec::new();
    let attacks: Vec<_> = of(Kind::Attack, results).filter(|(_, outcome)| ran(outcome)).collect();
    let detected = attacks.iter().filter(|(_, outcome)| worst(outcome) >= Some(Severity::MEDIUM)).count();
    let high = attacks.iter().filter(|(_, outcome)| worst(outcome) >= Some(Severity::HIGH)).count();
    let benign: Vec<_> = of(Kind::Benign, results).filter(|(_, outcome)| ran(outcome)).collect();
    let loud = benign.iter().filter(|(_, outcome)| worst(outcome) >= Some(Severity::HIGH)).count();
    let medium = benign.iter().filter(|(_, outcome)| worst(outcome) == Some(Severity::MEDIUM)).count();
    let skipped = results.iter().filter(|(_, outcome)| !ran(outcome)).count();
    println!();
    println!("attacks: {detected} of {} detected at MEDIUM or above, {high} at HIGH or above", attacks.len());
    println!("benign:  {loud} of {} at HIGH or above, {medium} at MEDIUM", benign.len());
    println!("skipped: {skipped}");
    let mut noise: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, outcome) in &benign {
        if let Outcome::Ran { rules, .. } = outcome {
            for rule in rules {
                *noise.entry(rule).or_default() += 1;
            }
        }
    }
    for (rule, count) in noise {
        println!("noise:   {rule} {count}");
    }
    for (case, outcome) in results {
        if let Outcome::Ran { failure: Some(failure), .. } = outcome {
            problems.push(format!("{}: {failure}", case.name));
        }
        if case.kind == Kind::Benign && worst(outcome) > Some(case.allowed) {
            problems.push(format!("{}: {} ({})", case.name, "raises more than it may", case.about));
        }
        if case.kind == Kind::Attack
            && ran(outcome)
            && case.missed.is_none()
            && worst(outcome) < Some(Severity::MEDIUM)
        {
            problems.push(format!("{}: not detected ({})", case.name, case.about));
        }
    }
    if !attacks.is_empty() && detected * 100 < attacks.len() * DETECTED {
        problems.push(format!("fewer than {DETECTED} % of the attacks are detected"));
    }
    if medium > MEDIUM_MAX {
        problems.push(format!("more than {MEDIUM_MAX} benign cases raise MEDIUM"));
    }
    for problem in &problems {
        println!("FAILED: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

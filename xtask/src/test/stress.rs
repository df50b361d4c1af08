//! `cargo xtask test --stress N`: the tests of this machine, N times beside a load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::load::Load;
use super::suite::{Run, Settings, TestProgram};
use super::table::aligned;
use crate::libtest::Counts;

/// As many busy loops beside the builds.
const BUSY_LOOPS: usize = 4;

/// What came of all rounds so far.
#[derive(Default)]
struct Results {
    programs: BTreeMap<String, Program>,
    /// By program and test.
    failures: BTreeMap<(String, String), Failed>,
    skips: BTreeMap<String, u32>,
    total: Counts,
}

/// A test program over all rounds.
#[derive(Default)]
struct Program {
    rounds: u32,
    failed: u32,
    took: Vec<Duration>,
}

/// A test that failed in at least one round.
struct Failed {
    rounds: u32,
    /// Round and message of its first failure.
    first: (u32, String),
}

impl Results {
    fn add(&mut self, round: u32, name: &str, run: &Run) {
        let program = self.programs.entry(name.to_owned()).or_default();
        program.rounds += 1;
        program.failed += u32::from(!run.is_success());
        program.took.push(run.took);
        for failure in &run.failures {
            let key = (name.to_owned(), failure.test.clone());
            let failed = self.failures.entry(key);
            failed.or_insert(Failed { rounds: 0, first: (round, failure.message.clone()) }).rounds += 1;
        }
        for skip in &run.skips {
            *self.skips.entry(format!("{name}: {skip}")).or_default() += 1;
        }
        self.total.add(run.counts);
    }

    /// The table of failures, the durations, and the line that says it all.
    fn table(&self, rounds: u32) -> String {
        let header = ["program", "rounds", "failed", "min s", "median s", "max s"].map(str::to_owned);
        let mut rows = vec![header];
        for (name, program) in &self.programs {
            let mut took: Vec<f64> = program.took.iter().map(Duration::as_secs_f64).collect();
            took.sort_by(f64::total_cmp);
            let at = |index: usize| format!("{:.1}", took.get(index).copied().unwrap_or_default());
            let numbers = [program.rounds, program.failed].map(|number| number.to_string());
            let [all, failed] = numbers;
            let last = took.len().saturating_sub(1);
            rows.push([name.clone(), all, failed, at(0), at(last / 2), at(last)]);
        }
        let mut text = aligned(&rows);
        for (skip, times) in &self.skips {
            text += &["skipped: ", skip, " (", &times.to_string(), " times)\n"].concat();
        }
        if !self.failures.is_empty() {
            let header = ["test", "failures", "first failure"].map(str::to_owned);
            let row = |((program, test), failed): (&(String, String), &Failed)| {
                let (round, message) = &failed.first;
                [
                    format!("{program} {test}"),
                    format!("{} of {rounds}", failed.rounds),
                    format!("round {round}: {message}"),
                ]
            };
            let failures: Vec<_> = std::iter::once(header).chain(self.failures.iter().map(row)).collect();
            text.push('\n');
            text += &left_aligned(&failures);
        }
        text + &format!("test result: {}\n", self.total)
    }
}

/// Columns under each other, all to the left.
fn left_aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Runs the programs so many times beside a load and prints the table.
///
/// # Errors
/// When a test failed, no test ran, or the load was not what it should be.
pub(crate) fn run(programs: &[TestProgram], settings: &Settings, rounds: u32) -> Result<()> {
    let mut results = Results::default();
    let start = Instant::now();
    let load = Load::start(BUSY_LOOPS);
    for round in 1..=rounds {
        let begun = Instant::now();
        let mut counts = Counts::default();
        for program in programs {
            let run = program.run(settings)?;
            results.add(round, &program.name, &run);
            counts.add(run.counts);
            for failure in &run.failures {
                println!("stress: round {round}: {} {}: {}", program.name, failure.test, failure.message);
                keep_logs(&program.name, round, &run)?;
            }
        }
        let left = start.elapsed().as_secs() * u64::from(rounds - round) / u64::from(round) / 60;
        println!(
            "stress: round {round} of {rounds}: {} passed, {} failed, {} skipped, {} s; about {left} min left",
            counts.passed,
            counts.failed,
            counts.ignored,
            begun.elapsed().as_secs()
        );
        if load.has_failed() {
            break;
        }
    }
    let took = start.elapsed().as_secs();
    // Also when the load was not what it should be.
    print!("\n{}", results.table(rounds));
    let builds = load.end().context("the load")?;
    println!("stress: {rounds} rounds beside {BUSY_LOOPS} busy loops and {builds} builds, {took} s");
    if results.total.failed > 0 || results.total.passed == 0 {
        bail!("tests failed, or none ran");
    }
    Ok(())
}

/// Keeps what a failed round printed; the next round writes the logs anew.
fn keep_logs(name: &str, round: u32, run: &Run) -> Result<()> {
    for log in &run.logs {
        let kept = log.with_extension(format!(
            "{}.round-{round}",
            log.extension().unwrap_or_default().to_string_lossy()
        ));
        std::fs::copy(log, &kept).with_context(|| format!("cannot keep the output of {name}"))?;
    }
    println!("stress: its output is in {}", run.logs[0].with_extension(format!("*.round-{round}")).display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtest::Failure;

    fn run(failed: &[&str], millis: u64) -> Run {
        let failures =
            failed.iter().map(|test| Failure { test: (*test).to_owned(), message: format!("{test} broke") });
        let counts =
            Counts { passed: 5 - failed.len() as u64, failed: failed.len() as u64, ..Counts::default() };
        Run { counts, failures: failures.collect(), took: Duration::from_millis(millis), ..Run::default() }
    }

    #[test]
    fn each_failing_test_has_its_rounds_and_its_first_message() {
        let mut results = Results::default();
        results.add(1, "conn-user/snapshot", &run(&[], 1_000));
        results.add(2, "conn-user/snapshot", &run(&["mptcp"], 3_000));
        results.add(3, "conn-user/snapshot", &run(&["mptcp", "netns"], 2_000));
        let table = results.table(3);
        let expected = "program             rounds  failed  min s  median s  max s\n\
                        conn-user/snapshot       3       2    1.0       2.0    3.0\n\n\
                        test                      failures  first failure\n\
                        conn-user/snapshot mptcp  2 of 3    round 2: mptcp broke\n\
                        conn-user/snapshot netns  1 of 3    round 3: netns broke\n\
                        test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(table, expected);
    }
}

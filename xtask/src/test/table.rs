//! The table at the end: a line per step, and the sum.

use std::time::Duration;

use anyhow::{Result, bail};

use super::step::Step;
use crate::libtest::Counts;

/// How many skips of one reason, or failures, are listed at most.
const LISTED: usize = 200;

/// The table, what was skipped and what failed, and last the line that CI's readers look for.
pub(crate) fn of(steps: &[Step]) -> String {
    let mut total = Counts::default();
    let mut rows = Vec::new();
    for step in steps {
        total.add(step.counts);
        rows.push(row(&step.name, step.counts, Some(step.took)));
    }
    rows.push(row("total", total, None));
    let header = ["step", "passed", "failed", "skipped", "seconds"].map(str::to_owned);
    rows.insert(0, header);
    let mut text = aligned(&rows);
    text += &list("skipped", &skips(steps));
    text += &list("FAILED", &failures(steps));
    text + &format!("test result: {total}\n")
}

/// Whether the steps are a success.
///
/// # Errors
/// When a test failed, or none ran.
pub(crate) fn verdict(steps: &[Step]) -> Result<()> {
    let sum = |count: fn(&Counts) -> u64| steps.iter().map(|step| count(&step.counts)).sum::<u64>();
    match (sum(|counts| counts.passed), sum(|counts| counts.failed)) {
        (0, 0) => bail!("no test ran"),
        (_, 0) => Ok(()),
        (_, failed) => bail!("{failed} tests failed"),
    }
}

fn row(name: &str, counts: Counts, took: Option<Duration>) -> [String; 5] {
    let [passed, failed, skipped] = [counts.passed, counts.failed, counts.ignored].map(|n| n.to_string());
    let seconds = took.map(|took| format!("{:.1}", took.as_secs_f64())).unwrap_or_default();
    [name.to_owned(), passed, failed, skipped, seconds]
}

/// Each skip once, with how many steps have it.
fn skips(steps: &[Step]) -> Vec<String> {
    let mut known: Vec<(&str, Vec<&str>)> = Vec::new();
    for step in steps {
        for skip in &step.skips {
            match known.iter_mut().find(|(other, _)| other == skip) {
                Some((_, names)) if names.last() == Some(&step.name.as_str()) => {}
                Some((_, names)) => names.push(&step.name),
                None => known.push((skip, vec![&step.name])),
            }
        }
    }
    known.into_iter().map(|(skip, steps)| format!("{skip} ({})", steps.join(", "))).collect()
}

fn failures(steps: &[Step]) -> Vec<String> {
    let of = |step: &Step| {
        let line = |failure: &crate::libtest::Failure| {
            format!("{} {}: {}", step.name, failure.test, failure.message)
        };
        step.failures.iter().map(line).collect::<Vec<_>>()
    };
    steps.iter().flat_map(of).collect()
}

fn list(what: &str, lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines.iter().take(LISTED) {
        text += &[what, ": ", line, "\n"].concat();
    }
    if lines.len() > LISTED {
        text += &[what, ": ", &(lines.len() - LISTED).to_string(), " more\n"].concat();
    }
    text
}

/// Columns under each other: the first to the left, the others to the right.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<width$}", width = widths[0]),
            _ => format!("{cell:>width$}", width = widths[column]),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtest::Failure;

    fn step(name: &str, counts: [u64; 3]) -> Step {
        let [passed, failed, ignored] = counts;
        let counts = Counts { passed, failed, ignored, filtered: 0 };
        Step { name: name.to_owned(), counts, took: Duration::from_millis(1_250), ..Step::default() }
    }

    #[test]
    fn the_sum_is_what_ci_reads() {
        let table = of(&[step("xtask", [40, 0, 0]), step("5.10/fentry", [118, 0, 7])]);
        let expected = "step         passed  failed  skipped  seconds\n\
                        xtask            40       0        0      1.2\n\
                        5.10/fentry     118       0        7      1.2\n\
                        total           158       0        7\n\
                        test result: ok. 158 passed; 0 failed; 7 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn skips_and_failures_are_named() {
        let mut one = step("conn-user/snapshot", [9, 1, 1]);
        one.skips = vec!["no MPTCP".to_owned(), "no MPTCP".to_owned()];
        one.failures = vec![Failure { test: "netns".to_owned(), message: "x.rs:1 left".to_owned() }];
        let mut other = step("6.1/kprobe", [9, 0, 1]);
        other.skips = vec!["no MPTCP".to_owned()];
        let table = of(&[one, other]);
        assert!(table.contains("skipped: no MPTCP (conn-user/snapshot, 6.1/kprobe)\n"), "{table}");
        assert!(table.contains("FAILED: conn-user/snapshot netns: x.rs:1 left\n"), "{table}");
        assert!(
            table.ends_with(
                "test result: FAILED. 18 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out\n"
            )
        );
    }

    #[test]
    fn nothing_at_all_is_a_failure() {
        assert!(of(&[]).contains("test result: FAILED. 0 passed"));
    }
}

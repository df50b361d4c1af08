//! What test programs print: libtest's format, which libtest-mimic writes too.

use std::fmt;

/// Lines of a failed run to show when it does not sum its failures up itself.
pub(crate) const OUTPUT_TAIL: usize = 100;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    pub(crate) filtered: u64,
}

impl Counts {
    /// Adds the numbers of another run.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.filtered += other.filtered;
    }

    /// Reads "passed=3 failed=0 …"; words with other keys are passed over.
    pub(crate) fn of_words(words: &str) -> Option<Self> {
        let mut counts = Self::default();
        for word in words.split(' ') {
            let (key, value) = word.split_once('=')?;
            match key {
                "passed" => counts.passed = value.parse().ok()?,
                "failed" => counts.failed = value.parse().ok()?,
                "ignored" => counts.ignored = value.parse().ok()?,
                "filtered" => counts.filtered = value.parse().ok()?,
                _ => {}
            }
        }
        Some(counts)
    }

    /// Reads "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.20s".
    fn of_line(line: &str) -> Option<Self> {
        let numbers = line.trim().strip_prefix("test result: ")?.split_once(". ")?.1;
        let mut counts = Self::default();
        for part in numbers.split("; ") {
            let (number, what) = part.split_once(' ')?;
            match what {
                "passed" => counts.passed = number.parse().ok()?,
                "failed" => counts.failed = number.parse().ok()?,
                "ignored" => counts.ignored = number.parse().ok()?,
                "filtered out" => counts.filtered = number.parse().ok()?,
                _ => {}
            }
        }
        Some(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = if self.failed == 0 && self.passed > 0 { "ok" } else { "FAILED" };
        write!(
            f,
            "{result}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out",
            self.passed, self.failed, self.ignored, self.filtered
        )
    }
}

/// A failed test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The test's name, or what else failed.
    pub(crate) test: String,
    /// Why, in one line: what it printed, as far as a table can show it.
    pub(crate) message: String,
}

/// What a test program printed on standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// Its summary; absent when it did not come to its end.
    pub(crate) counts: Option<Counts>,
    pub(crate) failures: Vec<Failure>,
    /// Ignored tests, with the reason where the line has one.
    pub(crate) ignored: Vec<String>,
}

impl Output {
    /// Reads the output of a test program.
    pub(crate) fn of(text: &str) -> Self {
        let mut output = Self { counts: text.lines().rev().find_map(Counts::of_line), ..Self::default() };
        for line in text.lines() {
            let Some((name, verdict)) = verdict(line) else { continue };
            if verdict == "FAILED" {
                let message = message(text, name).unwrap_or_default();
                output.failures.push(Failure { test: name.to_owned(), message });
            } else if let Some(reason) = verdict.strip_prefix("ignored") {
                output.ignored.push(format!("{}{reason}", line_name(line)));
            }
        }
        output
    }
}

/// Name and verdict out of `test name ... ok`, `test [kind] name   ... ignored`, `test name ... ignored, reason`.
fn verdict(line: &str) -> Option<(&str, &str)> {
    let (_, verdict) = line.rsplit_once(" ... ")?;
    let known = ["ok", "FAILED", "ignored"].iter().any(|known| verdict.starts_with(known));
    let name = line_name(line);
    // libtest-mimic puts the kind of a test before its name.
    let name = if name.starts_with('[') { name.rsplit(' ').next()? } else { name };
    (known && line.starts_with("test ")).then_some((name, verdict.trim_end()))
}

/// What stands between "test " and " ... ".
fn line_name(line: &str) -> &str {
    let line = line.strip_prefix("test ").unwrap_or(line);
    line.rsplit_once(" ... ").map_or(line, |(name, _)| name).trim()
}

/// Characters of a failed test's output in the table.
const MESSAGE: usize = 1_000;

/// What a failed test printed that says why, in one line: from its panic on, else all.
fn message(text: &str, test: &str) -> Option<String> {
    let start = [format!("---- {test} stdout ----"), format!("---- {test} ----")]
        .iter()
        .find_map(|head| text.lines().position(|line| line == head))?;
    let ends =
        |line: &str| line.starts_with("---- ") || line == "failures:" || line.starts_with("test result: ");
    let section = text.lines().skip(start + 1).take_while(|line| !ends(line));
    let mut lines: Vec<&str> = section.map(str::trim).filter(|line| !line.is_empty()).collect();
    let panic = lines.iter().position(|line| line.starts_with("thread '") && line.contains(" panicked at "));
    if let Some(at) = panic {
        lines.drain(..at);
        lines[0] = lines[0].rsplit_once(" panicked at ").map_or(lines[0], |(_, place)| place);
    }
    lines.retain(|line| !line.starts_with("note: run with `RUST_BACKTRACE"));
    if let Some(backtrace) = lines.iter().position(|line| *line == "stack backtrace:") {
        lines.truncate(backtrace);
    }
    Some(lines.join(" ").chars().take(MESSAGE).collect())
}

/// What a failed run printed, without the list of tests that passed: from the summary of failures on when there is one,
/// else the end.
pub(crate) fn important_part(output: &str) -> String {
    match output.split_once("\nfailures:\n") {
        Some((_, failures)) => format!("failures:\n{failures}"),
        None => last_lines(output, OUTPUT_TAIL),
    }
}

/// The last lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines[lines.len().saturating_sub(count)..].concat()
}

/// The reasons of skipped tests in what a program printed on standard error: see `conn_tests::skip`.
pub(crate) fn skips(stderr: &str) -> Vec<String> {
    stderr.lines().filter_map(|line| line.strip_prefix("SKIPPED ")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBTEST: &str = "running 4 tests
test filter::parse ... ok
test of_cgroup ... ignored, only in a cgroup
test mptcp ... FAILED
test slow ... FAILED

failures:

---- mptcp stdout ----
saw 2 sockets

thread 'mptcp' (4711) panicked at conn-user/tests/snapshot.rs:384:5:
assertion `left == right` failed
  left: None
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

---- slow stdout ----
Error: \"too slow\"


failures:
    mptcp
    slow

test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 1.20s
";

    #[test]
    fn a_failed_run_of_libtest() {
        let output = Output::of(LIBTEST);
        assert_eq!(output.counts, Some(Counts { passed: 1, failed: 2, ignored: 1, filtered: 3 }));
        assert_eq!(output.ignored, ["of_cgroup, only in a cgroup"]);
        let failed: Vec<_> = output.failures.iter().map(|f| (f.test.as_str(), f.message.as_str())).collect();
        let place = "conn-user/tests/snapshot.rs:384:5: assertion `left == right` failed left: None";
        assert_eq!(failed, [("mptcp", place), ("slow", "Error: \"too slow\"")]);
    }

    #[test]
    fn a_run_of_libtest_mimic() {
        let output = Output::of(
            "\nrunning 2 tests\ntest [not on this kernel: no io_uring] scenario::io-uring ... ignored\n\
             test scenario::ipv4                                     ... FAILED\n\nfailures:\n\n\
             ---- scenario::ipv4 ----\nbackend fentry: 1 problems\n  missing\n\n\nfailures:\n    scenario::ipv4\n\n\
             test result: FAILED. 0 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.11s\n\n",
        );
        assert_eq!(output.counts.map(|counts| counts.failed), Some(1));
        assert_eq!(output.ignored, ["[not on this kernel: no io_uring] scenario::io-uring"]);
        let failure = Failure {
            test: "scenario::ipv4".to_owned(),
            message: "backend fentry: 1 problems missing".to_owned(),
        };
        assert_eq!(output.failures, [failure]);
    }

    #[test]
    fn a_program_that_died_has_no_summary() {
        assert_eq!(Output::of("running 2 tests\ntest a ... ok\n"), Output::default());
    }

    #[test]
    fn what_a_test_prints_is_no_verdict() {
        let output = Output::of("a test ... FAILED\ntest x ... maybe\ntest result: odd\n");
        assert_eq!(output, Output::default());
    }

    #[test]
    fn skips_are_found_among_other_lines() {
        let stderr = "noise\nSKIPPED conn-user/tests/snapshot.rs:360: this kernel has no MPTCP\nSKIPPED\n";
        assert_eq!(skips(stderr), ["conn-user/tests/snapshot.rs:360: this kernel has no MPTCP"]);
    }

    #[test]
    fn passed_tests_are_left_out_of_a_failure() {
        let output =
            "test a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b ----\nno event\n\nfailures:\n    b\n";
        assert_eq!(important_part(output), "failures:\n\n---- b ----\nno event\n\nfailures:\n    b\n");
        let long = (0..300).map(|number| format!("line {number}")).collect::<Vec<_>>().join("\n");
        let shown = important_part(&long);
        assert!(shown.starts_with("line 200\n") && shown.ends_with("line 299"), "{shown}");
        assert_eq!(last_lines("", 3), "");
    }

    #[test]
    fn nothing_passed_is_not_ok() {
        assert!(Counts::default().to_string().starts_with("FAILED."));
        let counts = Counts { passed: 1, ..Counts::default() };
        assert_eq!(counts.to_string(), "ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    }
}

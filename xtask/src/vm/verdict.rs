//! What a run in a VM came to, from what the guest wrote on its two serial ports.

use std::time::Duration;

use crate::libtest::Counts;

/// Kernel messages after which a run counts as failed, whatever the tests say.
const SPLATS: [&str; 10] = [
    "Kernel panic",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "WARNING: ",
    "general protection fault",
    "self-detected stall",
    "soft lockup",
    "blocked for more than",
    "refcount_t:",
];

/// Messages that contain one of [`SPLATS`] and are no sign of trouble.
const HARMLESS: [&str; 1] = ["Unpatched return thunk"];

/// One run of the tests in a guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BackendRun {
    pub(crate) backend: String,
    /// Absent when the run did not come to its end.
    pub(crate) counts: Option<Counts>,
    /// What the tests printed.
    pub(crate) output: String,
}

/// How QEMU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, successfully.
    Clean,
    /// By itself, with a failure.
    Failed,
    /// It was killed after this time.
    TimedOut(Duration),
}

/// A guest's whole report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) runs: Vec<BackendRun>,
    /// What the guest's init had to say.
    pub(crate) notes: Vec<String>,
    /// Why the run as a whole is void or failed, apart from failed tests.
    pub(crate) troubles: Vec<String>,
}

impl Report {
    /// Judges a run. `backend` is the one that was to be run.
    pub(crate) fn of(results: &str, console: &str, ending: Ending, backend: &str) -> Self {
        let mut report = Self::default();
        let mut end = None;
        for line in results.lines().map(str::trim_end) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "BEGIN" => {
                    report.runs.push(BackendRun { backend: rest.to_owned(), ..BackendRun::default() });
                }
                "|" => {
                    if let Some(run) = report.runs.last_mut() {
                        run.output.push_str(rest);
                        run.output.push('\n');
                    }
                }
                "RESULT" => {
                    let (_, words) = rest.split_once(' ').unwrap_or_default();
                    if let Some(run) = report.runs.last_mut() {
                        run.counts = Counts::of_words(words);
                    }
                }
                "NOTE" => report.notes.push(rest.to_owned()),
                "END" => end = Counts::of_words(rest),
                _ => {}
            }
        }
        report.judge(end, console, ending, backend);
        report
    }

    fn judge(&mut self, end: Option<Counts>, console: &str, ending: Ending, backend: &str) {
        match ending {
            Ending::Clean => {}
            Ending::Failed => self.troubles.push("QEMU failed".to_owned()),
            Ending::TimedOut(after) => {
                self.troubles.push(format!("not finished after {} s: QEMU killed", after.as_secs()));
            }
        }
        let total = self.total();
        match end {
            // QEMU ends cleanly also after a kernel panic.
            None => self.troubles.push("the guest did not write its END line".to_owned()),
            Some(end) if (end.passed, end.failed) != (total.passed, total.failed) => {
                self.troubles.push("the END line and the results differ: output was lost".to_owned());
            }
            Some(_) => {}
        }
        if !self.runs.iter().any(|run| run.backend == backend && run.counts.is_some()) {
            self.troubles.push(format!("no result for the backend {backend}"));
        }
        self.troubles.extend(splats(console).into_iter().map(|line| format!("kernel message: {line}")));
    }

    /// The sum over all runs.
    pub(crate) fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.runs.iter().filter_map(|run| run.counts).for_each(|counts| total.add(counts));
        total
    }
}

/// The lines of a console log that report trouble in the kernel, at most a few.
fn splats(console: &str) -> Vec<&str> {
    console
        .lines()
        .map(str::trim)
        .filter(|line| SPLATS.iter().any(|splat| line.contains(splat)))
        .filter(|line| !HARMLESS.iter().any(|harmless| line.contains(harmless)))
        .take(5)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "BEGIN kprobe\r\n| test a ... ok\r\nRESULT kprobe passed=2 failed=0 ignored=1 filtered=0 seconds=1.5\r\n\
                        END passed=2 failed=0 ignored=1\r\n";

    fn judged(results: &str, console: &str, ending: Ending) -> Report {
        Report::of(results, console, ending, "kprobe")
    }

    #[test]
    fn a_good_run() {
        let report = judged(GOOD, "Linux version 6.12\n", Ending::Clean);
        assert_eq!(report.troubles, Vec::<String>::new());
        assert_eq!(report.total(), Counts { passed: 2, failed: 0, ignored: 1, filtered: 0 });
        assert_eq!(report.runs[0].output, "test a ... ok\n");
    }

    #[test]
    fn without_the_end_line_a_run_is_void() {
        let cut = GOOD.split("END").next().expect("a part");
        let report = judged(cut, "", Ending::Clean);
        assert_eq!(report.troubles, ["the guest did not write its END line"]);
    }

    #[test]
    fn lost_lines_are_noticed() {
        let report = judged("END passed=2 failed=0 ignored=0", "", Ending::Clean);
        assert_eq!(report.troubles.len(), 2, "{:?}", report.troubles);
    }

    #[test]
    fn a_test_cannot_forge_the_end_line() {
        let report = judged("BEGIN kprobe\n| END passed=1 failed=0 ignored=0\n", "", Ending::Clean);
        assert!(report.troubles.iter().any(|trouble| trouble.contains("END line")), "{:?}", report.troubles);
    }

    #[test]
    fn splats_and_timeouts_fail_a_good_looking_run() {
        let report = judged(GOOD, "[ 1.0] WARNING: CPU: 0 PID: 1 at net/core/sock.c:1\n", Ending::Clean);
        assert_eq!(report.troubles.len(), 1);
        let report = judged(GOOD, "", Ending::TimedOut(Duration::from_secs(9)));
        assert_eq!(report.troubles, ["not finished after 9 s: QEMU killed"]);
    }
}

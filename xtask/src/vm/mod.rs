//! `cargo xtask vm`: the scenario tests on other kernels, each backend in a machine of its own.

mod guest;
mod initramfs;
mod kernels;
mod qemu;
mod run;
mod verdict;

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::libtest::{Counts, Failure, Output, important_part, last_lines, skips};
use crate::lock::Lock;
use crate::test::durations::Durations;
use crate::test::schedule::{self, Plan, Task};
use crate::test::step::Step;
use crate::test::suite::{self, Built};
use crate::test::table;
use crate::{agent, workspace};
use guest::{Job, Programs, Share};
use kernels::Kernel;
use qemu::Qemu;
use run::Outcome;

/// The agent's backends.
const BACKENDS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];
/// Lines of the console to show after a failure.
const CONSOLE_TAIL: usize = 40;
/// Seconds for the tests of one backend on one kernel: the slowest took 513 on CI's machine, and more than 600 on one
/// that was busy with other things. A run that hangs costs as much.
const PATIENCE: u64 = 900;
/// The lines of the tests that are shown although all is well: what they measured.
const MEASURED: [&str; 1] = ["slowest of "];

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// The kernels, e.g. 6.1,6.12; 5.10, 6.1, 6.12 and 7.3 when not given. 7.2 and rt run on demand only.
    #[arg(long, value_delimiter = ',', value_name = "K,…")]
    kernel: Vec<String>,
    /// The agent's backends: fentry, kprobe, tracepoint; all when not given.
    #[arg(long, value_delimiter = ',', value_name = "B,…")]
    backend: Vec<String>,
    /// Run only tests whose name contains this.
    #[arg(long, value_name = "FILTER")]
    test: Option<String>,
    /// Keep the logs of successful runs too, under target/vm/logs.
    #[arg(long)]
    keep: bool,
    /// Seconds for the tests of one backend on one kernel.
    #[arg(long, default_value_t = PATIENCE, value_name = "S")]
    timeout: u64,
    /// How many machines run at once.
    #[arg(long, default_value_t = 2, value_name = "N")]
    jobs: usize,
}

impl Options {
    /// Everything, with the defaults of the command line.
    pub(crate) fn everything() -> Self {
        Self { kernel: vec![], backend: vec![], test: None, keep: false, timeout: PATIENCE, jobs: 2 }
    }

    fn kernels(&self) -> Vec<String> {
        if self.kernel.is_empty() {
            return kernels::names().into_iter().map(str::to_owned).collect();
        }
        self.kernel.clone()
    }

    fn backends(&self) -> Result<Vec<&str>> {
        if self.backend.is_empty() {
            return Ok(BACKENDS.to_vec());
        }
        if let Some(unknown) = self.backend.iter().find(|backend| !BACKENDS.contains(&backend.as_str())) {
            bail!("unknown backend {unknown}; known are {}", BACKENDS.join(", "));
        }
        Ok(self.backend.iter().map(String::as_str).collect())
    }
}

/// Runs what is wanted and prints a table.
///
/// # Errors
/// When the machines cannot be started, a test failed or none ran.
pub(crate) fn vm(options: &Options) -> Result<()> {
    if options.test.as_ref().is_some_and(|filter| filter.contains('\n')) {
        bail!("a test filter is one line");
    }
    options.backends()?;
    let fetched = Fetched::get(options)?;
    let agent = agent::build(false)?;
    // Building the tests replaces it by the agent of the test profile, which is not optimized.
    let agent = agent::under_test(&agent)?;
    let machines = Machines::new(fetched, &suite::build(&["--test", guest::TEST])?, agent)?;
    let durations = Durations::read();
    let lanes = (0..options.jobs.max(1)).map(|_| VecDeque::new()).collect();
    let steps = schedule::run(Plan { lanes, shared: machines.tasks(options, &durations)? });
    // A part of the tests says nothing about how long all of them take.
    if options.test.is_none() {
        durations.keep(&steps);
    }
    print!("\n{}", table::of(&steps));
    table::verdict(&steps)
}

/// What has to be downloaded.
pub(crate) struct Fetched {
    qemu: Qemu,
    kernels: Vec<Kernel>,
    _lock: Lock,
}

impl Fetched {
    /// Fetches what is missing.
    ///
    /// # Errors
    /// When something cannot be had.
    pub(crate) fn get(options: &Options) -> Result<Self> {
        let lock = Lock::take(&workspace::target().join("vm"))?;
        Ok(Self { qemu: Qemu::get()?, kernels: kernels::get(&options.kernels())?, _lock: lock })
    }
}

/// All that the guests need.
pub(crate) struct Machines {
    fetched: Fetched,
    programs: Programs,
}

impl Machines {
    /// With the programs that were built, and the agent.
    ///
    /// # Errors
    /// When a program is missing.
    pub(crate) fn new(fetched: Fetched, built: &Built, agent: std::path::PathBuf) -> Result<Self> {
        let kernels: Vec<_> = fetched.kernels.iter().map(|kernel| kernel.package.as_str()).collect();
        println!("vm: {}; kernels {}", fetched.qemu.describe(), kernels.join(", "));
        Ok(Self { programs: Programs::new(built, agent)?, fetched })
    }

    /// A step for each backend on each kernel.
    ///
    /// # Errors
    /// When there is no such backend.
    pub(crate) fn tasks<'a>(&'a self, options: &'a Options, durations: &Durations) -> Result<Vec<Task<'a>>> {
        let backends = options.backends()?;
        let mut tasks = Vec::new();
        for kernel in &self.fetched.kernels {
            let place = kernels::names().iter().position(|name| *name == kernel.name).unwrap_or_default();
            for (at, backend) in in_turn(&backends, place).into_iter().enumerate() {
                let name = format!("{}/{backend}", kernel.name);
                let share = match (at, place) {
                    (0, 0) => Share::All,
                    (0, _) => Share::Kernel,
                    _ => Share::None,
                };
                let job = Job {
                    backend: backend.to_owned(),
                    share,
                    filter: options.test.clone(),
                    timeout: Duration::from_secs(options.timeout),
                };
                // The longest begin first: at the end nothing runs alone.
                let estimate = durations.estimate_or(&name, if share == Share::None { 90.0 } else { 240.0 });
                let work = move || self.step(kernel, &job, options.keep);
                tasks.push(Task::new(name, estimate, work));
            }
        }
        Ok(tasks)
    }

    fn step(&self, kernel: &Kernel, job: &Job, keep: bool) -> Result<Step> {
        let outcome = run::run(&self.fetched.qemu, kernel, &self.programs, job)?;
        let step = judge(kernel.name, job, &outcome);
        if keep || step.counts.failed > 0 {
            let (console, results) = (outcome.console.display(), outcome.results.display());
            let report = format!("{}vm: logs are {console} and {results}\n", step.report);
            return Ok(Step { report, ..step });
        }
        for log in [&outcome.console, &outcome.results] {
            fs::remove_file(log).with_context(|| format!("cannot remove {}", log.display()))?;
        }
        Ok(step)
    }
}

/// The backends beginning with another one for each kernel: what a guest does only with the first of them (`vm-init`) is so done
/// once on every kernel and with every backend, in a third of the runs.
fn in_turn<'a>(backends: &[&'a str], place: usize) -> Vec<&'a str> {
    let first = place % backends.len().max(1);
    [&backends[first..], &backends[..first]].concat()
}

/// What a guest's report comes to.
fn judge(kernel: &str, job: &Job, outcome: &Outcome) -> Step {
    let report = &outcome.report;
    let output = report.runs.iter().map(|run| run.output.as_str()).collect::<String>();
    let parsed = Output::of(&output);
    let mut counts = report.total();
    let mut failures = parsed.failures;
    let mut troubles = report.troubles.clone();
    let ran = counts.passed + counts.failed > 0;
    if !ran && job.filter.is_none() && troubles.is_empty() {
        troubles.push("no test ran".to_owned());
    }
    counts.failed += troubles.len() as u64;
    let on_machine = |message| Failure { test: "(the machine)".to_owned(), message };
    failures.extend(troubles.iter().cloned().map(on_machine));
    if failures.is_empty() && counts.failed > 0 {
        failures.push(Failure { test: "(the program)".to_owned(), message: last_lines(&output, 1) });
    }

    // A test that skipped itself has passed as far as its program knows.
    let mut skips = skips(&output);
    let skipped = (skips.len() as u64).min(counts.passed);
    counts = Counts { passed: counts.passed - skipped, ignored: counts.ignored + skipped, ..counts };
    skips.extend(parsed.ignored);

    let name = format!("{kernel}/{}", job.backend);
    let mut shown = String::new();
    for line in output.lines().filter(|line| MEASURED.iter().any(|start| line.starts_with(start))) {
        shown += &["vm: ", &name, ": ", line, "\n"].concat();
    }
    for note in &report.notes {
        shown += &["vm: ", &name, ": note: ", note, "\n"].concat();
    }
    if counts.failed > 0 {
        shown += &["---- ", &name, " ----\n", &important_part(&output), "----\n"].concat();
    }
    if !troubles.is_empty() {
        let console = fs::read(&outcome.console).unwrap_or_default();
        let tail = last_lines(&String::from_utf8_lossy(&console), CONSOLE_TAIL);
        shown += &["---- ", &name, " console, last lines ----\n", &tail, "----\n"].concat();
    }
    Step { name, counts, failures, skips, took: outcome.took, report: shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verdict::{Ending, Report};

    #[test]
    fn each_backend_is_the_first_of_a_kernel() {
        let mut firsts: Vec<_> =
            (0..kernels::names().len()).map(|place| in_turn(&BACKENDS, place)[0]).collect();
        assert_eq!(in_turn(&BACKENDS, 1), ["kprobe", "tracepoint", "fentry"]);
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts, BACKENDS);
        assert!(in_turn(&[], 3).is_empty());
    }

    fn judged(results: &str, ending: Ending) -> Step {
        let job =
            Job { backend: "kprobe".to_owned(), share: Share::All, filter: None, timeout: Duration::ZERO };
        let report = Report::of(results, "", ending, &job.backend);
        let outcome =
            Outcome { report, console: "/none".into(), results: "/none".into(), took: Duration::ZERO };
        judge("6.1", &job, &outcome)
    }

    #[test]
    fn failed_and_skipped_tests_of_a_guest_are_named() {
        let step = judged(
            "BEGIN kprobe\n| SKIPPED tests/x.rs:1: no MPTCP\n| test a ... ok\n\
             | test [not on this kernel: no io_uring] b ... ignored\n| test c ... FAILED\n| \n| failures:\n| \n\
             | ---- c ----\n| no close\n| \n| test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 filtered out\n\
             RESULT kprobe passed=1 failed=1 ignored=1 filtered=0 seconds=1.5\nEND passed=1 failed=1 ignored=1\n",
            Ending::Clean,
        );
        assert_eq!(step.counts, Counts { passed: 0, failed: 1, ignored: 2, filtered: 0 });
        assert_eq!(step.failures, [Failure { test: "c".to_owned(), message: "no close".to_owned() }]);
        assert_eq!(step.skips, ["tests/x.rs:1: no MPTCP", "[not on this kernel: no io_uring] b"]);
    }

    #[test]
    fn a_guest_that_says_nothing_has_failed() {
        let step = judged("", Ending::TimedOut(Duration::from_secs(9)));
        assert!(step.counts.failed > 0 && step.counts.passed == 0);
        assert_eq!(step.failures[0].message, "not finished after 9 s: QEMU killed");
    }
}

//! `cargo xtask vm`: the scenario tests on other kernels, each in a machine of its own.

mod guest;
mod initramfs;
mod kernels;
mod qemu;
mod run;
mod verdict;

use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::lock::Lock;
use crate::workspace;
use guest::{Job, Programs};
use kernels::Kernel;
use qemu::Qemu;
use run::Outcome;
pub(crate) use verdict::Counts;

/// The agent's backends.
const BACKENDS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];
/// Lines of a failed run to show when it does not sum its failures up itself.
const OUTPUT_TAIL: usize = 100;
/// Lines of the console to show after a failure.
const CONSOLE_TAIL: usize = 40;
/// Seconds for the tests of one backend on one kernel: the slowest took 513 on CI's machine, and more than 600 on one
/// that was busy with other things. A run that hangs costs as much.
const PATIENCE: u64 = 900;

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
}

/// Counts over all machines.
#[derive(Default)]
pub(crate) struct Summary {
    /// Numbers of tests.
    pub(crate) counts: Counts,
    /// Kernel and backend of failed runs, with the reason.
    failures: Vec<String>,
    runs: usize,
    not_available: usize,
}

impl Summary {
    /// Whether tests ran and none failed.
    pub(crate) fn is_success(&self) -> bool {
        self.failures.is_empty() && self.counts.failed == 0 && self.counts.passed > 0
    }
}

/// Runs what is wanted, prints a line per kernel and backend, and the sum.
///
/// # Errors
/// When the machines cannot be started; failed tests are in the summary.
pub(crate) fn run(options: &Options) -> Result<Summary> {
    let kernels = if options.kernel.is_empty() {
        kernels::names().into_iter().map(str::to_owned).collect()
    } else {
        options.kernel.clone()
    };
    let backends: Vec<&str> = if options.backend.is_empty() {
        BACKENDS.to_vec()
    } else {
        options.backend.iter().map(String::as_str).collect()
    };
    if let Some(unknown) = backends.iter().find(|backend| !BACKENDS.contains(backend)) {
        bail!("unknown backend {unknown}; known are {}", BACKENDS.join(", "));
    }
    if options.test.as_ref().is_some_and(|filter| filter.contains('\n')) {
        bail!("a test filter is one line");
    }

    let _lock = Lock::take(&workspace::target().join("vm"))?;
    let qemu = Qemu::get()?;
    let kernels = kernels::get(&kernels)?;
    let programs = Programs::build()?;
    println!("vm: {}; kernels {}", qemu.describe(), list(&kernels));

    let mut summary = Summary::default();
    let mut jobs = Vec::new();
    for kernel in &kernels {
        let (mut can, mut cannot) = (Vec::new(), Vec::new());
        let place = kernels::names().iter().position(|name| *name == kernel.name).unwrap_or_default();
        for backend in in_turn(&backends, place) {
            match kernels::not_available(kernel.name, backend) {
                Some(reason) => cannot.push((backend, reason)),
                None => can.push(backend.to_owned()),
            }
        }
        for (backend, reason) in cannot {
            println!("vm: {}/{backend}: not available: {reason}", kernel.name);
            summary.not_available += 1;
        }
        if !can.is_empty() {
            let timeout = Duration::from_secs(options.timeout);
            jobs.push((kernel, Job { backends: can, filter: options.test.clone(), timeout }));
        }
    }
    all(&qemu, &programs, jobs, options, &mut summary)?;
    conclude(&summary);
    Ok(summary)
}

/// The backends beginning with another one for each kernel: what a guest does only in its first run (`vm-init`) is so done once on
/// every kernel and with every backend, in a third of the runs.
fn in_turn<'a>(backends: &[&'a str], place: usize) -> Vec<&'a str> {
    let first = place % backends.len().max(1);
    [&backends[first..], &backends[..first]].concat()
}

fn list(kernels: &[Kernel]) -> String {
    kernels.iter().map(|kernel| kernel.package.as_str()).collect::<Vec<_>>().join(", ")
}

/// Runs the jobs, some at once, and reports each when it is done.
fn all(
    qemu: &Qemu,
    programs: &Programs,
    jobs: Vec<(&Kernel, Job)>,
    options: &Options,
    summary: &mut Summary,
) -> Result<()> {
    let workers = options.jobs.clamp(1, jobs.len().max(1));
    let queue = Mutex::new(jobs.into_iter());
    let shared = Mutex::new(summary);
    let work = || -> Result<()> {
        loop {
            // A poisoned lock means that another worker panicked; its own panic is passed on by the scope.
            let next = queue.lock().ok().and_then(|mut queue| queue.next());
            let Some((kernel, job)) = next else { return Ok(()) };
            let outcome =
                run::run(qemu, kernel, programs, &job).with_context(|| format!("kernel {}", kernel.name))?;
            if let Ok(mut summary) = shared.lock() {
                report(kernel, &job, &outcome, options, &mut summary);
            }
        }
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn report(kernel: &Kernel, job: &Job, outcome: &Outcome, options: &Options, summary: &mut Summary) {
    let mut failed = false;
    for run in &outcome.report.runs {
        let name = format!("{}/{}", kernel.name, run.backend);
        let nothing_ran =
            run.counts.is_none_or(|counts| counts.passed + counts.failed == 0 && job.filter.is_none());
        match run.counts {
            Some(counts) if !nothing_ran => {
                println!("vm: {name}: {counts}; {} s", run.seconds);
                if counts.failed > 0 {
                    summary.failures.push(format!("{name}: {} failed", counts.failed));
                }
                failed |= counts.failed > 0;
                summary.counts.add(counts);
            }
            counts => {
                println!("vm: {name}: FAILED: no test ran to its end");
                if counts.is_some() {
                    summary.failures.push(format!("{name}: no test ran"));
                }
                failed = true;
            }
        }
        if run.counts.is_none_or(|counts| counts.failed > 0) {
            println!("---- {name} ----\n{}----", important_part(&run.output));
        }
        summary.runs += 1;
    }
    for note in &outcome.report.notes {
        println!("vm: {}: note: {note}", kernel.name);
    }
    for trouble in &outcome.report.troubles {
        println!("vm: {}: FAILED: {trouble}", kernel.name);
        summary.failures.push(format!("{}: {trouble}", kernel.name));
    }
    if !outcome.report.troubles.is_empty() {
        let console = fs::read(&outcome.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(CONSOLE_TAIL)..).unwrap_or_default();
        println!("---- {} console, last lines ----\n{}\n----", kernel.name, tail.join("\n"));
        failed = true;
    }
    println!("vm: {}: machine ran {:.1} s", kernel.name, outcome.took.as_secs_f64());
    if failed || options.keep {
        println!(
            "vm: {}: logs are {} and {}",
            kernel.name,
            outcome.console.display(),
            outcome.results.display()
        );
    } else {
        let _ = fs::remove_file(&outcome.console);
        let _ = fs::remove_file(&outcome.results);
    }
}

/// What a failed run printed, without the list of tests that passed: from the summary of failures on when there is one,
/// else the end.
fn important_part(output: &str) -> String {
    if let Some((_, failures)) = output.split_once("\nfailures:\n") {
        return format!("failures:\n{failures}");
    }
    let lines: Vec<&str> = output.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(OUTPUT_TAIL)..).unwrap_or_default();
    tail.join("\n") + "\n"
}

fn conclude(summary: &Summary) {
    println!("vm: {} runs, {} not available", summary.runs, summary.not_available);
    for failure in &summary.failures {
        println!("vm: FAILED {failure}");
    }
    let mut counts = summary.counts;
    if !summary.failures.is_empty() && counts.failed == 0 {
        // The line below is what people and tools look at; it must not say "ok".
        counts.failed = summary.failures.len() as u64;
    }
    println!("test result: {counts}");
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn passed_tests_are_left_out_of_a_failure() {
        let output =
            "test a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b ----\nno event\n\nfailures:\n    b\n";
        assert_eq!(important_part(output), "failures:\n\n---- b ----\nno event\n\nfailures:\n    b\n");
        let long = (0..300).map(|number| format!("line {number}")).collect::<Vec<_>>().join("\n");
        let shown = important_part(&long);
        assert!(shown.starts_with("line 200\n") && shown.ends_with("line 299\n"), "{shown}");
    }
}

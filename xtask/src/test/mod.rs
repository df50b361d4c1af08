//! `cargo xtask test`: everything that can be tested on this machine.

pub(crate) mod durations;
mod load;
pub(crate) mod schedule;
pub(crate) mod step;
mod stress;
pub(crate) mod suite;
pub(crate) mod table;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::{agent, vm};
use durations::Durations;
use schedule::{Plan, Task};
use step::Step;
use suite::{Built, Settings, TestProgram};

/// A test program on this machine that takes longer hangs, also beside a load.
const PATIENCE: Duration = Duration::from_hours(1);

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Run no virtual machines, and no tests of very many connections.
    #[arg(long, alias = "no-vm")]
    quick: bool,
    /// Run the tests of this machine N times beside a load: four busy loops and cargo build in a loop.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    stress: Option<u32>,
    /// Run only these test programs of this machine, e.g. conn-user or conn-user/snapshot.
    #[arg(long, value_delimiter = ',', value_name = "P,…")]
    package: Vec<String>,
    /// Run only tests of this machine whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// The longest test program: the scenarios, which have a lane of their own.
const SCENARIOS: &str = "conn-tests/scenarios";

impl Options {
    /// Whether the virtual machines take part.
    fn has_machines(&self) -> bool {
        !self.quick && self.stress.is_none() && self.package.is_empty() && self.filter.is_none()
    }
}

/// Runs the tests and prints a table.
///
/// # Errors
/// When a test failed, something did not build, or no test ran.
pub(crate) fn test(options: &Options) -> Result<()> {
    let machines = vm::Options::everything();
    let fetch = || options.has_machines().then(|| vm::Fetched::get(&machines)).transpose();
    // What is fetched comes while the compiler works.
    let (built, fetched) = std::thread::scope(|scope| {
        let fetched = scope.spawn(fetch);
        let built = build();
        (built, fetched.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let ((agent, built), fetched) = (built?, fetched?);
    let settings = settings(&agent, options);
    let programs = selected(&built.tests, &options.package)?;
    if let Some(rounds) = options.stress {
        return stress::run(&programs, &settings, rounds);
    }

    let durations = Durations::read();
    let machine = fetched.map(|fetched| vm::Machines::new(fetched, &built, agent)).transpose()?;
    let mut lanes = vec![VecDeque::new(), VecDeque::new()];
    for program in programs {
        let lane = usize::from(program.name != SCENARIOS);
        let estimate = durations.estimate(&program.name);
        let settings = &settings;
        let name = program.name.clone();
        lanes[lane].push_back(Task::new(name, estimate, move || on_host(&program, settings)));
    }
    let shared = machine.as_ref().map_or(Ok(vec![]), |machine| machine.tasks(&machines, &durations))?;
    let steps = schedule::run(Plan { lanes, shared });
    if options.filter.is_none() {
        durations.keep(&steps);
    }
    print!("\n{}", table::of(&steps));
    table::verdict(&steps)
}

/// The agent under test, and the test programs.
fn build() -> Result<(PathBuf, Built)> {
    // The scenario tests run the agent's binary, which building the tests alone does not build.
    let agent = agent::build(false)?;
    let copied = agent::under_test(&agent)?;
    Ok((copied, suite::build(&[])?))
}

/// The test programs of these packages, or of these names.
fn selected(programs: &[TestProgram], wanted: &[String]) -> Result<Vec<TestProgram>> {
    let fits = |program: &TestProgram, wanted: &String| {
        program.name == *wanted || program.name.split('/').next() == Some(wanted)
    };
    if let Some(unknown) = wanted.iter().find(|wanted| !programs.iter().any(|program| fits(program, wanted)))
    {
        let known: Vec<_> = programs.iter().map(|program| program.name.as_str()).collect();
        bail!("no test program {unknown}; known are {}", known.join(", "));
    }
    let is_wanted =
        |program: &TestProgram| wanted.is_empty() || wanted.iter().any(|wanted| fits(program, wanted));
    Ok(programs.iter().filter(|program| is_wanted(program)).cloned().collect())
}

fn settings(agent: &Path, options: &Options) -> Settings {
    // A size that the environment names wins.
    let size = |name, default: &str| (name, std::env::var_os(name).unwrap_or_else(|| default.into()));
    let mut environment = vec![("CONN_BIN", agent.into()), size("CONN_STORM", "30000")];
    // Without it the tests of very many connections are left out.
    if !options.quick {
        environment.push(size("CONN_MILLION", "1000000"));
    }
    Settings { environment, filter: options.filter.clone(), limit: PATIENCE }
}

fn on_host(program: &TestProgram, settings: &Settings) -> Result<Step> {
    let run = program.run(settings)?;
    let report = if run.is_success() { run.measured() } else { run.shown() };
    let suite::Run { counts, failures, skips, took, .. } = run;
    Ok(Step { name: program.name.clone(), counts, failures, skips, took, report })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_selected_by_package_or_name() {
        let program = |name: &str| TestProgram { name: name.to_owned(), file: "/f".into(), dir: "/".into() };
        let all = ["conn-user", "conn-user/snapshot", "xtask"].map(program);
        let names = |wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
            selected(&all, &wanted).map(|found| found.into_iter().map(|p| p.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("all").len(), 3);
        assert_eq!(names(&["conn-user"]).expect("known"), ["conn-user", "conn-user/snapshot"]);
        assert_eq!(names(&["conn-user/snapshot"]).expect("known"), ["conn-user/snapshot"]);
        let error = names(&["conn"]).expect_err("unknown").to_string();
        assert_eq!(error, "no test program conn; known are conn-user, conn-user/snapshot, xtask");
    }
}

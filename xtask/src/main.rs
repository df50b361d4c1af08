//! `cargo xtask`: builds, runs and tests conn; the one entry point for people and CI.

mod agent;
mod apt;
mod bpf;
mod command;
mod lint;
mod lock;
mod object_check;
mod setup;
mod test;
mod vm;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

/// Builds, runs and tests conn.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Put the BPF toolchain together under target/toolchain (does nothing when it is there).
    Setup,
    /// Build the agent and check its BPF programs.
    Build {
        /// With optimisations.
        #[arg(long)]
        release: bool,
    },
    /// Build the agent with optimisations and run it.
    Run {
        /// What to give to `conn`; `tail` when nothing is given.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Check format and lints; warnings are errors.
    Lint,
    /// Run the scenario tests on several kernels, each in a virtual machine.
    Vm(vm::Options),
    /// Run all tests: on this machine (as root, for those that trace), then in virtual machines.
    Test {
        /// Leave out the virtual machines.
        #[arg(long)]
        no_vm: bool,
    },
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::ensure().map(|_| ()),
        Task::Build { release } => agent::build(release).map(|agent| println!("{}", agent.display())),
        Task::Run { arguments } => agent::exec(arguments),
        Task::Lint => lint::lint(),
        Task::Test { no_vm } => test::test(!no_vm),
        Task::Vm(options) => {
            if !vm::run(&options)?.is_success() {
                bail!("tests failed in virtual machines, or none ran");
            }
            Ok(())
        }
    }
}

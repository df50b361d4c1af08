//! `cargo xtask`: builds, runs and tests conn; the one entry point for people and CI.

// What is shipped fails with an error and not with a panic (`unwrap` is a warning in the whole workspace).
#![cfg_attr(not(test), deny(clippy::expect_used))]

mod agent;
mod apt;
mod attack;
mod bpf;
mod command;
mod group;
mod libtest;
mod lint;
mod lock;
mod object_check;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
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
    /// Run the default rules against a corpus of attacks and benign work; as root.
    Attack(attack::Options),
    /// Run the agent under mixed load for a long time, with what goes wrong on servers; as root.
    Soak(soak::Options),
    /// Run all tests: on this machine (as root, for those that trace), then in virtual machines.
    Test(test::Options),
}

fn main() -> ExitCode {
    group::end_on_signals();
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
        Task::Test(options) => test::test(&options),
        Task::Attack(options) => attack::attack(&options),
        Task::Soak(options) => soak::soak(&options),
        Task::Vm(options) => vm::vm(&options),
    }
}

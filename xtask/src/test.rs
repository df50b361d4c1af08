//! `cargo xtask test`: everything that can be tested on this machine.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::command::run;
use crate::{agent, vm, workspace};

/// Runs the host's tests and, unless told not to, the scenario tests in virtual machines; prints a summary.
///
/// # Errors
/// When a test failed, something did not build, or no test ran.
pub(crate) fn test(with_vm: bool) -> Result<()> {
    let mut lines = Vec::new();
    let mut failed = false;
    let mut step = |name: &str, result: Result<()>, start: Instant| {
        let seconds = start.elapsed().as_secs();
        match result {
            Ok(()) => lines.push(format!("  ok      {name} ({seconds} s)")),
            Err(error) => {
                failed = true;
                eprintln!("xtask: {name}: {error:#}");
                lines.push(format!("  FAILED  {name} ({seconds} s): {error}"));
            }
        }
    };

    // The scenario tests run the agent's binary, which `cargo test` alone does not build.
    let agent = agent::build(false)?;
    let start = Instant::now();
    step("unit and scenario tests on this machine", on_host(&agent), start);
    if with_vm {
        let start = Instant::now();
        step("scenario tests in virtual machines", in_machines(), start);
    }
    println!("\nxtask test:\n{}", lines.join("\n"));
    if failed {
        bail!("tests failed");
    }
    Ok(())
}

fn on_host(agent: &Path) -> Result<()> {
    let copied = agent::under_test(agent)?;
    // Packages are named by the workspace's default members: conn-ebpf builds only for its own target. All packages are
    // tested even if one fails.
    run(workspace::cargo()
        .args(["test", "--no-fail-fast"])
        .env("CONN_BIN", &copied)
        .env("CONN_STORM", "30000")
        .env("CONN_MILLION", "1000000"))
    .context("cargo test")
}

fn in_machines() -> Result<()> {
    let summary = vm::run(&vm::Options::everything())?;
    if !summary.is_success() {
        bail!("{}", summary.counts);
    }
    Ok(())
}

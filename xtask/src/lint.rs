//! `cargo xtask lint`: format and clippy, warnings being errors.

use anyhow::{Context as _, Result};

use crate::command::run;
use crate::{bpf, setup, workspace};

/// Checks the whole workspace.
///
/// # Errors
/// When anything is found.
pub(crate) fn lint() -> Result<()> {
    run(workspace::cargo().args(["fmt", "--all", "--check"]))
        .context("format (remedy: `cargo fmt --all`)")?;
    let toolchain = setup::ensure()?;

    let mut host = workspace::cargo();
    host.args(["clippy", "--workspace", "--exclude", "conn-ebpf", "--all-targets", "--", "-D", "warnings"]);
    run(&mut host).context("clippy for the host")?;

    // Test targets may unwrap anywhere, also in their helper functions; what is shipped may not.
    let mut shipped = workspace::cargo();
    shipped.args([
        "clippy",
        "--workspace",
        "--exclude",
        "conn-ebpf",
        "--exclude",
        "conn-tests",
        "--lib",
        "--bins",
    ]);
    shipped.args(["--", "-D", "warnings", "-D", "clippy::unwrap_used", "-D", "clippy::expect_used"]);
    run(&mut shipped).context("clippy for what is shipped")?;

    // The BPF programs compile only for their own target, so they cannot take part in a call for the host.
    let mut programs = toolchain.cargo(workspace::cargo_program(), "clippy");
    programs.args(["--package", "conn-ebpf", "--release", "--target-dir"]);
    programs.arg(bpf::target_dir(&workspace::root())).current_dir(workspace::root());
    programs.args(["--", "-D", "warnings", "-D", "clippy::unwrap_used", "-D", "clippy::expect_used"]);
    run(&mut programs).context("clippy for the BPF programs")
}

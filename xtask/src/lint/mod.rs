//! `cargo xtask lint`: format, clippy, documentation, unused dependencies, words and shell scripts, warnings being errors.

mod shell;
mod unused;
mod words;

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
    unused::check()?;
    words::check()?;
    shell::check()?;
    let toolchain = setup::ensure()?;

    // What is shipped denies `expect` in its crate roots, so one call does for it and for the tests.
    let mut host = workspace::cargo();
    host.args(["clippy", "--workspace", "--exclude", "conn-ebpf", "--all-targets", "--", "-D", "warnings"]);
    run(&mut host).context("clippy for the host")?;

    // The BPF programs compile only for their own target, so they cannot take part in a call for the host.
    let mut programs = toolchain.cargo(workspace::cargo_program(), "clippy");
    programs.args(["--package", "conn-ebpf", "--release", "--target-dir"]);
    programs.arg(bpf::target_dir(&workspace::root())).current_dir(workspace::root());
    programs.args(["--", "-D", "warnings"]);
    run(&mut programs).context("clippy for the BPF programs")?;

    // Who reads it reads the code, too: private items are in it, and links to them lead somewhere.
    let mut documentation = workspace::cargo();
    documentation.args([
        "doc",
        "--no-deps",
        "--document-private-items",
        "--workspace",
        "--exclude",
        "conn-ebpf",
    ]);
    documentation.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    run(&mut documentation).context("documentation")
}

//! `cargo xtask lint`: format, clippy, documentation, unused dependencies, words, the order of rooms and
//! shell scripts, warnings being errors.

mod rooms;
mod shell;
mod unused;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

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
    rooms::check()?;
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

/// A file, or all Rust files below a folder; nothing when there is neither.
fn sources(place: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    if place.is_dir() {
        let entries = fs::read_dir(place).with_context(|| format!("cannot read {}", place.display()))?;
        for entry in entries {
            sources(&entry.with_context(|| format!("cannot read {}", place.display()))?.path(), into)?;
        }
    } else if place.extension().is_some_and(|ending| ending == "rs") && place.exists() {
        into.push(place.to_owned());
    }
    Ok(())
}

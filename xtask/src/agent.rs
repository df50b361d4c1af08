//! Building and running the agent.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::run;
use crate::{bpf, object_check, setup, workspace};

/// Builds the agent with the BPF programs in it, checks these, and returns the binary.
///
/// # Errors
/// When the toolchain cannot be set up, something does not build, or the programs hold a panic path.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    setup::ensure()?;
    let mut cargo = workspace::cargo();
    // No package is named: so the dependencies have the features that the tests are built with, and are built once for both.
    cargo.args(["build", "--bin", "conn"]);
    if release {
        cargo.arg("--release");
    }
    run(&mut cargo).context("building the agent")?;
    check_programs()?;
    Ok(workspace::cargo_target().join(if release { "release" } else { "debug" }).join("conn"))
}

/// A copy of the agent for the tests, beside it: to build the tests puts the agent of the test profile, which is not optimized, in
/// the place of the one that [`build`] made.
///
/// # Errors
/// When it cannot be copied.
pub(crate) fn under_test(agent: &Path) -> Result<PathBuf> {
    let copy = agent.with_file_name("conn-under-test");
    fs::copy(agent, &copy).with_context(|| format!("copy {}", agent.display()))?;
    Ok(copy)
}

/// Checks the object that the agent's build script has just used.
fn check_programs() -> Result<()> {
    let object = env::var_os("CONN_EBPF_OBJECT")
        .filter(|path| !path.is_empty())
        .map_or_else(|| bpf::object(&workspace::root()), |ready| workspace::root().join(ready));
    object_check::no_panic_path(&object)
}

/// Builds the agent and becomes it.
///
/// # Errors
/// When it does not build or cannot be started; does not return otherwise.
pub(crate) fn exec(arguments: Vec<OsString>) -> Result<()> {
    let agent = build(true)?;
    let arguments = if arguments.is_empty() { vec!["tail".into()] } else { arguments };
    let error = Command::new(&agent).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", agent.display()))
}

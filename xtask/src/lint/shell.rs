//! shellcheck over the scripts under `tests/`: Debian's, unpacked under `target/shellcheck`, so that every machine has the
//! same opinion.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::apt::Unpacked;
use crate::command::run;
use crate::workspace;

/// The suites to take it from, in order of preference.
const PLACES: [&[&str]; 2] = [&["bookworm"], &["trixie"]];

/// Checks the scripts.
///
/// # Errors
/// When anything is found, or shellcheck cannot be had.
pub(crate) fn check() -> Result<()> {
    let shellcheck =
        Unpacked::get(&workspace::target().join("shellcheck"), "shellcheck", "shellcheck", &PLACES)
            .context("getting shellcheck")?;
    let mut command = shellcheck.command();
    // -x: scripts that are sourced are read too; -P: they are looked for beside the script.
    command.args(["-x", "-P", "SCRIPTDIR"]).args(scripts()?);
    run(command.current_dir(workspace::root())).context("shell scripts")
}

/// `tests/*.sh` and what continuous integration runs.
fn scripts() -> Result<Vec<PathBuf>> {
    let dir = workspace::root().join("tests");
    let mut scripts = vec![PathBuf::from(".ci/run")];
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry.with_context(|| format!("cannot read {}", dir.display()))?.file_name();
        if name.to_string_lossy().ends_with(".sh") {
            scripts.push(PathBuf::from("tests").join(name));
        }
    }
    scripts.sort();
    Ok(scripts)
}

//! What the installed compiler is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::output;
use crate::workspace;

/// The compiler that cargo uses in this workspace.
pub(super) struct Rustc {
    /// All that `rustc -vV` prints; names the commit.
    pub(super) verbose: String,
    /// E.g. "1.95.0".
    pub(super) release: String,
    /// E.g. 22.
    pub(super) llvm_major: u32,
    /// The folder of the compiler's own libraries.
    pub(super) sysroot: PathBuf,
}

impl Rustc {
    pub(super) fn query() -> Result<Self> {
        let verbose = output(rustc().arg("-vV"))?;
        let sysroot = output(rustc().args(["--print", "sysroot"]))?;
        let release = field(&verbose, "release")?;
        let llvm = field(&verbose, "LLVM version")?;
        let llvm_major = llvm.split('.').next().and_then(|major| major.parse().ok());
        Ok(Self {
            release: release.to_owned(),
            llvm_major: llvm_major.with_context(|| format!("no LLVM version: {llvm:?}"))?,
            sysroot: Path::new(sysroot.trim_end()).to_owned(),
            verbose,
        })
    }
}

fn rustc() -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(workspace::root());
    command
}

fn field<'a>(verbose: &'a str, name: &str) -> Result<&'a str> {
    let line = verbose.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.with_context(|| format!("`rustc -vV` does not report its {name}:\n{verbose}"))
}

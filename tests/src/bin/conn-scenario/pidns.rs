//! A pid namespace for another program: `pidns PROGRAM ARGUMENT…`.

use std::process::Command;

use anyhow::{Context, Result};

use crate::sys::check;

/// Runs a program as the first process of a pid namespace of its own, and ends with its exit code. `/proc` stays that of the machine.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (program, args) = args.split_first().context("a program is missing")?;
    // SAFETY: unshare passes no pointers; only children are in the new namespace.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID) }).context("unshare(CLONE_NEWPID)")?;
    let status = Command::new(program).args(args).status().context("start")?;
    std::process::exit(status.code().unwrap_or(1))
}

//! `conn diff`: what changed from one saved list to another.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use anyhow::Context as _;

use super::args::{DiffArgs, Environment, Exit};
use super::messages::{emit, note};
use crate::event::escape;
use crate::sockets::diff::diff;
use crate::sockets::report;
use crate::sockets::saved::Saved;

/// Runs `conn diff`.
///
/// # Errors
/// When a file cannot be read as a list, or the output cannot be written.
pub fn run(args: &DiffArgs) -> anyhow::Result<Exit> {
    if is_stdin(&args.old) && is_stdin(&args.new) {
        emit("only one of the two lists can come from standard input");
        return Ok(Exit::Usage);
    }
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let found = diff(&old, &new);
    for text in &found.notes {
        note(escape::string(text.as_bytes()));
    }
    let mut out = Vec::new();
    if args.json {
        report::write_json(&found, &old, &new, &mut out);
    } else {
        report::write_table(&found, Environment::of_process().color(args.color), &mut out);
    }
    let exit = super::print(&out)?;
    Ok(if args.exit_code && !found.is_empty() { Exit::Differs } else { exit })
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn read(path: &Path) -> anyhow::Result<Saved> {
    let list = if is_stdin(path) {
        Saved::read(io::stdin().lock())
    } else {
        let file = File::open(path).with_context(|| format!("{}", path.display()))?;
        Saved::read(BufReader::new(file))
    };
    list.with_context(|| format!("{}", path.display()))
}

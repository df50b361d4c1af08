//! `conn learn`: rules from what this machine says of itself, to be reviewed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::args::{Exit, LearnArgs};
use crate::learn::units;
use crate::process::unit_files::{UnitFiles, load_path};
use crate::rules::file::shown;

/// Runs `conn learn`. It reads files and needs no privileges but those to read them.
///
/// # Errors
/// When a folder is none, or the output cannot be written.
pub fn run(args: &LearnArgs) -> anyhow::Result<Exit> {
    let text = from_units(args.from_units.as_deref().unwrap_or_default())?;
    match &args.output {
        None => super::print(text.as_bytes()),
        Some(path) => {
            fs::write(path, text).with_context(|| format!("cannot write {}", shown(path)))?;
            Ok(Exit::Done)
        }
    }
}

/// The rule file of the units in these folders; of none: where systemd looks.
fn from_units(folders: &[PathBuf]) -> anyhow::Result<String> {
    for folder in folders {
        fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", shown(folder)))?;
    }
    let machine = folders.is_empty();
    let folders = if machine { load_path(Path::new("/")) } else { folders.to_vec() };
    let files = UnitFiles::scan(&folders, |_| true);
    ensure!(!machine || !files.folders().is_empty(), "no folder of systemd's units is there: name some");
    Ok(units::learn(&files).text(&files))
}

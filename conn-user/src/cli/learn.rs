//! `conn learn`: rules from what this machine does and says of itself, to be reviewed.

mod accept;
mod live;

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::args::{Exit, LearnArgs, LearnFrom};
use super::{emit, note};
use crate::event::escape;
use crate::event::read::{Reader, Recorded};
use crate::filter::Names;
use crate::filter::error::lines;
use crate::learn::baseline::Learnt;
use crate::learn::baseline::diff::{Side, diff};
use crate::learn::baseline::screen::{Screen, screening};
use crate::learn::units;
use crate::process::unit_files::{UnitFiles, load_path};
use crate::replay::Replay;
use crate::replay::file::Recording;
use crate::rules::file;
use crate::rules::host::Host;
use crate::rules::{RuleSet, defaults};

/// What was learnt, and how it is reported.
struct Found {
    learnt: Learnt,
    host: String,
    from: String,
}

/// Runs `conn learn`. It needs no privileges but those to read files, unless it watches the machine.
///
/// # Errors
/// When something cannot be read or written; what has an exit code of its own is reported here.
pub fn run(args: &LearnArgs) -> anyhow::Result<Exit> {
    let source = match args.source() {
        Ok(source) => source,
        Err(why) => {
            emit(why);
            return Ok(Exit::Usage);
        }
    };
    // Before an hour of learning, not after it.
    let old = match args.diff.as_deref().map(rules_of).transpose() {
        Ok(old) => old,
        Err(exit) => return Ok(exit),
    };
    if let Some(folder) = args.output.as_deref().and_then(Path::parent).filter(|_| args.accept.is_none()) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        ensure!(folder.is_dir(), "cannot write there: {} is no folder", escape::path(folder));
    }
    let found = match source {
        LearnFrom::Units(folders) => return write(&from_units(folders)?, args.output.as_deref()),
        LearnFrom::Alerts(alerts) => {
            return accept::accept(alerts, args.output.as_deref().unwrap_or(Path::new("")));
        }
        LearnFrom::Baseline(file) => {
            let new = match rules_of(file) {
                Ok(new) => new,
                Err(exit) => return Ok(exit),
            };
            let Some(old) = old else { return Ok(Exit::Done) };
            return compare(&old, side(&new), args);
        }
        LearnFrom::Recordings(files) => from_recordings(files)?,
        LearnFrom::Live(duration) => match live::learn(duration, args)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        },
    };
    for window in found.learnt.windows.iter().filter(|window| window.lost > 0) {
        let from = crate::event::time::seconds(window.from);
        emit(format_args!("warning: {} records were lost in the window from {from}", window.lost));
    }
    if found.learnt.not_kept > 0 {
        let not_kept = found.learnt.not_kept;
        emit(format_args!("warning: {not_kept} connections and listeners were not learnt: limit reached"));
    }
    let suspicions = found.learnt.suspicions();
    let exit = written(&found, old.as_ref(), args)?;
    if !suspicions.is_empty() {
        emit(format_args!(
            "warning: {} entries are suspicious and only comments of the file: look at them before you take anything over",
            suspicions.len()
        ));
        for line in &suspicions {
            emit(lines(line));
        }
    }
    Ok(exit)
}

/// Writes what was learned, or how it differs from what is known.
fn written(found: &Found, old: Option<&RuleSet>, args: &LearnArgs) -> anyhow::Result<Exit> {
    match old {
        None => write(&found.learnt.text(&found.host, &found.from), args.output.as_deref()),
        Some(old) => {
            if let Some(output) = args.output.as_deref() {
                write(&found.learnt.text(&found.host, &found.from), Some(output))?;
            }
            // What is suspicious is compared too: it may be known, and if it is not, that is the news.
            let Learnt { windows, .. } = &found.learnt;
            let entries = &found.learnt.all_entries();
            compare(old, Side { entries, windows, names: Names::builtin() }, args)
        }
    }
}

/// Returns the default rules that decide what is suspicious.
fn default_rules() -> anyhow::Result<RuleSet> {
    let rules = defaults::set(&Host::read());
    rules.map_err(|errors| anyhow::anyhow!("the default rules: {errors}"))
}

/// The rules of a file; what is wrong with it is reported.
fn rules_of(path: &Path) -> Result<RuleSet, Exit> {
    file::load(&[path.to_owned()], &Host::default()).map_err(|errors| {
        emit(errors);
        Exit::Usage
    })
}

fn side(rules: &RuleSet) -> Side<'_> {
    Side { entries: rules.baseline.entries(), windows: rules.baseline.windows(), names: &rules.names }
}

fn compare(old: &RuleSet, new: Side<'_>, args: &LearnArgs) -> anyhow::Result<Exit> {
    let difference = diff(side(old), new);
    if difference.lost > 0 {
        note(format_args!(
            "{} records were lost while these were learnt; what is gone may have been missed",
            difference.lost
        ));
    }
    let text = if args.json { difference.json() } else { difference.text() };
    let exit = super::print(text.as_bytes())?;
    Ok(if args.exit_code && !difference.is_empty() { Exit::Differs } else { exit })
}

fn from_recordings(files: &[PathBuf]) -> anyhow::Result<Found> {
    let rules = screening(default_rules()?);
    let (mut learner, mut reader, mut runs) = (Screen::default(), Reader::default(), 0);
    let mut replay = Replay::new(&rules);
    let mut hosts: Vec<String> = Vec::new();
    for path in files {
        let mut recording = Recording::open(path)?;
        while let Some(recorded) = recording.next(&mut reader)? {
            if reader.runs() != runs {
                runs = reader.runs();
                replay.end_run(&mut |event| learner.take(event));
                learner.end_run();
            }
            let host = reader.stream().map(|stream| stream.host.as_str()).unwrap_or_default();
            if !hosts.iter().any(|known| known == host) && hosts.len() < 16 {
                hosts.push(host.to_owned());
            }
            if let Recorded::Event(event) = &recorded {
                learner.take(event);
            }
            replay.take(recorded, reader.take_news(), &mut |event| learner.take(event));
        }
        super::replay::emit_cut(recording.name(), recording.cut());
    }
    replay.end_run(&mut |event| learner.take(event));
    let names: Vec<String> = files.iter().map(|path| escape::path(path)).collect();
    Ok(Found { learnt: learner.learnt(), host: hosts.join(", "), from: format!("from {}", names.join(", ")) })
}

/// The rule file of the units in these folders; of none: where systemd looks.
fn from_units(folders: &[PathBuf]) -> anyhow::Result<String> {
    for folder in folders {
        fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", escape::path(folder)))?;
    }
    let machine = folders.is_empty();
    let folders = if machine { load_path(Path::new("/")) } else { folders.to_vec() };
    let files = UnitFiles::scan(&folders, |_| true);
    ensure!(!machine || !files.folders().is_empty(), "no folder of systemd's units is there: name some");
    Ok(units::learn(&files).text(&files))
}

fn write(text: &str, output: Option<&Path>) -> anyhow::Result<Exit> {
    match output {
        None => super::print(text.as_bytes()),
        Some(path) => match replace(path, text, |_| Ok(())) {
            Ok(()) => Ok(Exit::Done),
            // What took a day to learn must not be lost.
            Err(error) => {
                super::print(text.as_bytes())?;
                Err(error.context("it was written to standard output instead"))
            }
        },
    }
}

/// Writes a file as a whole: whoever reads it meanwhile, or after a full disk, has the old one. `check` is asked about the new one
/// before it takes the place of the old one, whose mode it has. What is no regular file, such as `/dev/stdout`, is written to.
fn replace(path: &Path, text: &str, check: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", escape::path(path));
    // Through a link to what it names.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = fs::metadata(path).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        return fs::write(path, text).with_context(cannot);
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().with_context(cannot)?);
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let written = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(&new)?;
        if let Some(old) = &old {
            file.set_permissions(Permissions::from_mode(old.permissions().mode()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    let done = written()
        .with_context(cannot)
        .and_then(|()| check(&new))
        .and_then(|()| fs::rename(&new, path).with_context(cannot));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

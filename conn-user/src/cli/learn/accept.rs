//! `conn learn --accept`: what alerts reported becomes normal.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::{replace, rules_of};
use crate::cli::args::Exit;
use crate::cli::emit;
use crate::clock::{Clock, boot_now};
use crate::event::escape;
use crate::event::time;
use crate::learn::baseline::accept::Accepted;
use crate::process::users::Users;

/// Most bytes of alerts.
const SIZE_MAX: u64 = 64 << 20;

/// Adds entries for the alerts of a file to a baseline. All else in it stays as it is.
pub(super) fn accept(alerts: &Path, file: &Path) -> anyhow::Result<Exit> {
    let lines = read(alerts)?;
    let accepted = match Accepted::read(&lines) {
        Ok(accepted) => accepted,
        Err(error) => {
            emit(format_args!("{}: {error}", escape::path(alerts)));
            return Ok(Exit::Usage);
        }
    };
    let text = fs::read_to_string(file).with_context(|| {
        format!("cannot read the baseline {} (`conn learn --for` makes one)", escape::path(file))
    })?;
    let old = match rules_of(file) {
        Ok(old) => old,
        Err(exit) => return Ok(exit),
    };
    let now = time::seconds(Clock::now().wall(boot_now()));
    let (addition, entries) =
        accepted.addition(old.baseline.entries(), &old.names, &format!("by {} at {now}", who()));
    if entries > 0 {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        replace(file, &format!("{text}{end}{addition}"), |new| {
            ensure!(
                rules_of(new).is_ok(),
                "the entries do not fit into {}: it is as it was",
                escape::path(file)
            );
            Ok(())
        })?;
    }
    let alerts = accepted.alerts();
    emit(format_args!("{alerts} alerts accepted: {entries} new entries in {}", escape::path(file)));
    Ok(Exit::Done)
}

fn read(alerts: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read {}", escape::path(alerts));
    let from: Box<dyn std::io::Read> = if alerts == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(fs::File::open(alerts).with_context(cannot)?)
    };
    let mut lines = String::new();
    from.take(SIZE_MAX + 1).read_to_string(&mut lines).with_context(cannot)?;
    ensure!(lines.len() as u64 <= SIZE_MAX, "{} is larger than {} MiB", escape::path(alerts), SIZE_MAX >> 20);
    Ok(lines)
}

/// The user who accepts; by sudo, whoever called it.
fn who() -> String {
    // SAFETY: it takes nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    let own = std::env::var("SUDO_USER").unwrap_or_default();
    if !own.is_empty() {
        return own;
    }
    let name = Users::default().name(uid);
    name.map_or_else(|| uid.to_string(), |name| String::from_utf8_lossy(&name).into_owned())
}

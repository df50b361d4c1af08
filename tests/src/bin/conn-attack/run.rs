//! Runs one case.
//!
//! Its script runs with `sh -eu` in the attacked host's network namespace and an empty directory, in a session of its own. It has `C2`
//! (address of the attacker's host), `INNER` (an internal host) and `OUTSIDE` (see [`crate::outside`]). What it leaves running is
//! killed. A case that runs before the agent is started is ready when there is a file `ready` in its directory, and stays; the operator
//! at ports 9002 and 9003 makes that file.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::corpus::{Case, Kind, Severity};
use crate::net::{INNER, Network, OUTER};
use crate::trace::{Raised, Tracer};

/// How long a script may run, and how long after its end an expected alert may come.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long alerts that are not expected are waited for.
const AFTER: Duration = Duration::from_millis(700);

/// What came of a case.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// This program is not installed.
    Skipped(String),
    /// The script ran.
    Ran {
        /// The highest severity.
        worst: Option<Severity>,
        /// Rules that raised alerts.
        rules: BTreeSet<String>,
        /// From the start of the script to the first alert of the highest severity.
        delay: Option<Duration>,
        /// The script failed or did not end.
        failure: Option<String>,
    },
}

/// A case whose script has started.
pub(crate) struct Started {
    child: Child,
    folder: PathBuf,
}

/// Runs a case beside the agent.
pub(crate) fn case(case: &Case, network: &Network, tracer: &Tracer) -> Result<Outcome> {
    let (mark, began) = (tracer.count(), Instant::now());
    let mut started = start(case, network)?;
    let status = loop {
        if let Some(status) = started.child.try_wait().context("wait for the script")? {
            break Some(status);
        }
        if began.elapsed() > PATIENCE {
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let failure = match status {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("{status}: {}", started.said())),
        None => Some("did not end".to_owned()),
    };
    judge(case, started, network, tracer, (mark, began, failure))
}

/// Starts a case and waits until it is ready.
pub(crate) fn start_before(case: &Case, network: &Network) -> Result<Started> {
    let began = Instant::now();
    let mut started = start(case, network)?;
    while !started.folder.join("ready").exists() {
        if let Some(status) = started.child.try_wait().context("wait for the script")? {
            bail!("{}: {status} before the agent was started: {}", case.name, started.said());
        }
        ensure!(began.elapsed() < PATIENCE, "{}: not ready: {}", case.name, started.said());
        thread::sleep(Duration::from_millis(10));
    }
    Ok(started)
}

/// Judges a case that was started before the agent, which has started at this instant.
pub(crate) fn judge_before(
    case: &Case,
    mut started: Started,
    network: &Network,
    tracer: &Tracer,
    began: Instant,
) -> Result<Outcome> {
    let status = started.child.try_wait().context("wait for the script")?;
    let failure = status.map(|status| format!("ended too early: {status}: {}", started.said()));
    judge(case, started, network, tracer, (0, began, failure))
}

impl Started {
    /// The last line that the script has written on its error output.
    fn said(&self) -> String {
        let said = fs::read_to_string(self.folder.join(".stderr")).unwrap_or_default();
        said.lines().last().unwrap_or_default().to_owned()
    }
}

fn start(case: &Case, network: &Network) -> Result<Started> {
    let folder = std::env::temp_dir().join(format!("conn-attack-{}-{}", std::process::id(), case.name));
    fs::create_dir_all(&folder).context("make a folder")?;
    let own = std::env::current_exe().context("own path")?;
    let mut command = Command::new("/bin/sh");
    command
        .args(["-euc", &case.script])
        .current_dir(&folder)
        .env("C2", OUTER)
        .env("INNER", INNER)
        .env("OUTSIDE", format!("{} outside {}", own.display(), network.others_name()))
        .stdin(Stdio::null())
        .stdout(fs::File::create(folder.join(".stdout")).context("create a file")?)
        .stderr(fs::File::create(folder.join(".stderr")).context("create a file")?);
    let enter = network.enter_host();
    // SAFETY: two system calls, which are safe after fork.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            enter()
        });
    }
    let child = command.spawn().context("start the script")?;
    Ok(Started { child, folder })
}

/// Waits for the alerts about a case that came from the `mark`th on, and ends what it has left.
fn judge(
    case: &Case,
    Started { mut child, folder }: Started,
    network: &Network,
    tracer: &Tracer,
    (mark, began, failure): (usize, Instant, Option<String>),
) -> Result<Outcome> {
    let root = u64::from(child.id());
    let others = network.others_inode()?;
    let is_own = |alert: &Raised| alert.lineage.contains(&root) && alert.netns != Some(others);
    let own = || -> Vec<Raised> { tracer.since(mark).into_iter().filter(is_own).collect() };
    let ended = Instant::now();
    let is_expected = case.kind == Kind::Attack && case.missed.is_none();
    let worst = || own().iter().map(|alert| alert.severity).max();
    let is_over = || match worst() {
        Some(Severity::HIGH | Severity::CRITICAL) if is_expected => true,
        Some(Severity::MEDIUM) if is_expected => ended.elapsed() > AFTER,
        _ => ended.elapsed() > if is_expected { PATIENCE / 4 } else { AFTER },
    };
    while !is_over() {
        thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: no pointers; the session of the script is its process group.
    unsafe { libc::kill(-child.id().cast_signed(), libc::SIGKILL) };
    let _ = child.wait();
    let alerts = own();
    let worst = alerts.iter().map(|alert| alert.severity).max();
    let first = alerts.iter().find(|alert| Some(alert.severity) == worst);
    fs::remove_dir_all(&folder).context("remove the folder")?;
    Ok(Outcome::Ran {
        worst,
        rules: alerts.iter().map(|alert| alert.rule.clone()).collect(),
        delay: first.map(|alert| alert.at.saturating_duration_since(began)),
        failure,
    })
}

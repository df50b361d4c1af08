//! What goes on beside the agent. Each load ends within seconds of the end.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Done;

/// Connections of a storm, and its threads.
const STORM: u64 = 20_000;
const THREADS: &str = "4";
/// Programs that are executed in a row.
const PROGRAMS: u64 = 50;
/// How long what changes stays as it is.
const PHASE: Duration = Duration::from_mins(1);
const NAP: Duration = Duration::from_millis(100);

/// Storms of connections with rests between them.
pub(crate) fn storms(scenario: &Path, done: &Done) -> Result<()> {
    while !done.is_over() {
        let status = Command::new(scenario)
            .args(["storm", &STORM.to_string(), "--threads", THREADS])
            .stdout(Stdio::null())
            .status()
            .context("start a storm")?;
        ensure!(status.success(), "a storm failed: {status}");
        done.connections.fetch_add(STORM, Ordering::Relaxed);
        thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

/// Programs that end at once.
pub(crate) fn programs(done: &Done) -> Result<()> {
    while !done.is_over() {
        for _ in 0..PROGRAMS {
            let status = Command::new("/bin/true").status().context("execute a program")?;
            ensure!(status.success(), "/bin/true: {status}");
        }
        done.programs.fetch_add(PROGRAMS, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Reads events for a minute, then takes nothing for a minute.
pub(crate) fn slow_reader(pipe: &Path, done: &Done) -> Result<()> {
    let mut reader =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(pipe).context("open the pipe")?;
    let (mut room, began) = (vec![0; 1 << 20], Instant::now());
    while !done.is_over() {
        let reads = (began.elapsed().as_secs() / PHASE.as_secs()).is_multiple_of(2);
        // Nothing is there, or nothing is taken.
        if !reads || reader.read(&mut room).is_err() {
            thread::sleep(NAP);
        }
    }
    Ok(())
}

/// Fills the file system of the alerts for one minute in five.
pub(crate) fn full_disk(place: &Path, done: &Done) -> Result<()> {
    let (filler, began) = (place.join("filler"), Instant::now());
    while !done.is_over() {
        let is_full = began.elapsed().as_secs() / PHASE.as_secs() % 5 == 2;
        if is_full {
            let mut file =
                OpenOptions::new().append(true).create(true).open(&filler).context("the filler")?;
            while file.write(&[0; 4_096]).is_ok() {}
        } else if File::open(&filler).is_ok() {
            fs::remove_file(&filler).context("remove the filler")?;
        }
        thread::sleep(NAP);
    }
    Ok(())
}

//! A load for the tests to run beside: busy loops, and `cargo build` again and again.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::group::Group;
use crate::{bpf, workspace};

/// A build that takes longer hangs.
const BUILD_LIMIT: Duration = Duration::from_hours(1);

/// A running load; ends when it is dropped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    loops: Vec<JoinHandle<()>>,
    builds: Option<JoinHandle<Result<u32>>>,
}

impl Load {
    /// Starts so many busy loops, which are threads of ours and so end with us, and the builds.
    pub(crate) fn start(loops: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut turns = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    turns = std::hint::black_box(turns.wrapping_add(1));
                }
            })
        };
        let loops = (0..loops).map(busy).collect();
        let until = Arc::clone(&stop);
        let builds = Some(std::thread::spawn(move || builds(&until)));
        Self { stop, loops, builds }
    }

    /// Whether it builds no more, which only a failed build can be the cause of.
    pub(crate) fn has_failed(&self) -> bool {
        self.builds.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it and returns how many builds were begun.
    ///
    /// # Errors
    /// When a build failed: then the load was less than it should have been.
    pub(crate) fn end(mut self) -> Result<u32> {
        self.stop()
    }

    fn stop(&mut self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        for busy in self.loops.drain(..) {
            let _ = busy.join();
        }
        match self.builds.take() {
            Some(builds) => builds.join().map_err(|_| anyhow!("the load's builds panicked"))?,
            None => Ok(0),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Builds the agent from nothing, in a target folder of its own, until reported to stop.
fn builds(stop: &AtomicBool) -> Result<u32> {
    let dir = workspace::target().join("load");
    let log = workspace::target().join("load.log");
    let mut begun = 0;
    while !stop.load(Ordering::Relaxed) {
        remove(&dir)?;
        let out = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut cargo: Command = workspace::cargo();
        cargo
            // What it builds is here already: nothing is fetched, and no lock of other calls is waited for.
            .args(["build", "--offline", "--bin", "conn", "--target-dir"])
            .arg(&dir)
            .env("CONN_EBPF_OBJECT", bpf::object(&workspace::root()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out);
        begun += 1;
        let group = Group::spawn(&mut cargo).context("cannot start cargo for the load")?;
        let ended = group.wait(BUILD_LIMIT, || stop.load(Ordering::Relaxed));
        match ended.context("cannot wait for the load's build")? {
            Some(status) if !status.success() => {
                bail!("the load's build failed ({status}): see {}", log.display());
            }
            None if !stop.load(Ordering::Relaxed) => bail!("the load's build hangs: see {}", log.display()),
            _ => {}
        }
    }
    remove(&dir)?;
    Ok(begun)
}

/// Removes a folder, whether it is there or not.
fn remove(dir: &std::path::Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

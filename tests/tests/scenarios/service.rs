//! A `conn agent` in a folder of its own: its configuration, events, history and socket.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::settings;

/// How the line begins that says that it traces.
const READY: &str = "conn: tracing with backend ";

/// A running `conn agent`, killed when it is dropped.
pub(crate) struct Service {
    folder: PathBuf,
    child: Child,
    stderr: Receiver<String>,
    reported: Vec<String>,
}

impl Service {
    /// Starts it with these rules and more lines of configuration (top level), and waits until it traces.
    pub(crate) fn start(rules: &str, more: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("conn-service-{}-{number}", std::process::id()));
        std::fs::create_dir_all(folder.join("rules.d")).context("make a folder")?;
        std::fs::write(folder.join("rules.d/rules.toml"), rules).context("write the rules")?;
        let backend = settings::backend();
        let config = format!(
            "backend = '{backend}'\nrules = ['rules.d']\nstate = 'state'\nsocket = 'conn.sock'\n{more}\n\
             [alerts]\nfile = 'events'\nsyslog = ''\n[events]\nfile = 'events'\n"
        );
        std::fs::write(folder.join("agent.toml"), config).context("write the configuration")?;
        Self::start_in(folder)
    }

    /// Starts it again where another one was.
    pub(crate) fn start_in(folder: PathBuf) -> Result<Self> {
        let mut child = Command::new(settings::conn()?)
            .args(["agent", "--config", "agent.toml"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start conn agent")?;
        let lines = BufReader::new(child.stderr.take().context("no stderr")?);
        let (sender, stderr) = channel();
        std::thread::spawn(move || {
            // Whoever reads may have gone.
            lines.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut service = Self { folder, child, stderr, reported: Vec::new() };
        service.await_line(READY)?;
        Ok(service)
    }

    /// Waits until it reports a line with this.
    pub(crate) fn await_line(&mut self, part: &str) -> Result<()> {
        let end = Instant::now() + settings::seconds(60);
        loop {
            match self.stderr.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let is_it = line.contains(part);
                    self.reported.push(line);
                    if is_it {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => bail!("it ended: {:?}", self.reported),
                Err(RecvTimeoutError::Timeout) => bail!("it did not report {part:?}: {:?}", self.reported),
            }
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("pid")?;
        // SAFETY: no pointers are passed; the pid is our child's, whom nobody has waited for yet.
        let result = unsafe { libc::kill(pid, signal) };
        ensure!(result == 0, "kill: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Kills it as a crash would end it; its folder.
    pub(crate) fn kill(mut self) -> Result<PathBuf> {
        self.child.kill().context("kill the agent")?;
        self.child.wait().context("wait for the agent")?;
        Ok(std::mem::take(&mut self.folder))
    }

    /// Ends it as a service manager does; its folder.
    pub(crate) fn stop(mut self) -> Result<PathBuf> {
        self.signal(libc::SIGTERM)?;
        let end = Instant::now() + settings::seconds(60);
        while self.child.try_wait().context("wait for the agent")?.is_none() {
            ensure!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = self.child.wait().context("wait for the agent")?;
        let stderr: Vec<String> = self.stderr.iter().collect();
        ensure!(status.success(), "conn agent ended with {status}: {:?} {stderr:?}", self.reported);
        Ok(std::mem::take(&mut self.folder))
    }

    /// The events that it has written so far.
    pub(crate) fn events(&self) -> Result<Vec<Value>> {
        events(&self.folder)
    }

    /// Waits until it has written an event for which this holds.
    pub(crate) fn await_event(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + settings::seconds(60);
        while !self.events()?.iter().any(&is) {
            ensure!(Instant::now() < end, "the agent did not report {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until so many bytes of its history are committed.
    pub(crate) fn await_committed(&self, bytes: u64) -> Result<()> {
        let end = Instant::now() + settings::seconds(60);
        let size = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.ok()?;
            let is_log = entry.path().extension().is_some_and(|extension| extension == "db-wal");
            entry.metadata().ok().filter(|_| is_log).map(|meta| meta.len())
        };
        while std::fs::read_dir(self.path("state")).context("the history")?.filter_map(size).sum::<u64>()
            < bytes
        {
            ensure!(Instant::now() < end, "the agent committed less than {bytes} bytes");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What `conn` prints with these arguments, asking this agent.
    pub(crate) fn conn(&self, arguments: &[&str]) -> Result<String> {
        conn(&self.folder, arguments)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Does nothing when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.folder.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// What `conn` prints in a service's folder; its agent may have ended.
pub(crate) fn conn(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(settings::conn()?)
        .args(arguments)
        .current_dir(folder)
        .env("CONN_SOCKET", folder.join("conn.sock"))
        .stdin(Stdio::null())
        .output()
        .context("start conn")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "conn {arguments:?} ended with {}: {stderr}", output.status);
    String::from_utf8(output.stdout).context("what conn printed")
}

/// The events in a service's folder. The last line may just be written.
pub(crate) fn events(folder: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(folder.join("events")).context("read the events")?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    parsed(whole)
}

/// JSON lines.
pub(crate) fn parsed(lines: &str) -> Result<Vec<Value>> {
    let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"));
    lines.lines().map(parse).collect()
}

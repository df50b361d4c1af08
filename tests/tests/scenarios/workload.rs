//! Runs the workload and reads what it did.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use conn_tests::truth::Line;

use crate::settings;

/// A running workload.
pub(crate) struct Workload {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What it and its children say on standard error.
    errors: Receiver<String>,
    reported: Vec<Line>,
    deadline: Instant,
}

impl Workload {
    pub(crate) fn start(arguments: &[&str]) -> Result<Self> {
        let program = settings::workload()?;
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdin = child.stdin.take();
        let lines = lines_of(child.stdout.take().context("no stdout")?);
        let errors = lines_of(child.stderr.take().context("no stderr")?);
        Ok(Self {
            child,
            stdin,
            lines,
            errors,
            reported: Vec::new(),
            deadline: Instant::now() + settings::seconds(300),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line; none at the end.
    fn next(&mut self) -> Result<Option<&Line>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                let line = serde_json::from_str(&line).with_context(|| format!("ground truth: {line}"))?;
                self.reported.push(line);
                Ok(self.reported.last())
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the workload does not end"),
        }
    }

    /// Reads until it is ready and waits for the word.
    pub(crate) fn ready(&mut self) -> Result<()> {
        ensure!(self.ready_again()?, "the workload ended before it was ready");
        Ok(())
    }

    /// Reads until it waits for another word; false when it has nothing more to do.
    pub(crate) fn ready_again(&mut self) -> Result<bool> {
        while let Some(line) = self.next()? {
            if *line == Line::Ready {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What it has reported so far.
    pub(crate) fn reported(&self) -> &[Line] {
        &self.reported
    }

    /// Gives the word to go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("no stdin")?;
        stdin.write_all(b"go\n").context("report the workload to go on")
    }

    /// Everything it reported, once it has ended well.
    pub(crate) fn finish(mut self) -> Result<Vec<Line>> {
        self.stdin = None;
        while self.next()?.is_some() {}
        let status = self.child.wait().context("wait for the workload")?;
        // What failed has said why, though it may not have been read yet.
        let more = || self.errors.recv_timeout(Duration::from_secs(1)).ok();
        ensure!(
            status.success(),
            "the workload failed: {status}\n{}",
            std::iter::from_fn(more).collect::<Vec<_>>().join("\n")
        );
        Ok(std::mem::take(&mut self.reported))
    }
}

fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Does nothing when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it from beginning to end.
pub(crate) fn run(arguments: &[&str]) -> Result<Vec<Line>> {
    Workload::start(arguments)?.finish()
}

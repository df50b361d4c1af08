//! `conn tail` with the default rules, and its alerts.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::corpus::Severity;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A raised or escalated alert.
#[derive(Clone, Debug)]
pub(crate) struct Raised {
    pub(crate) rule: String,
    pub(crate) severity: Severity,
    /// The process and its ancestors.
    pub(crate) lineage: Vec<u64>,
    /// Network namespace of its connection or listener.
    pub(crate) netns: Option<u64>,
    /// When it was read here.
    pub(crate) at: Instant,
}

/// A running `conn tail`.
pub(crate) struct Tracer {
    child: Child,
    raised: Arc<Mutex<Vec<Raised>>>,
    reader: JoinHandle<Result<()>>,
    folder: PathBuf,
}

impl Tracer {
    /// Starts it and waits until it traces.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(conn: &Path) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("conn-attack-{}", std::process::id()));
        fs::create_dir_all(folder.join("rules")).context("make a folder")?;
        fs::write(folder.join("rules/rules.toml"), rules(conn)?).context("write the rules")?;
        let log = folder.join("stderr");
        let mut child = Command::new(conn)
            .args(["tail", "--json", "--alerts", "--rules"])
            .arg(folder.join("rules"))
            .env("CONN_SOCKET", "")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).context("create a file")?)
            .spawn()
            .with_context(|| format!("start {}", conn.display()))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let raised = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&raised);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if let Some(alert) = parse(&line.context("read alerts")?)? {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).push(alert);
                }
            }
            Ok(())
        });
        let end = Instant::now() + PATIENCE;
        loop {
            let said = fs::read_to_string(&log).context("read what conn prints")?;
            if said.contains("tracing with backend") {
                break;
            }
            if let Some(status) = child.try_wait().context("wait for conn")? {
                bail!("conn ended with {status}: {said}");
            }
            ensure!(Instant::now() < end, "conn does not start: {said}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { child, raised, reader, folder })
    }

    /// Returns the alerts from the `from`th on.
    pub(crate) fn since(&self, from: usize) -> Vec<Raised> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)[from..].to_vec()
    }

    pub(crate) fn count(&self) -> usize {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends it.
    ///
    /// # Errors
    /// It lost records: then the table may be wrong.
    pub(crate) fn stop(mut self) -> Result<()> {
        // SAFETY: no pointers; the child is not reaped yet.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let status = self.child.wait().context("wait for conn")?;
        self.reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        let said = fs::read_to_string(self.folder.join("stderr")).context("read what conn prints")?;
        ensure!(status.success() && said.contains("\"lost\":0"), "conn ended with {status}: {said}");
        fs::remove_dir_all(&self.folder).context("remove the folder")
    }
}

/// The default rules without their throttles: cases that look alike are each detected.
fn rules(conn: &Path) -> Result<String> {
    let defaults = Command::new(conn).args(["check", "--defaults"]).output().context("run conn check")?;
    ensure!(defaults.status.success(), "conn check --defaults: {}", defaults.status);
    let text = String::from_utf8(defaults.stdout).context("the default rules")?;
    let ids = text.lines().filter_map(|line| line.strip_prefix("id = "));
    let overrides = ids.map(|id| format!("[[override]]\nid = {id}\nthrottle = \"0s\"\n"));
    Ok(std::iter::once("use = \"defaults\"\n".to_owned()).chain(overrides).collect())
}

fn parse(line: &str) -> Result<Option<Raised>> {
    let event: Value = serde_json::from_str(line).with_context(|| format!("an event: {line}"))?;
    let alert = &event["alert"];
    if !matches!(alert["phase"].as_str(), Some("raised" | "escalated")) {
        return Ok(None);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let process = &event["process"];
    let above = process["ancestors"].as_array().into_iter().flatten().map(|one| one["pid"].as_u64());
    Ok(Some(Raised {
        rule: text(&alert["rule"]),
        severity: Severity::of(&text(&alert["severity"]))?,
        lineage: std::iter::once(process["pid"].as_u64()).chain(above).flatten().collect(),
        netns: event["netns"].as_u64(),
        at: Instant::now(),
    }))
}

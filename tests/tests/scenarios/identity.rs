//! What the agent finds out about a process: each fact against what the test knows of the process that it started.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::agent::Agent;
use crate::copied::{self, Copied};
use crate::settings;

/// A process that connects as often as it is reported to, and ends with the test.
struct Opener {
    child: Child,
    listener: TcpListener,
}

impl Opener {
    fn start(copied: &Copied) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let port = listener.local_addr()?.port().to_string();
        let mut command = Command::new(copied.program());
        command
            .args(["opener", &port])
            .current_dir(copied.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let child = copied::spawn(&mut command).context("start the opener")?;
        Ok(Self { child, listener })
    }

    fn open(&mut self) -> Result<()> {
        self.child.stdin.as_mut().context("no stdin")?.write_all(b"x").context("report the opener")?;
        self.listener.accept().context("accept").map(drop)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process as it is reported once its executable is hashed.
fn hashed(agent: &Agent, opener: &mut Opener) -> Result<Value> {
    let pid = opener.child.id();
    let deadline = Instant::now() + settings::seconds(60);
    loop {
        let mark = agent.mark();
        opener.open()?;
        agent.fence()?;
        let events = agent.since(mark);
        let connect = events
            .iter()
            .find(|e| e.kind == "connect" && e.process.as_ref().is_some_and(|p| p.pid == pid))
            .context("the connect is not reported")?;
        let mut event: Value = serde_json::from_str(&connect.raw)?;
        let process = event["process"].take();
        if !process["exe_sha256"].is_null() {
            return Ok(process);
        }
        ensure!(Instant::now() < deadline, "the executable is not hashed: {process}");
    }
}

fn user_name(uid: u32) -> Value {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.get(2) == Some(&uid.to_string().as_str()));
    found.map_or(Value::Null, |fields| fields[0].into())
}

/// Once as a program that the agent sees start, once as one that was there before.
pub(crate) fn of_a_live_process() -> Result<()> {
    // Everybody may write the folder.
    let copied = Copied::new(&settings::workload()?, "opener", 0o1777)?;
    let hash = format!("{:x}", Sha256::digest(fs::read(copied.program())?));
    let mut early = Opener::start(&copied)?;
    early.open()?;
    let agent = Agent::start(&[])?;
    let mut late = Opener::start(&copied)?;
    for (opener, source) in [(&mut early, "proc_scan"), (&mut late, "exec")] {
        let reported = hashed(&agent, opener)?;
        let own = std::env::current_exe()?;
        let expected = [
            ("exe_sha256", Value::from(hash.as_str())),
            ("exe", copied.program().to_string_lossy().into()),
            ("exe_writable", true.into()),
            ("exe_deleted", false.into()),
            ("exe_memfd", false.into()),
            ("cwd", copied.folder().to_string_lossy().into()),
            ("user", user_name(fs::metadata("/proc/self")?.uid())),
            ("netns", fs::metadata("/proc/self/ns/net")?.ino().into()),
            ("source", source.into()),
        ];
        for (key, value) in expected {
            ensure!(reported[key] == value, "{source}: {key} is not {value}: {reported}");
        }
        let parent = &reported["ancestors"][0];
        ensure!(
            parent["pid"] == std::process::id() && parent["exe"] == *own.to_string_lossy(),
            "{source}: not the parent: {reported}"
        );
        ensure!(reported["exe_fs"].is_string() && reported["exe_mount"].is_string(), "{source}: {reported}");
    }
    drop((early, late));
    agent.stop()?.lost_nothing().map(drop)
}

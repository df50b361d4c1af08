//! What was learnt while a workload ran is silent when it runs again; what is new is reported, once each.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, Ended};
use crate::copied::{self, Copied};
use crate::settings;

/// A copy of the workload does one thing (see `conn-scenario actor`) and ends.
fn act(program: &Copied, what: &str, at: SocketAddr) -> Result<()> {
    let (mut mine, theirs) = UnixStream::pair().context("a pair of sockets")?;
    let mut command = Command::new(program.program());
    command.args(["actor", what, &at.to_string(), "v-baseline"]).stdin(OwnedFd::from(theirs));
    let mut child = copied::spawn(command.stdout(Stdio::null())).context("start the actor")?;
    drop(command);
    let mut word = [0; 8];
    mine.read_exact(&mut word).context("the actor did not do it")?;
    mine.write_all(&word).context("let the actor end")?;
    let status = child.wait().context("wait for the actor")?;
    ensure!(status.success(), "the actor: {status}");
    Ok(())
}

/// The alerts that were raised about programs in these folders: rule and program. Of an agent that has ended: an alert
/// may wait for facts of its process while it runs.
fn reported(agent: &Ended, copies: &[&Copied]) -> Result<Vec<(String, String)>> {
    let mut reported = Vec::new();
    for event in agent.events.iter().filter(|event| event.kind == "alert") {
        let line: Value = serde_json::from_str(&event.raw).with_context(|| event.raw.clone())?;
        let exe = line["process"]["exe"].as_str().unwrap_or_default();
        if line["alert"]["phase"] == "raised" && copies.iter().any(|copy| Path::new(exe) == copy.program()) {
            let name = exe.rsplit('/').next().unwrap_or_default().to_owned();
            reported.push((line["alert"]["rule"].as_str().unwrap_or_default().to_owned(), name));
        }
    }
    Ok(reported)
}

pub(crate) fn reports_what_is_new() -> Result<()> {
    let (known, new) = (
        Copied::new(&settings::workload()?, "v-known", 0o755)?,
        Copied::new(&settings::workload()?, "v-new", 0o755)?,
    );
    let servers = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [one, other] = [servers[0].local_addr()?, servers[1].local_addr()?];
    let file = known.folder().join("baseline.toml");
    let file_name = file.to_string_lossy().into_owned();

    let mut learn = Command::new(settings::conn()?);
    learn.args(["learn", "--for", "1h", "--backend", &settings::backend(), "-o", &file_name]);
    let mut learn = learn.stderr(Stdio::piped()).spawn().context("start conn learn")?;
    let mut stderr = std::io::BufReader::new(learn.stderr.take().context("no stderr")?);
    let mut said = String::new();
    while !said.contains("tracing with backend") {
        let length = std::io::BufRead::read_line(&mut stderr, &mut said)?;
        ensure!(length > 0, "conn learn ended: {said}");
    }
    for _ in 0..3 {
        act(&known, "connect", one)?;
    }
    let pid = i32::try_from(learn.id()).context("pid")?;
    // SAFETY: no pointers are passed; the pid is our child's, whom nobody has waited for yet.
    ensure!(unsafe { libc::kill(pid, libc::SIGINT) } == 0, "kill: {}", std::io::Error::last_os_error());
    let status = learn.wait().context("wait for conn learn")?;
    stderr.read_to_string(&mut said)?;
    ensure!(status.success(), "conn learn: {status}: {said}");

    let agent = Agent::start(&["--rules", &file_name])?;
    // What was learnt, of which nothing is to be reported, and then what is new.
    act(&known, "connect", one)?;
    act(&known, "connect", other)?;
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    act(&known, "listen", free)?;
    act(&new, "connect", one)?;
    agent.fence()?;
    let ended = agent.stop()?;
    let news = reported(&ended, &[&known, &new])?;
    let expected =
        [("baseline.path", "v-known"), ("baseline.server", "v-known"), ("baseline.process", "v-new")];
    let is_same = news.iter().map(|(rule, name)| (rule.as_str(), name.as_str())).eq(expected);
    ensure!(is_same, "expected {expected:?}\ngot {news:?}\n{}", std::fs::read_to_string(&file)?);
    ended.lost_nothing().map(drop)
}

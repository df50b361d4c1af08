//! Processes that look like others: the agent goes by what the kernel reported, and by the host's files.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use conn_tests::event::Event;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::agent::{Agent, Output};
use crate::copied::{self, Copied};
use crate::settings;

/// Programs that are executed while the agent sleeps: their records are some twenty times what the ring holds.
const PROGRAMS: usize = 300;

/// A process that connects when it is reported to; it ends with the value.
struct Actor {
    child: Child,
    stdout: BufReader<ChildStdout>,
    listener: TcpListener,
}

impl Actor {
    /// Starts `PROGRAM SCENARIO PORT ARGUMENT…`.
    fn start(program: &Path, scenario: &str, arguments: &[&str]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let port = listener.local_addr()?.port().to_string();
        let mut command = Command::new(program);
        command.args([scenario, &port]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = copied::spawn(&mut command).with_context(|| format!("start a {scenario}"))?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, stdout, listener })
    }

    fn emit(&mut self, what: &[u8]) -> Result<()> {
        self.child.stdin.as_mut().context("no stdin")?.write_all(what).context("report the process")
    }

    /// Lets it connect; the process, as the agent reports it of that connection.
    fn connect(&mut self, agent: &Agent) -> Result<Value> {
        let mark = agent.mark();
        self.emit(b"x")?;
        let (_, peer) = self.listener.accept().context("accept")?;
        // Connections to different ports may have one local port; that of a slow connect is not known yet when it is reported.
        let (from, to) = (peer.port(), self.listener.local_addr()?.port());
        let is_it = |event: &Event| {
            event.kind == "connect" && event.rport == Some(to) && event.lport.is_none_or(|port| port == from)
        };
        agent.wait_for(mark, "a connection", is_it)?;
        let event = agent.since(mark).into_iter().find(is_it).context("a connection")?;
        let mut event: Value = serde_json::from_str(&event.raw)?;
        let process = event["process"].take();
        ensure!(process["pid"] == self.child.id(), "not of {}: {process}", self.child.id());
        Ok(process)
    }

    /// Lets it connect until a fact that is found in the background is known.
    fn connect_until(&mut self, agent: &Agent, key: &str) -> Result<Value> {
        let deadline = std::time::Instant::now() + settings::seconds(60);
        loop {
            let process = self.connect(agent)?;
            if !process[key].is_null() {
                return Ok(process);
            }
            ensure!(std::time::Instant::now() < deadline, "{key} stays unknown: {process}");
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hash(program: &Path) -> Result<Value> {
    Ok(format!("{:x}", Sha256::digest(fs::read(program)?)).into())
}

fn holds(process: &Value, expected: &[(&str, Value)]) -> Result<()> {
    for (key, value) in expected {
        ensure!(process[*key] == *value, "{key} is not {value}: {process}");
    }
    Ok(())
}

/// Lets the agent lose records of processes. `meanwhile` happens in the loss; the agent has repaired its tables when this
/// returns.
fn lose(agent: &Agent, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let mark = agent.mark();
    agent.signal(libc::SIGSTOP)?;
    for _ in 0..PROGRAMS {
        let status = Command::new(settings::workload()?).arg("nothing").stderr(Stdio::null()).status();
        status.context("execute a program")?;
    }
    meanwhile()?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let port = client.local_addr()?.port();
    agent.signal(libc::SIGCONT)?;
    agent.wait_for(mark, "what the repair found", |event| {
        event.source.as_deref() == Some("resync") && event.lport == Some(port)
    })?;
    // The loss of an exec may show later than that of connections: by the next exec, or when the kernel's counts are compared.
    // Then another repair reads processes anew.
    let is_of_programs = |event: &Event| event.kind == "gap" && event.raw.contains("sched_process_exec");
    agent.wait_for(mark, "the loss of an exec", is_of_programs)?;
    let lost = agent.since(mark).into_iter().filter(is_of_programs).map(|gap| gap.seq).min();
    agent.wait_for(mark, "the repair after it", |event| event.kind == "repair" && Some(event.seq) > lost)
}

/// A process shows another executable and other arguments in /proc (PR_SET_MM_MAP). What exec reported stays, with the hash. Of
/// another one an exec is missed in the same loss: that is found, and marked as what /proc shows.
pub(crate) fn is_seen_through_after_a_loss() -> Result<()> {
    let own = Copied::new(&settings::workload()?, "impostor", 0o755)?;
    let next = Copied::new(&settings::workload()?, "next", 0o755)?;
    let shown = settings::conn()?;
    let (shown, next_path) = (shown.to_string_lossy(), next.program().to_string_lossy());
    let arguments = [&*shown, &*next_path];
    let agent = Agent::start_with(&["--ring-size", "64K", "--no-self-test"], Output::Events)?;
    let mut faker = Actor::start(own.program(), "impostor", &arguments)?;
    let mut silent = Actor::start(own.program(), "impostor", &arguments)?;
    let mut changer = Actor::start(own.program(), "impostor", &arguments)?;
    let reported = [("exe", own.program().to_string_lossy().into()), ("source", Value::from("exec"))];
    for actor in [&mut faker, &mut silent, &mut changer] {
        holds(&actor.connect(&agent)?, &reported)?;
    }
    lose(&agent, || {
        for actor in [&mut faker, &mut silent] {
            actor.emit(b"f")?;
            let mut line = String::new();
            actor.stdout.read_line(&mut line).context("wait for the disguise")?;
            ensure!(line == "shown\n", "no disguise: {line:?}");
            let link = fs::read_link(format!("/proc/{}/exe", actor.child.id()))?;
            ensure!(link == Path::new(&*shown), "/proc shows {}", link.display());
        }
        // It has executed the other program when that connects.
        changer.emit(b"ex")?;
        changer.listener.accept().context("accept in the loss").map(drop)
    })?;
    let seen = faker.connect(&agent)?;
    holds(&seen, &reported).context("the process in disguise")?;
    ensure!(seen["args"][1] == "impostor", "arguments from /proc: {seen}");
    // The link leads to another file now; the path leads to the right one still.
    holds(&faker.connect_until(&agent, "exe_sha256")?, &[("exe_sha256", hash(own.program())?)])?;
    let missed = [
        ("exe", next.program().to_string_lossy().into()),
        ("source", "proc_scan".into()),
        ("exe_sha256", hash(next.program())?),
    ];
    holds(&changer.connect_until(&agent, "exe_sha256")?, &missed).context("the missed exec")?;
    drop((faker, silent, changer));
    let totals = agent.stop()?.totals()?;
    ensure!(totals.lost > 0 && totals.repairs > 0, "no loss: {totals:?}");
    Ok(())
}

/// A file of a user's own at the path of a system's program, in a mount namespace of his own, is none of the host's; the same
/// program in such a namespace without one is.
pub(crate) fn is_seen_through_in_a_mount_namespace() -> Result<()> {
    const FOLDER: &str = "/usr/sbin";
    fs::create_dir_all(FOLDER).context("the folder that is laid over")?;
    let workload = settings::workload()?;
    let agent = Agent::start(&[])?;
    let host = fs::metadata("/proc/1/ns/mnt").or_else(|_| fs::metadata("/proc/self/ns/mnt"))?.ino();
    let own_file = [("exe", Value::from(workload.to_string_lossy())), ("exe_host", true.into())];
    let mut plain = Actor::start(&workload, "opener", &[])?;
    let seen = plain.connect(&agent)?;
    holds(&seen, &own_file)?;
    holds(&seen, &[("mnt_ns", host.into()), ("mnt_ns_host", true.into())])?;

    let mut same = Actor::start(&workload, "mounter", &[])?;
    let seen = same.connect_until(&agent, "exe_host")?;
    holds(&seen, &own_file).context("the host's file in another namespace")?;
    holds(&seen, &[("mnt_ns_host", false.into())])?;

    let mut other = Actor::start(&workload, "mounter", &[FOLDER, "sshd"])?;
    let seen = other.connect_until(&agent, "exe_host")?;
    let number = fs::metadata(format!("/proc/{}/ns/mnt", other.child.id()))?.ino();
    ensure!(number != host, "it is in the host's mount namespace");
    holds(
        &seen,
        &[
            ("exe", format!("{FOLDER}/sshd").into()),
            ("exe_host", false.into()),
            ("mnt_ns", number.into()),
            ("mnt_ns_host", false.into()),
            ("source", "exec".into()),
        ],
    )?;
    holds(
        &other.connect_until(&agent, "exe_sha256")?,
        &[("exe_sha256", hash(&workload)?), ("exe_fs", "tmpfs".into())],
    )?;
    // The same file at another path, by a mount of it alone.
    let mut bound = Actor::start(&workload, "mounter", &[FOLDER, "sshd", "bind"])?;
    let seen = bound.connect_until(&agent, "exe_host")?;
    holds(&seen, &[("exe", format!("{FOLDER}/sshd").into()), ("exe_host", false.into())])
        .context("a mounted file")?;
    drop(bound);
    drop(agent.stop()?.lost_nothing()?);

    // An agent that begins now reads the same from /proc.
    let agent = Agent::start(&[])?;
    for (actor, is_host, in_host) in
        [(&mut plain, true, true), (&mut same, true, false), (&mut other, false, false)]
    {
        let seen = actor.connect_until(&agent, "exe_host")?;
        holds(
            &seen,
            &[("exe_host", is_host.into()), ("mnt_ns_host", in_host.into()), ("source", "proc_scan".into())],
        )
        .context("an agent that was started later")?;
    }
    drop((plain, same, other));
    agent.stop()?.lost_nothing().map(drop)
}

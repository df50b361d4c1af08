//! The command line of the agent, as a process.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use conn_tests::event::{Event, Totals};

use crate::agent::{Agent, read_all, refused_connection};
use crate::copied::{self, Copied};
use crate::settings;
use crate::workload;

type Test = fn() -> Result<()>;

/// What is the same on every kernel.
pub(crate) const ALL: [(&str, Test); 12] = [
    ("ctrl-c-prints-totals", || totals_at(libc::SIGINT)),
    ("sigterm-prints-totals", || totals_at(libc::SIGTERM)),
    ("count", count),
    ("for", for_a_while),
    ("kind", kind),
    ("broken-pipe-is-quiet", broken_pipe),
    ("bad-filter", || usage(&["tail", "nosuchkey:1"], "nosuchkey")),
    ("bad-kind", || usage(&["tail", "--kind", "nosuchkind"], "nosuchkind")),
    ("bad-backend", || usage(&["tail", "--backend", "nosuchbackend"], "nosuchbackend")),
    ("bad-duration", || usage(&["tail", "--for", "soon"], "soon")),
    ("text-escapes", text_escapes),
    ("schema-parses", schema),
];

/// What it says depends on what the kernel has, and on what that allows to whom.
pub(crate) const OF_KERNEL: [(&str, Test); 3] = [
    ("nobody-may-not", nobody_may_not),
    ("one-capability-missing", one_capability_missing),
    ("doctor", doctor),
];

fn totals_at(signal: i32) -> Result<()> {
    let agent = Agent::start(&[])?;
    agent.fence()?;
    agent.signal(signal)?;
    let totals = agent.end()?.lost_nothing()?;
    let at_least_one = |kind| totals.events.get(kind).is_some_and(|&n| n >= 1);
    ensure!(at_least_one("connect") && at_least_one("failed"), "totals miss the connection made: {totals:?}");
    ensure!(!totals.records.is_empty(), "totals name no hook");
    Ok(())
}

fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(settings::conn()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// `conn tail` on the backend under test.
fn tail(arguments: &[&str]) -> Result<Command> {
    let backend = settings::backend();
    let mut all = vec!["tail", "--backend", backend.as_str()];
    all.extend_from_slice(arguments);
    command(&all)
}

/// Waits for a process; `meanwhile` is done again and again until it has ended.
fn finish(mut child: Child, mut meanwhile: impl FnMut() -> Result<()>) -> Result<Output> {
    let stdout = child.stdout.take();
    let stderr = child.stderr.take().context("no stderr")?;
    let (done, ended) = channel::<()>();
    let out = std::thread::spawn(move || stdout.map_or(Ok(String::new()), read_all));
    let err = std::thread::spawn(move || {
        let text = read_all(stderr);
        drop(done);
        text
    });
    let deadline = Instant::now() + settings::seconds(60);
    while ended.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Timeout) {
        if Instant::now() > deadline {
            let _ = child.kill();
            bail!("the agent does not end");
        }
        meanwhile()?;
    }
    let status = child.wait().context("wait")?;
    let text =
        |thread: std::thread::JoinHandle<Result<String>>| thread.join().unwrap_or_else(|_| bail!("a panic"));
    Ok(Output { status, stdout: text(out)?.into_bytes(), stderr: text(err)?.into_bytes() })
}

fn connections() -> Result<()> {
    refused_connection().map(drop)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn want_code(output: &Output, code: i32) -> Result<()> {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    ensure!(
        output.status.code() == Some(code),
        "wanted exit code {code}, got {}\nstdout: {stdout}\nstderr: {stderr}",
        output.status
    );
    ensure!(!stderr.contains("panicked"), "a panic: {stderr}");
    Ok(())
}

fn count() -> Result<()> {
    let output = finish(tail(&["--json", "--count", "3"])?.spawn()?, connections)?;
    want_code(&output, 0)?;
    let lines: Vec<_> = text(&output.stdout).lines().map(Event::parse).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 3, "{} lines", lines.len());
    let stderr = text(&output.stderr);
    let totals = stderr.lines().rfind(|l| l.starts_with('{')).context("no totals")?;
    serde_json::from_str::<Totals>(totals).context("totals").map(drop)
}

fn for_a_while() -> Result<()> {
    let started = Instant::now();
    let output = finish(tail(&["--json", "--for", "1s"])?.spawn()?, connections)?;
    want_code(&output, 0)?;
    ensure!(started.elapsed() >= Duration::from_secs(1), "it ended after {:?}", started.elapsed());
    ensure!(!output.stdout.is_empty(), "no event in a second of connections");
    Ok(())
}

fn kind() -> Result<()> {
    let agent = Agent::start(&["--kind", "failed,exec"])?;
    workload::run(&["refused"])?;
    agent.wait_for(0, "the workload's exec", |e| e.kind == "exec")?;
    agent.fence()?;
    let other = agent.since(0).into_iter().find(|e| !["failed", "exec", "gap"].contains(&e.kind.as_str()));
    ensure!(other.is_none(), "not asked for: {other:?}");
    agent.stop()?.lost_nothing().map(drop)
}

fn broken_pipe() -> Result<()> {
    let mut child = tail(&["--json"])?.spawn()?;
    let stdout = child.stdout.take().context("no stdout")?;
    let (sender, first) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        // The reader goes out of scope here: the pipe is broken.
        drop(sender.send(read.map(|_| line)));
    });
    let output = finish(child, connections)?;
    want_code(&output, 0)?;
    let line = first.recv().context("first line")?.context("first line")?;
    Event::parse(line.trim_end()).with_context(|| format!("first line {line:?}"))?;
    let stderr = text(&output.stderr).to_lowercase();
    ensure!(!stderr.contains("broken pipe") && !stderr.contains("error"), "not quiet: {stderr}");
    Ok(())
}

/// What is wrong with the usage is said, with exit code 2, before anything is attached.
fn usage(arguments: &[&str], named: &str) -> Result<()> {
    let output = command(arguments)?.output().context("run conn")?;
    want_code(&output, 2)?;
    let stderr = text(&output.stderr);
    ensure!(stderr.contains(named), "it does not name {named:?}: {stderr}");
    ensure!(output.stdout.is_empty(), "usage errors go to stderr: {}", text(&output.stdout));
    Ok(())
}

fn nobody_may_not() -> Result<()> {
    const NOBODY: u32 = 65_534;
    // Nobody may not look into the folder of the build.
    let copied = Copied::new(&settings::conn()?, "nobody", 0o755)?;
    let run = |arguments: &[&str]| {
        let mut command = Command::new(copied.program());
        command.args(arguments).uid(NOBODY).gid(NOBODY);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        copied::spawn(&mut command).and_then(Child::wait_with_output).context("run conn")
    };
    let output = run(&["tail"])?;
    want_code(&output, 3)?;
    names_capability(&text(&output.stderr), "CAP_BPF")?;
    names_capability(&text(&output.stderr), "CAP_PERFMON")?;
    let doctor = run(&["doctor"])?;
    let said = text(&doctor.stdout) + &text(&doctor.stderr);
    ensure!(!said.contains("panicked"), "a panic: {said}");
    names_capability(&said, "CAP_BPF")
}

/// `CAP_SYS_ADMIN` (it stands in for the others) and `CAP_PERFMON` (include/uapi/linux/capability.h).
const MISSING: [libc::c_ulong; 2] = [21, 38];

fn one_capability_missing() -> Result<()> {
    let mut command = command(&["tail"])?;
    // SAFETY: the closure only makes prctl calls, which are safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for capability in MISSING {
                // What is not in the bounding set is not given to root at exec.
                if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let output = command.output().context("run conn")?;
    want_code(&output, 3)?;
    names_capability(&text(&output.stderr), "CAP_PERFMON")
}

/// It names the capability and how to grant it.
fn names_capability(said: &str, capability: &str) -> Result<()> {
    let lower = said.to_lowercase();
    ensure!(lower.contains(&capability.to_lowercase()), "{capability} is not named: {said}");
    ensure!(lower.contains("setcap") && lower.contains("sudo"), "how to grant it is not said: {said}");
    Ok(())
}

/// A process may call itself anything: what people see holds no control bytes.
fn text_escapes() -> Result<()> {
    let mut child = tail(&["--color", "never"])?.spawn()?;
    let stdout = child.stdout.take().context("no stdout")?;
    let (sender, found) = channel();
    std::thread::spawn(move || {
        // The second name of the scenario `renamed`.
        let hostile = |l: &String| l.contains("second");
        drop(sender.send(BufReader::new(stdout).lines().map_while(Result::ok).find(hostile)));
    });
    let output = finish(child, || workload::run(&["renamed"]).map(drop))?;
    want_code(&output, 0)?;
    let line = found.recv().context("read the lines")?.context("the process was not shown")?;
    ensure!(line.chars().all(|c| !c.is_control()), "control characters in {line:?}");
    Ok(())
}

fn schema() -> Result<()> {
    let output = command(&["schema"])?.output().context("run conn")?;
    want_code(&output, 0)?;
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).context("schema as JSON")?;
    let whole = schema.to_string();
    for word in ["conn_id", "connect", "unlisten", "gap", "bytes_in", "netns"] {
        ensure!(whole.contains(word), "the schema does not know {word}");
    }
    Ok(())
}

fn doctor() -> Result<()> {
    let output = command(&["doctor"])?.output().context("run conn")?;
    want_code(&output, 0)?;
    let said = text(&output.stdout);
    for backend in ["fentry", "kprobe", "tracepoint"] {
        ensure!(said.contains(backend), "doctor does not mention {backend}: {said}");
    }
    let output = command(&["doctor", "--json"])?.output().context("run conn")?;
    want_code(&output, 0)?;
    serde_json::from_slice::<serde_json::Value>(&output.stdout).context("doctor --json").map(drop)
}

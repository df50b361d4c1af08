//! `conn run` around the workload's client, against a server of this process.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::settings;

type Test = fn() -> Result<()>;

/// What the hooks of a backend must deliver for it.
pub(crate) const OF_BACKEND: [(&str, Test); 1] =
    [("learns-and-judges", || learns_and_judges(&[], Place::Here))];

/// What is the same whatever the backend: processes are followed by the same hooks in all.
pub(crate) const OF_COMMAND_LINE: [(&str, Test); 6] = [
    ("run-follows-a-daemon", || learns_and_judges(&["daemon"], Place::Here)),
    ("run-in-a-pid-namespace", || learns_and_judges(&[], Place::PidNamespace)),
    ("run-loss-is-no-pass", loss_is_no_pass),
    ("run-own-code", own_code),
    ("run-not-to-be-run", not_to_be_run),
    ("run-sigint", sigint),
];

/// Where conn runs.
#[derive(Clone, Copy)]
enum Place {
    Here,
    /// In one of its own, as in a container: the kernel's process ids are not those that it knows.
    PidNamespace,
}

/// Answers every connection with a word; until the process ends.
fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let address = listener.local_addr().context("own address")?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"hello");
        }
    });
    Ok(address)
}

/// A report's file, of its own for each run.
fn file(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("conn-run-{}-{number}-{name}", std::process::id()))
}

fn start(place: Place, options: &[&str], command: &[&str]) -> Result<(Child, PathBuf)> {
    let report = file("report");
    let mut conn = match place {
        Place::Here => Command::new(settings::conn()?),
        Place::PidNamespace => Command::new(settings::workload()?),
    };
    if matches!(place, Place::PidNamespace) {
        conn.arg("pidns").arg(settings::conn()?);
    }
    let listen = || {
        // SAFETY: no handler is installed, and signal may be called between fork and exec. A shell starts what runs in the background
        // with SIGINT ignored, and what conn ignores it lets its command ignore.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: see there.
    unsafe { conn.pre_exec(listen) };
    let child = conn
        .args(["run", "--backend", &settings::backend(), "--output"])
        .arg(&report)
        .args(options)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .spawn()
        .context("start conn run")?;
    Ok((child, report))
}

/// Runs it and returns exit code and report.
fn run(place: Place, options: &[&str], command: &[&str]) -> Result<(Option<i32>, String)> {
    let (mut child, report) = start(place, options, command)?;
    let code = child.wait().context("wait")?.code();
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let _ = std::fs::remove_file(&report);
    Ok((code, text))
}

fn learns_and_judges(how: &[&str], place: Place) -> Result<()> {
    let workload = settings::workload()?;
    let workload = workload.to_str().context("a path that is text")?;
    let (one, other) = (serve()?.to_string(), serve()?.to_string());
    let fetch = |address| [&[workload, "fetch", address], how].concat();
    let rules = file("rules.toml");
    let learnt = rules.to_str().context("a path that is text")?;
    let (code, report) = run(place, &["--learn", learnt], &fetch(&one))?;
    ensure!(code == Some(0) && report.contains(&one.replace(':', "  ")), "learning: {code:?}\n{report}");
    let (code, report) = run(place, &["--rules", learnt], &fetch(&one))?;
    ensure!(code == Some(0) && report.contains("as expected"), "the same again: {code:?}\n{report}");
    let (code, report) = run(place, &["--rules", learnt], &fetch(&other))?;
    let named = report.contains("conn: unexpected: ") && report.contains(&format!("-> {other} "));
    ensure!(code == Some(6) && named, "another port: {code:?}\n{report}");
    let (code, report) = run(place, &["--rules", learnt], &[workload, "list"])?;
    let port = one.rsplit(':').next().unwrap_or_default();
    let named = report.contains("conn: missing: ") && report.contains(&format!("dport:{port}\": 0 of 1"));
    ensure!(code == Some(6) && named, "not contacted: {code:?}\n{report}");
    std::fs::remove_file(&rules).context("remove the rules")
}

/// While conn is stopped the ring runs over: what was lost may have been unexpected.
fn loss_is_no_pass() -> Result<()> {
    let workload = settings::workload()?;
    let workload = workload.to_str().context("a path that is text")?;
    let server = serve()?.to_string();
    let rules = file("rules.toml");
    let text = "[[rule]]\nid = \"a\"\nkind = \"path\"\nfind = \"forbidden\"\ntitle = \"A\"\nseverity = \"low\"\n\
                match = 'dst:192.0.2.1'\n";
    std::fs::write(&rules, text).context("write the rules")?;
    let options = ["--ring-size", "64K", "--rules", rules.to_str().context("a path that is text")?];
    for (allow, expected) in [(&[][..], 6), (&["--allow-loss"], 0)] {
        let options = [&options, allow].concat();
        let (code, report) = run(Place::Here, &options, &[workload, "fetch", &server, "unseen"])?;
        let reported = report.contains("inconclusive") && report.contains("records lost while it ran");
        ensure!(code == Some(expected) && reported, "{allow:?}: {code:?}\n{report}");
    }
    std::fs::remove_file(&rules).context("remove the rules")
}

fn own_code() -> Result<()> {
    let workload = settings::workload()?;
    let workload = workload.to_str().context("a path that is text")?;
    let server = serve()?.to_string();
    let (code, report) = run(Place::Here, &[], &[workload, "fetch", &server, "code", "9"])?;
    ensure!(code == Some(9) && report.contains("exited with code 9"), "{code:?}\n{report}");
    Ok(())
}

fn not_to_be_run() -> Result<()> {
    for (program, expected) in [("/nonexistent/program", 127), ("/", 126)] {
        let (code, report) = run(Place::Here, &[], &[program])?;
        ensure!(code == Some(expected) && report.is_empty(), "{program}: {code:?}\n{report}");
    }
    Ok(())
}

/// A signal that is sent to conn reaches the command, and the report comes.
fn sigint() -> Result<()> {
    let workload = settings::workload()?;
    let workload = workload.to_str().context("a path that is text")?;
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let address = listener.local_addr().context("own address")?.to_string();
    let (mut child, report) = start(Place::Here, &[], &[workload, "fetch", &address, "wait"])?;
    // It runs when it has connected.
    listener.set_nonblocking(true).context("not to block")?;
    let deadline = Instant::now() + settings::seconds(60);
    let stream = loop {
        if let Ok((stream, _)) = listener.accept() {
            break stream;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            anyhow::bail!("the command does not connect");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let pid = i32::try_from(child.id()).context("a process id")?;
    // SAFETY: kill passes no pointers; the child has not been waited for.
    ensure!(unsafe { libc::kill(pid, libc::SIGINT) } == 0, "kill");
    let code = child.wait().context("wait")?.code();
    drop(stream);
    let text = std::fs::read_to_string(&report).context("the report")?;
    std::fs::remove_file(&report).context("remove the report")?;
    ensure!(code == Some(130) && text.contains("was killed by signal 2"), "{code:?}\n{text}");
    Ok(())
}

//! Program images: what was executed, with which arguments.

use std::ffi::OsString;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use conn_tests::truth::{Dir, End, Kind, Line, ProcessFact};

use crate::conn::{By, Conn, Listener, Summary, V4, fact, other_end};
use crate::facts::{emit, emit_me, me};
use crate::process::fork;
use crate::sys::{self, boot_ns};

use super::size;

/// The hidden scenario that connects to a port and exits: `connector PORT [WHATEVER…]`.
pub(crate) const CONNECTOR: &str = "connector";
/// The hidden scenario that waits for the end of its input.
pub(crate) const WAITER: &str = "waiter";

/// Connects and exits, as fast as can be, and without a word: its starter reports the truth.
pub(crate) fn connector(args: &[String]) -> Result<()> {
    let port: u16 = args.first().context("no port")?.parse().context("port")?;
    let fd = sys::socket(false, false, 0)?;
    sys::connect(&fd, SocketAddr::new(V4, port)).context("connect")?;
    // The exit closes it.
    std::mem::forget(fd);
    Ok(())
}

/// The hidden scenario that connects to a port for each byte of its input: `opener PORT`.
pub(crate) const OPENER: &str = "opener";

/// Connects and closes for each byte.
pub(crate) fn opener(args: &[String]) -> Result<()> {
    let port: u16 = args.first().context("no port")?.parse().context("port")?;
    for byte in std::io::stdin().lock().bytes() {
        byte.context("wait")?;
        let fd = sys::socket(false, false, 0)?;
        sys::connect(&fd, SocketAddr::new(V4, port)).context("connect")?;
    }
    Ok(())
}

/// Says who it is, then waits until its input ends.
pub(crate) fn waiter(_: &[String]) -> Result<()> {
    emit_me()?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait").map(drop)
}

/// Starts a connector, accepts its connection and reports what it did.
pub(super) fn run_connector(
    listener: &Listener,
    program: &PathBuf,
    exe: &str,
    more: &[OsString],
) -> Result<()> {
    let port = OsString::from(listener.port().to_string());
    let mut args = vec![OsString::from(CONNECTOR), port];
    args.extend_from_slice(more);
    let from = boot_ns();
    let mut child = Command::new(program)
        .args(&args)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let mut conn = listener.accept()?;
    conn.recv_end()?;
    let status = child.wait().context("wait for the connector")?;
    anyhow::ensure!(status.success(), "connector: {status}");
    let me = me()?;
    let all = std::iter::once(program.as_os_str()).chain(args.iter().map(OsString::as_os_str));
    emit(&Line::Process(ProcessFact {
        pid: child.id(),
        ppid: Some(me.pid),
        comm: program.file_name().map(|n| n.to_string_lossy().chars().take(15).collect()).unwrap_or_default(),
        exe: exe.to_owned(),
        args: all.map(|a| a.as_bytes().to_vec()).collect(),
        start_ticks: None,
        from_ns: from,
        ..me
    }))?;
    let (by, client) = (By::Process(child.id()), other_end(&conn.sock, false)?);
    emit(&Line::Fact(fact(Kind::Connect, Some(Dir::Out), &client, by, from)))?;
    emit(&Line::Fact(fact(Kind::Established, Some(Dir::Out), &client, By::Nobody, from)))?;
    Summary { sock: client, dir: Dir::Out, sent: 0, received: 0, early: None }.ended(
        End::LocalFin,
        by,
        from,
    )?;
    conn.close(End::PeerFin)
}

/// Programs that live for a millisecond, unless `CONN_SHORT_LIVED` says how many.
const SHORT_LIVED: usize = 1_000;

pub(super) fn short_lived() -> Result<()> {
    let exe = std::env::current_exe().context("own path")?;
    let name = exe.file_name().context("own name")?;
    // The path as typed is relative in every other run; the agent must show the absolute one all the same.
    let relative = PathBuf::from(".").join(name);
    std::env::set_current_dir(exe.parent().context("own folder")?).context("chdir")?;
    let listener = Listener::new(V4)?;
    for i in 0..size("CONN_SHORT_LIVED", SHORT_LIVED)? {
        let program = if i % 2 == 0 { &exe } else { &relative };
        run_connector(&listener, program, &exe.to_string_lossy(), &[format!("run-{i}").into()])?;
    }
    listener.close()
}

pub(super) fn odd_args() -> Result<()> {
    let exe = std::env::current_exe().context("own path")?;
    let listener = Listener::new(V4)?;
    let odd: [&[u8]; 8] = [
        b"",
        b"two words",
        b"new\nline\ttab",
        b"\x1b[31mred\x1b[0m",
        b"quote\"back\\slash",
        "gr\u{fc}\u{df}e \u{202e}\u{2028}".as_bytes(),
        b"\xff\xfe\\",
        b"",
    ];
    for more in [&odd[..], &odd[..7], &odd[..1], &odd[6..7], &[]] {
        let more: Vec<_> = more.iter().map(|a| OsString::from_vec(a.to_vec())).collect();
        run_connector(&listener, &exe, &exe.to_string_lossy(), &more)?;
    }
    listener.close()
}

/// The exec closes the socket: the closer is already the new program, the owner is the old one.
pub(super) fn exec_cloexec() -> Result<()> {
    let listener = Listener::new(V4)?;
    let to = (V4, listener.port()).into();
    let (end, hold) = std::io::pipe().context("pipe")?;
    let child = fork(move |pipe| {
        let mut conn = Conn::connect(to)?;
        conn.send(3)?;
        pipe.sync()?;
        let exe = std::env::current_exe().context("own path")?;
        let error = Command::new(exe).arg(WAITER).stdin(end).exec();
        bail!("exec: {error}")
    })?;
    let mut conn = listener.accept()?;
    conn.recv(3)?;
    let from = boot_ns();
    child.pipe.sync()?;
    conn.recv_end()?;
    let client =
        Summary { sock: other_end(&conn.sock, false)?, dir: Dir::Out, sent: 3, received: 0, early: None };
    client.ended(End::LocalFin, By::Process(child.pid), from)?;
    conn.close(End::PeerFin)?;
    drop(hold);
    child.join()?;
    listener.close()
}

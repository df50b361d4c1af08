//! A time namespace: its processes read a shifted boot clock and shifted start times; the agent, outside, does not.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use conn_tests::truth::{Dir, End, Line};

use super::image::run_connector;
use crate::conn::{Conn, Listener, PATIENCE_MS, V4};
use crate::facts::emit;
use crate::process::{Child, Pipe, fork_by};
use crate::sys::{self, AcceptBy, boot_ns, check};

/// By how much: 11 days.
const SHIFT_S: u64 = 1_000_000;

/// The file is there with `CONFIG_TIME_NS` only (kernel: fs/proc/namespaces.c).
pub(super) fn lacks() -> Option<String> {
    let file = "/proc/self/ns/time_for_children";
    (!Path::new(file).exists()).then(|| format!("no {file} (CONFIG_TIME_NS)"))
}

/// Forks into a new time namespace. There [`boot_ns`] takes the shift back.
fn fork_shifted(body: impl FnOnce(&Pipe) -> Result<()>) -> Result<Child> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWTIME) }).context("unshare(CLONE_NEWTIME)")?;
    let offsets = "/proc/self/timens_offsets";
    std::fs::write(offsets, format!("{} {SHIFT_S} 0\n", libc::CLOCK_BOOTTIME))
        .with_context(|| format!("write {offsets}"))?;
    let before = boot_ns();
    let fork = || {
        // SAFETY: this process has one thread, so the child may do anything.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            sys::shift_boot_clock(SHIFT_S);
        }
        Ok(pid)
    };
    fork_by(fork, |pipe| {
        // Had the clock not moved, taking back the shift would give a time before the fork.
        let since = boot_ns().checked_sub(before).context("the boot clock is not shifted")?;
        ensure!(
            since / 1_000_000 < PATIENCE_MS.cast_unsigned().into(),
            "the boot clock is off by {since} ns"
        );
        body(pipe)
    })
}

pub(super) fn run() -> Result<()> {
    // One pair outside, one inside.
    super::basic::ipv4()?;
    fork_shifted(|_| {
        super::basic::ipv4()?;
        let exe = std::env::current_exe().context("own path")?;
        let listener = Listener::new(V4)?;
        run_connector(&listener, &exe, &exe.to_string_lossy(), &[])?;
        listener.close()
    })?
    .join()
}

/// Processes and sockets of before the agent.
pub(super) fn preexisting() -> Result<()> {
    let child = fork_shifted(|pipe| {
        let from = boot_ns();
        let listener = Listener::early(V4)?;
        let fd = sys::socket(false, false, 0)?;
        sys::connect(&fd, SocketAddr::new(V4, listener.port())).context("connect")?;
        let mut client = Conn::early(fd, Dir::Out, from)?;
        let mut server = Conn::early(sys::accept(&listener.fd, AcceptBy::Accept4)?, Dir::In, from)?;
        pipe.sync()?;
        pipe.hear()?;
        client.send(3)?;
        client.close(End::LocalFin)?;
        server.recv(3)?;
        server.recv_end()?;
        server.close(End::PeerFin)?;
        listener.close()
    })?;
    child.pipe.sync()?;
    emit(&Line::Ready)?;
    std::io::stdin().lock().read_line(&mut String::new()).context("wait for the word to go on")?;
    child.pipe.emit(0)?;
    child.join()
}

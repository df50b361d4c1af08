//! Two processes with one id, one after the other, and a connection that outlives the first.

use std::time::Duration;

use anyhow::{Context, Result};
use conn_tests::truth::{Dir, End};

use crate::conn::{By, Conn, Listener, Summary, V4, sock_fact};
use crate::facts::{emit_me, start_ticks};
use crate::process::{fork, fork_by};
use crate::sys::{self, boot_ns};

/// `PROC_PID_INIT_INO` (include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Choosing an id takes CAP_CHECKPOINT_RESTORE, and the ids that the agent sees are those of the initial namespace.
pub(super) fn lacks() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino());
    if namespace != INITIAL_PID_NAMESPACE {
        return Some("the initial pid namespace".to_owned());
    }
    match sys::fork_as(std::process::id()) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => None,
        Err(e) => Some(format!("a fork with a chosen id: {e}")),
        Ok(_) => Some("an id that is taken".to_owned()),
    }
}

pub(super) fn run() -> Result<()> {
    // A process of its own: the other two must not inherit its ends.
    let server = fork(|pipe| {
        let listener = Listener::new(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        let mut conns = [listener.accept()?, listener.accept()?];
        for (conn, bytes) in conns.iter_mut().zip([3, 5]) {
            conn.recv(bytes)?;
        }
        for mut conn in conns {
            conn.recv_end()?;
            conn.close(End::PeerFin)?;
        }
        listener.close()
    })?;
    let to = (V4, server.pipe.hear_port()?).into();
    let first = fork(|pipe| {
        sys::set_name(c"first")?;
        emit_me()?;
        let mut conn = Conn::connect(to)?;
        conn.send(3)?;
        sys::send_fd(pipe.raw(), &conn.fd)?;
        pipe.sync()?;
        let _ = conn.close_silently();
        Ok(())
    })?;
    let fd = sys::recv_fd(first.pipe.raw())?;
    let sock = sock_fact(sys::local(&fd)?, Some(sys::peer(&fd)?), false)?;
    let (pid, ticks) = (first.pid, start_ticks(first.pid)?);
    first.pipe.sync()?;
    first.join()?;
    // What two processes with one id never share is the tick in which they start.
    while boot_ns() / 10_000_000 <= ticks {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = fork_by(
        || sys::fork_as(pid),
        move |pipe| {
            sys::set_name(c"second")?;
            emit_me()?;
            let mut conn = Conn::connect(to)?;
            conn.send(5)?;
            // The parent has dropped its descriptor of the first connection: this one is the last.
            pipe.sync()?;
            let from = boot_ns();
            drop(fd);
            Summary { sock, dir: Dir::Out, sent: 3, received: 0, early: None }.ended(
                End::LocalFin,
                By::Me,
                from,
            )?;
            conn.close(End::LocalFin)
        },
    )
    .context("a second process with the id of the first")?;
    second.pipe.sync()?;
    second.join()?;
    server.join()
}

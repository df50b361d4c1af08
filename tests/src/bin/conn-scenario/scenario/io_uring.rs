//! Connect and accept by io_uring: no system call of those names is made.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use conn_tests::truth::{End, Via};

use crate::conn::{By, Conn, Listener, V4};
use crate::process::fork;
use crate::sys::{self, boot_ns};
use crate::uring::Ring;

pub(super) fn lacks() -> Option<String> {
    let mut ring = match Ring::new() {
        Ok(ring) => ring,
        Err(error) => return Some(format!("io_uring_setup: {error}")),
    };
    // A kernel without the operations answers EINVAL; a bad descriptor shows that it knows them.
    match ring.accept(-1) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Some("no IORING_OP_ACCEPT".into()),
        _ => None,
    }
}

pub(super) fn run() -> Result<()> {
    let server = fork(|pipe| {
        let mut ring = Ring::new().context("io_uring_setup")?;
        let listener = Listener::new(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        for step in 0..2 {
            if step == 0 {
                // The connection is in the queue: this accept completes at once. The next one has to wait.
                pipe.sync()?;
            }
            let from = boot_ns();
            let fd = ring.accept_fd(&listener.fd).context("accept by io_uring")?;
            let mut conn = Conn::accepted(fd, By::MyProcess, from, Via::IoUring, false)?;
            conn.recv(3)?;
            conn.recv_end()?;
            conn.close(End::PeerFin)?;
        }
        listener.close()
    })?;
    let to = SocketAddr::new(V4, server.pipe.hear_port()?);
    let mut ring = Ring::new().context("io_uring_setup")?;
    for step in 0..2 {
        let fd = sys::socket(false, false, 0)?;
        let from = boot_ns();
        ring.connect(&fd, to).context("connect by io_uring")?;
        let mut conn = Conn::connected(fd, By::MyProcess, from, Via::IoUring, false)?;
        if step == 0 {
            server.pipe.sync()?;
        }
        conn.send(3)?;
        conn.close(End::LocalFin)?;
    }
    server.join()
}

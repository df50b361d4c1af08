//! Connections that were open before the agent attached, and end while it runs.

use std::io::BufRead;

use anyhow::{Context, Result};
use conn_tests::truth::{Dir, End, Line};

use crate::conn::{Conn, Listener, V4};
use crate::facts::emit;
use crate::process::fork;
use crate::sys::{self, AcceptBy};

use super::size;

/// How many, with two ends each, unless `CONN_PREEXISTING` says so.
const OPEN: usize = 2_000;

pub(super) fn run() -> Result<()> {
    let count = size("CONN_PREEXISTING", OPEN)?;
    sys::raise_descriptor_limit(count as u64 + 100)?;
    let server = fork(move |pipe| {
        let from = sys::boot_ns();
        let listener = Listener::early(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        let mut open = Vec::new();
        for _ in 0..count {
            open.push(Conn::early(sys::accept(&listener.fd, AcceptBy::Accept4)?, Dir::In, from)?);
        }
        pipe.emit(u64::from(listener.port()))?;
        for mut conn in open {
            conn.recv(3)?;
            conn.recv_end()?;
            conn.close(End::PeerFin)?;
        }
        listener.close()
    })?;
    let port = server.pipe.hear_port()?;
    let mut open = Vec::new();
    for _ in 0..count {
        let from = sys::boot_ns();
        let fd = sys::socket(false, false, 0)?;
        sys::connect(&fd, (V4, port).into()).context("connect")?;
        open.push(Conn::early(fd, Dir::Out, from)?);
    }
    server.pipe.hear_port()?;
    emit(&Line::Ready)?;
    std::io::stdin().lock().read_line(&mut String::new()).context("wait for the word to go on")?;
    for mut conn in open {
        conn.send(3)?;
        conn.close(End::LocalFin)?;
    }
    server.join()
}

//! Processes that are blocked in accept since before the agent attached.

use std::io::BufRead;

use anyhow::{Context, Result, bail};
use conn_tests::truth::{End, Line};

use crate::conn::{Conn, Listener, V4};
use crate::facts::{emit, stat_field};
use crate::process::{Child, fork};
use crate::sys::AcceptBy;

/// More than the ten return probes that a kernel gives a kretprobe by default.
const BLOCKED: usize = 25;

fn serve(listener: &Listener, by: AcceptBy) -> Result<()> {
    let mut conn = listener.accept_by(by)?;
    conn.recv(3)?;
    conn.recv_end()?;
    conn.close(End::PeerFin)
}

pub(super) fn run() -> Result<()> {
    let mut children = Vec::new();
    for i in 0..BLOCKED {
        let by = if i % 2 == 0 { AcceptBy::Accept } else { AcceptBy::Accept4 };
        children.push(fork(|pipe| {
            let listener = Listener::early(V4)?;
            pipe.emit(u64::from(listener.port()))?;
            serve(&listener, by)?;
            listener.close()
        })?);
    }
    let mut ports = Vec::new();
    for child in &children {
        ports.push(child.pipe.hear_port()?);
        wait_until_asleep(child)?;
    }
    emit(&Line::Ready)?;
    std::io::stdin().lock().read_line(&mut String::new()).context("wait for the word to go on")?;

    // While they are still blocked, others accept.
    let other = fork(|pipe| {
        let listener = Listener::new(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        for i in 0..BLOCKED {
            serve(&listener, if i % 2 == 0 { AcceptBy::Accept4 } else { AcceptBy::Accept })?;
        }
        listener.close()
    })?;
    let other_port = other.pipe.hear_port()?;
    for port in ports {
        for port in [other_port, port] {
            let mut conn = Conn::connect((V4, port).into())?;
            conn.send(3)?;
            conn.close(End::LocalFin)?;
        }
    }
    for child in children {
        child.join()?;
    }
    other.join()
}

/// After it has reported its port, a child makes no other call than accept: asleep means blocked in it.
fn wait_until_asleep(child: &Child) -> Result<()> {
    for _ in 0..10_000 {
        if stat_field(child.pid, 3)? == "S" {
            return Ok(());
        }
        std::thread::yield_now();
    }
    bail!("process {} does not come to accept", child.pid)
}

//! Sockets that carry several connections.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use conn_tests::truth::{Dir, End, Kind, Line, Via};

use crate::conn::{By, ClosedPort, Conn, Listener, V4, bind_quiet, fact, failed, portless, sock_fact};
use crate::facts::emit;
use crate::process::{Pipe, fork};
use crate::sys::{self, boot_ns};

/// Accepts twice; both connections are reset.
fn serve(count: usize) -> impl FnOnce(&Pipe) -> Result<()> {
    move |pipe| {
        let listener = Listener::new(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        for _ in 0..count {
            let mut conn = listener.accept()?;
            conn.recv(3)?;
            pipe.sync()?;
            conn.recv_reset(libc::ECONNRESET)?;
        }
        listener.close()
    }
}

pub(super) fn disconnect() -> Result<()> {
    let fd = sys::socket(false, false, 0)?;
    twice(fd)
}

/// A bound socket keeps its port: the second connection has the same four-tuple as the first.
pub(super) fn same_tuple() -> Result<()> {
    let fd = sys::socket(false, false, 0)?;
    bind_quiet(&fd, V4)?;
    twice(fd)
}

fn twice(mut fd: std::os::fd::OwnedFd) -> Result<()> {
    let server = fork(serve(2))?;
    let to = SocketAddr::new(V4, server.pipe.hear_port()?);
    for _ in 0..2 {
        let mut conn = Conn::connect_on(fd, to, false)?;
        conn.send(3)?;
        server.pipe.sync()?;
        let from = boot_ns();
        sys::disconnect(&conn.fd).context("connect(AF_UNSPEC)")?;
        conn.ended(End::Disconnect, 0, By::Me, from)?;
        fd = conn.fd;
    }
    drop(fd);
    server.join()
}

/// Refused, then the same socket again where somebody listens. The first retry may be ECONNABORTED without a SYN.
pub(super) fn retry() -> Result<()> {
    let closed = ClosedPort::new(V4)?;
    let fd = sys::socket(false, false, 0)?;
    let from = boot_ns();
    super::fail::expect_errno(sys::connect(&fd, closed.addr), libc::ECONNREFUSED)?;
    failed(&portless(V4, closed.addr)?, libc::ECONNREFUSED, By::Nobody, from, from)?;
    let listener = Listener::new(V4)?;
    let to = SocketAddr::new(V4, listener.port());
    let mut from = boot_ns();
    for attempt in 0.. {
        match sys::connect(&fd, to) {
            Ok(()) => break,
            Err(e) if e.raw_os_error() == Some(libc::ECONNABORTED) && attempt < 3 => from = boot_ns(),
            Err(e) => bail!("retry after a refusal: {e}"),
        }
    }
    let mut conn = Conn::connected(fd, By::Me, from, Via::Syscall, false)?;
    conn.send(3)?;
    let mut accepted = listener.accept()?;
    accepted.recv(3)?;
    conn.close(End::LocalFin)?;
    accepted.recv_end()?;
    accepted.close(End::PeerFin)?;
    listener.close()
}

/// One socket, no listener, no accept (simultaneous open with itself).
pub(super) fn to_self() -> Result<()> {
    let fd = sys::socket(false, false, 0)?;
    let port = bind_quiet(&fd, V4)?;
    let addr = SocketAddr::new(V4, port);
    let from = boot_ns();
    sys::connect(&fd, addr).context("connect to self")?;
    let sock = sock_fact(addr, Some(addr), false)?;
    ensure!(sys::peer(&fd)? == addr, "connected to somebody else");
    emit(&Line::Fact(fact(Kind::Connect, Some(Dir::Out), &sock, By::Me, from)))?;
    emit(&Line::Fact(fact(Kind::Established, Some(Dir::Out), &sock, By::Nobody, from)))?;
    let mut conn = Conn { fd, sock, dir: Dir::Out, sent: 0, received: 0, since: from, early: None };
    conn.send(10)?;
    conn.recv(10)?;
    conn.close(End::LocalFin)
}

//! Sockets that somebody else destroys (`ss -K`): they end without any close, and the close that comes later ends nothing.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use conn_tests::truth::{Dir, End, Fact, Kind, Line};

use super::basic::V6;
use super::fail::{Full, expect_errno, pending};
use crate::conn::{By, Conn, Listener, V4, fact, other_end};
use crate::diag;
use crate::facts::emit;
use crate::process::{Pipe, fork, two};
use crate::sys::{self, AcceptBy, boot_ns};

/// Tries it on a listener of its own.
pub(super) fn lacks() -> Option<String> {
    let listener = std::net::TcpListener::bind((V4, 0)).ok()?;
    let error = diag::ask(listener.local_addr().ok()?, None).err()?;
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Some("SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY)".to_owned()),
        Some(libc::ENOENT) => Some("sock_diag of TCP (CONFIG_INET_TCP_DIAG)".to_owned()),
        _ => None,
    }
}

/// Destroys this end and reports it.
fn destroy(conn: &Conn) -> Result<()> {
    let from = boot_ns();
    diag::destroy(&conn.sock)?;
    conn.ended(End::Killed, libc::ECONNABORTED, By::Me, from)
}

/// The descriptor is still open; closing it is no second end.
fn close_late(conn: Conn) -> Result<()> {
    let read = sys::recv(&conn.fd, &mut [0]).map(drop);
    expect_errno(read, libc::ECONNABORTED)?;
    let _ = conn.close_silently();
    Ok(())
}

fn reset(mut conn: Conn, pipe: &Pipe) -> Result<()> {
    conn.recv(7)?;
    conn.send(9)?;
    pipe.sync()?;
    pipe.sync()?;
    conn.recv_reset(libc::ECONNRESET)
}

/// By its owner, then by another process, which has the descriptor too but never closes it first.
pub(super) fn connection() -> Result<()> {
    let talk = |conn: &mut Conn, pipe: &Pipe| {
        conn.send(7)?;
        conn.recv(9)?;
        pipe.sync()
    };
    for ip in [V4, V6] {
        two(ip, reset, |mut conn, pipe| {
            talk(&mut conn, pipe)?;
            destroy(&conn)?;
            pipe.sync()?;
            close_late(conn)
        })?;
    }
    two(V4, reset, |mut conn, pipe| {
        talk(&mut conn, pipe)?;
        fork(|_| destroy(&conn))?.join()?;
        pipe.sync()?;
        close_late(conn)
    })
}

/// The accepted end.
pub(super) fn accepted() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.recv(7)?;
        conn.send(9)?;
        fork(|_| destroy(&conn))?.join()?;
        pipe.sync()?;
        close_late(conn)
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        conn.send(7)?;
        conn.recv(9)?;
        pipe.sync()?;
        conn.recv_reset(libc::ECONNRESET)
    };
    two(V4, server, client)
}

/// In the accept queue, where it stays: accept returns it all the same.
pub(super) fn queued() -> Result<()> {
    let listener = Listener::new(V4)?;
    let client = Conn::connect(to(&listener))?;
    let sock = other_end(&client.sock, false)?;
    listener.wait_for_queue(1)?;
    let from = boot_ns();
    let child = fork(|pipe| {
        let destroyed = boot_ns();
        diag::destroy(&sock)?;
        let end = fact(Kind::Close, Some(Dir::In), &sock, By::Me, destroyed);
        pipe.emit(0)?;
        let (bytes_in, bytes_out) = (Some(0), Some(0));
        let end = Fact { end: Some(End::Killed), errno: libc::ECONNABORTED, bytes_in, bytes_out, ..end };
        emit(&Line::Fact(end))
    })?;
    child.pipe.hear()?;
    let fd = sys::accept(&listener.fd, AcceptBy::Accept4).context("accept")?;
    // Its address of the peer is gone (`inet_getname`), so the other end's view serves. The accept sorts before the end.
    emit(&Line::Fact(fact(Kind::Accept, Some(Dir::In), &sock, By::Me, from)))?;
    expect_errno(sys::recv(&fd, &mut [0]).map(drop), libc::ECONNABORTED)?;
    drop(fd);
    child.join()?;
    client.recv_reset(libc::ECONNRESET)?;
    listener.close()
}

/// Before the answer to its SYN.
pub(super) fn connecting() -> Result<()> {
    let full = Full::new()?;
    let pending = pending(full.addr())?;
    let begun = fact(Kind::Connect, Some(Dir::Out), &pending.sock, By::Me, pending.from);
    emit(&Line::Fact(begun))?;
    let from = boot_ns();
    fork(|_| diag::destroy(&pending.sock))?.join()?;
    let failed = fact(Kind::Failed, Some(Dir::Out), &pending.sock, By::Nobody, from);
    emit(&Line::Fact(Fact { errno: libc::ECONNABORTED, ..failed }))?;
    drop(pending.fd);
    full.end()
}

/// A listener, with a connection queued.
pub(super) fn listener() -> Result<()> {
    for ip in [V4, V6] {
        listener_on(ip)?;
    }
    Ok(())
}

fn listener_on(ip: IpAddr) -> Result<()> {
    let listener = Listener::new(ip)?;
    let from = boot_ns();
    let client = Conn::connect(to(&listener))?;
    listener.wait_for_queue(1)?;
    fork(|_| {
        let destroyed = boot_ns();
        diag::destroy(&listener.sock)?;
        emit(&Line::Fact(fact(Kind::Unlisten, None, &listener.sock, By::Me, destroyed)))
    })?
    .join()?;
    client.recv_reset(libc::ECONNRESET)?;
    let end = fact(Kind::Close, Some(Dir::In), &other_end(&client.sock, false)?, By::Nobody, from);
    emit(&Line::Fact(Fact { end: Some(End::NeverAccepted), ..end }))?;
    drop(listener.fd);
    Ok(())
}

fn to(listener: &Listener) -> SocketAddr {
    SocketAddr::new(listener.sock.laddr, listener.port())
}

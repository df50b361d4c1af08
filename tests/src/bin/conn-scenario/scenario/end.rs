//! Connections that end without a proper goodbye.

use std::os::fd::AsRawFd as _;

use anyhow::Result;
use conn_tests::truth::End;

use crate::conn::{By, Conn, PATIENCE_MS, V4};
use crate::process::{Pipe, two};
use crate::sys;

pub(super) fn aborted() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.recv(11)?;
        conn.send(13)?;
        pipe.sync()?;
        conn.recv_reset(libc::ECONNRESET)
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        conn.send(11)?;
        conn.recv(13)?;
        pipe.sync()?;
        sys::linger_zero(&conn.fd)?;
        conn.close(End::LocalReset)
    };
    two(V4, server, client)
}

pub(super) fn unread() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.send(21)?;
        pipe.sync()?;
        conn.recv_reset(libc::ECONNRESET)
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        pipe.sync()?;
        sys::poll(&[conn.fd.as_raw_fd()], libc::POLLIN, PATIENCE_MS)?;
        conn.received = 21;
        conn.close(End::LocalReset)
    };
    two(V4, server, client)
}

pub(super) fn reset_by_peer() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.recv(5)?;
        pipe.sync()?;
        sys::linger_zero(&conn.fd)?;
        conn.close(End::LocalReset)
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        conn.send(5)?;
        pipe.sync()?;
        conn.recv_reset(libc::ECONNRESET)
    };
    two(V4, server, client)
}

/// A reset that comes in CLOSE_WAIT is EPIPE (`tcp_reset`).
pub(super) fn reset_after_fin() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.recv(6)?;
        conn.recv_end()?;
        pipe.sync()?;
        pipe.sync()?;
        conn.wait_until_over()?;
        let error = sys::socket_error(&conn.fd)?;
        anyhow::ensure!(error == libc::EPIPE, "errno {error} after FIN and RST");
        conn.ended(End::PeerReset, libc::EPIPE, By::Nobody, conn.since)
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        conn.send(6)?;
        sys::shutdown(&conn.fd, libc::SHUT_WR)?;
        pipe.sync()?;
        sys::linger_zero(&conn.fd)?;
        conn.close(End::LocalReset)?;
        pipe.sync()
    };
    two(V4, server, client)
}

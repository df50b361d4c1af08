//! Connections that end while their descriptors stay open.

use anyhow::Result;
use conn_tests::truth::End;

use crate::conn::{By, Conn, V4};
use crate::process::{Pipe, two};
use crate::sys::{self, boot_ns};

/// Reads what comes, answers, and closes: the peer's FIN was first.
fn polite(mut conn: Conn, pipe: &Pipe) -> Result<()> {
    conn.recv(4)?;
    conn.send(8)?;
    conn.recv_end()?;
    conn.close(End::PeerFin)?;
    pipe.sync()
}

fn shut_and_linger(mut conn: Conn, pipe: &Pipe, how: i32) -> Result<()> {
    conn.send(4)?;
    conn.recv(8)?;
    let from = boot_ns();
    sys::shutdown(&conn.fd, how)?;
    pipe.sync()?;
    // Both FINs are done: this end is over, though its descriptor is open.
    conn.wait_until_over()?;
    conn.ended(End::LocalFin, 0, By::Nobody, from)?;
    let _ = conn.close_silently();
    Ok(())
}

pub(super) fn half_closed() -> Result<()> {
    two(V4, polite, |conn, pipe| shut_and_linger(conn, pipe, libc::SHUT_WR))
}

pub(super) fn shut_rdwr() -> Result<()> {
    two(V4, polite, |conn, pipe| shut_and_linger(conn, pipe, libc::SHUT_RDWR))
}

pub(super) fn half_closed_passive() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.recv(4)?;
        conn.recv_end()?;
        conn.send(8)?;
        let from = boot_ns();
        sys::shutdown(&conn.fd, libc::SHUT_WR)?;
        pipe.sync()?;
        conn.wait_until_over()?;
        conn.ended(End::PeerFin, 0, By::Nobody, from)?;
        let _ = conn.close_silently();
        Ok(())
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        conn.send(4)?;
        let from = boot_ns();
        sys::shutdown(&conn.fd, libc::SHUT_WR)?;
        conn.recv(8)?;
        conn.recv_end()?;
        pipe.sync()?;
        conn.wait_until_over()?;
        conn.ended(End::LocalFin, 0, By::Nobody, from)?;
        let _ = conn.close_silently();
        Ok(())
    };
    two(V4, server, client)
}

pub(super) fn then_closed() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.recv(4)?;
        conn.recv_end()?;
        pipe.sync()?;
        pipe.sync()?;
        conn.close(End::PeerFin)
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        conn.send(4)?;
        sys::shutdown(&conn.fd, libc::SHUT_WR)?;
        pipe.sync()?;
        conn.close(End::LocalFin)?;
        pipe.sync()
    };
    two(V4, server, client)
}

pub(super) fn shut_rdwr_reset() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.recv(4)?;
        conn.recv_end()?;
        sys::linger_zero(&conn.fd)?;
        conn.close(End::LocalReset)?;
        pipe.sync()
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        conn.send(4)?;
        let from = boot_ns();
        sys::shutdown(&conn.fd, libc::SHUT_RDWR)?;
        pipe.sync()?;
        conn.wait_until_over()?;
        conn.ended(End::PeerReset, libc::ECONNRESET, By::Nobody, from)?;
        let _ = conn.close_silently();
        Ok(())
    };
    two(V4, server, client)
}

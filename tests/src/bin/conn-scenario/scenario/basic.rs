//! Connections that go well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use anyhow::Result;
use conn_tests::truth::End;

use crate::conn::{Conn, Listener, V4};
use crate::process::{Pipe, fork, two, two_with};
use crate::sys::{self, AcceptBy};

pub(super) const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Answers a request of 100 bytes with 50 and lets the client close first.
fn answer(mut conn: Conn, _: &Pipe) -> Result<()> {
    conn.recv(100)?;
    conn.send(50)?;
    conn.recv_end()?;
    conn.close(End::PeerFin)
}

fn ask(mut conn: Conn, _: &Pipe) -> Result<()> {
    conn.send(100)?;
    conn.recv(50)?;
    conn.close(End::LocalFin)
}

pub(super) fn ipv4() -> Result<()> {
    two(V4, answer, ask)
}

pub(super) fn ipv6() -> Result<()> {
    two(V6, answer, ask)
}

pub(super) fn mapped_client() -> Result<()> {
    let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    two_with(V4, mapped, Conn::connect, answer, ask)
}

pub(super) fn mapped_server() -> Result<()> {
    two_with(IpAddr::V6(Ipv6Addr::UNSPECIFIED), V4, Conn::connect, answer, ask)
}

pub(super) fn ipv6_only() -> Result<()> {
    let only = |fd: &OwnedFd| -> Result<()> {
        Ok(sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32)?)
    };
    let child = fork(|pipe| {
        let listener = Listener::with(V6, 8, 0, only)?;
        pipe.emit(u64::from(listener.port()))?;
        answer(listener.accept()?, pipe)?;
        listener.close()
    })?;
    let to = (V6, child.pipe.hear_port()?).into();
    let fd = sys::socket(true, false, libc::IPPROTO_TCP)?;
    only(&fd)?;
    ask(Conn::connect_on(fd, to, false)?, &child.pipe)?;
    child.join()
}

pub(super) fn accept_calls() -> Result<()> {
    let calls = [AcceptBy::Accept, AcceptBy::Accept4].repeat(3);
    let count = calls.len();
    let child = fork(|pipe| {
        let listener = Listener::new(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        for by in calls {
            answer(listener.accept_by(by)?, pipe)?;
        }
        listener.close()
    })?;
    let to = (V4, child.pipe.hear_port()?).into();
    for _ in 0..count {
        ask(Conn::connect(to)?, &child.pipe)?;
    }
    child.join()
}

pub(super) fn nonblocking() -> Result<()> {
    let client = |mut conn: Conn, _: &Pipe| {
        conn.send(10)?;
        conn.close(End::LocalFin)
    };
    let server = |mut conn: Conn, _: &Pipe| {
        conn.recv(10)?;
        conn.recv_end()?;
        conn.close(End::PeerFin)
    };
    two_with(V4, V4, Conn::connect_nonblocking, server, client)
}

pub(super) fn server_closes() -> Result<()> {
    let server = |mut conn: Conn, _: &Pipe| {
        conn.recv(7)?;
        conn.send(9)?;
        conn.close(End::LocalFin)
    };
    let client = |mut conn: Conn, _: &Pipe| {
        conn.send(7)?;
        conn.recv(9)?;
        conn.recv_end()?;
        conn.close(End::PeerFin)
    };
    two(V4, server, client)
}

pub(super) fn bytes() -> Result<()> {
    for (request, reply) in [(0, 0), (1, 0), (0, 1), (1_048_576, 3), (5, 1_048_577), (300_000, 200_000)] {
        let server = |mut conn: Conn, _: &Pipe| {
            conn.recv(request)?;
            conn.send(reply)?;
            conn.recv_end()?;
            conn.close(End::PeerFin)
        };
        let client = |mut conn: Conn, _: &Pipe| {
            conn.send(request)?;
            conn.recv(reply)?;
            conn.close(End::LocalFin)
        };
        two(V4, server, client)?;
    }
    Ok(())
}

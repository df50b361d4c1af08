//! Sockets that are bound to an interface, between two network namespaces with a cable between them.

use std::io::BufRead as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};
use conn_tests::truth::{End, Line, SockFact, Via};

use super::fail::expect_errno;
use crate::conn::{By, Conn, Listener, failed, portless};
use crate::facts::emit;
use crate::netdev::{self, PLUG};
use crate::process::{Pipe, fork};
use crate::sys::{self, boot_ns};

/// Both ends of the cable; the first one listens.
const V4: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)];
const LINK_LOCAL: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)];

/// Starts two processes, each in a network namespace of its own. The server makes listeners, and accepts a connection of each in turn.
fn apart(
    listen: impl Fn() -> Result<Vec<Listener>>,
    bound: bool,
    ask: impl Fn(&[u16]) -> Result<()>,
) -> Result<()> {
    let server = fork(|pipe| {
        plug(pipe, 0)?;
        let listeners = listen()?;
        pipe.emit(listeners.len() as u64)?;
        listeners.iter().try_for_each(|listener| pipe.emit(listener.port().into()))?;
        for listener in listeners {
            let mut conn = listener.accept()?;
            // What the agent is held against must be what this is about.
            ensure!(conn.sock.device.as_deref() == bound.then_some(PLUG), "{:?}", conn.sock);
            conn.recv(10)?;
            conn.send(20)?;
            conn.wait_for_end()?;
            listener.close()?;
        }
        stay(pipe)
    })?;
    let client = fork(|pipe| {
        plug(pipe, 1)?;
        let count = pipe.hear()?;
        let ports = (0..count).map(|_| pipe.hear_port()).collect::<Result<Vec<_>>>()?;
        ask(&ports)?;
        stay(pipe)
    })?;
    server.pipe.hear()?;
    client.pipe.hear()?;
    netdev::cable([server.pid, client.pid])?;
    server.pipe.emit(0)?;
    client.pipe.emit(0)?;
    let count = server.pipe.hear()?;
    client.pipe.emit(count)?;
    (0..count).try_for_each(|_| client.pipe.emit(server.pipe.hear()?))?;
    client.pipe.hear()?;
    server.pipe.hear()?;
    emit(&Line::Ready)?;
    std::io::stdin().lock().read_line(&mut String::new()).context("wait for the word to go on")?;
    client.pipe.emit(0)?;
    server.pipe.emit(0)?;
    client.join()?;
    server.join()
}

/// Keeps the namespace: the agent may not have asked yet what its interface is called.
fn stay(pipe: &Pipe) -> Result<()> {
    pipe.sync()
}

fn plug(pipe: &Pipe, end: usize) -> Result<()> {
    netdev::own_netns()?;
    pipe.sync()?;
    netdev::plug_in(V4[end]).context("the cable")?;
    netdev::link_local(LINK_LOCAL[end])
}

/// Asks the server, and closes first.
fn exchange(mut conn: Conn) -> Result<()> {
    ensure!(conn.sock.device.as_deref() == Some(PLUG), "{:?}", conn.sock);
    conn.send(10)?;
    conn.recv(20)?;
    conn.close(End::LocalFin)
}

fn over_the_cable(ip: Ipv6Addr, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddrV6::new(ip, port, 0, netdev::plug_index()?).into())
}

/// The kernel binds both ends: that of who connects (`tcp_v6_connect`), of who listens (`inet6_bind`), and what a listener accepts that is
/// bound to nothing (`tcp_v6_init_req`).
pub(super) fn link_local() -> Result<()> {
    let listen = || -> Result<Vec<Listener>> {
        let fd = sys::socket(true, false, 0)?;
        sys::bind(&fd, over_the_cable(LINK_LOCAL[0], 0)?)?;
        let bound = Listener::start(fd, 8, Via::Syscall, false)?;
        ensure!(bound.sock.device.as_deref() == Some(PLUG), "{:?}", bound.sock);
        Ok(vec![bound, Listener::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED))?])
    };
    apart(listen, true, |ports| {
        refused()?;
        ports.iter().try_for_each(|port| exchange(Conn::connect(over_the_cable(LINK_LOCAL[0], *port)?)?))
    })
}

/// An attempt that fails. The server still waits: its end of the cable is there.
fn refused() -> Result<()> {
    /// Nobody listens there.
    const CLOSED: u16 = 9;
    let fd = sys::socket(true, false, 0)?;
    let from = boot_ns();
    expect_errno(sys::connect(&fd, over_the_cable(LINK_LOCAL[0], CLOSED)?), libc::ECONNREFUSED)?;
    let to = SocketAddr::new(IpAddr::V6(LINK_LOCAL[0]), CLOSED);
    let sock = SockFact { device: sys::device(&fd)?, ..portless(IpAddr::V6(LINK_LOCAL[1]), to)? };
    ensure!(sock.device.as_deref() == Some(PLUG), "{sock:?}");
    failed(&sock, libc::ECONNREFUSED, By::Nobody, from, from)
}

/// `SO_BINDTODEVICE`: what a listener accepts is bound as it is.
pub(super) fn bound() -> Result<()> {
    let bind = |fd: &OwnedFd| -> Result<()> { Ok(sys::bind_to_device(fd, PLUG)?) };
    apart(
        || Ok(vec![Listener::with(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8, 0, bind)?]),
        true,
        |ports| ports.iter().try_for_each(|port| exchange(connect_bound(*port)?)),
    )
}

/// Only who connects is bound.
pub(super) fn client_bound() -> Result<()> {
    apart(
        || Ok(vec![Listener::new(IpAddr::V4(V4[0]))?]),
        false,
        |ports| ports.iter().try_for_each(|port| exchange(connect_bound(*port)?)),
    )
}

fn connect_bound(port: u16) -> Result<Conn> {
    let fd = sys::socket(false, false, 0)?;
    sys::bind_to_device(&fd, PLUG)?;
    Conn::connect_on(fd, SocketAddr::new(IpAddr::V4(V4[0]), port), false)
}

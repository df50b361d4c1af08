//! Connections that never come about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use conn_tests::truth::{Dir, End, Kind, Line, SockFact};

use crate::conn::{
    By, ClosedPort, Conn, Listener, PATIENCE_MS, V4, fact, failed, in_progress, portless, sock_fact,
};
use crate::facts::emit;
use crate::netdev;
use crate::process::fork;
use crate::sys::{self, boot_ns};

pub(super) fn refused() -> Result<()> {
    refused_at(V4)
}

pub(super) fn refused_ipv6() -> Result<()> {
    refused_at(IpAddr::V6(Ipv6Addr::LOCALHOST))
}

fn refused_at(ip: IpAddr) -> Result<()> {
    let closed = ClosedPort::new(ip)?;
    let fd = sys::socket(ip.is_ipv6(), false, 0)?;
    let from = boot_ns();
    expect_errno(sys::connect(&fd, closed.addr), libc::ECONNREFUSED)?;
    failed(&portless(ip, closed.addr)?, libc::ECONNREFUSED, By::Nobody, from, from)
}

pub(super) fn refused_nonblocking() -> Result<()> {
    let closed = ClosedPort::new(V4)?;
    let fd = sys::socket(false, true, 0)?;
    let from = boot_ns();
    in_progress(sys::connect(&fd, closed.addr))?;
    sys::poll(&[fd.as_raw_fd()], libc::POLLOUT, PATIENCE_MS)?;
    let error = sys::socket_error(&fd)?;
    ensure!(error == libc::ECONNREFUSED, "errno {error}");
    failed(&portless(V4, closed.addr)?, libc::ECONNREFUSED, By::Nobody, from, from)
}

/// Addresses of the ends of the cable; the router's first.
const CABLE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 81, 0, 1), Ipv4Addr::new(10, 81, 0, 2)];
/// Where the router has no way to.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 443);

/// The router's answer comes within the connect, when nobody but the connect may end the attempt: the socket keeps the error, but
/// no state changes until the program closes it.
pub(super) fn rejected() -> Result<()> {
    let router = fork(|pipe| {
        netdev::own_netns()?;
        pipe.sync()?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forward")?;
        netdev::plug_in(CABLE[0])?;
        pipe.emit(0)?;
        pipe.hear().map(drop)
    })?;
    let client = fork(|pipe| {
        netdev::own_netns()?;
        pipe.sync()?;
        netdev::plug_in(CABLE[1])?;
        netdev::route_by(CABLE[0])?;
        pipe.hear()?;
        // What is sent before the cable has a carrier is lost; when this is refused it has one.
        let closed = SocketAddr::new(IpAddr::V4(CABLE[0]), NOWHERE.port());
        let (fd, from) = (sys::socket(false, false, 0)?, boot_ns());
        expect_errno(sys::connect(&fd, closed), libc::ECONNREFUSED)?;
        failed(&portless(IpAddr::V4(CABLE[1]), closed)?, libc::ECONNREFUSED, By::Nobody, from, from)?;
        let fd = sys::socket(false, true, 0)?;
        // An error of the network is put into the socket's queue too, where it shows without being taken from the socket.
        sys::set_option(&fd, libc::IPPROTO_IP, libc::IP_RECVERR, &1_i32)?;
        let from = boot_ns();
        in_progress(sys::connect(&fd, NOWHERE))?;
        let local = sys::local(&fd)?;
        sys::poll(&[fd.as_raw_fd()], libc::POLLPRI, PATIENCE_MS)?;
        drop(fd);
        failed(&sock_fact(local, Some(NOWHERE), false)?, libc::ENETUNREACH, By::Nobody, from, from)
    })?;
    router.pipe.hear()?;
    client.pipe.hear()?;
    netdev::cable([router.pid, client.pid]).context("a cable")?;
    router.pipe.sync()?;
    client.pipe.emit(0)?;
    client.pipe.emit(0)?;
    client.join()?;
    router.pipe.emit(0)?;
    router.join()
}

/// A listener that drops every SYN: its queue has room for one, and one is in it.
pub(super) struct Full {
    listener: Listener,
    filler: Conn,
}

impl Full {
    pub(super) fn new() -> Result<Self> {
        let listener = Listener::with(V4, 0, 0, |_| Ok(()))?;
        let filler = Conn::connect(listener_addr(&listener))?;
        listener.wait_for_queue(1)?;
        Ok(Self { listener, filler })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        listener_addr(&self.listener)
    }

    pub(super) fn end(self) -> Result<()> {
        let mut queued = self.listener.accept()?;
        self.filler.close(End::LocalFin)?;
        queued.recv_end()?;
        queued.close(End::PeerFin)?;
        self.listener.close()
    }
}

fn listener_addr(listener: &Listener) -> SocketAddr {
    SocketAddr::new(listener.sock.laddr, listener.port())
}

pub(super) fn timeout() -> Result<()> {
    let full = Full::new()?;
    let fd = sys::socket(false, false, 0)?;
    sys::set_option(&fd, libc::IPPROTO_TCP, libc::TCP_SYNCNT, &1i32)?;
    sys::set_option(&fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &1_500u32)?;
    let from = boot_ns();
    expect_errno(sys::connect(&fd, full.addr()), libc::ETIMEDOUT)?;
    failed(&portless(V4, full.addr())?, libc::ETIMEDOUT, By::Nobody, from, from + 500_000_000)?;
    full.end()
}

/// A connect that has got no answer yet.
pub(super) struct Pending {
    pub(super) fd: OwnedFd,
    pub(super) sock: SockFact,
    pub(super) from: u64,
}

pub(super) fn pending(to: SocketAddr) -> Result<Pending> {
    let fd = sys::socket(false, true, 0)?;
    let from = boot_ns();
    in_progress(sys::connect(&fd, to))?;
    let sock = sock_fact(sys::local(&fd)?, Some(to), false)?;
    Ok(Pending { fd, sock, from })
}

pub(super) fn cancelled_close() -> Result<()> {
    let full = Full::new()?;
    let pending = pending(full.addr())?;
    let closed = boot_ns();
    drop(pending.fd);
    failed(&pending.sock, 0, By::Me, pending.from, closed)?;
    full.end()
}

pub(super) fn cancelled_shutdown() -> Result<()> {
    let full = Full::new()?;
    let pending = pending(full.addr())?;
    let shut = boot_ns();
    sys::shutdown(&pending.fd, libc::SHUT_RDWR)?;
    failed(&pending.sock, 0, By::Me, pending.from, shut)?;
    drop(pending.fd);
    full.end()
}

pub(super) fn cancelled_kill() -> Result<()> {
    let full = Full::new()?;
    let to = full.addr();
    let child = fork(|pipe| {
        let pending = pending(to)?;
        // The parent reports the end of this connection; it must know its beginning from here.
        let connect = fact(Kind::Connect, Some(Dir::Out), &pending.sock, By::Me, pending.from);
        emit(&Line::Fact(connect))?;
        pipe.emit(u64::from(pending.sock.lport.context("a port")?))?;
        pipe.hear().map(drop)
    })?;
    let port = child.pipe.hear_port()?;
    let sock = sock_fact(SocketAddr::new(V4, port), Some(to), false)?;
    let (from, by) = (boot_ns(), By::Process(child.pid));
    child.kill()?;
    let end = fact(Kind::Failed, Some(Dir::Out), &sock, by, from);
    emit(&Line::Fact(end))?;
    full.end()
}

pub(super) fn expect_errno(result: std::io::Result<()>, errno: i32) -> Result<()> {
    match result {
        Err(e) if e.raw_os_error() == Some(errno) => Ok(()),
        other => bail!("wanted errno {errno}, got {other:?}"),
    }
}

//! Listeners.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use conn_tests::truth::{Dir, End, Fact, Kind, Line, Via};

use crate::conn::{By, Conn, Listener, PATIENCE_MS, V4, bind_quiet, fact, other_end, sock_fact};
use crate::facts::emit;
use crate::process::{Child, Pipe, fork};
use crate::sys::{self, boot_ns};

fn serve_one(listener: &Listener) -> Result<()> {
    let mut conn = listener.accept()?;
    conn.recv_end()?;
    conn.close(End::PeerFin)
}

fn call(to: SocketAddr) -> Result<()> {
    Conn::connect(to)?.close(End::LocalFin)
}

/// Twenty connections to a port that two processes share: the kernel deals them out.
pub(super) fn reuseport() -> Result<()> {
    let reuse = |fd: &OwnedFd| sys::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1i32);
    // Holds the port until both listen.
    let holder = sys::socket(false, false, 0)?;
    reuse(&holder)?;
    let port = bind_quiet(&holder, V4)?;
    let (done, server_done) = Pipe::pair()?;
    let serve = |pipe: &Pipe| -> Result<()> {
        let fd = sys::socket(false, false, 0)?;
        reuse(&fd)?;
        sys::bind(&fd, SocketAddr::new(V4, port))?;
        let listener = Listener::start(fd, 64, Via::Syscall, false)?;
        pipe.emit(0)?;
        loop {
            let ready = sys::poll(&[listener.fd.as_raw_fd(), pipe.raw()], libc::POLLIN, PATIENCE_MS)?;
            if !ready[0] {
                break;
            }
            serve_one(&listener)?;
            server_done.emit(0)?;
        }
        listener.close()
    };
    let servers = [fork(serve)?, fork(serve)?];
    for server in &servers {
        server.pipe.hear()?;
    }
    for _ in 0..20 {
        call(SocketAddr::new(V4, port))?;
        done.hear()?;
    }
    servers.into_iter().try_for_each(|server| {
        server.pipe.emit(0)?;
        server.join()
    })
}

/// A process that listens, accepts nothing, and closes its listener when it hears how many connections are to
/// be queued by then, and they are.
fn fork_idle(listen: impl FnOnce() -> Result<Listener>) -> Result<Child> {
    fork(|pipe| {
        let listener = listen()?;
        pipe.emit(u64::from(listener.port()))?;
        listener.wait_for_queue(u32::try_from(pipe.hear()?).context("a number of connections")?)?;
        listener.close()?;
        pipe.emit(0)
    })
}

/// Three connections that nobody accepts; one of them has sent, one has closed already.
pub(super) fn queued() -> Result<()> {
    let server = fork_idle(|| Listener::new(V4))?;
    let to = SocketAddr::new(V4, server.pipe.hear_port()?);
    let begun = boot_ns();
    let idle = Conn::connect(to)?;
    let mut talker = Conn::connect(to)?;
    talker.send(5)?;
    let gone = Conn::connect(to)?;
    let queued: Vec<_> =
        [&idle, &talker, &gone].iter().map(|c| other_end(&c.sock, false)).collect::<Result<_>>()?;
    gone.close(End::LocalFin)?;
    server.pipe.emit(3)?;
    server.pipe.hear()?;
    idle.recv_reset(libc::ECONNRESET)?;
    talker.recv_reset(libc::ECONNRESET)?;
    for sock in queued {
        let end = fact(Kind::Close, Some(Dir::In), &sock, By::Nobody, begun);
        emit(&Line::Fact(Fact { end: Some(End::NeverAccepted), ..end }))?;
    }
    server.join()
}

/// Two connections that for the clients are established and for the server half-open: with `TCP_DEFER_ACCEPT` it
/// takes no notice of the last ACK (`tcp_check_req`). They never were sockets there, so only the clients' ends are reported.
pub(super) fn half_open() -> Result<()> {
    let defer = |fd: &_| Ok(sys::set_option(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, &30i32)?);
    let server = fork_idle(|| Listener::with(V4, 16, 0, defer))?;
    let to = SocketAddr::new(V4, server.pipe.hear_port()?);
    let connect = || {
        let (fd, from) = (sys::socket(false, false, 0)?, boot_ns());
        sys::connect(&fd, to).context("connect")?;
        Conn::connected(fd, By::Me, from, Via::DeferAccept, false)
    };
    let (mut talker, silent) = (connect()?, connect()?);
    server.pipe.emit(0)?;
    server.pipe.hear()?;
    talker.send(5)?;
    talker.recv_reset(libc::ECONNRESET)?;
    silent.close(End::LocalFin)?;
    server.join()
}

pub(super) fn shutdown() -> Result<()> {
    let listener = Listener::new(V4)?;
    let from = boot_ns();
    sys::shutdown(&listener.fd, libc::SHUT_RDWR).context("shutdown")?;
    emit(&Line::Fact(fact(Kind::Unlisten, None, &listener.sock, By::Me, from)))?;
    // Its descriptor is closed without another word.
    drop(listener.fd);
    Ok(())
}

pub(super) fn autobound() -> Result<()> {
    for ip in [V4, super::basic::V6] {
        let fd = sys::socket(ip.is_ipv6(), false, 0)?;
        let listener = Listener::start(fd, 8, Via::AutoBind, false)?;
        let to = SocketAddr::new(ip, listener.port());
        let conn = Conn::connect(to)?;
        let mut accepted = listener.accept()?;
        conn.close(End::LocalFin)?;
        accepted.recv_end()?;
        accepted.close(End::PeerFin)?;
        listener.close()?;
    }
    Ok(())
}

pub(super) fn again() -> Result<()> {
    let listener = Listener::new(V4)?;
    let addr = SocketAddr::new(V4, listener.port());
    // The same socket: stop by shutdown, listen again (bind keeps the port).
    let from = boot_ns();
    sys::shutdown(&listener.fd, libc::SHUT_RDWR).context("shutdown")?;
    emit(&Line::Fact(fact(Kind::Unlisten, None, &listener.sock, By::Me, from)))?;
    let from = boot_ns();
    sys::listen(&listener.fd, 8).context("listen again")?;
    emit(&Line::Fact(fact(Kind::Listen, None, &listener.sock, By::Me, from)))?;
    // A second listen of a listener only changes its backlog: nothing to report.
    sys::listen(&listener.fd, 16).context("listen twice")?;
    listener.close()?;
    // Another socket on the same port.
    let fd = sys::socket(false, false, 0)?;
    sys::bind(&fd, addr).context("bind again")?;
    Listener::start(fd, 8, Via::Syscall, false)?.close()
}

pub(super) fn killed() -> Result<()> {
    let child: Child = fork(|pipe| {
        let listener = Listener::new(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        pipe.hear()?;
        listener.close()
    })?;
    let addr = SocketAddr::new(V4, child.pipe.hear_port()?);
    let (from, by) = (boot_ns(), By::Process(child.pid));
    child.kill()?;
    emit(&Line::Fact(fact(Kind::Unlisten, None, &sock_fact(addr, None, false)?, by, from)))
}

//! TCP Fast Open, in a network namespace of its own where it may be switched on.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use conn_tests::truth::{End, Via};

use crate::conn::{By, Conn, Listener, V4};
use crate::netdev::own_netns;
use crate::process::{Child, fork};
use crate::sys::{self, boot_ns};

const SETTING: &str = "/proc/sys/net/ipv4/tcp_fastopen";

pub(super) fn lacks() -> Option<String> {
    (!std::path::Path::new(SETTING).exists()).then(|| format!("no {SETTING}"))
}

/// Client and server, both without a cookie (Documentation/networking/ip-sysctl: 1 + 2 + 4 + 0x200).
fn server() -> Result<Child> {
    own_netns()?;
    std::fs::write(SETTING, "519").with_context(|| format!("write {SETTING}"))?;
    fork(|pipe| {
        let queue = |fd: &_| Ok(sys::set_option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &16i32)?);
        let listener = Listener::with(V4, 16, 0, queue)?;
        pipe.emit(u64::from(listener.port()))?;
        let mut conn = listener.accept()?;
        conn.recv(5)?;
        conn.send(6)?;
        conn.recv_end()?;
        conn.close(End::PeerFin)?;
        listener.close()
    })
}

pub(super) fn sendto() -> Result<()> {
    let server = server()?;
    let to = SocketAddr::new(V4, server.pipe.hear_port()?);
    let fd = sys::socket(false, false, 0)?;
    let from = boot_ns();
    let sent = sys::send_to(&fd, b"hello", libc::MSG_FASTOPEN, to).context("sendto(MSG_FASTOPEN)")?;
    ensure!(sent == 5, "sent {sent} of 5 bytes");
    finish(fd, from, server)
}

/// `TCP_FASTOPEN_CONNECT` (include/uapi/linux/tcp.h).
const TCP_FASTOPEN_CONNECT: i32 = 30;

pub(super) fn deferred() -> Result<()> {
    let server = server()?;
    let to = SocketAddr::new(V4, server.pipe.hear_port()?);
    let fd = sys::socket(false, false, 0)?;
    sys::set_option(&fd, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &1i32)?;
    let from = boot_ns();
    sys::connect(&fd, to).context("deferred connect")?;
    sys::send_all(&fd, b"hello").context("first send")?;
    finish(fd, from, server)
}

fn finish(fd: std::os::fd::OwnedFd, from: u64, server: Child) -> Result<()> {
    let mut conn = Conn::connected(fd, By::Me, from, Via::Syscall, false)?;
    conn.sent = 5;
    conn.recv(6)?;
    conn.close(End::LocalFin)?;
    server.join()
}

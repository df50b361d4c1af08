//! `SOCK_DESTROY` of `sock_diag` (include/uapi/linux/sock_diag.h, inet_diag.h): what `ss -K` does.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use conn_tests::truth::SockFact;

use crate::sys::{check, check_len};

const SOCK_DESTROY: u16 = 21;
/// Whichever cookie the socket has (`INET_DIAG_NOCOOKIE`).
const NO_COOKIE: [u32; 2] = [!0; 2];

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
#[repr(C)]
struct Request {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    port_id: u32,
    family: u8,
    protocol: u8,
    ext: u8,
    pad: u8,
    states: u32,
    sport: [u8; 2],
    dport: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct nlmsghdr` and `struct nlmsgerr`, without the request that the kernel repeats in it.
#[repr(C)]
#[derive(Default)]
struct Answer {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    port_id: u32,
    error: i32,
    request: [u32; 32],
}

/// Destroys the TCP socket of this thread's network namespace that has these ends: a listener if it has no remote one.
pub(crate) fn destroy(sock: &SockFact) -> Result<()> {
    let local = SocketAddr::new(sock.laddr, sock.lport.context("a socket without a port")?);
    ask(local, sock.remote).context("SOCK_DESTROY")
}

/// The same; the error is the kernel's.
pub(crate) fn ask(local: SocketAddr, remote: Option<SocketAddr>) -> io::Result<()> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) })?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let request = Request {
        len: size_of::<Request>() as u32,
        kind: SOCK_DESTROY,
        flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        seq: 1,
        port_id: 0,
        family: if local.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 },
        protocol: libc::IPPROTO_TCP as u8,
        ext: 0,
        pad: 0,
        states: !0,
        sport: local.port().to_be_bytes(),
        dport: remote.map_or(0, |remote| remote.port()).to_be_bytes(),
        src: words(Some(local.ip())),
        dst: words(remote.map(|remote| remote.ip())),
        interface: 0,
        cookie: NO_COOKIE,
    };
    // SAFETY: the request is readable for its length; without an address the kernel is meant.
    check_len(unsafe { libc::send(fd.as_raw_fd(), (&raw const request).cast(), size_of::<Request>(), 0) })?;
    let mut answer = Answer::default();
    // SAFETY: any bytes are a valid answer, and it is writable for its length.
    let got = check_len(unsafe {
        libc::recv(fd.as_raw_fd(), (&raw mut answer).cast(), size_of::<Answer>(), libc::MSG_TRUNC)
    })?;
    if got < 20 || answer.kind != libc::NLMSG_ERROR as u16 {
        return Err(io::Error::other(format!("netlink answered {got} bytes of kind {}", answer.kind)));
    }
    match answer.error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

fn words(ip: Option<IpAddr>) -> [u8; 16] {
    let mut bytes = [0; 16];
    match ip {
        Some(IpAddr::V4(v4)) => bytes[..4].copy_from_slice(&v4.octets()),
        Some(IpAddr::V6(v6)) => bytes = v6.octets(),
        None => {}
    }
    bytes
}

//! Multipath TCP.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::Result;
use conn_tests::truth::End;

use crate::conn::{Conn, Listener, V4};
use crate::process::fork;
use crate::sys::{self, IPPROTO_MPTCP};

pub(super) fn lacks() -> Option<String> {
    let error = sys::socket(false, false, IPPROTO_MPTCP).err()?;
    let unsupported =
        matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::ENOPROTOOPT | libc::EINVAL));
    (unsupported || error.kind() == ErrorKind::Unsupported).then(|| format!("socket(IPPROTO_MPTCP): {error}"))
}

pub(super) fn run() -> Result<()> {
    connect_to(IPPROTO_MPTCP)
}

/// To a server that speaks TCP alone.
pub(super) fn fallback() -> Result<()> {
    connect_to(0)
}

fn connect_to(protocol: i32) -> Result<()> {
    let server = fork(move |pipe| {
        let listener = Listener::with(V4, 8, protocol, |_| Ok(()))?;
        pipe.emit(u64::from(listener.port()))?;
        let mut conn = listener.accept()?;
        conn.recv(100)?;
        conn.send(50)?;
        conn.recv_end()?;
        conn.close(End::PeerFin)?;
        listener.close()
    })?;
    let to = SocketAddr::new(V4, server.pipe.hear_port()?);
    let fd = sys::socket(false, false, IPPROTO_MPTCP)?;
    let mut conn = Conn::connect_on(fd, to, true)?;
    conn.send(100)?;
    conn.recv(50)?;
    conn.close(End::LocalFin)?;
    server.join()
}

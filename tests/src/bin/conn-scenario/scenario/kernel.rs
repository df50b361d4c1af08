//! Sockets of the kernel itself: RDS over TCP (net/rds/tcp_listen.c) listens from the load of its module
//! until the unload in each network namespace, and a worker thread accepts.

use std::ffi::CStr;
use std::io::BufRead;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use conn_tests::module;
use conn_tests::truth::{Dir, End, Fact, Kind, Line, SockFact};

use crate::conn::{By, Conn, PATIENCE_MS, V4, fact, other_end, sock_fact};
use crate::facts::{emit, netns};
use crate::netdev;
use crate::process::fork;
use crate::sys::{self, boot_ns};

/// `RDS_TCP_PORT` (net/rds/tcp.h).
const PORT: u16 = 16_385;
/// In the order of loading; unloaded the other way round.
const MODULES: [(&str, &CStr); 2] = [("rds", c"rds"), ("rds_tcp", c"rds_tcp")];
/// Only the test machines have it: a protocol is not loaded into somebody's kernel for a test.
const FOLDER: &str = "/modules";

fn file(name: &str) -> Option<PathBuf> {
    let start = format!("{name}.ko");
    let files = std::fs::read_dir(FOLDER).ok()?;
    let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
    paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start)))
}

pub(super) fn lacks() -> Option<String> {
    let (missing, _) = MODULES.iter().find(|(name, _)| file(name).is_none())?;
    Some(format!("no module {missing} in {FOLDER}"))
}

/// Loads them: the initialization of the last one makes a listener in each network namespace, in the task
/// that loads it.
fn load() -> Result<SockFact> {
    for (name, _) in MODULES {
        let path = file(name).context("the module is gone")?;
        module::load(&path).with_context(|| format!("load {}", path.display()))?;
    }
    let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT);
    Ok(SockFact { kernel: true, ..sock_fact(any, None, false)? })
}

/// Unloads them, which ends the listeners. Returns when it began.
fn unload() -> Result<u64> {
    let from = boot_ns();
    for (name, module) in MODULES.iter().rev() {
        module::unload(module).with_context(|| format!("unload {name}"))?;
    }
    Ok(from)
}

pub(super) fn run() -> Result<()> {
    let other = fork(|pipe| {
        netdev::own_netns()?;
        pipe.emit(netns()?)?;
        pipe.hear().map(drop)
    })?;
    let other_netns = other.pipe.hear()?;
    let from = boot_ns();
    let listener = load()?;
    let listeners = [SockFact { netns: other_netns, ..listener.clone() }, listener];
    for listener in &listeners {
        emit(&Line::Fact(fact(Kind::Listen, None, listener, By::Me, from)))?;
    }

    let from = boot_ns();
    let client = Conn::connect((V4, PORT).into())?;
    // The two ends have one address, to which RDS makes no connection over TCP (`rds_conn_create`): it closes.
    let server = SockFact { kernel: true, ..other_end(&client.sock, true)? };
    sys::poll(&[client.fd.as_raw_fd()], libc::POLLIN, PATIENCE_MS)?;
    let got = sys::recv(&client.fd, &mut [0]).context("recv")?;
    ensure!(got == 0, "data where the end was due");
    emit(&Line::Fact(fact(Kind::Accept, Some(Dir::In), &server, By::Nobody, from)))?;
    let end = fact(Kind::Close, Some(Dir::In), &server, By::Nobody, from);
    emit(&Line::Fact(Fact { end: Some(End::LocalFin), bytes_in: Some(0), bytes_out: Some(0), ..end }))?;
    client.close(End::PeerFin)?;

    let from = unload()?;
    for listener in &listeners {
        emit(&Line::Fact(fact(Kind::Unlisten, None, listener, By::Me, from)))?;
    }
    other.pipe.emit(0)?;
    other.join()
}

/// A listener that was there before the agent. Nobody holds it, so nothing reports its age.
pub(super) fn preexisting() -> Result<()> {
    let listener = load()?;
    emit(&Line::Ready)?;
    std::io::stdin().lock().read_line(&mut String::new()).context("wait for the word to go on")?;
    let from = unload()?;
    emit(&Line::Fact(Fact { early: true, ..fact(Kind::Unlisten, None, &listener, By::Me, from) }))
}

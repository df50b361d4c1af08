//! What violations are made of.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self as unix, UnixDatagram};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use conn_tests::truth::{AlertFact, End, Line, Phase};

use crate::conn::{Conn, Listener, bind_quiet};
use crate::facts::emit;
use crate::process::{Child, fork};
use crate::sys::{self, boot_ns};

/// Every address of this machine.
pub(super) const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// An address of the zone `inner`.
pub(super) const fn inner(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 1, 0, host))
}

/// An address of the zone `outer`.
pub(super) const fn outer(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 2, 0, host))
}

/// Reports an alert that a kernel event between `from_ns` and now must give, about this process.
pub(super) fn reported(rule: &str, phase: Phase, pid: u32, from_ns: u64) -> Result<()> {
    let fact = AlertFact {
        rule: rule.to_owned(),
        phase,
        pid: Some(pid),
        from_ns,
        until_ns: boot_ns(),
        timer: false,
    };
    emit(&Line::Alert(fact))
}

/// Reports an alert that is due `after` an event that came between `from_ns` and `until_ns`; about a process, or an absence.
pub(super) fn due(
    rule: &str,
    phase: Phase,
    pid: Option<u32>,
    (from_ns, until_ns): (u64, u64),
    after: Duration,
) -> Result<()> {
    let after = u64::try_from(after.as_nanos()).context("a time")?;
    let (from_ns, until_ns) = (from_ns + after, until_ns + after);
    emit(&Line::Alert(AlertFact { rule: rule.to_owned(), phase, pid, from_ns, until_ns, timer: true }))
}

/// This process's id.
pub(super) fn me() -> u32 {
    std::process::id()
}

/// A server in a process of its own that takes connections, waits for the end of each, and ends when it is reported to.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
}

impl Server {
    /// One that listens at all addresses and takes so many connections.
    pub(super) fn of(connections: usize) -> Result<Self> {
        let child = fork(|pipe| {
            sys::set_name(c"v-server")?;
            let listener = Listener::new(ANY)?;
            pipe.emit(u64::from(listener.port()))?;
            for _ in 0..connections {
                listener.accept()?.wait_for_end()?;
            }
            pipe.hear()?;
            listener.close()
        })?;
        let port = child.pipe.hear_port()?;
        Ok(Self { child, port })
    }

    /// One that takes connections with a message of each of these sizes, and answers each with a byte.
    pub(super) fn of_messages(sizes: &[usize]) -> Result<Self> {
        let child = fork(|pipe| {
            sys::set_name(c"v-server")?;
            let listener = Listener::new(ANY)?;
            pipe.emit(u64::from(listener.port()))?;
            for size in sizes {
                let mut conn = listener.accept()?;
                conn.recv(*size)?;
                conn.send(1)?;
                conn.wait_for_end()?;
            }
            pipe.hear()?;
            listener.close()
        })?;
        let port = child.pipe.hear_port()?;
        Ok(Self { child, port })
    }

    /// Sends it a message of this size on a connection of its own, and closes that when it has been answered.
    pub(super) fn send(&self, ip: IpAddr, size: usize) -> Result<()> {
        let mut conn = Conn::connect(self.at(ip))?;
        conn.send(size)?;
        conn.recv(1)?;
        conn.close(End::LocalFin)
    }

    /// Where it is reached at an address.
    pub(super) const fn at(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.port)
    }

    /// Ends it: it has taken all connections.
    pub(super) fn end(self) -> Result<()> {
        self.child.pipe.emit(0)?;
        self.child.join()
    }
}

/// Connects from an address of this machine.
pub(super) fn connect_from(from: IpAddr, to: SocketAddr) -> Result<Conn> {
    let fd = sys::socket(false, false, 0)?;
    bind_quiet(&fd, from)?;
    Conn::connect_on(fd, to, false)
}

/// A socket bound to an address, which may share its port if it is to.
pub(super) fn bound(at: SocketAddr, share: bool) -> Result<OwnedFd> {
    let fd = sys::socket(false, false, 0)?;
    let option = if share { libc::SO_REUSEPORT } else { libc::SO_REUSEADDR };
    sys::set_option(&fd, libc::SOL_SOCKET, option, &1i32)?;
    sys::bind(&fd, at).with_context(|| format!("bind {at}"))?;
    Ok(fd)
}

/// A port that nobody has, and that no other workload of this network namespace takes while the value lives,
/// though nothing is bound to it in between: for servers that end and come back.
pub(super) struct ReservedPort {
    pub(super) number: u16,
    /// Abstract names belong to the network namespace, as ports do.
    _name: UnixDatagram,
}

impl ReservedPort {
    /// Below those that [`bind_quiet`] and the kernel choose from, and above that of RDS.
    const FROM: u16 = 17_000;
    const COUNT: u16 = 3_000;

    pub(super) fn new() -> Result<Self> {
        let first = u16::try_from(me() % u32::from(Self::COUNT)).context("a port")?;
        for step in 0..Self::COUNT {
            let number = Self::FROM + (first + step) % Self::COUNT;
            let name = unix::SocketAddr::from_abstract_name(format!("conn-scenario-port-{number}"));
            match UnixDatagram::bind_addr(&name.context("a name")?) {
                Ok(name) if is_free(number)? => return Ok(Self { number, _name: name }),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::AddrInUse => {}
                Err(e) => return Err(e).context("reserve a port"),
            }
        }
        bail!("no free port from {}", Self::FROM)
    }
}

/// Whether nobody is bound to a port at any address.
fn is_free(port: u16) -> Result<bool> {
    let fd = sys::socket(false, false, 0)?;
    match sys::bind(&fd, SocketAddr::new(ANY, port)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AddrInUse => Ok(false),
        Err(e) => Err(e).context("bind"),
    }
}

pub(super) fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

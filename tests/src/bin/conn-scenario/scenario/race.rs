//! Both ends of many connections end at the same time. Which FIN is first is the kernel's choice; who closes which end is not.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use conn_tests::truth::{End, Ending};

use crate::conn::{By, Conn, Listener, Summary, V4};
use crate::facts::reap;
use crate::netdev;
use crate::process::{Child, Pipe, fork};
use crate::sys::{self, IPPROTO_MPTCP, check};

/// Connections between the two processes.
const PAIRS: usize = 300;
/// With MPTCP: each has a worker and subflows of its own.
const MPTCP_PAIRS: usize = 50;
/// Both ends of the network cable between two namespaces (RFC 2544: never routed).
const CABLE: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)];

/// Which of the two processes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// The connections, and what the two processes do with them.
struct Race {
    pairs: usize,
    listen: IpAddr,
    protocol: i32,
    /// Whether each process has a network namespace of its own, with a cable between the two.
    apart: bool,
    /// What a process does with its ends: first it prepares, then it waits for the word, then it acts.
    prepare: fn(&[Conn]) -> Result<()>,
    act: fn(Role, Vec<Conn>) -> Result<()>,
}

impl Race {
    const ON_LOOPBACK: Self =
        Self { pairs: PAIRS, listen: V4, protocol: 0, apart: false, prepare: |_| Ok(()), act: |_, _| Ok(()) };

    /// Starts both processes and returns when all connections are open and prepared.
    fn start(&'static self) -> Result<(Child, Child)> {
        let server = fork(|pipe| self.server(pipe))?;
        let client = fork(|pipe| self.client(pipe))?;
        if self.apart {
            server.pipe.hear()?;
            client.pipe.hear()?;
            netdev::cable([server.pid, client.pid])?;
            server.pipe.emit(0)?;
            client.pipe.emit(0)?;
        }
        client.pipe.emit(u64::from(server.pipe.hear_port()?))?;
        server.pipe.sync()?;
        client.pipe.sync()?;
        Ok((server, client))
    }

    fn server(&self, pipe: &Pipe) -> Result<()> {
        self.enter(pipe, CABLE[0])?;
        let listener = Listener::with(self.listen, 128, self.protocol, |_| Ok(()))?;
        pipe.emit(u64::from(listener.port()))?;
        let conns = (0..self.pairs).map(|_| listener.accept()).collect::<Result<Vec<_>>>()?;
        listener.close()?;
        self.wait_and_act(Role::Server, conns, pipe)
    }

    fn client(&self, pipe: &Pipe) -> Result<()> {
        self.enter(pipe, CABLE[1])?;
        let to = (self.listen, pipe.hear_port()?).into();
        let connect = |_| {
            let fd = sys::socket(false, false, self.protocol)?;
            Conn::connect_on(fd, to, self.protocol == IPPROTO_MPTCP)
        };
        let conns = (0..self.pairs).map(connect).collect::<Result<Vec<_>>>()?;
        self.wait_and_act(Role::Client, conns, pipe)
    }

    fn enter(&self, pipe: &Pipe, address: Ipv4Addr) -> Result<()> {
        if self.apart {
            netdev::own_netns()?;
            pipe.sync()?;
            netdev::plug_in(address).context("the cable")?;
        }
        Ok(())
    }

    fn wait_and_act(&self, role: Role, conns: Vec<Conn>, pipe: &Pipe) -> Result<()> {
        (self.prepare)(&conns)?;
        pipe.sync()?;
        pipe.hear()?;
        (self.act)(role, conns)
    }

    /// Ends both processes by one signal, as a container is stopped.
    fn kill(&'static self) -> Result<()> {
        let (server, client) = self.start()?;
        let group = server.pid.cast_signed();
        for child in [&server, &client] {
            // SAFETY: no pointers are passed; both are children of ours.
            check(unsafe { libc::setpgid(child.pid.cast_signed(), group) }).context("setpgid")?;
        }
        // SAFETY: no pointers are passed; the group has these two children alone.
        check(unsafe { libc::kill(-group, libc::SIGKILL) }).context("kill")?;
        reap(server.pid, Some(libc::SIGKILL))?;
        reap(client.pid, Some(libc::SIGKILL))
    }

    /// Gives both processes the word.
    fn run(&'static self) -> Result<()> {
        let (server, client) = self.start()?;
        server.pipe.emit(0)?;
        client.pipe.emit(0)?;
        server.join()?;
        client.join()
    }
}

/// Says how the ends of this process will end. It cannot say when.
fn announce(conns: &[Conn]) -> Result<()> {
    conns.iter().try_for_each(|conn| Summary::of(conn).will_end(End::LocalFin, &[by_me(End::PeerFin)]))
}

fn by_me(end: End) -> Ending {
    Ending::new(end, 0, Some(std::process::id()))
}

pub(super) fn killed() -> Result<()> {
    const RACE: Race = Race { prepare: announce, ..Race::ON_LOOPBACK };
    RACE.kill()
}

pub(super) fn killed_mptcp() -> Result<()> {
    const RACE: Race =
        Race { pairs: MPTCP_PAIRS, protocol: IPPROTO_MPTCP, prepare: announce, ..Race::ON_LOOPBACK };
    RACE.kill()
}

pub(super) fn killed_across_veth() -> Result<()> {
    const RACE: Race =
        Race { listen: IpAddr::V4(CABLE[0]), apart: true, prepare: announce, ..Race::ON_LOOPBACK };
    RACE.kill()
}

/// Both exit with their connections open.
pub(super) fn exit() -> Result<()> {
    const RACE: Race = Race {
        prepare: announce,
        act: |_, conns| {
            // The process ends with `_exit`: the kernel closes them.
            std::mem::forget(conns);
            Ok(())
        },
        ..Race::ON_LOOPBACK
    };
    RACE.run()
}

/// A close against the other side's close, its reset, and its shutdown and close.
pub(super) fn closes() -> Result<()> {
    const RACE: Race = Race { act: close_each, ..Race::ON_LOOPBACK };
    RACE.run()
}

fn client_port(role: Role, conn: &Conn) -> Result<u16> {
    let port = match role {
        Role::Client => conn.sock.lport,
        Role::Server => conn.sock.remote.map(|remote| remote.port()),
    };
    port.context("a connection has a port")
}

/// How each of them ends is reported afterwards: to write it down in between would let the other side go first.
fn close_each(role: Role, conns: Vec<Conn>) -> Result<()> {
    // What is done with a connection goes by the client's port: connections may be accepted in another order than they were made.
    let close = |conn: Conn| -> Result<(u16, u64, Summary)> {
        let at = client_port(role, &conn)? % 3;
        // The end may have come from the other side since it was open.
        let since = conn.since;
        if role == Role::Client && at == 1 {
            sys::linger_zero(&conn.fd)?;
        }
        if role == Role::Client && at == 2 {
            sys::shutdown(&conn.fd, libc::SHUT_WR).context("shutdown")?;
        }
        let (_, summary) = conn.close_silently();
        Ok((at, since, summary))
    };
    let ended = conns.into_iter().map(close).collect::<Result<Vec<_>>>()?;
    for (at, from, summary) in ended {
        let by_network = |end, errno| Ending::new(end, errno, None);
        match (role, at) {
            (_, 0) | (Role::Server, 2) => summary.ended_or(End::LocalFin, &[by_me(End::PeerFin)], from)?,
            (Role::Client, 1) => summary.ended(End::LocalReset, By::Me, from)?,
            (Role::Server, _) => {
                let reset = by_network(End::PeerReset, libc::ECONNRESET);
                summary.ended_or(End::LocalFin, &[reset], from)?;
            }
            (Role::Client, _) => {
                // Where the machine has no room in TIME_WAIT, the other side is gone as soon as it has closed
                // (`tcp_time_wait`), and the FIN of the shutdown is answered by a reset.
                let others = [
                    by_network(End::LocalFin, 0),
                    by_me(End::PeerFin),
                    by_network(End::PeerFin, 0),
                    by_network(End::PeerReset, libc::ECONNRESET),
                ];
                summary.ended_or(End::LocalFin, &others, from)?;
            }
        }
    }
    Ok(())
}

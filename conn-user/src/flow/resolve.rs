//! The local end of a socket whose hook ran before the kernel chose it, and what narrows a listener, which no record has: from
//! `sock_diag`, else `/proc/PID/net/tcp`.
//!
//! Connects that stay without an answer for the hold time are looked up, all that are due at once, with one
//! question a network namespace and family.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;

use super::how::state::{LISTEN, SYN_SENT};
use super::model::{Scope, canonical_ip};
use crate::clock::boot_now;
use crate::kernel::interfaces::Devices;
use crate::kernel::netlink::DumpError;
use crate::kernel::netns::{self, Namespace};
use crate::kernel::sockdiag::{self, DiagSocket};
use crate::kernel::tcp_file;
use crate::units::{DurationNs, NetNs, Pid};

/// A socket whose local end or scope is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortQuery {
    /// A process in the network namespace.
    pub pid: Pid,
    /// The network namespace; 0: not known, then the process's.
    pub netns: NetNs,
    /// Cookie of the socket, 0: not known.
    pub cookie: u64,
    /// Inode number of the socket, 0: not known.
    pub inode: u32,
    /// The socket is `AF_INET6` (it may carry IPv4).
    pub v6: bool,
    /// Local end of a listener, canonical, as far as it is known.
    pub local: Option<SocketAddr>,
    /// Remote end of a connection, canonical; `None`: a listener.
    pub remote: Option<SocketAddr>,
}

/// What was found of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortAnswer {
    /// The local address (canonical) and the port, never 0.
    pub local: SocketAddr,
    /// What narrows a listener; `None`: the source does not show it.
    pub scope: Option<Scope>,
}

impl From<SocketAddr> for PortAnswer {
    fn from(local: SocketAddr) -> Self {
        Self { local, scope: None }
    }
}

/// Finds local ends and scopes.
pub trait PortResolver {
    /// One answer a query, in their order.
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<PortAnswer>>;

    /// How long the last answers took: whoever asks waits for them, and must not do so most of the time.
    fn took(&self) -> DurationNs {
        DurationNs(0)
    }
}

/// A resolver that finds nothing: for replays.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoResolver;

impl PortResolver for NoResolver {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<PortAnswer>> {
        vec![None; queries.len()]
    }
}

/// Asks the kernel.
#[derive(Clone, Debug)]
pub struct Sockets {
    proc: PathBuf,
    took: DurationNs,
}

impl Default for Sockets {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl Sockets {
    /// By a /proc that is mounted elsewhere.
    pub fn at(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), took: DurationNs(0) }
    }

    /// Gives those listeners of the family, and connects without an answer if there are `attempts` among the queries, that have a
    /// port to `each`, until it says that it has enough (`false`).
    fn each(
        &self,
        netns: NetNs,
        (v6, attempts): (bool, bool),
        pids: &[Pid],
        each: impl FnMut(&Candidate) -> bool,
    ) -> io::Result<()> {
        let is_own = netns::own(&self.proc).is_ok_and(|own| own == netns);
        let directories = pids.iter().map(|pid| self.proc.join(pid.0.to_string()));
        let namespace =
            Namespace { id: netns, files: directories.map(|process| process.join("ns/net")).collect() };
        if let Ok(found) = ask(&namespace, is_own, v6, attempts) {
            let _ = found.iter().filter(|candidate| candidate.local.port() != 0).all(each);
            return Ok(());
        }
        // 0 is a number that a record did not bring: the asking process must then still be where it was.
        let window = namespace.threads().find(|process| netns.0 == 0 || namespace.has(process));
        let own = self.proc.join("self");
        let Some(window) = window.or_else(|| is_own.then_some(&own)) else { return Ok(()) };
        files(File::open(window.join(if v6 { "net/tcp6" } else { "net/tcp" }))?, each)
    }
}

fn files(file: File, mut each: impl FnMut(&Candidate) -> bool) -> io::Result<()> {
    tcp_file::lines(file, |line| {
        line.local.port() == 0
            || each(&Candidate {
                local: canonical(line.local),
                remote: canonical(line.remote),
                state: line.state,
                cookie: 0,
                inode: line.inode,
                scope: None,
            })
    })
}

/// A socket with a port.
struct Candidate {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    /// 0: not known.
    cookie: u64,
    inode: u32,
    scope: Option<Scope>,
}

impl Candidate {
    fn of(socket: &DiagSocket, devices: &mut Devices) -> Self {
        let scope = || Scope { device: devices.named(socket.device), v6only: socket.v6only };
        Self {
            local: canonical(socket.local),
            remote: canonical(socket.remote),
            state: socket.state,
            cookie: socket.cookie,
            inode: socket.inode,
            scope: (socket.state == LISTEN).then(scope),
        }
    }

    fn answer(&self) -> PortAnswer {
        PortAnswer { local: self.local, scope: self.scope.clone() }
    }
}

/// Asks in the namespace. A thread that has entered another one ends there: its way back could be refused.
fn ask(namespace: &Namespace, is_own: bool, v6: bool, attempts: bool) -> Result<Vec<Candidate>, DumpError> {
    let here = || {
        let mut devices = Devices::default();
        let sockets = sockdiag::listeners(v6, attempts)?;
        Ok(sockets.iter().map(|socket| Candidate::of(socket, &mut devices)).collect())
    };
    if is_own {
        return here();
    }
    let inside = || match namespace.enter() {
        Ok(true) => here(),
        Ok(false) => Err(DumpError::Socket(io::ErrorKind::NotFound.into())),
        Err(error) => Err(DumpError::Socket(error)),
    };
    thread::scope(|scope| {
        match thread::Builder::new().name("conn-ports".into()).spawn_scoped(scope, inside) {
            Ok(asking) => asking.join().unwrap_or(Err(DumpError::Malformed)),
            Err(error) => Err(DumpError::Socket(error)),
        }
    })
}

/// Which of the queries `asked` a socket answers.
fn answer(
    queries: &[PortQuery],
    asked: &[usize],
    answers: &mut [Option<PortAnswer>],
    all: impl FnOnce(&mut dyn FnMut(&Candidate) -> bool) -> io::Result<()>,
) {
    let (mut by_cookie, mut by_inode) = (BTreeMap::new(), BTreeMap::new());
    // With how many sockets fit.
    let mut by_ends = Vec::new();
    for &at in asked {
        match &queries[at] {
            PortQuery { cookie: 0, inode: 0, .. } => by_ends.push((at, 0u32)),
            PortQuery { cookie: 0, inode, .. } => drop(by_inode.insert(*inode, at)),
            PortQuery { cookie, .. } => drop(by_cookie.insert(*cookie, at)),
        }
    }
    // What cannot be read gives no answer.
    let _ = all(&mut |socket| {
        if let Some(at) = by_cookie.remove(&socket.cookie).or_else(|| by_inode.remove(&socket.inode)) {
            if queries[at].remote.is_some() || socket.state == LISTEN {
                answers[at] = Some(socket.answer());
            }
        } else {
            for (at, seen) in &mut by_ends {
                let PortQuery { local, remote, .. } = &queries[*at];
                let fits = match socket.state {
                    SYN_SENT => *remote == Some(socket.remote),
                    LISTEN => remote.is_none() && *local == Some(socket.local),
                    _ => false,
                };
                if fits {
                    *seen += 1;
                    // Without a number of theirs two attempts to one remote end are not distinguished, nor two listeners at one end.
                    answers[*at] = (*seen == 1).then(|| socket.answer());
                }
            }
        }
        !(by_cookie.is_empty() && by_inode.is_empty() && by_ends.is_empty())
    });
}

impl PortResolver for Sockets {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<PortAnswer>> {
        let began = boot_now();
        let mut answers = vec![None; queries.len()];
        let mut groups: BTreeMap<(NetNs, bool), Vec<usize>> = BTreeMap::new();
        for (at, query) in queries.iter().enumerate() {
            groups.entry((query.netns, query.v6)).or_default().push(at);
        }
        for ((netns, v6), asked) in groups {
            let pids: Vec<Pid> = asked.iter().map(|&at| queries[at].pid).collect();
            let attempts = asked.iter().any(|&at| queries[at].remote.is_some());
            answer(queries, &asked, &mut answers, |each| self.each(netns, (v6, attempts), &pids, each));
        }
        self.took = boot_now().since(began);
        answers
    }

    fn took(&self) -> DurationNs {
        self.took
    }
}

fn canonical(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(end.ip()).0, end.port())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    const V4: &str = "   7: 0100007F:9C40 0101010A:0050 02 00000001:00000000 01:00000060 00000001  1000        0 4711 2 0 10\n";
    fn query(pid: u32, netns: u32, inode: u32, remote: &str) -> PortQuery {
        let remote = Some(remote.parse().expect("address"));
        PortQuery { pid: Pid(pid), netns: NetNs(netns), cookie: 0, inode, v6: false, local: None, remote }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn by_inode_by_remote_and_never_from_another_namespace() {
        let root = std::env::temp_dir().join(format!("conn-resolve-{}", std::process::id()));
        for (who, netns) in [("5", 100), ("6", 200)] {
            fs::create_dir_all(root.join(who).join("ns")).expect("dir");
            fs::create_dir_all(root.join(who).join("net")).expect("dir");
            symlink(format!("net:[{netns}]"), root.join(who).join("ns/net")).expect("link");
            fs::write(root.join(who).join("net/tcp"), format!("  sl  local_address\n{V4}")).expect("file");
        }
        let mut proc = Sockets::at(&root);
        let mut port = |queries: &[PortQuery]| -> Vec<u16> {
            let answers = proc.resolve(queries);
            answers.iter().map(|answer| answer.as_ref().map_or(0, |answer| answer.local.port())).collect()
        };
        let by_inode = port(&[query(5, 100, 4711, "10.1.1.1:80"), query(5, 100, 9, "10.1.1.1:80")]);
        let by_remote = port(&[query(5, 100, 0, "10.1.1.1:80"), query(5, 100, 0, "10.1.1.1:81")]);
        // Its process moved to another namespace; where another query's process is still there, that one is the window.
        let moved = port(&[query(6, 100, 4711, "10.1.1.1:80")]);
        let helped = port(&[query(6, 100, 4711, "10.1.1.1:80"), query(5, 100, 9, "10.1.1.1:80")]);
        let nowhere = port(&[query(6, 300, 4711, "10.1.1.1:80")]);
        // The one socket with that remote end is known to be another one.
        let taken = port(&[query(5, 100, 4711, "10.1.1.1:80"), query(5, 100, 0, "10.1.1.1:80")]);
        fs::remove_dir_all(&root).expect("remove");
        assert_eq!(by_inode, [40000, 0]);
        assert_eq!(by_remote, [40000, 0]);
        assert_eq!(moved, [0]);
        assert_eq!(helped, [40000, 0]);
        assert_eq!(nowhere, [0]);
        assert_eq!(taken, [40000, 0]);
    }

    #[test]
    fn a_real_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let inode = fs::metadata(format!("/proc/self/fd/{fd}")).expect("stat").ino();
        let netns = fs::metadata("/proc/self/ns/net").expect("stat").ino();
        let query = PortQuery {
            pid: Pid(u32::MAX),
            netns: NetNs(netns as u32),
            cookie: 0,
            inode: inode as u32,
            v6: false,
            local: None,
            remote: None,
        };
        let unknown = PortQuery { pid: Pid(std::process::id()), netns: NetNs(0), ..query.clone() };
        let local = listener.local_addr().expect("bound");
        let by_ends = PortQuery { inode: 0, local: Some(local), ..query.clone() };
        let answer = Some(PortAnswer { local, scope: Some(Scope::default()) });
        for query in [query, by_ends] {
            assert_eq!(Sockets::default().resolve(&[query]), std::slice::from_ref(&answer));
        }
        // Without the number of its namespace the files are read, which show no scope.
        assert_eq!(Sockets::default().resolve(&[unknown]), [Some(local.into())]);
    }

    /// By its cookie, each of two that differ in their interface alone, and one that takes IPv6 only.
    #[test]
    fn the_scope_of_a_real_listener() {
        let socket =
            |family| rustix::net::socket(family, rustix::net::SocketType::STREAM, None).expect("socket");
        let netns = fs::metadata("/proc/self/ns/net").expect("stat").ino();
        let bound = socket(rustix::net::AddressFamily::INET);
        let wide = socket(rustix::net::AddressFamily::INET);
        let six = socket(rustix::net::AddressFamily::INET6);
        // A kernel before 5.7 wants CAP_NET_RAW.
        // SAFETY: the option's value is three bytes that live during the call.
        let done = unsafe {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&bound);
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, c"lo".as_ptr().cast(), 3)
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        rustix::net::sockopt::set_ipv6_v6only(&six, true).expect("v6only");
        let mut queries = Vec::new();
        for (socket, at) in [(&bound, "127.0.0.1:0"), (&wide, "127.0.0.1:0"), (&six, "[::]:0")] {
            rustix::net::bind(socket, &at.parse::<SocketAddr>().expect("an address")).expect("bind");
            rustix::net::listen(socket, 1).expect("listen");
            queries.push(PortQuery {
                pid: Pid(std::process::id()),
                netns: NetNs(netns as u32),
                cookie: rustix::net::sockopt::socket_cookie(socket).expect("a cookie"),
                inode: 0,
                v6: at.starts_with('['),
                local: None,
                remote: None,
            });
        }
        let answers = Sockets::default().resolve(&queries);
        let scopes: Vec<_> = answers
            .iter()
            .map(|answer| answer.as_ref().and_then(|answer| answer.scope.as_ref()).expect("a scope"))
            .map(|scope| (scope.device.as_ref().map(|device| device.name()), scope.v6only))
            .collect();
        assert_eq!(scopes, [(Some("lo"), false), (None, false), (None, true)]);
    }
}

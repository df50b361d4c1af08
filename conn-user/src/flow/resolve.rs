//! The local end of a socket whose hook ran before the kernel chose it: from `sock_diag`, else `/proc/PID/net/tcp`; and the names of
//! interfaces, of which records have the index.
//!
//! Connects that stay without an answer for the hold time are looked up, all that are due at once, with one
//! question a network namespace and family.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::how::state::{LISTEN, SYN_SENT};
use super::model::canonical_ip;
use crate::clock::boot_now;
use crate::host::interfaces::{Device, Devices};
use crate::host::netlink::DumpError;
use crate::host::netns::Namespace;
use crate::host::sockdiag::{self, DiagSocket};
use crate::host::tcp_file;
use crate::units::{DurationNs, NetNs, Pid};

/// Name of the threads that ask in other namespaces.
const THREAD: &str = "conn-ports";

/// A socket whose local end is asked for.
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

/// An interface whose name is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceQuery {
    /// The network namespace.
    pub netns: NetNs,
    /// The index (`ifindex`).
    pub index: u32,
    /// Processes that may be in the namespace.
    pub pids: Vec<Pid>,
}

impl DeviceQuery {
    /// Whether it asks for this interface: its namespace and its index.
    pub fn is_of(&self, (netns, index): (u32, u32)) -> bool {
        self.netns.0 == netns && self.index == index
    }
}

/// Finds local ends of sockets and names of interfaces.
pub trait PortResolver {
    /// Returns the local address (canonical) and the port, never 0, for each query in their order.
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>>;

    /// Returns the interface for each query in their order; `None`: it is gone, or its namespace cannot be entered.
    fn devices(&mut self, queries: &[DeviceQuery]) -> Vec<Option<Device>> {
        vec![None; queries.len()]
    }

    /// How long the last answers took: whoever asks waits for them, and must not do so most of the time.
    fn took(&self) -> DurationNs {
        DurationNs(0)
    }
}

/// A resolver that finds nothing: for replays.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoResolver;

impl PortResolver for NoResolver {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
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
        let (namespace, is_own) = Namespace::of(&self.proc, netns, pids.iter().copied());
        let ask = || {
            let sockets = sockdiag::listeners(v6, attempts)?;
            Ok::<_, DumpError>(sockets.iter().map(Candidate::of).collect::<Vec<_>>())
        };
        if let Ok(Ok(found)) = namespace.inside(is_own, THREAD, ask) {
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
}

impl Candidate {
    fn of(socket: &DiagSocket) -> Self {
        Self {
            local: canonical(socket.local),
            remote: canonical(socket.remote),
            state: socket.state,
            cookie: socket.cookie,
            inode: socket.inode,
        }
    }
}

/// Which of the queries `asked` a socket answers.
fn answer(
    queries: &[PortQuery],
    asked: &[usize],
    answers: &mut [Option<SocketAddr>],
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
                answers[at] = Some(socket.local);
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
                    answers[*at] = (*seen == 1).then_some(socket.local);
                }
            }
        }
        !(by_cookie.is_empty() && by_inode.is_empty() && by_ends.is_empty())
    });
}

impl PortResolver for Sockets {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
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

    fn devices(&mut self, queries: &[DeviceQuery]) -> Vec<Option<Device>> {
        let began = boot_now();
        let mut answers = vec![None; queries.len()];
        let mut groups: BTreeMap<NetNs, Vec<usize>> = BTreeMap::new();
        for (at, query) in queries.iter().enumerate() {
            groups.entry(query.netns).or_default().push(at);
        }
        for (netns, asked) in groups {
            let pids = asked.iter().flat_map(|&at| &queries[at].pids).copied();
            let (namespace, is_own) = Namespace::of(&self.proc, netns, pids);
            let ask = || {
                let mut devices = Devices::default();
                asked.iter().map(|&at| devices.ask(queries[at].index).ok()).collect::<Vec<_>>()
            };
            let found = namespace.inside(is_own, THREAD, ask).into_iter().flatten();
            for (&at, device) in asked.iter().zip(found) {
                answers[at] = device;
            }
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
            answers.iter().map(|answer| answer.map_or(0, |local| local.port())).collect()
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
        // Without the number of its namespace the files are read.
        for query in [query, by_ends, unknown] {
            assert_eq!(Sockets::default().resolve(&[query]), [Some(local)]);
        }
    }

    /// Its index is 1 in every namespace (`loopback_net_init`); in the last ones nobody is.
    #[test]
    fn the_name_of_a_real_interface() {
        let netns = fs::metadata("/proc/self/ns/net").expect("stat").ino();
        let own = DeviceQuery { netns: NetNs(netns as u32), index: 1, pids: Vec::new() };
        let gone = DeviceQuery { index: u32::MAX / 2, ..own.clone() };
        let elsewhere = DeviceQuery { netns: NetNs(1), pids: vec![Pid(std::process::id())], ..own.clone() };
        let nowhere = DeviceQuery { netns: NetNs(2), ..own.clone() };
        let answers = Sockets::default().devices(&[nowhere, own, elsewhere, gone]);
        assert_eq!(answers, [None, Some(Device::new("lo")), None, None]);
    }
}

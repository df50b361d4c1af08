//! The local end of a socket whose hook ran before the kernel chose it, from `/proc/PID/net/tcp` and `tcp6`.
//!
//! Only sockets that stay without an answer for the hold time are looked up, all that are due at once, with one
//! reading a network namespace and family.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;

use super::how::state::{LISTEN, SYN_SENT};
use super::model::canonical_ip;
use crate::kernel::tcp_file;
use crate::units::{NetNs, Pid};

/// A socket whose local end is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortQuery {
    /// A process in the network namespace.
    pub pid: Pid,
    /// The network namespace; 0: not known, then the process's.
    pub netns: NetNs,
    /// Inode number of the socket, 0: not known.
    pub inode: u32,
    /// The socket is `AF_INET6` (it may carry IPv4).
    pub v6: bool,
    /// Remote end of a connection, canonical; `None`: a listener.
    pub remote: Option<SocketAddr>,
}

/// Finds local ends.
pub trait PortResolver {
    /// One answer a query, in their order: the local address (canonical) and the port, never 0.
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>>;
}

/// A resolver that finds nothing: for replays.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoResolver;

impl PortResolver for NoResolver {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
        vec![None; queries.len()]
    }
}

/// Reads /proc.
#[derive(Clone, Debug)]
pub struct ProcNet {
    root: PathBuf,
}

impl Default for ProcNet {
    fn default() -> Self {
        Self { root: PathBuf::from("/proc") }
    }
}

impl ProcNet {
    /// A /proc that is mounted elsewhere.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn is_in(&self, who: &str, netns: NetNs) -> bool {
        fs::read_link(self.root.join(who).join("ns/net"))
            .ok()
            .and_then(|link| link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok())
            == Some(netns.0)
    }

    /// A /proc directory whose network namespace is this one: a process's that asked, else our own.
    fn window(&self, netns: NetNs, mut pids: impl Iterator<Item = Pid>) -> Option<String> {
        pids.find_map(|pid| {
            let who = pid.0.to_string();
            (netns.0 == 0 || self.is_in(&who, netns)).then_some(who)
        })
        .or_else(|| self.is_in("self", netns).then(|| "self".to_owned()))
    }

    fn answer(&self, path: &str, queries: &[PortQuery], asked: &[usize], answers: &mut [Option<SocketAddr>]) {
        let Ok(file) = File::open(self.root.join(path)) else { return };
        let mut by_inode = BTreeMap::new();
        let mut by_remote = Vec::new();
        for &at in asked {
            match queries[at].inode {
                0 => by_remote.push(at),
                inode => drop(by_inode.insert(inode, at)),
            }
        }
        let mut seen_remotes = vec![0u32; by_remote.len()];
        // What cannot be read gives no answer.
        let _ = tcp_file::lines(file, |line| {
            if line.local.port() == 0 {
                return true;
            }
            let local = canonical(line.local);
            if let Some(at) = by_inode.remove(&line.inode) {
                if queries[at].remote.is_some() || line.state == LISTEN {
                    answers[at] = Some(local);
                }
            } else if line.state == SYN_SENT {
                let remote = canonical(line.remote);
                for (seen, &at) in seen_remotes.iter_mut().zip(&by_remote) {
                    if queries[at].remote == Some(remote) {
                        *seen += 1;
                        // Two attempts to one remote end cannot be told apart without the inode.
                        answers[at] = (*seen == 1).then_some(local);
                    }
                }
            }
            !(by_inode.is_empty() && by_remote.is_empty())
        });
    }
}

impl PortResolver for ProcNet {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
        let mut answers = vec![None; queries.len()];
        let mut groups: BTreeMap<(NetNs, bool), Vec<usize>> = BTreeMap::new();
        for (at, query) in queries.iter().enumerate() {
            groups.entry((query.netns, query.v6)).or_default().push(at);
        }
        for ((netns, v6), asked) in groups {
            if let Some(who) = self.window(netns, asked.iter().map(|&at| queries[at].pid)) {
                let path = format!("{who}/net/{}", if v6 { "tcp6" } else { "tcp" });
                self.answer(&path, queries, &asked, &mut answers);
            }
        }
        answers
    }
}

fn canonical(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(end.ip()).0, end.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    const V4: &str = "   7: 0100007F:9C40 0101010A:0050 02 00000001:00000000 01:00000060 00000001  1000        0 4711 2 0 10\n";
    fn query(pid: u32, netns: u32, inode: u32, remote: &str) -> PortQuery {
        let remote = Some(remote.parse().expect("address"));
        PortQuery { pid: Pid(pid), netns: NetNs(netns), inode, v6: false, remote }
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
        let mut proc = ProcNet::at(&root);
        let mut port = |queries: &[PortQuery]| -> Vec<u16> {
            proc.resolve(queries).iter().map(|answer| answer.map_or(0, |local| local.port())).collect()
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
            inode: inode as u32,
            v6: false,
            remote: None,
        };
        assert_eq!(ProcNet::default().resolve(&[query]), [listener.local_addr().ok()]);
    }
}

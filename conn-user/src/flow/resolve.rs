//! The local end of a socket whose hook ran before the kernel chose it, from `/proc/PID/net/tcp` and `tcp6`.
//!
//! Only sockets that stay without an answer for the hold time are looked up, all that are due at once, with one
//! reading a network namespace and family.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::model::canonical_ip;
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

/// States in `/proc/net/tcp` (include/net/tcp_states.h).
const SYN_SENT: u8 = 2;
const LISTEN: u8 = 10;

/// A line of `/proc/net/tcp` (net/ipv4/tcp_ipv4.c `get_tcp4_sock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    inode: u32,
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
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut text = String::new();
        // The first line is a heading, which does not parse.
        while !(by_inode.is_empty() && by_remote.is_empty()) {
            text.clear();
            match reader.read_line(&mut text) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let Some(line) = parse(&text).filter(|line| line.local.port() != 0) else { continue };
            if let Some(at) = by_inode.remove(&line.inode) {
                if queries[at].remote.is_some() || line.state == LISTEN {
                    answers[at] = Some(line.local);
                }
            } else if line.state == SYN_SENT {
                for (seen, &at) in seen_remotes.iter_mut().zip(&by_remote) {
                    if queries[at].remote == Some(line.remote) {
                        *seen += 1;
                        // Two attempts to one remote end cannot be told apart without the inode.
                        answers[at] = (*seen == 1).then_some(line.local);
                    }
                }
            }
        }
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

fn parse(line: &str) -> Option<Line> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = end(fields.next()?)?;
    let remote = end(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    // tx:rx, timer, retransmits, uid, timeout
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Line { local, remote, state, inode })
}

/// An address in words of 32 bits in the machine's order, a colon, the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = [0; 16];
    if !address.is_ascii() || (address.len() != 8 && address.len() != 32) {
        return None;
    }
    for (at, word) in bytes.chunks_exact_mut(4).take(address.len() / 8).enumerate() {
        let digits = address.get(at * 8..at * 8 + 8)?;
        word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = if address.len() == 8 {
        Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
    } else {
        Ipv6Addr::from(bytes).into()
    };
    Some(SocketAddr::new(canonical_ip(ip).0, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    const V4: &str = "   7: 0100007F:9C40 0101010A:0050 02 00000001:00000000 01:00000060 00000001  1000        0 4711 2 0 10\n";
    const V6: &str = "   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn lines() {
        let line = parse(V4).expect("v4");
        assert_eq!(line.local.to_string(), "127.0.0.1:40000");
        assert_eq!(line.remote.to_string(), "10.1.1.1:80");
        assert_eq!((line.state, line.inode), (SYN_SENT, 4711));
        let line = parse(V6).expect("v6");
        assert_eq!(line.local.to_string(), "127.0.0.1:8080");
        assert_eq!((line.state, line.inode), (LISTEN, 4712));
    }

    #[test]
    fn what_is_no_line() {
        for text in
            ["", "  sl  local_address rem_address st", "0: 01:02 03:04 05 a b c d e 7", "0: é000000:1 x"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

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

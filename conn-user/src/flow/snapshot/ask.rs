//! The sockets of one network namespace, asked for by a thread that is in it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::convert::{from_diag, from_line};
use super::direction::{DEFAULT_PORTS, by_ends, infer, port_range, range};
use super::model::{Note, SnapSocket, TcpState};
use super::{age, model::NoHolder};
use crate::clock::{boot_now, wall_now};
use crate::flow::model::Transport;
use crate::host::conntrack;
use crate::host::interfaces::Devices;
use crate::host::netlink::DumpError;
use crate::host::netns::Namespace;
use crate::host::sockdiag::{DiagKind, sockets};
use crate::host::tcp_file::lines;
use crate::host::unixdiag;
use crate::units::{BootNs, DurationNs, NetNs};

/// What a thread that goes through the namespaces carries with it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) proc: &'a Path,
    pub(super) suspended: DurationNs,
    pub(super) time_wait: bool,
    /// Connected Unix sockets, where wanted.
    pub(super) pairs: Option<Vec<(u32, u32)>>,
    pub(super) sockets: Vec<SnapSocket>,
    pub(super) notes: Vec<Note>,
}

impl Asked<'_> {
    /// Asks for the sockets of the namespace. The thread is moved into it, unless it `is_own`.
    pub(super) fn ask(&mut self, namespace: &Namespace, is_own: bool) {
        let before = self.sockets.len();
        let netns = namespace.id;
        let entered = if is_own { Ok(true) } else { namespace.enter() };
        match entered {
            Ok(true) => {
                if let Some(pairs) = &mut self.pairs {
                    // Without them only shells on socket pairs are missing.
                    let _ = unixdiag::pairs(pairs);
                }
                if let Err(error) = self.dump(netns) {
                    self.sockets.truncate(before);
                    self.fall_back(netns, &self.proc.join("thread-self"), &error);
                }
            }
            // It ended, with its sockets.
            Ok(false) => return,
            Err(ref error) => match namespace.threads().find(|thread| namespace.has(thread)) {
                Some(thread) => self.fall_back(netns, thread, error),
                None => self.notes.push(Note::NetNs { netns, why: error.to_string() }),
            },
        }
        self.settle(before);
        let here = self.sockets.get_mut(before..).unwrap_or_default();
        // /proc/sys shows the namespace in which the reader is.
        let is_inside = matches!(entered, Ok(true));
        let range = self.proc.join("sys/net/ipv4/ip_local_port_range");
        let ports = is_inside.then(|| fs::read_to_string(range).ok());
        let ports = ports.flatten().and_then(|text| port_range(&text)).unwrap_or(DEFAULT_PORTS);
        infer(here, &ports);
        if is_inside && conntrack::is_timed(self.proc) {
            // What it does not report, the other sources do.
            let _ = by_conntrack(here);
        }
    }

    fn dump(&mut self, netns: NetNs) -> Result<(), DumpError> {
        let suspended = self.suspended;
        let before = self.sockets.len();
        let mut mptcp = Mptcp::default();
        let mut devices = Devices::default();
        sockets(&mut self.sockets, self.time_wait, |reported| {
            let mut socket = from_diag(&reported, netns, suspended)?;
            socket.device = devices.named(reported.device);
            match reported.kind {
                DiagKind::Tcp => Some(socket),
                DiagKind::Mptcp { token } => {
                    mptcp.note(token, &socket);
                    Some(socket)
                }
                DiagKind::Subflow { token } => {
                    socket.transport = Transport::Mptcp;
                    socket.traffic = None;
                    // The cookie is the subflow's; records carry the MPTCP socket's.
                    socket.cookie = None;
                    mptcp.subflows.push((token, socket));
                    None
                }
            }
        })?;
        mptcp.finish(&mut self.sockets, before);
        Ok(())
    }

    fn fall_back(&mut self, netns: NetNs, thread: &Path, why: &dyn std::error::Error) {
        let before = self.sockets.len();
        match self.read_files(thread, netns) {
            Ok(()) => self.notes.push(Note::ProcNet { netns, why: why.to_string() }),
            Err(error) => {
                self.sockets.truncate(before);
                self.notes.push(Note::NetNs { netns, why: format!("{why}; /proc/net/tcp: {error}") });
            }
        }
    }

    /// Reads `net/tcp` and `net/tcp6` of a thread's /proc directory.
    fn read_files(&mut self, thread: &Path, netns: NetNs) -> io::Result<()> {
        let time_wait = self.time_wait;
        let is_wanted = |socket: &SnapSocket| time_wait || socket.state != TcpState::TimeWait;
        for name in ["net/tcp", "net/tcp6"] {
            let from = boot_now();
            let file = match File::open(thread.join(name)) {
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name == "net/tcp6" => continue,
                other => other?,
            };
            lines(file, |line| {
                self.sockets.extend(from_line(line, netns, from).filter(is_wanted));
                true
            })?;
        }
        Ok(())
    }

    /// Sorts what was reported a namespace, and drops what was reported twice.
    fn settle(&mut self, before: usize) {
        let all = &mut self.sockets;
        let here = all.get_mut(before..).unwrap_or_default();
        // Of a socket that closed meanwhile the later state comes first.
        here.sort_unstable_by(|one, other| {
            let last = |socket: &SnapSocket| socket.state != TcpState::TimeWait;
            by_ends(one, other)
                .then(one.cookie.cmp(&other.cookie))
                .then(one.inode.cmp(&other.inode))
                .then(last(one).cmp(&last(other)))
        });
        let mut kept = before;
        for at in before..all.len() {
            if kept > before && is_same(&all[kept - 1], &all[at]) {
                continue;
            }
            all.swap(kept, at);
            kept += 1;
        }
        all.truncate(kept);
    }
}

/// Whether the kernel reported one socket twice. A cookie alone does not identify it: an MPTCP socket that is accepted
/// has the cookie of its listener, if somebody asked for that before (`sk_clone_lock` copies it, and unlike
/// `inet_csk_clone_lock` for TCP, `mptcp_sk_clone_init` gives no other).
fn is_same(one: &SnapSocket, other: &SnapSocket) -> bool {
    let same_name = match (one.cookie, other.cookie) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one.inode != 0 && one.inode == other.inode,
        _ => false,
    };
    same_name && by_ends(one, other).is_eq()
}

/// What was reported MPTCP sockets, to leave out their subflows.
#[derive(Debug, Default)]
struct Mptcp {
    tokens: HashSet<u32>,
    inodes: HashSet<u32>,
    ends: HashSet<(SocketAddr, SocketAddr)>,
    subflows: Vec<(Option<u32>, SnapSocket)>,
}

impl Mptcp {
    fn note(&mut self, token: Option<u32>, socket: &SnapSocket) {
        self.tokens.extend(token.filter(|&token| token != 0));
        self.inodes.extend(Some(socket.inode).filter(|&inode| inode != 0));
        self.ends.insert((socket.local, socket.remote));
    }

    /// A subflow has the inode of its MPTCP socket (`mptcp_subflow_create_socket`, `mptcp_sock_graft`). One whose
    /// MPTCP socket was not reported (a listener before 5.19, a connection that fell back before it had a token) stands for
    /// it.
    fn finish(&mut self, all: &mut Vec<SnapSocket>, before: usize) {
        if !self.inodes.is_empty() {
            let mut kept = before;
            for at in before..all.len() {
                let is_subflow = all[at].transport == Transport::Tcp && self.inodes.contains(&all[at].inode);
                if !is_subflow {
                    all.swap(kept, at);
                    kept += 1;
                }
            }
            all.truncate(kept);
        }
        for (token, socket) in self.subflows.drain(..) {
            let reported = token.is_some_and(|token| self.tokens.contains(&token))
                || self.inodes.contains(&socket.inode)
                || self.ends.contains(&(socket.local, socket.remote));
            if !reported {
                all.push(socket);
            }
        }
    }
}

fn by_conntrack(here: &mut [SnapSocket]) -> Result<(), DumpError> {
    // The stamps are of the wall clock, which is read at an instant between these two of the boot clock, however long the
    // thread does not run in between.
    let (before, wall, after) = (boot_now(), wall_now(), boot_now());
    conntrack::connections(|tracked| {
        let Some(age) = wall.0.checked_sub(tracked.start.0) else { return };
        let start = (BootNs(before.0.saturating_sub(age)), BootNs(after.0.saturating_sub(age)));
        for (local, remote) in [tracked.opener, tracked.acceptor] {
            let same = range(here, local, remote);
            for born in here.get_mut(same).unwrap_or_default().iter_mut().filter_map(|s| s.born.as_mut()) {
                age::by_conntrack(born, start, tracked.picked_up);
            }
        }
    })
}

/// Why nobody holds this socket.
pub(super) fn no_holder(socket: &SnapSocket) -> NoHolder {
    if socket.inode != 0 {
        return NoHolder::NotFound;
    }
    match socket.state {
        TcpState::TimeWait => NoHolder::TimeWait,
        // A close leaves none of these states behind (`tcp_close_state`).
        TcpState::SynRecv | TcpState::Established | TcpState::CloseWait => NoHolder::NotAccepted,
        _ => NoHolder::Orphan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::snapshot::testing::{listener, socket};

    fn asked(sockets: Vec<SnapSocket>) -> Asked<'static> {
        Asked {
            proc: Path::new("/proc"),
            suspended: DurationNs(0),
            time_wait: true,
            pairs: None,
            sockets,
            notes: Vec::new(),
        }
    }

    fn with(cookie: Option<u64>, inode: u32, state: TcpState) -> SnapSocket {
        SnapSocket { cookie, inode, state, ..socket("10.0.0.1:1", "10.0.0.2:2") }
    }

    #[test]
    fn what_was_reported_twice_is_reported_once() {
        let of_another_namespace = with(Some(1), 5, TcpState::Established);
        let mut all = asked(vec![
            of_another_namespace.clone(),
            with(Some(2), 0, TcpState::TimeWait),
            with(Some(1), 5, TcpState::Established),
            with(Some(1), 0, TcpState::TimeWait),
            with(Some(2), 0, TcpState::TimeWait),
        ]);
        all.settle(1);
        let reported: Vec<_> = all.sockets.iter().map(|socket| (socket.cookie, socket.state)).collect();
        let (first, second) = ((Some(1), TcpState::Established), (Some(2), TcpState::TimeWait));
        assert_eq!(reported, [first, (Some(1), TcpState::TimeWait), second]);
    }

    /// All accepted MPTCP sockets of a listener share its cookie.
    #[test]
    fn a_cookie_that_a_listener_passed_on_is_not_one_socket() {
        let shares = |socket| SnapSocket { cookie: Some(1), transport: Transport::Mptcp, ..socket };
        let mut all = asked(vec![
            shares(listener("0.0.0.0:80")),
            shares(socket("10.0.0.1:80", "10.0.0.2:2")),
            shares(socket("10.0.0.1:80", "10.0.0.2:3")),
            shares(socket("10.0.0.1:80", "10.0.0.2:3")),
        ]);
        all.settle(0);
        let remotes: Vec<_> = all.sockets.iter().map(|socket| socket.remote.port()).collect();
        assert_eq!(remotes, [0, 2, 3]);
    }

    #[test]
    fn without_cookies_only_the_inode_reports() {
        let mut all = asked(vec![
            with(None, 5, TcpState::Established),
            with(None, 5, TcpState::Established),
            with(None, 6, TcpState::Established),
            with(None, 0, TcpState::TimeWait),
            with(None, 0, TcpState::TimeWait),
        ]);
        all.settle(0);
        assert_eq!(all.sockets.len(), 4);
    }

    #[test]
    fn subflows_stand_back_behind_their_connection() {
        let first = socket("10.0.0.1:1", "10.0.0.2:2");
        let connection = SnapSocket { transport: Transport::Mptcp, ..first.clone() };
        let mut mptcp = Mptcp::default();
        mptcp.note(Some(9), &connection);
        let other = |inode, remote| SnapSocket { inode, ..socket("10.0.0.1:1", remote) };
        let alone = SnapSocket { inode: 8, ..listener("0.0.0.0:80") };
        mptcp.subflows = vec![
            (Some(9), other(0, "10.0.0.3:3")),
            (None, other(7, "10.0.0.4:4")),
            (None, other(0, "10.0.0.2:2")),
            (Some(4), alone.clone()),
        ];
        // The kernel did not say of this one that it is a subflow.
        let unnamed = other(7, "10.0.0.5:5");
        let plain = other(3, "10.0.0.6:6");
        let mut all = vec![unnamed.clone(), connection.clone(), unnamed, plain.clone()];
        mptcp.finish(&mut all, 1);
        let remotes: Vec<_> = all.iter().map(|socket| socket.remote).collect();
        let before = "10.0.0.5:5".parse().expect("address");
        assert_eq!(remotes, [before, connection.remote, plain.remote, alone.remote]);
    }

    #[test]
    fn why_nobody_holds_it() {
        for (state, inode, why) in [
            (TcpState::Established, 0, NoHolder::NotAccepted),
            (TcpState::CloseWait, 0, NoHolder::NotAccepted),
            (TcpState::SynRecv, 0, NoHolder::NotAccepted),
            (TcpState::FinWait1, 0, NoHolder::Orphan),
            (TcpState::FinWait2, 0, NoHolder::Orphan),
            (TcpState::LastAck, 0, NoHolder::Orphan),
            (TcpState::Closing, 0, NoHolder::Orphan),
            (TcpState::TimeWait, 0, NoHolder::TimeWait),
            (TcpState::Established, 5, NoHolder::NotFound),
            (TcpState::Listen, 5, NoHolder::NotFound),
        ] {
            assert_eq!(no_holder(&with(None, inode, state)), why, "{state:?} {inode}");
        }
    }

    /// What is read from the files is what the kernel reports over netlink, less what the files do not have.
    #[test]
    fn the_files_serve_where_netlink_is_refused() {
        let listener = std::net::TcpListener::bind("[::1]:0").expect("bind");
        let local = listener.local_addr().expect("address");
        let mut all = asked(Vec::new());
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        all.fall_back(NetNs(5), Path::new("/proc/self"), &refused);
        let found = all.sockets.iter().find(|socket| socket.local == local).expect("there");
        assert_eq!((found.state, found.cookie, found.netns), (TcpState::Listen, None, NetNs(5)));
        assert!(matches!(&all.notes[..], [Note::ProcNet { netns: NetNs(5), .. }]));
        let mut none = asked(Vec::new());
        none.fall_back(NetNs(5), Path::new("/nonexistent"), &refused);
        assert!(none.sockets.is_empty() && matches!(&none.notes[..], [Note::NetNs { .. }]));
    }

    /// Nobody may enter a namespace that a process of it still shows.
    #[test]
    fn a_namespace_that_cannot_be_entered() {
        let own = crate::host::netns::own(Path::new("/proc")).expect("own");
        // A file that is no namespace cannot be entered; the inode is right, so that it is tried.
        let file = std::env::temp_dir().join(format!("conn-not-a-namespace-{}", std::process::id()));
        fs::write(&file, "").expect("write");
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).expect("stat"));
        let no_namespace = Namespace { id: NetNs(inode as u32), files: vec![file.clone()] };
        let mut all = asked(Vec::new());
        all.ask(&no_namespace, false);
        fs::remove_file(&file).expect("remove");
        assert!(all.sockets.is_empty() && matches!(&all.notes[..], [Note::NetNs { .. }]), "{:?}", all.notes);
        // One that ended is no note.
        let gone = Namespace { id: own, files: vec!["/proc/4294967295/ns/net".into()] };
        let mut all = asked(Vec::new());
        all.ask(&gone, false);
        assert!(all.sockets.is_empty() && all.notes.is_empty());
    }
}

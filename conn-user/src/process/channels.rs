//! Which processes exchange data with the standard input and output of another one: over pipes, FIFOs, pseudo-terminals and socket
//! pairs.
//!
//! A remote shell whose descriptors are not the connection has one of these to the program that has it. For a process that is
//! executed while conn runs its ancestors say the same; of one from before, they do not say whether the connection is older.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statat, statx};
use smallvec::SmallVec;

use super::hash::IntMap;

/// Most ends of a channel that are looked at, and of a process. A channel with more is a hub (a log, the pipe of a pool or a job
/// server), over which no shell is driven.
const ENDS_MAX: usize = 64;
/// Most processes that are looked at for one process.
const SEEN_MAX: usize = 32;
/// Processes between a program and a peer, plus one: `nc > fifo; cat fifo | sh` is two steps.
const STEPS: usize = 3;
/// Peers that are kept of a process.
const PEERS_MAX: usize = 8;
/// Descriptors below this number are looked at for a FIFO with a name, which costs a system call for each file. Programs open one early.
pub(super) const NAMED_BELOW: u32 = 16;

/// A way of data, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// A pipe, by its inode.
    Pipe(u64),
    /// A FIFO with a name: device and inode.
    Fifo(u64, u64),
    /// From the master of a pseudo-terminal to the slave with this number.
    ToTerminal(u32),
    /// From the slave to the master.
    FromTerminal(u32),
    /// What can be read from the Unix socket with this inode.
    Socket(u32),
}

/// An end of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// The channel.
    pub channel: Channel,
    /// The process writes to it; else it reads from it.
    pub writes: bool,
    /// Process id.
    pub pid: u32,
    /// The descriptor.
    pub fd: u32,
}

/// Finds the ends of channels among the descriptors of processes.
#[derive(Debug, Default)]
pub(super) struct Ends(pub(super) Vec<End>);

impl Ends {
    /// Takes a descriptor that is no socket: its name in the directory `table`, and the beginning of its target.
    pub(super) fn note(&mut self, table: &OwnedFd, name: &CStr, pid: u32, fd: u32, target: &[u8]) {
        if let Some(number) = target.strip_prefix(b"/dev/pts/") {
            match text(number).parse() {
                Ok(number) => self.terminal(number, pid, fd),
                Err(_) if number == b"ptmx" => self.master(table, pid, fd),
                Err(_) => {}
            }
        } else if target == b"/dev/ptmx" {
            self.master(table, pid, fd);
        } else if let Some(inode) = target.strip_prefix(b"pipe:[").and_then(|rest| rest.strip_suffix(b"]")) {
            if let Ok(inode) = text(inode).parse() {
                self.pipe(Channel::Pipe(inode), table, name, pid, fd);
            }
        } else if target.starts_with(b"/") && target != b"/dev/null" && fd < NAMED_BELOW {
            // The kernel knows the type of a file without asking its server.
            let Ok(stat) = statx(table, name, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO)
            else {
                return;
            };
            if u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFIFO {
                let dev = libc::makedev(stat.stx_dev_major, stat.stx_dev_minor);
                self.pipe(Channel::Fifo(dev, stat.stx_ino), table, name, pid, fd);
            }
        }
    }

    fn push(&mut self, channel: Channel, writes: bool, pid: u32, fd: u32) {
        self.0.push(End { channel, writes, pid, fd });
    }

    /// The permissions of the link say how the file is open (`tid_fd_update_inode`, fs/proc/fd.c).
    fn pipe(&mut self, channel: Channel, table: &OwnedFd, name: &CStr, pid: u32, fd: u32) {
        let Ok(link) = statat(table, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        for (mode, writes) in [(libc::S_IRUSR, false), (libc::S_IWUSR, true)] {
            if link.st_mode & mode != 0 {
                self.push(channel, writes, pid, fd);
            }
        }
    }

    fn terminal(&mut self, number: u32, pid: u32, fd: u32) {
        self.push(Channel::ToTerminal(number), false, pid, fd);
        self.push(Channel::FromTerminal(number), true, pid, fd);
    }

    /// The number of the terminal is in fdinfo alone (`pty_show_fdinfo`, drivers/tty/pty.c).
    fn master(&mut self, table: &OwnedFd, pid: u32, fd: u32) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut buffer = [0; 512];
        let mut read = || {
            let file = openat(table, format!("../fdinfo/{fd}"), flags, Mode::empty()).ok()?;
            rustix::io::read(file.as_fd(), &mut buffer).ok()
        };
        let Some(length) = read() else { return };
        let mut lines = buffer[..length].split(|byte| *byte == b'\n');
        let number = lines.find_map(|line| line.strip_prefix(b"tty-index:"));
        if let Some(Ok(number)) = number.map(|number| text(number).trim().parse()) {
            self.push(Channel::ToTerminal(number), true, pid, fd);
            self.push(Channel::FromTerminal(number), false, pid, fd);
        }
    }

    /// Takes the sockets of socket pairs: `holders` gives the processes and descriptors that have one, `pairs` both inodes.
    pub(super) fn note_pairs<'a, H>(&mut self, pairs: &[(u32, u32)], holders: impl Fn(u32) -> H)
    where
        H: Iterator<Item = (u32, u32)> + 'a,
    {
        for &(own, peer) in pairs {
            // The peer has an entry of its own.
            for (pid, fd) in holders(own) {
                self.push(Channel::Socket(own), false, pid, fd);
                self.push(Channel::Socket(peer), true, pid, fd);
            }
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Returns, for each process that has any, the processes to which data can flow from its standard output (or error output) and from
/// which data can flow to its standard input. `parent` of a process; 0: none.
pub(super) fn peers(mut ends: Vec<End>, parent: impl Fn(u32) -> u32) -> Vec<(u32, SmallVec<[u32; 2]>)> {
    ends.sort_unstable();
    ends.dedup();
    let mut of: IntMap<u32, Vec<End>> = IntMap::default();
    for end in &ends {
        of.entry(end.pid).or_default().push(*end);
    }
    let graph = Graph { ends: &ends, of: &of, parent: &parent };
    let mut candidates: Vec<u32> =
        ends.iter().filter(|end| end.fd == 0 && !end.writes).map(|end| end.pid).collect();
    candidates.sort_unstable();
    candidates.dedup();
    candidates
        .into_iter()
        .filter_map(|pid| {
            let from = graph.reached(pid, false);
            if from.is_empty() {
                return None;
            }
            let to = graph.reached(pid, true);
            let both: SmallVec<[u32; 2]> = from.intersection(&to).copied().take(PEERS_MAX).collect();
            (!both.is_empty()).then_some((pid, both))
        })
        .collect()
}

struct Graph<'a> {
    /// Sorted.
    ends: &'a [End],
    of: &'a IntMap<u32, Vec<End>>,
    parent: &'a dyn Fn(u32) -> u32,
}

impl Graph<'_> {
    /// The processes at which data arrive that `pid` writes to its output, or, without `forward`, whose data arrive at its input.
    fn reached(&self, pid: u32, forward: bool) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        let mut now = vec![pid];
        for step in 0..STEPS {
            let mut next = Vec::new();
            for &at in &now {
                let own = self.of.get(&at).map(Vec::as_slice).unwrap_or_default();
                let is_used = |end: &&End| {
                    let is_first = if forward { end.fd == 1 || end.fd == 2 } else { end.fd == 0 };
                    end.writes == forward && (step > 0 || is_first)
                };
                for other in own.iter().filter(is_used).take(ENDS_MAX).flat_map(|end| self.others(*end)) {
                    if found.len() < SEEN_MAX && other != pid && found.insert(other) {
                        next.push(other);
                    }
                }
            }
            now = next;
        }
        found
    }

    /// The processes at the other ends of a channel.
    fn others(&self, end: End) -> impl Iterator<Item = u32> {
        let from = self.ends.partition_point(|one| one.channel < end.channel);
        let rest = self.ends.get(from..).unwrap_or_default();
        let count = rest.iter().take(ENDS_MAX + 1).take_while(|one| one.channel == end.channel).count();
        let all = rest.get(..count).filter(|all| all.len() <= ENDS_MAX).unwrap_or_default();
        let is_related = move |other: &u32| match end.channel {
            // Each instance of devpts counts its terminals from 0. The master's process, or one below it, starts the slave's.
            Channel::ToTerminal(_) => {
                let (master, slave) = if end.writes { (end.pid, *other) } else { (*other, end.pid) };
                self.is_above(master, slave)
            }
            Channel::FromTerminal(_) => {
                let (master, slave) = if end.writes { (*other, end.pid) } else { (end.pid, *other) };
                self.is_above(master, slave)
            }
            _ => true,
        };
        all.iter().filter(move |one| one.writes != end.writes).map(|one| one.pid).filter(is_related)
    }

    fn is_above(&self, above: u32, below: u32) -> bool {
        let parents =
            std::iter::successors(Some(below), |pid| Some((self.parent)(*pid)).filter(|pid| *pid != 0));
        parents.take(super::lineage::ANCESTORS_MAX).skip(1).any(|pid| pid == above)
    }
}

#[cfg(test)]
#[path = "channels/tests.rs"]
mod tests;

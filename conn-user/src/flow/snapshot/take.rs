//! Taking a snapshot.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::thread;

use smallvec::SmallVec;

use super::age::{self, Origins};
use super::ask::{Asked, no_holder};
use super::model::{Holder, Note, SnapSocket, Snapshot, StdioPeers, TcpState};
use crate::clock::{boot_now, suspended};
use crate::host::netns::{self, Namespace};
use crate::process::fds::Descriptors;
use crate::units::{DurationNs, NetNs, Pid};

/// How to take a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// Where /proc is mounted.
    pub proc: PathBuf,
    /// Whether what is left of ended connections (TIME_WAIT) is wanted: on a busy server it is most of the sockets.
    pub time_wait: bool,
    /// Whether the processes at the other ends of standard input and output are wanted ([`Snapshot::peers`]).
    pub peers: bool,
}

impl SnapshotOptions {
    /// For the agent, which follows what lives.
    pub fn living() -> Self {
        Self { time_wait: false, ..Self::default() }
    }

    /// For the start of the agent, which judges what runs already.
    pub fn starting() -> Self {
        Self { peers: true, ..Self::living() }
    }
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self { proc: PathBuf::from("/proc"), time_wait: true, peers: false }
    }
}

/// Why there is no snapshot at all.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// /proc cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Proc {
        /// Where it should be.
        path: PathBuf,
        /// What went wrong.
        #[source]
        error: io::Error,
    },
    /// The thread that asks could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The thread that asks ended before its time: a mistake of conn.
    #[error("the thread that asks for the sockets panicked")]
    Panicked,
}

/// Takes a snapshot. It blocks for the time that this takes; the calling thread stays in its network namespace, another
/// one enters them all.
///
/// Sockets come first, then the descriptors that hold them. A socket whose last holder closes it between the two has no
/// owner ([`super::model::NoHolder::NotFound`]); the other way round, one that was just opened would have none, and a
/// process that was just started would be missing among the holders of what it inherited. One that is accepted between
/// the two still waits to be ([`super::model::NoHolder::NotAccepted`]). Inode numbers are not used again so soon
/// (`get_next_ino` counts to 2^32).
///
/// # Errors
/// When there is no snapshot at all. What is only missing a part is a note of the snapshot.
pub fn take(options: &SnapshotOptions) -> Result<Snapshot, SnapshotError> {
    let proc = options.proc.as_path();
    let no_proc = |error| SnapshotError::Proc { path: proc.to_owned(), error };
    let began = boot_now();
    let suspended = suspended();
    let found = netns::discover(proc).map_err(no_proc)?;
    let own = netns::own(proc).map_err(no_proc)?;
    let mut asked = Asked {
        proc,
        suspended,
        time_wait: options.time_wait,
        pairs: options.peers.then(Vec::new),
        sockets: Vec::new(),
        notes: Vec::new(),
    };
    ask_all(&mut asked, &found, own)?;
    let descriptors = Descriptors::read(proc, options.peers).map_err(no_proc)?;
    // Those that only a descriptor keeps: rare, so they are asked for after their holders.
    let known: HashSet<NetNs> = found.iter().map(|namespace| namespace.id).collect();
    let more: Vec<Namespace> =
        descriptors.namespaces().iter().filter(|namespace| !known.contains(&namespace.id)).cloned().collect();
    if !more.is_empty() {
        ask_all(&mut asked, &more, own)?;
    }
    let Asked { mut sockets, mut notes, pairs, .. } = asked;
    let ended = boot_now();
    let mut origins = Origins::default();
    for socket in &mut sockets {
        attribute(socket, &descriptors, &mut origins, ended.since(began), suspended);
    }
    if descriptors.hidden() > 0 {
        notes.push(Note::HiddenProcesses { count: descriptors.hidden() });
    }
    let peers = pairs.map(|pairs| peers(&descriptors, &pairs)).unwrap_or_default();
    Ok(Snapshot { began, ended, sockets, notes, peers })
}

fn peers(all: &Descriptors, pairs: &[(u32, u32)]) -> Vec<StdioPeers> {
    let of = |pid: Pid| Some((pid, all.parentage(pid)?.start));
    let each = |(pid, peers): (Pid, SmallVec<[Pid; 2]>)| {
        Some(StdioPeers { process: of(pid)?, peers: peers.into_iter().filter_map(of).collect() })
    };
    all.peers(pairs).into_iter().filter_map(each).collect()
}

/// Asks for the sockets of these namespaces in a thread of its own, which ends in the last of them.
fn ask_all(asked: &mut Asked<'_>, namespaces: &[Namespace], own: NetNs) -> Result<(), SnapshotError> {
    // Our own first: there is no way back into it if nobody may enter a namespace.
    let (ours, others): (Vec<_>, Vec<_>) = namespaces.iter().partition(|namespace| namespace.id == own);
    thread::scope(|scope| {
        let asks = move || {
            for namespace in ours.into_iter().chain(others) {
                asked.ask(namespace, namespace.id == own);
            }
        };
        let thread = thread::Builder::new()
            .name("conn-snapshot".to_owned())
            .spawn_scoped(scope, asks)
            .map_err(SnapshotError::Thread)?;
        thread.join().map_err(|_| SnapshotError::Panicked)
    })
}

/// Adds who holds a socket, and what that says of its age.
fn attribute(
    socket: &mut SnapSocket,
    all: &Descriptors,
    origins: &mut Origins,
    wide: DurationNs,
    suspended: DurationNs,
) {
    let held = all.holders(socket.inode);
    socket.holders.reserve_exact(held.len());
    socket.holders.extend(held.iter().filter_map(|held| {
        let start = all.parentage(held.pid)?.start;
        Some(Holder { pid: held.pid, start, fd: held.fd })
    }));
    if socket.holders.is_empty() {
        socket.no_holder = Some(no_holder(socket));
        if socket.state == TcpState::Listen {
            socket.born = None;
        }
        return;
    }
    let origin = origins.of(socket, held, all);
    if let (Some(born), Some(origin)) = (&mut socket.born, origin) {
        age::by_owner(born, origin, wide, suspended);
    }
}

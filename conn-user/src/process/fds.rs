//! Who holds which socket: every descriptor of every process, in one pass over /proc.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use conn_common::record::PF_KTHREAD;
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use rustix::io::Errno;
use smallvec::SmallVec;

use super::channels::{self, Ends};
use super::hash::IntMap;
use super::procfs::read_stat;
use crate::host::netns::{Namespace, parse_id};
use crate::units::{BootNs, NetNs, Pid};

/// A descriptor that stands for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Inode of the socket's file: 32 bits (`get_next_ino`).
    pub inode: u32,
    /// The process.
    pub pid: Pid,
    /// The descriptor.
    pub fd: u32,
}

/// What says where a process came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parentage {
    /// Start, in whole ticks ([`super::info::TICK_NS`]).
    pub start: BootNs,
    /// Parent; 0: none in this pid namespace.
    pub ppid: Pid,
    /// Session: the id of the process that began it.
    pub session: Pid,
}

/// The descriptors of all processes.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// Sorted.
    held: Vec<Held>,
    processes: IntMap<u32, Parentage>,
    hidden: usize,
    namespaces: Vec<Namespace>,
    /// `None`: not wanted.
    ends: Option<Ends>,
}

impl Descriptors {
    /// Reads them all, and with `channels` what [`Self::peers`] needs. A process that ends meanwhile is left out; one whose descriptors may not be read is counted. A
    /// thread with a descriptor table of its own (`unshare(CLONE_FILES)`) counts as its process.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    pub fn read(proc: &Path, channels: bool) -> io::Result<Self> {
        let root = openat(CWD, proc, DIRECTORY, Mode::empty())?;
        let mut pids = Vec::new();
        numbers(&root, &mut Room::default().names, |_, pid| {
            pids.push(pid);
            true
        })?;
        let next = AtomicUsize::new(0);
        let read = || {
            let mut part = Self { ends: channels.then(Ends::default), ..Self::default() };
            let mut room = Room::default();
            while let Some(&pid) = pids.get(next.fetch_add(1, Ordering::Relaxed)) {
                match part.read_process(proc, root.as_fd(), pid, &mut room) {
                    // It ended.
                    Ok(()) | Err(Errno::NOENT | Errno::SRCH) => {}
                    Err(_) => part.hidden += 1,
                }
            }
            part
        };
        // Nearly all of the time is the kernel's, for each descriptor.
        let helpers = thread::available_parallelism().map_or(0, |all| all.get().min(MOST_THREADS) - 1);
        let mut all = thread::scope(|scope| {
            let helpers: Vec<_> = (0..helpers)
                .filter_map(|_| {
                    thread::Builder::new().name("conn-fds".to_owned()).spawn_scoped(scope, read).ok()
                })
                .collect();
            let mut all = read();
            for helper in helpers {
                all.merge(helper.join().map_err(|_| io::Error::other("a thread that reads /proc panicked"))?);
            }
            io::Result::Ok(all)
        })?;
        all.held.sort_unstable();
        all.held.dedup();
        Ok(all)
    }

    fn merge(&mut self, mut other: Self) {
        self.held.append(&mut other.held);
        self.processes.extend(other.processes);
        self.hidden += other.hidden;
        if let (Some(own), Some(mut other)) = (&mut self.ends, other.ends) {
            own.0.append(&mut other.0);
        }
        for namespace in other.namespaces {
            self.note_namespace(namespace.id, namespace.files);
        }
    }

    /// Every descriptor that holds this socket, by process id and number.
    pub fn holders(&self, inode: u32) -> &[Held] {
        if inode == 0 {
            return &[];
        }
        let from = self.held.partition_point(|held| held.inode < inode);
        let rest = self.held.get(from..).unwrap_or_default();
        // There are few.
        let count = rest.iter().take_while(|held| held.inode == inode).count();
        rest.get(..count).unwrap_or_default()
    }

    /// Where a process came from.
    pub fn parentage(&self, pid: Pid) -> Option<&Parentage> {
        self.processes.get(&pid.0)
    }

    /// Returns the processes that exchange data with the standard input and output of another one, over pipes, FIFOs,
    /// pseudo-terminals and these socket pairs (inodes of both sockets, each way round).
    pub fn peers(&self, pairs: &[(u32, u32)]) -> Vec<(Pid, SmallVec<[Pid; 2]>)> {
        let Some(ends) = &self.ends else { return Vec::new() };
        let mut ends = Ends(ends.0.clone());
        ends.note_pairs(pairs, |inode| self.holders(inode).iter().map(|held| (held.pid.0, held.fd)));
        let parent = |pid| self.parentage(Pid(pid)).map_or(0, |parentage| parentage.ppid.0);
        let pids = |(pid, peers): (u32, SmallVec<[u32; 2]>)| (Pid(pid), peers.into_iter().map(Pid).collect());
        channels::peers(ends.0, parent).into_iter().map(pids).collect()
    }

    /// Processes whose descriptors may not be read.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// The network namespaces for which a descriptor stands.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// These.
    #[cfg(test)]
    pub(crate) fn of(mut held: Vec<Held>, processes: impl IntoIterator<Item = (Pid, Parentage)>) -> Self {
        held.sort_unstable();
        let processes = processes.into_iter().map(|(pid, parentage)| (pid.0, parentage)).collect();
        Self { held, processes, ..Self::default() }
    }

    fn read_process(
        &mut self,
        proc: &Path,
        root: BorrowedFd<'_>,
        pid: u32,
        room: &mut Room,
    ) -> rustix::io::Result<()> {
        // Everything is read through this directory: it belongs to one process, even when its id is used again.
        let process = openat(root, pid.to_string(), PATH, Mode::empty())?;
        let stat = read_small(openat(&process, c"stat", FILE, Mode::empty())?, &mut room.text)?;
        let Some(stat) = read_stat(stat) else { return Ok(()) };
        if stat.flags & PF_KTHREAD != 0 {
            return Ok(());
        }
        let parentage = Parentage { start: stat.start, ppid: Pid(stat.ppid), session: Pid(stat.session) };
        self.processes.insert(pid, parentage);
        let table = openat(&process, c"fd", DIRECTORY, Mode::empty());
        match table {
            Ok(table) => self.read_table(proc, pid, &table, room)?,
            // The leader has exited and has no table, while other threads run on.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let tasks = openat(&process, c"task", DIRECTORY, Mode::empty())?;
        let mut tables = vec![pid];
        let mut others = Vec::new();
        numbers(&tasks, &mut room.names, |_, tid| {
            if tid != pid && tables.iter().all(|&one| share_files(one, tid) == Some(false)) {
                tables.push(tid);
                others.push(tid);
            }
            true
        })?;
        for tid in others {
            if let Ok(table) = openat(&tasks, format!("{tid}/fd"), DIRECTORY, Mode::empty()) {
                self.read_table(proc, pid, &table, room)?;
            }
        }
        Ok(())
    }

    fn read_table(
        &mut self,
        proc: &Path,
        pid: u32,
        table: &OwnedFd,
        room: &mut Room,
    ) -> rustix::io::Result<()> {
        let mut failed = None;
        numbers(table, &mut room.names, |name, fd| {
            let mut target = [MaybeUninit::uninit(); 40];
            match readlinkat_raw(table, name, &mut target) {
                Ok((target, _)) => self.note(proc, pid, fd, (table, name), target),
                // It was closed.
                Err(Errno::NOENT) => {}
                Err(errno) => failed = Some(errno),
            }
            failed.is_none()
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// A descriptor and where it leads, the first 40 bytes: sockets and namespaces have short names.
    fn note(&mut self, proc: &Path, pid: u32, fd: u32, (table, name): (&OwnedFd, &CStr), target: &[u8]) {
        if let Some(inode) = socket(target) {
            self.held.push(Held { inode, pid: Pid(pid), fd });
        } else if let Some(id) = parse_id(target) {
            self.note_namespace(id, vec![proc.join(format!("{pid}/fd/{fd}"))]);
        } else if let Some(ends) = &mut self.ends {
            ends.note(table, name, pid, fd, target);
        }
    }

    fn note_namespace(&mut self, id: NetNs, files: Vec<PathBuf>) {
        match self.namespaces.iter_mut().find(|known| known.id == id) {
            Some(known) => known.files.extend(files),
            None => self.namespaces.push(Namespace { id, files }),
        }
    }
}

/// Most threads that read at once.
const MOST_THREADS: usize = 4;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);
const PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Buffers that are used again and again.
#[derive(Debug)]
struct Room {
    names: Box<[MaybeUninit<u8>]>,
    text: Box<[u8]>,
}

impl Default for Room {
    fn default() -> Self {
        // `/proc/PID/stat` has about fifty numbers and a name of at most 64 bytes.
        Self { names: Box::new_uninit_slice(32 * 1024), text: vec![0; 2048].into_boxed_slice() }
    }
}

/// The entries of a directory that are numbers, until `each` says that it has enough.
fn numbers(
    directory: impl AsFd,
    room: &mut [MaybeUninit<u8>],
    mut each: impl FnMut(&CStr, u32) -> bool,
) -> rustix::io::Result<()> {
    let mut entries = RawDir::new(directory, room);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(number) = number(name.to_bytes())
            && !each(name, number)
        {
            break;
        }
    }
    Ok(())
}

fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u32, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// `socket:[INODE]` (`sockfs_dname`, net/socket.c).
fn socket(target: &[u8]) -> Option<u32> {
    number(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

fn read_small(file: OwnedFd, room: &mut [u8]) -> rustix::io::Result<&[u8]> {
    let length = rustix::io::read(file, &mut *room)?;
    Ok(room.get(..length).unwrap_or_default())
}

/// Whether two threads have one table of descriptors; `None`: the kernel does not report (`CONFIG_KCMP`), or one is gone.
fn share_files(one: u32, other: u32) -> Option<bool> {
    /// `KCMP_FILES` (include/uapi/linux/kcmp.h).
    const FILES: libc::c_int = 2;
    let [one, other] = [one, other].map(|tid| libc::pid_t::try_from(tid).ok());
    // SAFETY: kcmp(2) reads nothing of ours with this type.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one?, other?, FILES, 0_u64, 0_u64) };
    match order {
        0 => Some(true),
        1.. => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn inode(fd: &impl AsFd) -> u32 {
        let fd = fd.as_fd().as_raw_fd();
        u32::try_from(fs::metadata(format!("/proc/self/fd/{fd}")).expect("stat").ino()).expect("32 bits")
    }

    fn read() -> Descriptors {
        Descriptors::read(Path::new("/proc"), true).expect("/proc")
    }

    #[test]
    fn targets() {
        assert_eq!(socket(b"socket:[4711]"), Some(4711));
        for target in
            [&b"socket:[]"[..], b"socket:[1", b"socket:[x]", b"socket:[99999999999]", b"pipe:[1]", b""]
        {
            assert_eq!(socket(target), None);
        }
    }

    #[test]
    fn our_descriptors_twice_held() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let twin = listener.try_clone().expect("dup");
        let all = read();
        let me = Pid(std::process::id());
        let mut expected = [listener.as_raw_fd(), twin.as_raw_fd()].map(i32::cast_unsigned);
        expected.sort_unstable();
        let holders: Vec<_> = all.holders(inode(&listener)).iter().map(|held| (held.pid, held.fd)).collect();
        assert_eq!(holders, expected.map(|fd| (me, fd)));
        assert!(
            all.parentage(me)
                .is_some_and(|parentage| parentage.start != BootNs(0) && parentage.ppid != Pid(0))
        );
        assert!(all.holders(0).is_empty() && all.holders(u32::MAX).is_empty());
    }

    #[test]
    fn a_thread_with_its_own_table() {
        let (reported, emit) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel::<()>();
        let worker = thread::spawn(move || {
            // SAFETY: only this thread uses its descriptors from here on.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0, "unshare");
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            let fd = listener.as_raw_fd();
            let stat = fs::metadata(format!("/proc/thread-self/fd/{fd}")).expect("stat");
            reported.send(u32::try_from(stat.ino()).expect("32 bits")).expect("send");
            // Until the other end is dropped.
            let _ = end.recv();
        });
        let inode = emit.recv().expect("inode");
        let all = read();
        drop(done);
        worker.join().expect("thread");
        let known = share_files(std::process::id(), std::process::id()).is_some();
        assert_eq!(all.holders(inode).len(), usize::from(known), "without kcmp it cannot be known");
    }

    /// A program of ours that reads its input from us and writes to us: over pipes, a FIFO, a terminal and a socket pair.
    #[test]
    fn peers_of_real_processes() {
        use std::os::unix::net::UnixStream;
        use std::process::{Command, Stdio};

        let cat = || Command::new("cat");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let again = theirs.try_clone().expect("dup");
        let folder = std::env::temp_dir().join(format!("conn-peers-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let fifo = folder.join("fifo");
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .expect("mkfifo");
        // For both directions, so that neither waits for the other.
        let held = fs::File::options().read(true).write(true).open(&fifo).expect("open");
        let reads = fs::File::open(&fifo).expect("open");
        let mut children = [
            cat().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn"),
            cat().stdin(OwnedFd::from(theirs)).stdout(OwnedFd::from(again)).spawn().expect("spawn"),
            cat().stdin(reads).stdout(Stdio::piped()).spawn().expect("spawn"),
            cat().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("spawn"),
        ];
        let mut pairs = Vec::new();
        crate::host::unixdiag::pairs(&mut pairs).expect("socket pairs");
        let found = read().peers(&pairs);
        let me = Pid(std::process::id());
        let is_found = |child: &std::process::Child| {
            found.iter().any(|(pid, peers)| *pid == Pid(child.id()) && peers.contains(&me))
        };
        let all: Vec<_> = children.iter().map(is_found).collect();
        for child in &mut children {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
        // Other tests of this process hold many files, and FIFOs are looked for among the first descriptors alone.
        let is_low = u32::try_from(held.as_raw_fd()).is_ok_and(|fd| fd < channels::NAMED_BELOW);
        drop((ours, held));
        fs::remove_dir_all(&folder).expect("remove");
        assert_eq!(all, [true, true, is_low, false], "pipes, a pair, a FIFO, no input");
    }

    #[test]
    fn a_descriptor_of_a_namespace() {
        let file = fs::File::open("/proc/self/ns/net").expect("open");
        let id = NetNs(u32::try_from(file.metadata().expect("stat").ino()).expect("32 bits"));
        let all = read();
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        let found = all.namespaces().iter().find(|namespace| namespace.id == id).expect("found");
        assert!(found.files.contains(&path));
    }

    #[test]
    fn no_proc_is_an_error() {
        assert!(Descriptors::read(Path::new("/nonexistent"), true).is_err());
    }
}

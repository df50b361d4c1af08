//! Finds out in the background what costs too much in the path of a record: the state of a process, where its
//! executable lies, and its hash.
//!
//! Two threads: one asks /proc, which must be quick, because processes come and go; the other reads executables, at a
//! lower priority. What they find goes straight into the [`Identity`] that everything about the process shares.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::digest::{self, Cache, FileState, SIZE_MAX};
use super::exe::{self, Found, Wanted};
use super::identity::{Identity, ProcessState, Replaced};
use super::info::{FileId, ProcessInfo, ProcessSource};
use super::procfs::ProcFs;
use crate::clock::Clock;
use crate::units::{BootNs, Pid};

/// Most processes that wait to be looked at.
const QUEUE_MAX: usize = 4096;
/// Most executables that wait to be hashed; each is held open.
const HASH_QUEUE_MAX: usize = 128;
/// The priority of the thread that hashes, see nice(2).
const HASH_NICE: i32 = 5;

/// Counters of an [`Inspector`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InspectStats {
    /// Processes to look at.
    pub asked: u64,
    /// Of these, not looked at because too many waited.
    pub dropped: u64,
    /// Of these, gone before they were looked at.
    pub gone: u64,
    /// Executables that were read and hashed.
    pub hashed: u64,
    /// Executables that were not hashed because too many waited.
    pub hash_dropped: u64,
    /// Executables that were too large to be hashed.
    pub too_large: u64,
    /// Executables that could not be read, or changed while they were.
    pub unreadable: u64,
    /// Executables to compare with what their path leads to.
    pub compare_asked: u64,
    /// Of these, not compared because too much waited.
    pub compare_dropped: u64,
    /// Of these, those of processes that were gone or out of reach.
    pub compare_failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    asked: AtomicU64,
    dropped: AtomicU64,
    gone: AtomicU64,
    hashed: AtomicU64,
    hash_dropped: AtomicU64,
    too_large: AtomicU64,
    unreadable: AtomicU64,
    compare_asked: AtomicU64,
    compare_dropped: AtomicU64,
    compare_failed: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// The state, soon after an exec: cheap, and soon gone.
    State,
    /// All: the process uses the network.
    All,
}

/// A process to look at.
#[derive(Debug)]
struct Request {
    pid: Pid,
    start: BootNs,
    depth: Depth,
    exe: Option<Arc<[u8]>>,
    exe_file: Option<FileId>,
    exe_deleted: bool,
    identity: Identity,
    /// Of the parent, for a process that is only a copy of it.
    parent: Option<Identity>,
}

/// An executable to compare with what its path leads to.
#[derive(Debug)]
struct Comparison {
    pid: Pid,
    start: BootNs,
    exe: Arc<[u8]>,
    identity: Identity,
}

#[derive(Debug)]
enum Job {
    Inspect(Box<Request>),
    Compare(Box<Comparison>),
    Settle(SyncSender<()>),
}

#[derive(Debug)]
enum HashJob {
    Hash(File, FileState, Identity),
    Settle(SyncSender<()>),
}

/// Has executables compared with what their paths lead to now. The threads do not end before it is dropped too.
#[derive(Clone, Debug)]
pub struct Comparer {
    queue: SyncSender<Job>,
    counts: Arc<Counts>,
}

impl Comparer {
    /// Asks for a process; the answer comes to [`Identity::replaced`]. Never waits: what does not fit is counted. Returns
    /// whether an answer may come.
    pub fn ask(&self, process: &ProcessInfo) -> bool {
        let Some(exe) = process.exe.clone() else { return false };
        count(&self.counts.compare_asked);
        let (pid, start, identity) = (process.pid, process.start, process.identity.clone());
        let comparison = Comparison { pid, start, exe, identity };
        let asked = send(&self.queue, &self.counts, QUEUE_MAX / 2, || Job::Compare(Box::new(comparison)));
        if !asked {
            count(&self.counts.compare_dropped);
        }
        asked
    }
}

/// Sends a job, if fewer wait than there is room for.
fn send(queue: &SyncSender<Job>, counts: &Counts, room: usize, job: impl FnOnce() -> Job) -> bool {
    let waiting = counts.waiting.fetch_add(1, Ordering::Relaxed);
    let sent = waiting < room && queue.try_send(job()).is_ok();
    if !sent {
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
    }
    sent
}

/// Asks the threads. They end when it is dropped.
#[derive(Debug)]
pub struct Inspector {
    queue: SyncSender<Job>,
    counts: Arc<Counts>,
}

impl Inspector {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(proc: ProcFs) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let (hash_queue, hash_jobs) = sync_channel(HASH_QUEUE_MAX);
        let counts = Arc::<Counts>::default();
        let cache = Arc::<Mutex<Cache>>::default();
        let worker = Worker { proc, hash_queue, cache: Arc::clone(&cache), counts: Arc::clone(&counts) };
        thread::Builder::new().name("conn-inspect".to_owned()).spawn(move || worker.run(&jobs))?;
        let hasher = Hasher { cache, counts: Arc::clone(&counts) };
        thread::Builder::new().name("conn-hash".to_owned()).spawn(move || hasher.run(&hash_jobs))?;
        Ok(Self { queue, counts })
    }

    /// Asks for a process. Never waits: what does not fit is counted.
    pub(super) fn ask(&self, process: &ProcessInfo, depth: Depth, parent: Option<Identity>) {
        count(&self.counts.asked);
        // A storm of programs leaves room for those that use the network.
        let room = if depth == Depth::State { QUEUE_MAX / 2 } else { QUEUE_MAX };
        let request = || Request {
            pid: process.pid,
            start: process.start,
            depth,
            exe: process.exe.clone(),
            exe_file: process.exe_file,
            exe_deleted: process.exe_deleted,
            identity: process.identity.clone(),
            parent: parent.filter(|_| process.source == ProcessSource::Fork),
        };
        if !send(&self.queue, &self.counts, room, || Job::Inspect(Box::new(request()))) {
            count(&self.counts.dropped);
        }
    }

    /// For those who only have executables compared.
    pub fn comparer(&self) -> Comparer {
        Comparer { queue: self.queue.clone(), counts: Arc::clone(&self.counts) }
    }

    /// Waits until all that was asked is answered, but not longer than this. Returns whether it is.
    pub fn settle(&self, patience: Duration) -> bool {
        let (done, all_done) = sync_channel(1);
        self.queue.try_send(Job::Settle(done)).is_ok() && all_done.recv_timeout(patience).is_ok()
    }

    /// The counters.
    pub fn stats(&self) -> InspectStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        InspectStats {
            asked: read(&self.counts.asked),
            dropped: read(&self.counts.dropped),
            gone: read(&self.counts.gone),
            hashed: read(&self.counts.hashed),
            hash_dropped: read(&self.counts.hash_dropped),
            too_large: read(&self.counts.too_large),
            unreadable: read(&self.counts.unreadable),
            compare_asked: read(&self.counts.compare_asked),
            compare_dropped: read(&self.counts.compare_dropped),
            compare_failed: read(&self.counts.compare_failed),
        }
    }
}

struct Worker {
    proc: ProcFs,
    hash_queue: SyncSender<HashJob>,
    cache: Arc<Mutex<Cache>>,
    counts: Arc<Counts>,
}

impl Worker {
    fn run(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            match job {
                Job::Inspect(request) => {
                    self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                    self.inspect(&request);
                }
                Job::Compare(of) => {
                    self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                    let replaced = exe::replaced(&self.proc, of.pid, of.start, &of.exe);
                    if replaced.is_none() {
                        count(&self.counts.compare_failed);
                    }
                    of.identity.set_replaced(replaced.unwrap_or(Replaced::Unknown));
                }
                // What is asked here lies before it in the other queue.
                Job::Settle(done) => drop(self.hash_queue.send(HashJob::Settle(done))),
            }
        }
    }

    fn inspect(&self, request: &Request) {
        let identity = &request.identity;
        // First: exceptions of rules wait for it.
        if identity.exe_is_host().is_none() {
            self.find_on_host(request);
        }
        if identity.state().is_none() {
            if let Some(state) = self.proc.state(request.pid, request.start) {
                identity.set_state(state);
            } else {
                count(&self.counts.gone);
                // It was a copy of its parent; the namespace is the one thing that a clone(2) may change at once.
                if let Some(state) = request.parent.as_ref().and_then(Identity::state) {
                    identity.set_state(ProcessState { netns: None, ..state.clone() });
                }
            }
        }
        if request.depth == Depth::All && (identity.exe().is_none() || !identity.sha256_settled()) {
            self.executable(request);
        }
    }

    /// Looks whether the executable is the host's own file at its path. The process may be gone.
    fn find_on_host(&self, request: &Request) {
        let (Some(path), Some(file)) = (request.exe.as_deref(), request.exe_file) else { return };
        if let Some(is_host) = self.proc.is_host_file(path, file) {
            request.identity.set_exe_is_host(is_host);
        }
    }

    fn executable(&self, request: &Request) {
        let identity = &request.identity;
        let wanted = Wanted {
            pid: request.pid,
            start: request.start,
            path: request.exe.as_deref(),
            file: request.exe_file,
            deleted: request.exe_deleted,
            executed: identity.executed().map(|boot| Clock::now().wall(boot)),
        };
        // Where it is out of reach now, another process with the same executable may still lead to it.
        let Some(found) = Found::find(&self.proc, wanted) else { return count(&self.counts.unreadable) };
        if identity.exe().is_none() {
            identity.set_exe(found.describe(&self.proc, wanted));
        }
        if identity.sha256_settled() {
            return;
        }
        let state = FileState::of(&found.meta);
        if let Some(hash) = lock(&self.cache).get(&state) {
            identity.set_sha256(Some(hash));
        } else if state.size > SIZE_MAX {
            count(&self.counts.too_large);
            identity.set_sha256(None);
        } else if let Some(file) = found.content() {
            match self.hash_queue.try_send(HashJob::Hash(file, state, identity.clone())) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    count(&self.counts.hash_dropped);
                }
            }
        } else {
            count(&self.counts.unreadable);
        }
    }
}

struct Hasher {
    cache: Arc<Mutex<Cache>>,
    counts: Arc<Counts>,
}

impl Hasher {
    fn run(&self, jobs: &Receiver<HashJob>) {
        // SAFETY: no pointers are passed; 0 is this thread (Linux counts priorities by thread). A failure costs nothing.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, HASH_NICE) };
        for job in jobs {
            match job {
                HashJob::Hash(file, state, identity) => self.hash(file, state, &identity),
                // Nobody may wait for it any more.
                HashJob::Settle(done) => drop(done.try_send(())),
            }
        }
    }

    fn hash(&self, mut file: File, state: FileState, identity: &Identity) {
        // Many processes of one executable ask before the first answer is there.
        let known = lock(&self.cache).get(&state);
        let hash = known.or_else(|| {
            let hash = digest::hash(&mut file, state).ok().flatten();
            match hash {
                Some(hash) => {
                    count(&self.counts.hashed);
                    lock(&self.cache).put(state, hash);
                }
                None => count(&self.counts.unreadable),
            }
            hash
        });
        identity.set_sha256(hash);
    }
}

fn lock(cache: &Mutex<Cache>) -> std::sync::MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;

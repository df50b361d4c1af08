//! Finds out in the background what costs too much in the path of a record: the state of a process, where its
//! executable lies, and its hash.
//!
//! Two threads: one asks /proc, which must be quick, because processes come and go; the other reads executables, at a
//! lower priority. What they find they send back: whoever asked decides at which point of the stream it becomes known.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use super::digest::{self, Cache, FileState, SIZE_MAX};
use super::exe::{self, Found, Wanted};
use super::identity::{ExeFile, Identity, ProcessState, Replaced, Sha256};
use super::info::{ProcessInfo, ProcessSource};
use super::procfs::ProcFs;
use crate::clock::Clock;

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

/// What was found out of a process. It is known once it is applied.
#[derive(Debug)]
pub struct Answer {
    process: Arc<ProcessInfo>,
    facts: Vec<Fact>,
    /// It answers a request of [`Inspector::ask`].
    is_last: bool,
}

#[derive(Debug)]
enum Fact {
    State(ProcessState),
    /// It is gone, and was a copy of this one.
    Copy(Identity),
    Exe(ExeFile),
    /// Whether it is the host's own file.
    ExeIsHost(bool),
    /// `None`: it cannot be known.
    Sha256(Option<Sha256>),
    Replaced(Replaced),
}

impl Answer {
    /// Where an executable lies, as the last of what is found out.
    #[cfg(test)]
    pub(crate) fn of_exe(process: &Arc<ProcessInfo>, file: ExeFile) -> Self {
        process.identity.ask();
        Self { process: Arc::clone(process), facts: vec![Fact::Exe(file)], is_last: true }
    }

    /// What a comparison of the executable said.
    #[cfg(test)]
    pub(crate) fn of_comparison(process: &Arc<ProcessInfo>, replaced: Replaced) -> Self {
        Self { process: Arc::clone(process), facts: vec![Fact::Replaced(replaced)], is_last: false }
    }

    /// The process that it is about.
    pub const fn process(&self) -> &Arc<ProcessInfo> {
        &self.process
    }

    /// Makes it known to everything that holds the process.
    pub fn apply(self) {
        let identity = &self.process.identity;
        for fact in self.facts {
            match fact {
                Fact::State(state) => identity.set_state(state),
                Fact::Copy(parent) => identity.copy(&parent),
                Fact::Exe(file) => identity.set_exe(file),
                Fact::ExeIsHost(is_host) => identity.set_exe_is_host(is_host),
                Fact::Sha256(hash) => identity.set_sha256(hash),
                Fact::Replaced(replaced) => identity.set_replaced(replaced),
            }
        }
        if self.is_last {
            identity.answered();
        }
    }
}

/// Where the threads leave their answers.
#[derive(Clone, Debug)]
struct Outbox {
    sender: Sender<Answer>,
    came: Arc<Notify>,
}

impl Outbox {
    fn send(&self, answer: Answer) {
        // Nobody may wait for it any more.
        if self.sender.send(answer).is_ok() {
            self.came.notify_one();
        }
    }
}

/// A process to look at.
#[derive(Debug)]
struct Request {
    process: Arc<ProcessInfo>,
    depth: Depth,
    /// Of the parent, for a process that is only a copy of it.
    parent: Option<Identity>,
}

#[derive(Debug)]
enum Job {
    Inspect(Box<Request>),
    /// Compare the executable, which has a path, with what that leads to.
    Compare(Arc<ProcessInfo>, Arc<[u8]>),
    Settle(SyncSender<()>),
}

#[derive(Debug)]
enum HashJob {
    Hash(File, FileState, Box<Answer>),
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
    pub fn ask(&self, process: &Arc<ProcessInfo>) -> bool {
        let Some(exe) = process.exe.clone() else { return false };
        count(&self.counts.compare_asked);
        let job = || Job::Compare(Arc::clone(process), exe);
        let asked = send(&self.queue, &self.counts, QUEUE_MAX / 2, job);
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
    answers: Receiver<Answer>,
    came: Arc<Notify>,
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
        // Not bounded: there are no more answers than requests, which are.
        let (sender, answers) = channel();
        let came = Arc::<Notify>::default();
        let outbox = Outbox { sender, came: Arc::clone(&came) };
        let counts = Arc::<Counts>::default();
        let cache = Arc::<Mutex<Cache>>::default();
        let worker = Worker {
            proc,
            hash_queue,
            outbox: outbox.clone(),
            cache: Arc::clone(&cache),
            counts: Arc::clone(&counts),
        };
        thread::Builder::new().name("conn-inspect".to_owned()).spawn(move || worker.run(&jobs))?;
        let hasher = Hasher { outbox, cache, counts: Arc::clone(&counts) };
        thread::Builder::new().name("conn-hash".to_owned()).spawn(move || hasher.run(&hash_jobs))?;
        Ok(Self { queue, answers, came, counts })
    }

    /// Asks for a process. Never waits: what does not fit is counted.
    pub(super) fn ask(&self, process: &Arc<ProcessInfo>, depth: Depth, parent: Option<Identity>) {
        count(&self.counts.asked);
        process.identity.ask();
        // A storm of programs leaves room for those that use the network.
        let room = if depth == Depth::State { QUEUE_MAX / 2 } else { QUEUE_MAX };
        let request = || Request {
            process: Arc::clone(process),
            depth,
            parent: parent.filter(|_| process.source == ProcessSource::Fork),
        };
        if !send(&self.queue, &self.counts, room, || Job::Inspect(Box::new(request()))) {
            count(&self.counts.dropped);
            process.identity.answered();
        }
    }

    /// Resolves when an answer has come since the last call. May be cancelled.
    pub async fn answered(&self) {
        self.came.notified().await;
    }

    /// The next answer that has come; whoever takes it has to apply it.
    pub fn next_answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
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
    outbox: Outbox,
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
                Job::Compare(process, exe) => {
                    self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                    let replaced = exe::replaced(&self.proc, process.pid, process.start, &exe);
                    if replaced.is_none() {
                        count(&self.counts.compare_failed);
                    }
                    let facts = vec![Fact::Replaced(replaced.unwrap_or(Replaced::Unknown))];
                    self.outbox.send(Answer { process, facts, is_last: false });
                }
                // What is asked here lies before it in the other queue.
                Job::Settle(done) => drop(self.hash_queue.send(HashJob::Settle(done))),
            }
        }
    }

    fn inspect(&self, request: &Request) {
        let process = &request.process;
        let identity = &process.identity;
        let mut facts = Vec::new();
        if identity.exe_is_host().is_none() {
            facts.extend(self.is_host_file(process).map(Fact::ExeIsHost));
        }
        if identity.state().is_none() {
            if let Some(state) = self.proc.state(process.pid, process.start) {
                facts.push(Fact::State(state));
            } else {
                count(&self.counts.gone);
                facts.extend(request.parent.clone().map(Fact::Copy));
            }
        }
        let is_asked =
            request.depth == Depth::All && (identity.exe().is_none() || !identity.sha256_settled());
        let file = if is_asked { self.executable(process, &mut facts) } else { None };
        let answer = |facts, is_last| Answer { process: Arc::clone(process), facts, is_last };
        let Some((file, state)) = file else {
            self.outbox.send(answer(facts, true));
            return;
        };
        self.outbox.send(answer(facts, false));
        let hash = HashJob::Hash(file, state, Box::new(answer(Vec::new(), true)));
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = self.hash_queue.try_send(hash)
        {
            count(&self.counts.hash_dropped);
            if let HashJob::Hash(_, _, answer) = job {
                self.outbox.send(*answer);
            }
        }
    }

    /// Looks whether the executable is the host's own file at its path. The process may be gone.
    fn is_host_file(&self, process: &ProcessInfo) -> Option<bool> {
        self.proc.is_host_file(process.exe.as_deref()?, process.exe_file?)
    }

    /// Finds out where the executable lies, and its hash if that is known. Returns the file to hash, if one is.
    fn executable(&self, process: &ProcessInfo, facts: &mut Vec<Fact>) -> Option<(File, FileState)> {
        let identity = &process.identity;
        let wanted = Wanted {
            pid: process.pid,
            start: process.start,
            path: process.exe.as_deref(),
            file: process.exe_file,
            deleted: process.exe_deleted,
            executed: identity.executed().map(|boot| Clock::now().wall(boot)),
        };
        let Some(found) = Found::find(&self.proc, wanted) else {
            count(&self.counts.unreadable);
            return None;
        };
        if identity.exe().is_none() {
            facts.push(Fact::Exe(found.describe(&self.proc, wanted)));
        }
        if identity.sha256_settled() {
            return None;
        }
        let state = FileState::of(&found.meta);
        if let Some(hash) = lock(&self.cache).get(&state) {
            facts.push(Fact::Sha256(Some(hash)));
        } else if state.size > SIZE_MAX {
            count(&self.counts.too_large);
            facts.push(Fact::Sha256(None));
        } else if let Some(file) = found.content() {
            return Some((file, state));
        } else {
            count(&self.counts.unreadable);
        }
        None
    }
}

struct Hasher {
    outbox: Outbox,
    cache: Arc<Mutex<Cache>>,
    counts: Arc<Counts>,
}

impl Hasher {
    fn run(&self, jobs: &Receiver<HashJob>) {
        // SAFETY: no pointers are passed; 0 is this thread (Linux counts priorities by thread). A failure costs nothing.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, HASH_NICE) };
        for job in jobs {
            match job {
                HashJob::Hash(file, state, answer) => self.hash(file, state, *answer),
                // Nobody may wait for it any more.
                HashJob::Settle(done) => drop(done.try_send(())),
            }
        }
    }

    fn hash(&self, mut file: File, state: FileState, mut answer: Answer) {
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
        answer.facts.push(Fact::Sha256(hash));
        self.outbox.send(answer);
    }
}

fn lock(cache: &Mutex<Cache>) -> std::sync::MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;

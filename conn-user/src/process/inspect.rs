//! Finds out in the background what costs too much in the path of a record: the state of a process, where its
//! executable lies, and its hash.
//!
//! Two threads: one asks /proc, which must be quick, because processes come and go; the other has executables hashed. Neither
//! opens a file that a user chose: [`super::files`] does. What they find they send back: whoever asked decides at which point of
//! the stream it becomes known.

mod finder;
mod hasher;
mod queue;
mod stats;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use self::finder::Finder;
use self::hasher::{Hasher, Hashes};
pub use self::stats::InspectStats;
use self::stats::{Counts, count};
use super::digest::Cache;
use super::exe::Fate;
use super::files::{FileWorker, FileWorkers, Role};
use super::identity::{ExeFile, Identity, ProcessState, Replaced, Sha256};
use super::info::{ProcessInfo, ProcessSource};
use super::procfs::ProcFs;
use super::tools::Tools;

/// Most processes that wait to be looked at.
const QUEUE_MAX: usize = 4096;

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// The state, soon after an exec: cheap, and soon gone. Of some programs also where they lie
    /// ([`finder::is_soon_judged`]).
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
    /// It has no name any more.
    Deleted,
    /// Which tool of this host it is a copy of.
    CopyOf(Option<Arc<str>>),
}

impl Answer {
    /// Where an executable lies, as the last of what is found out.
    #[cfg(test)]
    pub(crate) fn of_exe(process: &Arc<ProcessInfo>, file: ExeFile) -> Self {
        process.identity.ask();
        Self { process: Arc::clone(process), facts: vec![Fact::Exe(file)], is_last: true }
    }

    /// What an executable is a copy of, as the last of what is found out.
    #[cfg(test)]
    pub(crate) fn of_copy(process: &Arc<ProcessInfo>, name: Option<&str>) -> Self {
        process.identity.ask();
        let facts = vec![Fact::CopyOf(name.map(Into::into))];
        Self { process: Arc::clone(process), facts, is_last: true }
    }

    /// The state of a process.
    #[cfg(test)]
    pub(crate) fn of_state(process: &Arc<ProcessInfo>, state: ProcessState) -> Self {
        Self { process: Arc::clone(process), facts: vec![Fact::State(state)], is_last: false }
    }

    /// The hash of an executable, as the last of what is found out.
    #[cfg(test)]
    pub(crate) fn of_hash(process: &Arc<ProcessInfo>, hash: Option<Sha256>) -> Self {
        process.identity.ask();
        Self { process: Arc::clone(process), facts: vec![Fact::Sha256(hash)], is_last: true }
    }

    /// What a comparison of the executable said.
    #[cfg(test)]
    pub(crate) fn of_comparison(process: &Arc<ProcessInfo>, replaced: Replaced) -> Self {
        let deleted = replaced.is_replaced().then_some(Fact::Deleted);
        let facts = deleted.into_iter().chain([Fact::Replaced(replaced)]).collect();
        Self { process: Arc::clone(process), facts, is_last: false }
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
                Fact::Deleted => identity.set_deleted(),
                Fact::CopyOf(name) => identity.set_copy_of(name),
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
    outbox: Outbox,
    answers: Receiver<Answer>,
    came: Arc<Notify>,
    counts: Arc<Counts>,
    files: Arc<FileWorkers>,
}

impl Inspector {
    /// Starts the threads, which have files opened and read by these workers. Executables are hashed only if `hashes`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(proc: &ProcFs, files: Arc<FileWorkers>, hashes: bool) -> io::Result<Self> {
        Self::start_with_tools(proc, files, hashes, &[])
    }

    /// Starts the threads, as [`Self::start`] does. A process that runs a copy of one of this host's programs
    /// with these names is known as that program.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start_with_tools(
        proc: &ProcFs,
        files: Arc<FileWorkers>,
        hashes: bool,
        tools: &[&str],
    ) -> io::Result<Self> {
        Self::start_with(proc, files, hashes, Tools::of_host(tools))
    }

    fn start_with(proc: &ProcFs, files: Arc<FileWorkers>, hashes: bool, tools: Tools) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        // Not bounded: there are no more answers than requests, which are.
        let (sender, answers) = channel();
        let came = Arc::<Notify>::default();
        let outbox = Outbox { sender, came: Arc::clone(&came) };
        let (counts, cache) = (Arc::<Counts>::default(), Arc::<Mutex<Cache>>::default());
        let tools = Arc::new(Mutex::new(tools));
        let finder = |role| Finder {
            tools: Arc::clone(&tools),
            proc: proc.clone(),
            files: FileWorker::new(Arc::clone(&files), role),
            cache: Arc::clone(&cache),
            counts: Arc::clone(&counts),
            hashes,
            tool_number: 0,
        };
        let hashes = Arc::<Hashes>::default();
        let hasher =
            Hasher { hashes: Arc::clone(&hashes), finder: finder(Role::Hash), outbox: outbox.clone() };
        let worker = Worker { finder: finder(Role::Find), hashes, outbox: outbox.clone() };
        thread::Builder::new().name("conn-hash".to_owned()).spawn(move || hasher.run())?;
        thread::Builder::new().name("conn-inspect".to_owned()).spawn(move || worker.run(&jobs))?;
        Ok(Self { queue, outbox, answers, came, counts, files })
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
            // An answer like others, at its place in the stream: a replay must not wait for one that never comes.
            self.outbox.send(Answer { process: Arc::clone(process), facts: Vec::new(), is_last: true });
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
        self.counts.stats(self.files.stats())
    }
}

struct Worker {
    finder: Finder,
    hashes: Arc<Hashes>,
    outbox: Outbox,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.hashes.close();
    }
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>) {
        for job in jobs {
            match job {
                Job::Inspect(request) => {
                    self.finder.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                    self.inspect(&request);
                }
                Job::Compare(process, exe) => {
                    self.finder.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                    let Fate { replaced, deleted } = self.finder.fate(&process, &exe);
                    let deleted = deleted.then_some(Fact::Deleted);
                    let facts = deleted.into_iter().chain([Fact::Replaced(replaced)]).collect();
                    self.outbox.send(Answer { process, facts, is_last: false });
                }
                // What is asked here was added there before.
                Job::Settle(done) => self.hashes.settle(done),
            }
        }
    }

    fn inspect(&mut self, request: &Request) {
        let process = &request.process;
        let identity = &process.identity;
        let mut facts = Vec::new();
        // What is soon gone comes first, and what may have to wait for a file system last.
        if identity.state().is_none() {
            if let Some(state) = self.finder.proc.state(process.pid, process.start) {
                facts.push(Fact::State(state));
            } else {
                count(&self.finder.counts.gone);
                facts.extend(request.parent.clone().map(Fact::Copy));
            }
        }
        let depth = request.depth;
        let is_asked = !identity.copy_of_settled()
            || (depth == Depth::All && (identity.exe().is_none() || self.finder.needs_hash(identity)));
        let file = if is_asked { self.finder.executable(process, depth, &mut facts) } else { None };
        if identity.exe_is_host().is_none() {
            facts.extend(self.finder.is_host_file(process).map(Fact::ExeIsHost));
        }
        let answer = |facts, is_last| Answer { process: Arc::clone(process), facts, is_last };
        let Some((file, state)) = file else {
            self.outbox.send(answer(facts, true));
            return;
        };
        self.outbox.send(answer(facts, false));
        if let Err(answer) = self.hashes.add(file, state, answer(Vec::new(), true)) {
            count(&self.finder.counts.hash_dropped);
            self.outbox.send(answer);
        }
    }
}

#[cfg(test)]
mod tests;

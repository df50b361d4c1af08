//! Finds out in the background what costs too much in the path of a record: the state of a process, where its
//! executable lies, and its hash.
//!
//! Two threads: one asks /proc, which must be quick, because processes come and go; the other has executables hashed. Neither
//! opens a file that a user chose: [`super::files`] does. What they find they send back: whoever asked decides at which point of
//! the stream it becomes known.

mod hasher;
mod queue;
mod stats;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use self::hasher::{Hasher, Hashes};
pub use self::stats::InspectStats;
use self::stats::{Counts, count};
use super::digest::{Cache, FileState, SIZE_MAX};
use super::exe::{self, Fate, Found, Wanted};
use super::file_stat::FileStat;
use super::files::{Begun, Caller, FileWorker, FileWorkers, OWN_ROOT, Progress, Role};
use super::identity::{ExeFile, Identity, ProcessState, Replaced, Sha256};
use super::info::{ProcessInfo, ProcessSource, is_of_package};
use super::procfs::ProcFs;
use super::tools::{Tool, Tools};
use crate::clock::Clock;

/// Most processes that wait to be looked at.
const QUEUE_MAX: usize = 4096;

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// The state, soon after an exec: cheap, and soon gone. Of some programs also where they lie ([`is_soon_judged`]).
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

/// Finds executables.
struct Finder {
    tools: Arc<Mutex<Tools>>,
    proc: ProcFs,
    files: FileWorker,
    cache: Arc<Mutex<Cache>>,
    counts: Arc<Counts>,
    hashes: bool,
    /// Counts the tools that were hashed.
    tool_number: u64,
}

impl Finder {
    fn needs_hash(&self, identity: &Identity) -> bool {
        self.hashes && !identity.sha256_settled()
    }

    fn fate(&mut self, process: &ProcessInfo, path: &[u8]) -> Fate {
        let ProcessInfo { pid, start, uid, exe_file: file, .. } = *process;
        let image = exe::Image { pid, start, uid, file, path };
        exe::replaced(&self.proc, &mut self.files, image).unwrap_or_else(|| {
            count(&self.counts.compare_failed);
            Fate { replaced: Replaced::Unknown, deleted: false }
        })
    }

    /// Looks whether the executable is the host's own file at its path. The process may be gone.
    fn is_host_file(&mut self, process: &ProcessInfo) -> Option<bool> {
        let (path, file) = (process.exe.as_deref()?, process.exe_file?);
        let caller = Caller { uid: process.uid, dev: Some(file.dev) };
        self.proc.host().is_own_file(path, file, &mut self.files, caller)
    }

    /// Finds out where the executable lies, what it is a copy of, and its hash if that is known. Returns the file to hash, if
    /// one is.
    fn executable(
        &mut self,
        process: &ProcessInfo,
        depth: Depth,
        facts: &mut Vec<Fact>,
    ) -> Option<(File, FileState)> {
        let identity = &process.identity;
        let wanted = Wanted {
            pid: process.pid,
            start: process.start,
            path: process.exe.as_deref(),
            file: process.exe_file,
            deleted: process.exe_deleted,
            executed: identity.executed().map(|boot| Clock::now().wall(boot)),
            uid: process.uid,
            gid: process.gid,
        };
        let is_all = depth == Depth::All;
        let Some(found) = Found::find(&self.proc, &mut self.files, wanted) else {
            if is_all {
                count(&self.counts.unreadable);
            }
            return None;
        };
        if is_all && !process.exe_is_deleted() && found.is_deleted(&self.proc, wanted) {
            facts.push(Fact::Deleted);
        }
        if (is_all || is_soon_judged(process)) && identity.exe().is_none() {
            facts.push(Fact::Exe(found.describe(&self.proc, &mut self.files, wanted)));
        }
        let state = FileState::of(&found.stat);
        let asks_copy = !identity.copy_of_settled();
        let tools = if asks_copy { self.tools(process, &state) } else { Vec::new() };
        let needs_hash = is_all && self.needs_hash(identity);
        if asks_copy && tools.is_empty() {
            facts.push(Fact::CopyOf(None));
        }
        if !needs_hash && tools.is_empty() {
            return None;
        }
        let known = |state: &FileState| lock(&self.cache).get(state);
        if let Some(hash) = known(&state) {
            if !tools.is_empty() {
                let hashes: Option<Vec<_>> = tools.iter().map(|tool| known(&tool.state)).collect();
                // The other thread hashes the tools.
                let Some(hashes) = hashes else { return Some((found.file, state)) };
                let same = tools.iter().zip(hashes).find(|(_, of)| *of == hash);
                facts.push(Fact::CopyOf(same.map(|(tool, _)| Arc::clone(&tool.name))));
            }
            facts.push(Fact::Sha256(Some(hash)));
        } else if state.size > SIZE_MAX {
            count(&self.counts.too_large);
            facts.push(Fact::Sha256(None));
        } else {
            return Some((found.file, state));
        }
        None
    }

    /// Returns the tools of this host that the executable in this state may be a copy of.
    fn tools(&self, process: &ProcessInfo, state: &FileState) -> Vec<Tool> {
        let Some(path) = process.exe.as_deref() else { return Vec::new() };
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).candidates(state, path)
    }

    /// Returns the tool of this host that has this hash, of those that the executable in this state may be a copy of. Hashes
    /// them where that was not done.
    fn copy_of(&mut self, process: &ProcessInfo, state: &FileState, hash: Sha256) -> Option<Arc<str>> {
        let tools = self.tools(process, state);
        let found = tools.iter().find(|tool| self.hash_of(tool) == Some(hash));
        found.map(|tool| Arc::clone(&tool.name))
    }

    fn hash_of(&mut self, tool: &Tool) -> Option<Sha256> {
        if let Some(hash) = lock(&self.cache).get(&tool.state) {
            return Some(hash);
        }
        let caller = Caller { uid: 0, dev: Some(tool.state.dev()) };
        let file = self.files.open(Path::new(OWN_ROOT), &tool.path, caller).ok()?;
        // Another link to the file, or another mode, makes its state another one, though its content is the same.
        let state = FileState::of(&FileStat::of(&file).ok()?);
        if let Some(hash) = lock(&self.cache).get(&state) {
            return Some(hash);
        }
        // The files of the queue are numbered from 1.
        self.tool_number += 1;
        let mut begun = Begun::new(u64::MAX - self.tool_number);
        loop {
            match self.files.hash(&mut begun, &file, state, caller).ok()? {
                Progress::Read(_) => {}
                Progress::Done(hash) => {
                    lock(&self.cache).put(state, hash?);
                    return hash;
                }
            }
        }
    }
}

/// The first uid of people (`UID_MIN` of login.defs).
const UID_MIN: u32 = 1000;

/// Returns whether rules will ask who may write this executable as soon as the process uses the network,
/// which it may do and be gone before anybody has looked: a program of a service user that no package
/// brought. Not one of root, which may become another user before it does, and the answer is about the user.
/// What people run is asked about when it does use the network: a build starts thousands of programs.
fn is_soon_judged(process: &ProcessInfo) -> bool {
    (1..UID_MIN).contains(&process.uid) && process.exe.as_deref().is_some_and(|exe| !is_of_package(exe))
}

fn lock(cache: &Mutex<Cache>) -> std::sync::MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

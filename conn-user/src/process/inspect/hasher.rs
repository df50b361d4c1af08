//! The thread that has executables hashed.

use std::fs::File;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::finder::{Finder, lock};
use super::queue::{HashQueue, Next, Part};
use super::stats::count;
use super::{Answer, Depth, Fact, Outbox};
use crate::clock::boot_now;
use crate::process::digest::FileState;
use crate::process::files::{Caller, FileError, Progress};
use crate::units::BootNs;

/// What the thread has to do.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    queue: HashQueue<Answer>,
    settling: Vec<SyncSender<()>>,
    is_closed: bool,
}

impl Hashes {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an answer that lacks the hash of a file. Without room for it it comes back.
    pub(super) fn add(&self, file: File, state: FileState, answer: Answer) -> Result<(), Answer> {
        let mut work = self.work();
        let uid = answer.process.uid;
        let added = work.queue.add(uid, file, state, answer).or_else(|answer| work.queue.park(uid, answer));
        drop(work);
        self.changed.notify_one();
        added
    }

    /// Has it signaled when nothing waits any more.
    pub(super) fn settle(&self, done: SyncSender<()>) {
        self.work().settling.push(done);
        self.changed.notify_one();
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.work().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for something to do.
    fn next(&self) -> Option<Part> {
        let mut work = self.work();
        loop {
            if work.is_closed {
                return None;
            }
            if work.queue.is_empty() {
                // Nobody may wait for it any more.
                for done in work.settling.drain(..) {
                    let _ = done.try_send(());
                }
            }
            let now = boot_now();
            work = match work.queue.next(now) {
                Next::Hash(part) => return Some(part),
                Next::At(at) => {
                    let pause = Duration::from_nanos(at.since(now).0);
                    self.changed.wait_timeout(work, pause).unwrap_or_else(PoisonError::into_inner).0
                }
                Next::Idle => self.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

pub(super) struct Hasher {
    pub(super) hashes: Arc<Hashes>,
    pub(super) finder: Finder,
    pub(super) outbox: Outbox,
}

impl Hasher {
    pub(super) fn run(mut self) {
        while let Some(part) = self.hashes.next() {
            self.hash(part);
            self.ask_again();
        }
    }

    fn hash(&mut self, mut part: Part) {
        let began = boot_now();
        let known = lock(&self.finder.cache).get(&part.state);
        let progress = match known {
            Some(hash) => Ok(Progress::Done(Some(hash))),
            None => {
                let caller = Caller { uid: part.uid, dev: Some(part.state.dev()) };
                let hashed = self.finder.files.hash(&mut part.begun, &part.file, part.state, caller);
                if let Ok(Progress::Done(Some(hash))) = hashed {
                    count(&self.finder.counts.hashed);
                    lock(&self.finder.cache).put(part.state, hash);
                }
                hashed
            }
        };
        let now = boot_now();
        self.take(part, &progress, began, now);
    }

    fn take(&mut self, part: Part, progress: &Result<Progress, FileError>, began: BootNs, now: BootNs) {
        let (cost, state) = (now.since(began), part.state);
        let mut work = self.hashes.work();
        let (answers, fact) = match progress {
            Ok(Progress::Read(bytes)) => return work.queue.went_on(part, *bytes, cost, now),
            Ok(Progress::Done(hash)) => (work.queue.ended(&part, cost, now), Some(*hash)),
            Err(FileError::Io(_)) => (work.queue.ended(&part, cost, now), Some(None)),
            Err(FileError::Stuck | FileError::Worker(_)) => {
                let waited = work.queue.was_stuck(&part, cost, now);
                if waited.is_empty() {
                    return;
                }
                (waited, None)
            }
            Err(FileError::Refused) => (work.queue.refused(part), None),
        };
        drop(work);
        if !matches!(fact, Some(Some(_))) {
            count(&self.finder.counts.unreadable);
        }
        for mut answer in answers {
            answer.facts.extend(fact.map(Fact::Sha256));
            if let Some(hash) = fact
                && !answer.process.identity.copy_of_settled()
            {
                let name = hash.and_then(|hash| self.finder.copy_of(&answer.process, &state, hash));
                answer.facts.push(Fact::CopyOf(name));
            }
            self.outbox.send(answer);
        }
    }

    /// Looks again for the executables of those for whom there was no room.
    fn ask_again(&mut self) {
        loop {
            let Some(mut answer) = self.hashes.work().queue.unpark() else { return };
            let process = Arc::clone(&answer.process);
            let Some((file, state)) = self.finder.executable(&process, Depth::All, &mut answer.facts) else {
                self.outbox.send(answer);
                continue;
            };
            if let Err(answer) = self.hashes.add(file, state, answer) {
                count(&self.finder.counts.hash_dropped);
                self.outbox.send(answer);
            }
        }
    }
}

//! A bounded queue of events and the thread that writes them: the agent never waits for a disk.

mod keeper;
mod thread;

use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::retention::Keep;
use super::store::Store;
use crate::event::json::StreamIdentity;
use crate::event::model::{Event, EventKind};
use crate::units::{BootNs, WallNs};

/// Most events that wait; some 20 MB.
const WAITING_MAX: usize = 32_768;
/// So many more wait if they are alerts or say what the stream lacks.
const RESERVE: usize = 4_096;
/// How long whoever asks waits for a commit.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
/// How long the end waits for a disk that makes no progress.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a history is kept, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// The folder.
    pub folder: PathBuf,
    /// How much is kept.
    pub keep: Keep,
    /// So many identical short connections in a second have rows of their own; 0: all have.
    pub rate: u32,
    /// The group whose members may read it.
    pub group: Option<u32>,
}

/// Something that happened to the history, to be reported to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryNotice {
    /// It cannot be written; what comes is dropped until it can.
    Fails(String),
    /// It can be written again; so many rows were dropped meanwhile.
    Works {
        /// How many.
        dropped: u64,
    },
    /// Events come faster than they can be written: some are dropped.
    Overflows,
    /// Something was done that people should know.
    Note(String),
}

/// What became of the history so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryStats {
    /// Rows that were written or completed in this run.
    pub rows: u64,
    /// Connections that were counted in rows of others.
    pub collapsed: u64,
    /// Events and rows that are not in it.
    pub dropped: u64,
    /// The file that is written; empty: there is none.
    pub file: PathBuf,
    /// About when the oldest file begins, and when the last event was that is kept.
    pub first: Option<WallNs>,
    /// See [`Self::first`].
    pub last: Option<WallNs>,
    /// How many files there are.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    /// They want to know when what was handed over before is committed.
    syncs: Vec<SyncSender<Result<(), CommitError>>>,
    is_closed: bool,
    /// The thread has ended.
    is_done: bool,
    /// Commits: it gets on.
    commits: u64,
    notices: Vec<HistoryNotice>,
    overflows: bool,
    /// Events for which there was no room.
    refused: u64,
    /// What the thread reports.
    stats: HistoryStats,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Events in [`State::events`] and in the thread's hands.
    waiting: AtomicUsize,
    /// Whoever owns the writer has to look at it.
    changed: Arc<Notify>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The history of a run, as the agent writes it.
pub struct HistoryWriter {
    shared: Arc<Shared>,
    /// Since the last [`Self::flush`].
    events: Vec<Event>,
    refused: u64,
}

/// Why what was handed over cannot be read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// The disk takes too long.
    #[error("it is not written within {} s", COMMIT_PATIENCE.as_secs())]
    Late,
    /// It cannot be written: rows were dropped.
    #[error("it cannot be written")]
    Fails,
}

/// Has what was handed over committed, from any thread.
#[derive(Clone)]
pub struct Commits(Arc<Shared>);

impl Commits {
    /// Waits until everything is committed that was handed over before.
    ///
    /// # Errors
    /// When that takes too long, or cannot be done.
    pub fn commit(&self) -> Result<(), CommitError> {
        let (done, committed) = sync_channel(1);
        {
            let mut state = self.0.state();
            if state.is_done {
                return Ok(());
            }
            state.syncs.push(done);
        }
        self.0.work.notify_one();
        match committed.recv_timeout(COMMIT_PATIENCE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(CommitError::Late),
            // The thread has ended, and committed everything before.
            Err(RecvTimeoutError::Disconnected) => Ok(()),
        }
    }

    /// What became of the history so far.
    pub fn stats(&self) -> HistoryStats {
        self.0.state().stats()
    }
}

impl State {
    fn stats(&self) -> HistoryStats {
        HistoryStats { dropped: self.stats.dropped + self.refused, ..self.stats.clone() }
    }
}

impl HistoryWriter {
    /// Starts to write the history of a run. `changed` is notified when there is something to take ([`Self::notices`]).
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        options: HistoryOptions,
        of: StreamIdentity,
        at: (BootNs, WallNs),
        changed: Arc<Notify>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            waiting: AtomicUsize::new(0),
            changed,
        });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("conn-history".to_owned())
            .spawn(move || thread::write_all(&own, options, of, at))?;
        Ok(Self { shared, events: Vec::new(), refused: 0 })
    }

    /// Takes an event. Never waits.
    pub fn on_event(&mut self, event: &Event) {
        let kind = event.body.kind();
        if !Store::keeps(kind) {
            return;
        }
        let is_important = kind == EventKind::Alert || kind.is_always_shown();
        let room = WAITING_MAX + if is_important { RESERVE } else { 0 };
        if self.shared.waiting.load(Ordering::Relaxed) + self.events.len() < room {
            self.events.push(event.clone());
        } else {
            self.refused += 1;
        }
    }

    /// Hands the events over. Never waits.
    pub fn flush(&mut self) {
        if self.events.is_empty() && self.refused == 0 {
            return;
        }
        let mut state = self.shared.state();
        let refused = mem::take(&mut self.refused);
        state.refused += refused;
        if refused > 0 && !state.overflows {
            state.overflows = true;
            state.notices.push(HistoryNotice::Overflows);
            self.shared.changed.notify_one();
        }
        self.shared.waiting.fetch_add(self.events.len(), Ordering::Relaxed);
        if state.events.is_empty() {
            mem::swap(&mut state.events, &mut self.events);
        } else {
            state.events.append(&mut self.events);
        }
        drop(state);
        self.shared.work.notify_one();
    }

    /// Where commits can be asked for.
    pub fn commits(&self) -> Commits {
        Commits(Arc::clone(&self.shared))
    }

    /// What happened since the last call.
    pub fn notices(&self) -> Vec<HistoryNotice> {
        mem::take(&mut self.shared.state().notices)
    }

    /// What became of it so far.
    pub fn stats(&self) -> HistoryStats {
        self.shared.state().stats()
    }

    /// How many events wait.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed) + self.events.len()
    }

    /// Has everything written and the file finished, and waits for it as long as the disk gets on. May be cancelled.
    pub async fn finish(&mut self) {
        self.flush();
        {
            self.shared.state().is_closed = true;
        }
        self.shared.work.notify_one();
        let mut seen = u64::MAX;
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            {
                let state = self.shared.state();
                if state.is_done {
                    return;
                }
                if state.commits != seen {
                    (seen, deadline) = (state.commits, Instant::now() + PATIENCE);
                } else if Instant::now() >= deadline {
                    return;
                }
            }
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }
}

impl Drop for HistoryWriter {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.work.notify_one();
    }
}

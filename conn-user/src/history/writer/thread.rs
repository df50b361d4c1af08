//! The thread that writes: it commits soon after an event, and in between does not run.

use std::mem;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::keeper::Keeper;
use super::{CommitError, HistoryOptions, Shared, State};
use crate::event::json::StreamIdentity;
use crate::event::model::Event;
use crate::units::{BootNs, WallNs};

/// How long after an event it is committed, at the latest: a crash loses at most so much, and what the disk takes.
const COMMIT: Duration = Duration::from_millis(200);
/// So many rows are committed at once.
const ROWS_MAX: usize = 5_000;
/// So many events are handed over at once: the others can be looked at by whoever waits for room.
const EVENTS_MAX: usize = 4_096;
/// How often is asked for what became known of processes after their last event, and how often at most without an event.
const FACTS: (Duration, u32) = (Duration::from_secs(1), 10);

pub(super) fn write_all(shared: &Shared, options: HistoryOptions, of: StreamIdentity, at: (BootNs, WallNs)) {
    let mut keeper = Keeper::new(options, of, at);
    let mut due: Option<Instant> = None;
    let mut looks = 0;
    report(shared, &mut keeper);
    loop {
        let (events, syncs, is_closed) = take(shared, due);
        let count = events.len();
        for events in events.chunks(EVENTS_MAX) {
            for event in events {
                keeper.apply(event);
                if keeper.waiting() >= ROWS_MAX {
                    keeper.commit();
                    report(shared, &mut keeper);
                }
            }
            shared.waiting.fetch_sub(events.len(), Ordering::Relaxed);
        }
        let now = Instant::now();
        if count > 0 {
            looks = 0;
            due = Some(due.map_or(now + COMMIT, |due| due.min(now + COMMIT)));
        }
        if !syncs.is_empty() || is_closed || due.is_some_and(|due| now >= due) {
            keeper.commit();
            due = (keeper.is_unsettled() && looks < FACTS.1).then(|| now + FACTS.0);
            looks += 1;
            report(shared, &mut keeper);
        }
        for sync in syncs {
            // Nobody may wait any more.
            let _ = sync.try_send(if keeper.fails() { Err(CommitError::Fails) } else { Ok(()) });
        }
        if is_closed && count == 0 {
            break;
        }
    }
    keeper.finish();
    report(shared, &mut keeper);
    let mut state = shared.state();
    state.is_done = true;
    // Whoever asks from now on has nothing to wait for.
    state.syncs.clear();
    drop(state);
    shared.changed.notify_one();
}

type Taken = (Vec<Event>, Vec<SyncSender<Result<(), CommitError>>>, bool);

/// Waits for something to do, or until it is time for a commit.
fn take(shared: &Shared, due: Option<Instant>) -> Taken {
    let mut state = shared.state();
    let is_idle = |state: &State| state.events.is_empty() && state.syncs.is_empty() && !state.is_closed;
    while is_idle(&state) {
        state = match due {
            None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                shared.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
    (mem::take(&mut state.events), mem::take(&mut state.syncs), state.is_closed)
}

/// Makes known what the keeper did.
fn report(shared: &Shared, keeper: &mut Keeper) {
    let (notices, stats) = (keeper.take_notices(), keeper.stats());
    let mut state = shared.state();
    state.commits += 1;
    state.stats = stats;
    let is_news = !notices.is_empty();
    state.notices.extend(notices);
    drop(state);
    if is_news {
        shared.changed.notify_one();
    }
}

//! The thread that writes to a target.

use std::mem;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use memchr::{memchr_iter, memrchr};

use super::{KEPT_MAX, Notice, Shared, State, Target, Written};

/// Bytes that a target gets at once: between two of them the thread shows that it gets on.
pub(super) const CHUNK: usize = 256 << 10;

/// Writes what comes to the target, until nothing comes any more or nobody reads it.
pub(super) fn write_all(shared: &Shared, mut target: impl Target) {
    let mut lines = Vec::new();
    while let Some(reopen) = take(shared, &mut lines) {
        if reopen && let Err(error) = target.reopen() {
            shared.state().notices.push(Notice::NotReopened(error));
            shared.changed.notify_one();
        }
        if !write_chunks(shared, &mut target, &lines) {
            return;
        }
        lines.clear();
        lines.shrink_to(KEPT_MAX);
    }
}

/// Waits for something to do: lines, or to open the target anew before them. `None`: nothing comes any more.
fn take(shared: &Shared, lines: &mut Vec<u8>) -> Option<bool> {
    let mut state = shared.state();
    if state.lines.is_empty() {
        shared.changed.notify_one();
    }
    while state.lines.is_empty() && !state.reopen {
        if state.is_closed {
            return None;
        }
        state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    state.in_hand = mem::take(&mut state.count);
    mem::swap(&mut state.lines, lines);
    Some(mem::take(&mut state.reopen))
}

/// Returns whether it is still read.
fn write_chunks(shared: &Shared, target: &mut impl Target, mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let most = rest.get(..CHUNK).unwrap_or(rest);
        // A line that is longer goes as a whole.
        let end = memrchr(b'\n', most)
            .or_else(|| memchr_iter(b'\n', rest).next())
            .map_or(rest.len(), |newline| newline + 1);
        let (chunk, later) = rest.split_at(end);
        rest = later;
        let written = target.write(chunk);
        let count = count(chunk);
        shared.waiting.fetch_sub(chunk.len(), Ordering::Relaxed);
        let mut state = shared.state();
        state.in_hand = state.in_hand.saturating_sub(count);
        state.chunks += 1;
        if let Some(error) = &written.error
            && target.is_gone(error)
        {
            state.gone = written.error;
            shared.changed.notify_one();
            return false;
        }
        if note(&mut state, written, rest.is_empty()) {
            shared.changed.notify_one();
        }
    }
    true
}

/// Takes note of what became of a chunk; whether there is something to report. It keeps up again when `nothing_waits`.
fn note(state: &mut State, written: Written, nothing_waits: bool) -> bool {
    state.dropped += written.dropped;
    state.overflows &= !(nothing_waits && state.lines.is_empty());
    match (written.error, &mut state.outage) {
        (Some(_), Some(outage)) => {
            *outage += written.dropped;
            false
        }
        (Some(error), None) => {
            state.outage = Some(written.dropped);
            state.notices.push(Notice::Fails(error));
            true
        }
        (None, None) => false,
        (None, outage) => {
            let dropped = outage.take().unwrap_or(0);
            state.notices.push(Notice::Works { dropped });
            true
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
}

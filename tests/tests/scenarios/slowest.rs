//! Which tests took longest: where to look when the whole takes too long.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many are named.
const NAMED: usize = 12;

static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Runs a test and keeps how long it took, waiting for its turn included.
pub(crate) fn timed<T>(name: String, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).push((start.elapsed(), name));
    result
}

/// Names the slowest.
pub(crate) fn print() {
    let mut times = std::mem::take(&mut *TIMES.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let total: Duration = times.iter().map(|(time, _)| *time).sum();
    let named: Vec<_> =
        times.iter().take(NAMED).map(|(time, name)| format!("{name} {:.1} s", time.as_secs_f64())).collect();
    eprintln!("slowest of {:.1} s: {}", total.as_secs_f64(), named.join(", "));
}

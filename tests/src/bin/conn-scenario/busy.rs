//! Threads that keep processors busy, in a session of their own: what any local user may start.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use conn_tests::truth::Line;

use crate::facts::emit;
use crate::sys::check;

/// `busy THREADS`: until its input ends.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let threads: u32 = args.first().context("busy: how many?")?.parse().context("busy: a number")?;
    // SAFETY: no pointers are passed. A session has a share of the processors of its own (sched(7), autogroups).
    check(unsafe { libc::setsid() }).context("setsid")?;
    let stop = Arc::new(AtomicBool::new(false));
    let busy = || {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })
    };
    let all: Vec<_> = (0..threads).map(|_| busy()).collect();
    emit(&Line::Ready)?;
    std::io::stdin().lock().read_to_end(&mut Vec::new()).context("wait for the end")?;
    stop.store(true, Ordering::Relaxed);
    for thread in all {
        let _ = thread.join();
    }
    Ok(())
}

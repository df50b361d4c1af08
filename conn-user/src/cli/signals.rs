//! Signals that end a run, or have the rules read again.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves at the first SIGINT, SIGTERM or SIGHUP. A second one ends the process at once, for an output that blocks.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn stop() -> io::Result<impl Future<Output = ()>> {
    first([SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
}

/// Resolves at the first SIGINT or SIGTERM, for a daemon, to which SIGHUP means something else ([`Hangups`]).
/// A second one ends the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn stop_daemon() -> io::Result<impl Future<Output = ()>> {
    first([SignalKind::interrupt(), SignalKind::terminate()])
}

/// SIGHUPs. From when this is made on none ends the process, and one that comes before [`Self::each`] is not forgotten.
pub(super) struct Hangups(Signal);

impl Hangups {
    /// # Errors
    /// When the handler cannot be installed.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Calls `act` at each, as long as the runtime lives; once for several that come meanwhile.
    pub(super) async fn each(mut self, mut act: impl AsyncFnMut()) {
        while self.0.recv().await.is_some() {
            act().await;
        }
    }
}

fn first(kinds: impl IntoIterator<Item = SignalKind>) -> io::Result<impl Future<Output = ()>> {
    let one = |kind: SignalKind| Ok((signal(kind)?, 128 + kind.as_raw_value()));
    let mut signals = kinds.into_iter().map(one).collect::<io::Result<Vec<_>>>()?;
    Ok(async move {
        next(&mut signals).await;
        tokio::spawn(async move { std::process::exit(next(&mut signals).await) });
    })
}

/// The exit code that goes with the next of them.
async fn next(signals: &mut [(Signal, i32)]) -> i32 {
    poll_fn(|context| {
        let mut ready = |signal: &mut Signal| signal.poll_recv(context).is_ready();
        let came = signals.iter_mut().find_map(|(signal, code)| ready(signal).then_some(*code));
        came.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Signals that are for a command as well, with who sent them. From when this is made on none ends the process.
pub(super) struct Forwarded(Vec<(Signal, i32, Arc<AtomicBool>)>);

impl Forwarded {
    /// SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2, but for those that are ignored, as by nohup(1): the command is to ignore
    /// them too, and a program starts with the default action of what we handle.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub(super) fn new() -> io::Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let kinds = kinds.into_iter().filter(|kind| !is_ignored(kind.as_raw_value()));
        let one = |kind: SignalKind| {
            let sent = Arc::new(AtomicBool::new(false));
            let by_process = Arc::clone(&sent);
            let number = kind.as_raw_value();
            // Before tokio's own action, which wakes who waits: actions are called in their order.
            // SAFETY: the action does nothing but store to an atomic, which a signal handler may.
            unsafe {
                signal_hook_registry::register_sigaction(number, move |info| {
                    // SI_KERNEL and others that the kernel sends are positive; SI_USER, SI_QUEUE and SI_TKILL are not.
                    if info.si_code <= 0 {
                        by_process.store(true, Ordering::Relaxed);
                    }
                })
            }?;
            Ok((signal(kind)?, number, sent))
        };
        kinds.map(one).collect::<io::Result<_>>().map(Self)
    }

    /// The next one, and whether a process sent it. Else the kernel did, for the terminal: to the whole foreground group.
    pub(super) async fn next(&mut self) -> (i32, bool) {
        poll_fn(|context| {
            for (signal, number, sent) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready((*number, sent.swap(false, Ordering::Relaxed)));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Whether this process ignores a signal.
fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given, the present one is written to memory that is valid for it, and zeros are an action.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_known() {
        // SAFETY: no handler is installed; nobody sends this signal, and by default it is discarded.
        let before = unsafe { libc::signal(libc::SIGURG, libc::SIG_IGN) };
        let ignored = is_ignored(libc::SIGURG);
        // SAFETY: as above, and the action is the one that was there.
        unsafe { libc::signal(libc::SIGURG, before) };
        assert!(ignored && !is_ignored(libc::SIGURG));
    }
}

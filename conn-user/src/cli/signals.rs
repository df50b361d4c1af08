//! Signals that end a run, or have the rules read again.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves at the first SIGINT, SIGTERM or SIGHUP. A second one ends the process at once, for an output that blocks.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn stop() -> io::Result<impl Future<Output = ()>> {
    first([SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
}

/// Likewise, without SIGHUP: that is another matter for a daemon ([`Hangups`]).
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

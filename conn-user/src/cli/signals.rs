//! Signals that end a run.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first SIGINT or SIGTERM; SIGHUP is another matter for a daemon.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn stop_daemon() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Calls `act` at each SIGHUP, as long as the runtime lives.
///
/// # Errors
/// When the handler cannot be installed.
pub(super) fn on_hangup(mut act: impl AsyncFnMut() + 'static) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            act().await;
        }
    })
}

/// Resolves at the first SIGINT, SIGTERM or SIGHUP. A second one ends the process at once, for an output that blocks.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn stop() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
            _ = hangup.recv() => 129,
        }
    };
    Ok(async move {
        next().await;
        tokio::spawn(async move { std::process::exit(next().await) });
    })
}

//! The BPF side's own diagnostics, on standard error.

use aya_log::EbpfLogger;
use log::{LevelFilter, Log, Metadata, Record};
use tokio::io::unix::AsyncFd;

use crate::event::escape;
use crate::kernel::load::Session;

/// Writes each record as one line on standard error.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = escape::string(record.args().to_string().as_bytes());
        eprintln!("conn: bpf: {}: {line}", record.level());
    }

    fn flush(&self) {}
}

/// Shows the diagnostics as they come, until the runtime ends.
///
/// # Errors
/// When the ring of the diagnostics cannot be watched.
pub(super) fn show(session: &mut Session) -> std::io::Result<()> {
    // aya-log asks the log crate too, whose filter is off by default.
    log::set_max_level(LevelFilter::Trace);
    let Some(logger) = session.log(Stderr) else { return Ok(()) };
    // SAFETY: the logger owns its ring's descriptor, which stays open and the same until it is dropped.
    let mut logger = unsafe { AsyncFd::<EbpfLogger<Stderr>>::register(logger) }?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}

//! Messages to people on standard error.
//!
//! Whoever reads it may sleep, as a journal that hangs does. A command that traces must not wait for it: from [`detach`] on
//! messages have a queue and a thread.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::machine;
use crate::event::fold::fold;
use crate::output::file::LineFile;
use crate::output::writer::{Class, Writer};

static QUEUE: Mutex<Option<Writer>> = Mutex::new(None);

fn queue() -> MutexGuard<'static, Option<Writer>> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on messages do not wait, until [`finish`].
///
/// # Errors
/// When there can be no thread.
pub(super) fn detach() -> io::Result<()> {
    let target = LineFile::standard(io::stderr())?;
    *queue() = Some(Writer::start("standard error", target, Arc::default())?);
    Ok(())
}

/// Writes what waits, as long as it is read. From here on messages are written at once again.
pub(super) async fn finish() {
    let writer = queue().take();
    if let Some(mut writer) = writer {
        writer.finish().await;
    }
}

/// Writes a message, in one piece: whoever waits for a line must not see half of it. Where it cannot be written, as on a full disk,
/// there is nobody to report; a daemon goes on.
pub(super) fn emit(text: impl fmt::Display) {
    write(format!("conn: {text}\n").as_bytes());
}

/// Writes a note, folded where the terminal is narrower. Not for what is to be copied, as a command is.
pub(super) fn note(text: impl fmt::Display) {
    let mut lines = Vec::new();
    fold(&format!("conn: note: {text}\n"), machine::message_width(), &mut lines);
    write(&lines);
}

/// Writes lines as they are; they must be whole.
pub(super) fn write(lines: &[u8]) {
    match queue().as_mut() {
        Some(writer) => {
            writer.line(Class::Important, |out| out.extend_from_slice(lines));
            let _ = writer.flush();
        }
        None => drop(io::stderr().write_all(lines)),
    }
}

//! Logs of Zeek (`conn.log`): recorded traffic of a network, judged as if it were events of the hosts in it.
//!
//! A line is written when its connection has ended, so lines are in no order of beginnings, and the longest connections, which
//! matter most, are furthest from their place. No window that is shorter than the longest connection would put them right. So
//! all lines of all logs are kept as small records ([`record`]) until the last is read, are sorted, and then become events in the
//! order of time ([`events`]).

mod events;
mod fields;
mod json;
mod record;
mod tsv;

use memchr::memmem;

pub use self::events::{Events, Network, NetworkStats, TooMany};
pub use self::record::{Record, Told, ZeekError};
use super::file::RecordingError;
use super::lines::{Cut, Line, Lines};

/// How the lines are written.
pub(super) enum Form {
    Tsv(tsv::Head),
    Json,
}

/// A log that is being read.
pub struct Log {
    lines: Lines,
    form: Form,
}

impl Log {
    /// The form of a log that begins with this line; `None`: it is no log of Zeek.
    pub(super) fn form(first: &[u8]) -> Option<Form> {
        let first = first.trim_ascii_start();
        let has = |key: &str| memmem::find(first, key.as_bytes()).is_some();
        match first.first()? {
            b'#' => Some(Form::Tsv(tsv::Head::default())),
            b'{' if has("\"id.orig_h\"") && !has("\"schema\"") => Some(Form::Json),
            _ => None,
        }
    }

    pub(super) const fn new(lines: Lines, form: Form) -> Self {
        Self { lines, form }
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.lines.name
    }

    /// Whether it is cut off.
    pub const fn cut(&self) -> Option<Cut> {
        self.lines.cut
    }

    /// What the next line tells; `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be read on, or a line is no connection. A last line without its end is none.
    pub fn read(&mut self) -> Result<Option<Told>, RecordingError> {
        loop {
            let Some(Line { text, is_last }) = self.lines.next()? else { return Ok(None) };
            let told = match &mut self.form {
                Form::Tsv(head) => head.read(text),
                Form::Json => json::read(text).map(Some),
            };
            match told {
                Ok(None) => {}
                Ok(Some(told)) => return Ok(Some(told)),
                Err(_) if is_last => {
                    self.lines.cut = Some(Cut::Line);
                    return Ok(None);
                }
                Err(error) => {
                    let (file, line) = (self.lines.name.clone(), self.lines.number);
                    return Err(RecordingError::Zeek { file, line, error });
                }
            }
        }
    }
}

//! Logs of Zeek (`conn.log`): recorded traffic of a network, judged as if it were events of the hosts in it.
//!
//! A line is written when its connection has ended, so lines are in no order of beginnings, and the longest connections, which
//! matter most, are furthest from their place. No window that is shorter than the longest connection would put them right. So
//! all lines of all logs are kept as small records ([`record`]) until the last is read, are sorted, and then become events in the
//! order of time ([`events`]).

pub(super) mod error;
mod events;
mod fields;
mod json;
mod record;
mod tsv;

use std::collections::BTreeMap;

use memchr::memmem;

pub use self::error::ZeekError;
pub use self::events::{Events, Network, NetworkStats, TooMany};
pub use self::record::{Record, Reported};
use super::error::RecordingError;
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
    /// Lines of connections that were read.
    connections: u64,
    /// Lines of other logs, by their names.
    others: BTreeMap<String, u64>,
}

/// Most names of other logs that are kept.
const LOGS_MAX: usize = 64;

impl Log {
    /// The form of a log that begins with this line; `None`: it is no log of Zeek.
    pub(super) fn form(first: &[u8]) -> Option<Form> {
        let first = first.trim_ascii_start();
        let has = |key: &str| memmem::find(first, key.as_bytes()).is_some();
        match first.first()? {
            b'#' => Some(Form::Tsv(tsv::Head::default())),
            // The first line of a stream of several logs may be of any of them.
            b'{' if (has("orig_h\"") || has("\"_path\"")) && !has("\"schema\"") => Some(Form::Json),
            _ => None,
        }
    }

    pub(super) const fn new(lines: Lines, form: Form) -> Self {
        Self { lines, form, connections: 0, others: BTreeMap::new() }
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.lines.name
    }

    /// Whether it is cut off.
    pub const fn cut(&self) -> Option<Cut> {
        self.lines.cut
    }

    /// How many lines of connections were read.
    pub const fn connections(&self) -> u64 {
        self.connections
    }

    /// How many lines of other logs were passed over, by their names.
    pub const fn others(&self) -> &BTreeMap<String, u64> {
        &self.others
    }

    /// What the next line reports; `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be read on, a line is no connection, or all are of other logs. A last line without its end is none.
    pub fn read(&mut self) -> Result<Option<Reported>, RecordingError> {
        loop {
            let Some(Line { text, is_last }) = self.lines.next()? else { return self.end().map(|()| None) };
            let reported = match &mut self.form {
                Form::Tsv(head) => head.read(text),
                Form::Json => json::read(text).map(Some),
            };
            match reported {
                Ok(None) => {}
                Ok(Some(Reported::Elsewhere(log))) => {
                    let is_known = self.others.len() < LOGS_MAX || self.others.contains_key(&log);
                    *self.others.entry(if is_known { log } else { "others".to_owned() }).or_default() += 1;
                }
                Ok(Some(reported)) => {
                    self.connections += 1;
                    return Ok(Some(reported));
                }
                Err(_) if is_last => {
                    self.lines.cut = Some(Cut::Line);
                    return Ok(None);
                }
                Err(error) => return Err(self.error(error)),
            }
        }
    }

    /// A file that has lines, and all of other logs, was not meant.
    fn end(&self) -> Result<(), RecordingError> {
        match self.others.first_key_value() {
            Some((log, _)) if self.connections == 0 => Err(self.error(ZeekError::Path(log.clone()))),
            _ => Ok(()),
        }
    }

    fn error(&self, error: ZeekError) -> RecordingError {
        RecordingError::Zeek { file: self.lines.name.clone(), line: self.lines.number, error }
    }
}

//! What is stored, as lines of text or of JSON.

use std::io::{self, Write};
use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::cli::machine;
use crate::clock::Clock;
use crate::event::human;
use crate::event::json::{JsonEncoder, StreamIdentity};
use crate::event::text::{TextFormatter, TextOptions};
use crate::history::read::lines::StoredLine;
use crate::history::read::pick::Shown;
use crate::units::{DurationNs, WallNs};

/// Writes one line each.
pub(super) struct Show {
    as_json: bool,
    json: Option<(Arc<StreamIdentity>, JsonEncoder)>,
    text: TextFormatter,
    now: WallNs,
    line: Vec<u8>,
}

impl Show {
    pub(super) fn new(as_json: bool, color: bool, terminal: bool) -> Self {
        let options = TextOptions {
            color,
            width: if terminal { machine::terminal_width() } else { None },
            netns: machine::own_netns(),
            zone: TimeZone::system(),
            dated: true,
        };
        let now = Clock::now().wall(crate::clock::boot_now());
        Self { as_json, json: None, text: TextFormatter::new(options), now, line: Vec::new() }
    }

    /// Writes a connection as its last event.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn connection(&mut self, shown: &Shown, out: &mut impl Write) -> io::Result<()> {
        let row = &shown.stored.row;
        let event = row.last_event();
        self.line.clear();
        if self.as_json {
            let run = &shown.stored.run;
            if self.json.as_ref().is_none_or(|(own, _)| own != run) {
                self.json = Some((Arc::clone(run), JsonEncoder::new(run)));
            }
            if let Some((_, encoder)) = &mut self.json {
                encoder.encode(&event, &mut self.line);
            }
            if row.count() > 1 {
                self.add(b"}\n", &format!(",\"count\":{}}}", row.count()));
            }
        } else {
            self.text.format(&event, &mut self.line);
            if row.count() > 1 {
                self.add(b"\n", &format!("  {} connections", row.count()));
            }
            if row.ended().is_none() {
                self.open(row.began(), shown.run_ended);
            }
        }
        out.write_all(&self.line)
    }

    /// Writes what is kept as a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn line(&mut self, stored: &StoredLine, out: &mut impl Write) -> io::Result<()> {
        self.line.clear();
        if self.as_json {
            self.line.extend_from_slice(stored.line.as_bytes());
            self.line.push(b'\n');
        } else {
            self.text.format(&stored.event, &mut self.line);
            if let Some(since) = stored.open_since {
                self.open(since, stored.run_ended);
            }
        }
        out.write_all(&self.line)
    }

    /// Says that it is open, and for how long; of a run that is over, that it was when that ended.
    fn open(&mut self, since: WallNs, run_ended: Option<WallNs>) {
        let mut age = Vec::new();
        let until = run_ended.unwrap_or(self.now);
        human::write_duration(DurationNs(until.0.saturating_sub(since.0)), &mut age);
        let age = String::from_utf8_lossy(&age).into_owned();
        let what = if run_ended.is_some() { "still open when the agent ended, after" } else { "open for" };
        self.add(b"\n", &format!("  {what} {age}"));
    }

    /// Adds to the line before its end.
    fn add(&mut self, end: &[u8], more: &str) {
        let length = self.line.len() - if self.line.ends_with(end) { end.len() } else { 0 };
        self.line.truncate(length);
        self.line.extend_from_slice(more.as_bytes());
        self.line.push(b'\n');
    }
}

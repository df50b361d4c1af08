//! What a replay reads: recordings of conn and logs of Zeek. Which it is, the content reports.

use std::io::{BufRead, Cursor};
use std::path::Path;

pub use super::error::{RecordingError, Shape};
use super::lines::{Cut, Line, Lines};
use super::zeek::Log;
use crate::event::read::{ReadError, Reader, Recorded};

/// A file that can be replayed.
pub enum Input {
    /// Events, as conn writes them.
    Events(Recording),
    /// Connections, as Zeek writes them.
    Zeek(Log),
}

impl Input {
    /// Opens a file, packed (gzip, Zstandard) or not; `-`: standard input.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        Self::of(Lines::open(path)?)
    }

    /// Reads text that is in memory and not packed; what is wrong is reported under this name.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_text(name: String, text: Vec<u8>) -> Result<Self, RecordingError> {
        Self::of(Lines::new(name, Box::new(Cursor::new(text))))
    }

    fn of(mut lines: Lines) -> Result<Self, RecordingError> {
        let first = lines.first()?;
        if let Some(shape) = Shape::of(first) {
            return Err(RecordingError::Shape { file: lines.name, shape });
        }
        Ok(match Log::form(first) {
            Some(form) => Self::Zeek(Log::new(lines, form)),
            None => Self::Events(Recording { lines }),
        })
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        match self {
            Self::Events(recording) => recording.name(),
            Self::Zeek(log) => log.name(),
        }
    }

    /// Whether nothing was in it, once it is read.
    pub const fn is_empty(&self) -> bool {
        match self {
            Self::Events(recording) => recording.lines.number == 0,
            Self::Zeek(log) => log.connections() == 0,
        }
    }

    /// Whether it is cut off: whoever wrote it did not end by itself.
    pub const fn cut(&self) -> Option<Cut> {
        match self {
            Self::Events(recording) => recording.cut(),
            Self::Zeek(log) => log.cut(),
        }
    }
}

/// A recording that is being read.
pub struct Recording {
    lines: Lines,
}

impl Recording {
    /// Opens a file as [`Input::open`] does, where only a recording of conn will do.
    ///
    /// # Errors
    /// When it cannot be opened or read, or is a log of Zeek.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        match Input::open(path)? {
            Input::Events(recording) => Ok(recording),
            Input::Zeek(log) => Err(RecordingError::OfZeek { file: log.name().to_owned() }),
        }
    }

    /// The line that was read last.
    pub fn line(&self) -> &[u8] {
        &self.lines.text
    }

    /// Reads from something that has a name.
    pub fn new(name: String, from: impl BufRead + Send + 'static) -> Self {
        Self { lines: Lines::new(name, Box::new(from)) }
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.lines.name
    }

    /// Whether it is cut off: the recorder did not end by itself.
    pub const fn cut(&self) -> Option<Cut> {
        self.lines.cut
    }

    /// The next event; `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be read on, or a line is no event. A last line without its end is none.
    pub fn next(&mut self, reader: &mut Reader) -> Result<Option<Recorded>, RecordingError> {
        let Some(Line { text, is_last }) = self.lines.next()? else { return Ok(None) };
        let text = text.trim_ascii_end();
        let recorded =
            str::from_utf8(text).map_err(|_| ReadError::Encoding).and_then(|text| reader.read(text));
        match recorded {
            Ok(recorded) => Ok(Some(recorded)),
            Err(_) if is_last => {
                self.lines.cut = Some(Cut::Line);
                Ok(None)
            }
            Err(error) => {
                Err(RecordingError::Line { file: self.lines.name.clone(), line: self.lines.number, error })
            }
        }
    }
}

//! The lines of recordings.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use thiserror::Error;

use crate::event::read::{ReadError, Reader, Recorded};
use crate::rules::file::shown;

/// A longer line is none of ours: arguments are bounded.
const LONGEST_LINE: u64 = 16 << 20;
/// Bytes that are read at once.
const ROOM: usize = 1 << 20;

/// Why a recording cannot be read on.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// It cannot be opened or read.
    #[error("reading {file}: {error}")]
    Io {
        /// Which.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// A line is no event.
    #[error("{file}: line {line}: {error}; a recording is what `conn tail --record > FILE` writes")]
    Line {
        /// In which file.
        file: String,
        /// Where, from 1.
        line: u64,
        /// What is wrong.
        error: ReadError,
    },
}

/// A recording that is being read.
pub struct Recording {
    name: String,
    from: Box<dyn BufRead + Send>,
    text: Vec<u8>,
    line: u64,
    is_cut: bool,
}

impl Recording {
    /// Opens a file; `-`: standard input.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        if path == Path::new("-") {
            return Ok(Self::new("standard input".to_owned(), BufReader::with_capacity(ROOM, io::stdin())));
        }
        let name = shown(path);
        match File::open(path) {
            Ok(file) => Ok(Self::new(name, BufReader::with_capacity(ROOM, file))),
            Err(error) => Err(RecordingError::Io { file: name, error }),
        }
    }

    /// Reads from something that has a name.
    pub fn new(name: String, from: impl BufRead + Send + 'static) -> Self {
        Self { name, from: Box::new(from), text: Vec::new(), line: 0, is_cut: false }
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line that was read last.
    pub fn line(&self) -> &[u8] {
        &self.text
    }

    /// Whether its last line is cut off: the recorder did not end by itself.
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The next event; `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be read on, or a line is no event. A last line without its end is none.
    pub fn next(&mut self, reader: &mut Reader) -> Result<Option<Recorded>, RecordingError> {
        loop {
            self.text.clear();
            let read = self.from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.text);
            let read = read.map_err(|error| RecordingError::Io { file: self.name.clone(), error })?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            let is_whole = self.text.ends_with(b"\n");
            let text = self.text.trim_ascii_end();
            if text.is_empty() {
                continue;
            }
            let recorded =
                str::from_utf8(text).map_err(|_| ReadError::Encoding).and_then(|text| reader.read(text));
            return match recorded {
                Ok(recorded) => Ok(Some(recorded)),
                Err(_) if !is_whole && (read as u64) < LONGEST_LINE => {
                    self.is_cut = true;
                    Ok(None)
                }
                Err(error) => Err(RecordingError::Line { file: self.name.clone(), line: self.line, error }),
            };
        }
    }
}

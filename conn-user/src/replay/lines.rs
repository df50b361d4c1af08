//! The lines of a file that is read once, from its beginning: as it is or unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use super::compressed::{Text, unpacked};
use super::error::RecordingError;
use crate::event::escape;

/// A longer line is none of ours: arguments are bounded.
const LONGEST_LINE: u64 = 16 << 20;
/// Bytes that are read at once.
const ROOM: usize = 1 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a file ended that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In the middle of its last line.
    Line,
    /// In the middle of its compressed data.
    Compressed,
}

/// A reader of lines.
pub(super) struct Lines {
    pub(super) name: String,
    from: Text,
    /// The line that was read last, with its end.
    pub(super) text: Vec<u8>,
    /// Of the last line, from 1.
    pub(super) number: u64,
    pub(super) cut: Option<Cut>,
}

/// A line without its end.
pub(super) struct Line<'l> {
    pub(super) text: &'l [u8],
    /// Nothing came after it, not even the end of the line: it may be cut off.
    pub(super) is_last: bool,
}

impl Lines {
    /// Opens a file; `-`: standard input.
    pub(super) fn open(path: &Path) -> Result<Self, RecordingError> {
        let failed = |name: &str, error| RecordingError::Io { file: name.to_owned(), error };
        let (name, text) = if path == Path::new("-") {
            ("standard input".to_owned(), unpacked(BufReader::with_capacity(ROOM, io::stdin())))
        } else {
            let name = escape::path(path);
            let file = File::open(path).map_err(|error| failed(&name, error))?;
            (name, unpacked(BufReader::with_capacity(ROOM, file)))
        };
        match text {
            Ok(text) => Ok(Self::new(name, text)),
            Err(error) => Err(failed(&name, error)),
        }
    }

    pub(super) fn new(name: String, from: Text) -> Self {
        Self { name, from, text: Vec::new(), number: 0, cut: None }
    }

    /// The first line that is not empty, which stays to be read. Empty: there is none.
    pub(super) fn first(&mut self) -> Result<&[u8], RecordingError> {
        let mut head = Vec::new();
        let mut begin = 0;
        let failed = loop {
            match self.from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut head) {
                Ok(0) => break None,
                Ok(_) if head[begin..].trim_ascii().is_empty() && begin < ROOM => begin = head.len(),
                Ok(_) => break None,
                Err(error) => break Some(error),
            }
        };
        // Windows writes it before UTF-8. It is no part of the text.
        if head.starts_with(BYTE_ORDER_MARK) {
            head.drain(..BYTE_ORDER_MARK.len());
            begin = begin.saturating_sub(BYTE_ORDER_MARK.len());
        }
        self.text = head[begin..].to_vec();
        let rest = std::mem::replace(&mut self.from, Box::new(io::empty()));
        self.from = match failed {
            None => Box::new(Cursor::new(head).chain(rest)),
            Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Box::new(Cursor::new(head).chain(BufReader::new(EndedEarly)))
            }
            Some(error) => return Err(RecordingError::Io { file: self.name.clone(), error }),
        };
        Ok(&self.text)
    }

    /// The next line that is not empty; `None`: there is none.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, RecordingError> {
        loop {
            self.text.clear();
            let read = match self.from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.text) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.cut = Some(Cut::Compressed);
                    return Ok(None);
                }
                Err(error) => return Err(RecordingError::Io { file: self.name.clone(), error }),
            };
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.text.trim_ascii().is_empty() {
                continue;
            }
            let is_last = !self.text.ends_with(b"\n") && (read as u64) < LONGEST_LINE;
            let end = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
            let text = end.strip_suffix(b"\r").unwrap_or(end);
            return Ok(Some(Line { text, is_last }));
        }
    }
}

/// What comes after the last byte of compressed data that end too early.
struct EndedEarly;

impl Read for EndedEarly {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

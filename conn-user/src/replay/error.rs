//! Why a recording cannot be read.

use std::io;

use thiserror::Error;

use super::zeek::error::ZeekError;
use crate::event::read::ReadError;

/// Why a recording cannot be read any further.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// The file cannot be opened or read.
    #[error("reading {file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// The cause.
        error: io::Error,
    },
    /// A line is not an event.
    #[error("{file}: line {line}: {error}; a recording is what `conn tail --record > FILE` writes")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        error: ReadError,
    },
    /// The file does not have one event on each line.
    #[error("{file}: {shape}")]
    Shape {
        /// The file.
        file: String,
        /// Its format.
        shape: Shape,
    },
    /// The file is a Zeek log, which has no processes.
    #[error("{file}: this is a log of Zeek, which knows no processes: only `conn replay` reads it")]
    OfZeek {
        /// The file.
        file: String,
    },
    /// A line of a Zeek log is not a connection.
    #[error("{file}: line {line}: {error}")]
    Zeek {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        error: ZeekError,
    },
}

/// A format that contains events but cannot be read as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Shape {
    /// UTF-16, which `PowerShell` writes on redirection.
    #[error("it is UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8")]
    Utf16,
    /// One JSON array.
    #[error("it is a JSON array; make it one object a line: jq -c '.[]'")]
    Array,
    /// JSON objects over several lines.
    #[error("its JSON goes over several lines; make it one object a line: jq -c .")]
    Pretty,
}

impl Shape {
    /// Returns the format of a file that starts with this line; `None`: one event on each line.
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        if first.starts_with(b"\xff\xfe") || first.starts_with(b"\xfe\xff") {
            return Some(Self::Utf16);
        }
        match first.trim_ascii() {
            [b'[', ..] => Some(Self::Array),
            b"{" => Some(Self::Pretty),
            _ => None,
        }
    }
}

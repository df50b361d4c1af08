//! Why a recording cannot be read.

use std::io;

use thiserror::Error;

use super::zeek::error::ZeekError;
use crate::event::read::ReadError;

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
    /// It is not written in lines.
    #[error("{file}: {shape}")]
    Shape {
        /// Which.
        file: String,
        /// How it is written.
        shape: Shape,
    },
    /// It is a log of Zeek, which has no processes.
    #[error("{file}: this is a log of Zeek, which knows no processes: only `conn replay` reads it")]
    OfZeek {
        /// Which.
        file: String,
    },
    /// A line of a Zeek log is no connection.
    #[error("{file}: line {line}: {error}")]
    Zeek {
        /// In which file.
        file: String,
        /// Where, from 1.
        line: u64,
        /// What is wrong.
        error: ZeekError,
    },
}

/// How a file is written that has what is asked for in another form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Shape {
    /// UTF-16, as `PowerShell` redirects it.
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
    /// That of a file that begins with this line; `None`: it has lines.
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

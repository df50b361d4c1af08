//! Decodes the bytes of the ring buffer to records, on the agent's side. Nothing here trusts a length or a number.
//!
//! The BPF object is compiled into the agent, so both sides normally agree. Should they not, these rules apply:
//! * A struct grows at its end only. A record that is longer than its struct is accepted and the rest ignored; the
//!   arguments of an exec are the last bytes of their record, so they stay right.
//! * A record that is shorter, that contradicts the length of the ring, or whose kind or hook is unknown is an error:
//!   half a record would be a wrong event. The reader counts it as `undecoded` in the totals.

use core::mem::size_of;

use crate::hook::HookId;
use crate::record::{
    EstablishedRecord, ExecRecord, ExitRecord, ForkRecord, RecordHeader, RecordKind, SockEndRecord,
    SockRecord, Task,
};

/// A record, decoded. The structs are copied out; the arguments of an exec are borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// See [`RecordKind::Connect`].
    Connect(SockRecord),
    /// See [`RecordKind::Accept`].
    Accept(SockRecord),
    /// See [`RecordKind::Close`].
    Close(SockEndRecord),
    /// See [`RecordKind::Established`].
    Established(EstablishedRecord),
    /// See [`RecordKind::End`].
    End(SockEndRecord),
    /// See [`RecordKind::Listen`].
    Listen(SockRecord),
    /// See [`RecordKind::Unlisten`].
    Unlisten(SockRecord),
    /// See [`RecordKind::Fork`].
    Fork(ForkRecord),
    /// See [`RecordKind::Exec`]: the struct and the argument bytes, NUL between them.
    Exec(Box<ExecRecord>, &'a [u8]),
    /// See [`RecordKind::Exit`].
    Exit(ExitRecord),
}

impl Record<'_> {
    /// Who wrote it, where it says so.
    pub const fn task(&self) -> Option<&Task> {
        match self {
            Self::Connect(record) | Self::Accept(record) | Self::Listen(record) | Self::Unlisten(record) => {
                Some(&record.task)
            }
            Self::Close(record) | Self::End(record) => Some(&record.task),
            Self::Exec(record, _) => Some(&record.task),
            Self::Exit(record) => Some(&record.task),
            Self::Established(_) | Self::Fork(_) => None,
        }
    }
}

/// Why bytes are not a record. The reader counts it and goes on with the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than a header, or than the kind needs.
    Short {
        /// Bytes that the kind needs.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// The header's `len` is not the length of the record in the ring.
    Length {
        /// `len` of the header.
        header: usize,
        /// Bytes there are.
        have: usize,
    },
    /// A length of an exec record exceeds the room of what it measures.
    Overrun {
        /// The member that holds the length.
        member: &'static str,
        /// Its value, bytes.
        value: usize,
        /// Bytes of room.
        room: usize,
    },
    /// No such [`RecordKind`].
    UnknownKind(u16),
    /// No such [`HookId`].
    UnknownHook(u16),
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Short { need, have } => write!(f, "a record of {have} bytes where its kind needs {need}"),
            Self::Length { header, have } => {
                write!(f, "a record of {have} bytes whose header says {header}")
            }
            Self::Overrun { member, value, room } => {
                write!(f, "an exec record with {member} {value} where {room} bytes fit")
            }
            Self::UnknownKind(kind) => write!(f, "a record of unknown kind {kind}"),
            Self::UnknownHook(hook) => write!(f, "a record of unknown hook {hook}"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl TryFrom<u16> for RecordKind {
    type Error = DecodeError;

    fn try_from(kind: u16) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Self::Connect,
            2 => Self::Accept,
            3 => Self::Close,
            4 => Self::Established,
            5 => Self::End,
            6 => Self::Listen,
            7 => Self::Unlisten,
            16 => Self::Fork,
            17 => Self::Exec,
            18 => Self::Exit,
            other => return Err(DecodeError::UnknownKind(other)),
        })
    }
}

impl TryFrom<u16> for HookId {
    type Error = DecodeError;

    fn try_from(hook: u16) -> Result<Self, DecodeError> {
        Self::from_number(hook).ok_or(DecodeError::UnknownHook(hook))
    }
}

/// Structs of integers for which every bit pattern is a value.
///
/// # Safety
/// The type has no padding, no references, and no invalid bit pattern.
unsafe trait Plain: Copy {}
// SAFETY: repr(C), integers and integer arrays only, no implicit padding (asserted in `record`).
unsafe impl Plain for RecordHeader {}
// SAFETY: as above.
unsafe impl Plain for SockRecord {}
// SAFETY: as above.
unsafe impl Plain for SockEndRecord {}
// SAFETY: as above.
unsafe impl Plain for EstablishedRecord {}
// SAFETY: as above.
unsafe impl Plain for ForkRecord {}
// SAFETY: as above.
unsafe impl Plain for ExecRecord {}
// SAFETY: as above.
unsafe impl Plain for ExitRecord {}

fn read<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    let need = size_of::<T>();
    if bytes.len() < need {
        return Err(DecodeError::Short { need, have: bytes.len() });
    }
    // SAFETY: the length was checked; T is Plain; read_unaligned asks no alignment.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Returns the header of a record and the hook that wrote it.
///
/// # Errors
/// When the bytes are too short or the hook is unknown.
pub fn header(bytes: &[u8]) -> Result<(RecordHeader, HookId), DecodeError> {
    let header: RecordHeader = read(bytes)?;
    Ok((header, HookId::try_from(header.hook)?))
}

/// Decodes one record. `bytes` are exactly those that the ring has for it.
///
/// # Errors
/// When the bytes are too short for their kind, contradict a length in the record, or the kind is unknown.
pub fn record(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let header: RecordHeader = read(bytes)?;
    let kind = RecordKind::try_from(header.kind)?;
    if usize::from(header.len) != bytes.len() {
        return Err(DecodeError::Length { header: header.len.into(), have: bytes.len() });
    }
    Ok(match kind {
        RecordKind::Connect => Record::Connect(read(bytes)?),
        RecordKind::Accept => Record::Accept(read(bytes)?),
        RecordKind::Close => Record::Close(read(bytes)?),
        RecordKind::Established => Record::Established(read(bytes)?),
        RecordKind::End => Record::End(read(bytes)?),
        RecordKind::Listen => Record::Listen(read(bytes)?),
        RecordKind::Unlisten => Record::Unlisten(read(bytes)?),
        RecordKind::Fork => Record::Fork(read(bytes)?),
        RecordKind::Exit => Record::Exit(read(bytes)?),
        RecordKind::Exec => {
            let exec: ExecRecord = read(bytes)?;
            fits("filename_len", exec.filename_len, exec.filename.len())?;
            fits("path_len", exec.path_len, exec.path.len())?;
            fits("args_len", exec.args_len, bytes.len() - size_of::<ExecRecord>())?;
            let (_, args) = bytes.split_at(bytes.len() - usize::from(exec.args_len));
            Record::Exec(Box::new(exec), args)
        }
    })
}

/// Checks a length of an exec record.
fn fits(member: &'static str, value: u16, room: usize) -> Result<(), DecodeError> {
    let value = usize::from(value);
    if value > room {
        return Err(DecodeError::Overrun { member, value, room });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

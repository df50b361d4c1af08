//! What an exec record says: path and arguments.

use conn_common::record::{ExecFlags, ExecRecord, Task};

/// The name of a task without its padding.
pub(super) fn comm(task: &Task) -> &[u8] {
    until_nul(&task.comm)
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// The path that the record carries whole, from the root.
pub(super) fn complete_path(record: &ExecRecord) -> Option<Box<[u8]>> {
    if record.flags & ExecFlags::PATH_COMPLETE == 0 {
        return None;
    }
    let names = record.path.get(..usize::from(record.path_len))?;
    let mut path = Vec::with_capacity(names.len() + 1);
    for name in names.split(|&b| b == 0).rev().filter(|name| !name.is_empty()) {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    (!path.is_empty()).then(|| path.into_boxed_slice())
}

/// The name as it was given to exec, if any.
pub(super) fn filename(record: &ExecRecord) -> Option<Box<[u8]>> {
    let name = until_nul(record.filename.get(..usize::from(record.filename_len))?);
    (!name.is_empty()).then(|| name.into())
}

/// Splits arguments at their NULs; the last one may lack its NUL.
pub(super) fn split_args(bytes: &[u8]) -> Box<[Box<[u8]>]> {
    if bytes.is_empty() {
        return Box::default();
    }
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|&b| b == 0).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::exec_record;

    #[test]
    fn path_is_turned_round() {
        let record = exec_record(1, 1, "/usr/bin/python3");
        assert_eq!(complete_path(&record).as_deref(), Some(&b"/usr/bin/python3"[..]));
    }

    #[test]
    fn path_that_is_not_complete_is_none() {
        let mut record = exec_record(1, 1, "/usr/bin/python3");
        record.flags = 0;
        assert_eq!(complete_path(&record), None);
    }

    #[test]
    fn lengths_beyond_the_fields_are_none() {
        let mut record = exec_record(1, 1, "/bin/x");
        record.path_len = u16::MAX;
        record.filename_len = u16::MAX;
        assert_eq!(complete_path(&record), None);
        assert_eq!(filename(&record), None);
    }

    #[test]
    fn memfd_has_one_component() {
        let record = exec_record(1, 1, "/memfd:x");
        assert_eq!(complete_path(&record).as_deref(), Some(&b"/memfd:x"[..]));
    }

    #[test]
    fn args_keep_empty_ones() {
        let args = split_args(b"a\0\0b\0");
        assert_eq!(args.iter().map(|a| &a[..]).collect::<Vec<_>>(), [&b"a"[..], b"", b"b"]);
        assert_eq!(split_args(b"a\0b").len(), 2);
        assert_eq!(split_args(b"").len(), 0);
        assert_eq!(split_args(b"\0").len(), 1);
    }
}

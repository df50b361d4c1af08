//! Bytes that end at a NUL, and arguments with NULs between them.

/// The bytes before the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// Splits arguments at their NULs; the last one may lack its NUL.
pub(super) fn split_args(bytes: &[u8]) -> Box<[Box<[u8]>]> {
    if bytes.is_empty() {
        return Box::default();
    }
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|&b| b == 0).map(Into::into).collect()
}

/// Splits what `/proc/PID/cmdline` shows. A process that writes a title over its arguments fills the rest of them with NULs
/// (`setproctitle`), which are no arguments; one empty argument behind others may have been passed.
pub(super) fn split_title(bytes: &[u8]) -> Box<[Box<[u8]>]> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let (title, nuls) = bytes.split_at(end);
    let was_passed = nuls.len() == 2 && title.contains(&0);
    split_args(if nuls.len() < 2 || was_passed { bytes } else { title })
}

/// Whether arguments are the same but for empty ones at their ends, which [`split_title`] may not show.
pub(super) fn are_alike(executed: &[Box<[u8]>], seen: &[Box<[u8]>]) -> bool {
    let filled = |args: &[Box<[u8]>]| args.iter().rposition(|arg| !arg.is_empty()).map_or(0, |at| at + 1);
    executed[..filled(executed)] == seen[..filled(seen)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_leaves_no_empty_arguments() {
        let split = |bytes: &[u8]| split_title(bytes).iter().map(|arg| arg.to_vec()).collect::<Vec<_>>();
        assert_eq!(split(b"nginx: master process\0\0\0\0\0\0"), [b"nginx: master process"]);
        assert_eq!(split(b"postgres: writer\0\0"), [b"postgres: writer"]);
        assert_eq!(split(b"a\0-b\0\0\0\0"), [&b"a"[..], b"-b"], "what is left of a longer line");
        assert_eq!(split(b"grep\0\0"), [b"grep"], "a title as likely as an argument");
        assert_eq!(split(b"grep\0-e\0\0"), [&b"grep"[..], b"-e", b""], "it may have been passed");
        assert_eq!(split(b"a\0\0b\0"), [&b"a"[..], b"", b"b"]);
        assert_eq!(split(b"a\0b"), [b"a", b"b"]);
        assert_eq!((split(b"").len(), split(b"\0").len(), split(b"\0\0\0").len()), (0, 1, 0));
    }

    #[test]
    fn empty_arguments_at_the_end_make_no_other_image() {
        let are = |executed: &[u8], seen: &[u8]| are_alike(&split_args(executed), &split_title(seen));
        assert!(are(b"x\0\0\0", b"x\0\0\0") && are(b"x\0\0", b"x\0\0"));
        assert!(!are(b"x\0y\0", b"x\0\0\0") && !are(b"x\0\0y\0", b"x\0y\0"));
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

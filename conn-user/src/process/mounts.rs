//! Lines of `/proc/PID/mountinfo`.

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount<'a> {
    /// Id of the mount.
    pub(super) id: u64,
    /// Where it is mounted, unescaped.
    pub(super) point: Vec<u8>,
    /// Type of the file system.
    pub(super) fs: &'a [u8],
}

/// A line of proc_pid_mountinfo(5): `36 35 98:0 /root /point options tag… - type source super-options`.
pub(super) fn parse(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|&b| b == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescape(fields.nth(3)?);
    let fs = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { id, point, fs })
}

/// Blanks, tabs, newlines and backslashes are `\NNN` in octal (`mangle` in fs/seq_file.c).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let code = rest.strip_prefix(b"\\").and_then(|code| code.get(..3));
        let byte = code.and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 8).ok());
        out.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &rest[4..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mount = parse(b"36 35 98:0 /mnt1 /a\\040b\\134 rw,noatime master:1 shared:2 - ext3 /dev/root rw")
            .expect("a mount");
        assert_eq!((mount.id, &mount.point[..], mount.fs), (36, &b"/a b\\"[..], &b"ext3"[..]));
        let bare = parse(b"1 0 0:2 / / rw - tmpfs - rw").expect("a mount");
        assert_eq!((bare.id, &bare.point[..], bare.fs), (1, &b"/"[..], &b"tmpfs"[..]));
        for line in [
            &b""[..],
            b"36",
            b"x 35 98:0 / / rw - a b",
            b"36 35 98:0 / / rw ext3 /dev/root",
            b"36 35 98:0 / /",
        ] {
            assert_eq!(parse(line), None);
        }
    }
}

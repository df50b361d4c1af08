//! `/proc/PID/mountinfo`, see proc_pid_mountinfo(5).

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Id of the mount.
    pub id: u64,
    /// Device of the file system (`super_block.s_dev`), as in `st_dev`. What stat(2) shows may be another one (btrfs).
    pub dev: u64,
    /// What of the file system is mounted, as it is written: a path, `net:[4026531840]`.
    pub root: &'a [u8],
    /// Where it is mounted, unescaped.
    pub point: Vec<u8>,
    /// Type of the file system.
    pub fs: &'a [u8],
}

/// Every mount in the text of the file; what is no line of it is passed over.
pub fn all(text: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    text.split(|&b| b == b'\n').filter_map(parse)
}

/// A line: `36 35 98:0 /root /point options tag… - type source super-options`.
fn parse(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|&b| b == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
    let dev = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
    let root = fields.next()?;
    let point = unescape(fields.next()?);
    let fs = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { id, dev, root, point, fs })
}

/// Blanks, tabs, newlines and backslashes are `\NNN` in octal (`mangle` in fs/seq_file.c).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.first_chunk::<3>().filter(|_| first == b'\\').and_then(|digits| {
            digits.iter().try_fold(0_u16, |sum, digit| {
                (b'0'..=b'7').contains(digit).then(|| sum * 8 + u16::from(digit - b'0'))
            })
        });
        if let Some(byte) = escaped.and_then(|code| u8::try_from(code).ok()) {
            bytes.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(unescape(b"a\\011b\\777\\08\\12"), b"a\tb\\777\\08\\12");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes).count();
        }
    }

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

//! Reading a file that decides what the agent does: never one that blocks or does not end, and with a warning when others than
//! those who run the agent may change it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::event::escape;

/// Who runs the agent.
#[derive(Clone, Copy, Debug)]
struct Own {
    uid: u32,
    gid: u32,
}

/// Reads the first `most` bytes of a regular file. What others may do to it is added to `warnings`, one line each.
///
/// # Errors
/// When it cannot be read, or is no regular file.
pub fn read(path: &Path, most: u64, warnings: &mut Vec<String>) -> io::Result<Vec<u8>> {
    // Without the flag the open of a FIFO waits for its writer (`fifo_open`, fs/pipe.c). It is looked at once it is open, so that
    // nobody can put another one into its place.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        let what = format!("it is {}, not a regular file", kind(&meta));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    // SAFETY: neither has arguments, nor can fail.
    let own = Own { uid: unsafe { libc::geteuid() }, gid: unsafe { libc::getegid() } };
    for warning in distrust(path, &meta, own) {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn kind(meta: &Metadata) -> &'static str {
    let of = meta.file_type();
    if of.is_dir() {
        "a folder"
    } else if of.is_fifo() {
        "a FIFO"
    } else if of.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Why others may change what is at a path.
fn distrust(path: &Path, meta: &Metadata, own: Own) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(why) = changed_by(meta, own) {
        all.push(format!("{} {why}", escape::path(path)));
    }
    let Ok(absolute) = std::path::absolute(path) else { return all };
    for link in absolute.ancestors() {
        let Ok(meta) = fs::symlink_metadata(link) else { continue };
        if meta.is_symlink() && !own.is_trusted(&meta) {
            all.push(format!(
                "{} is a symbolic link of uid {}, who may change it",
                escape::path(link),
                meta.uid()
            ));
        }
    }
    let Ok(canonical) = fs::canonicalize(path) else { return all };
    for folder in canonical.ancestors().skip(1) {
        let Ok(meta) = fs::metadata(folder) else { continue };
        // In a sticky folder nobody else may rename or replace a file (`__check_sticky`, fs/namei.c).
        let is_sticky = meta.mode() & libc::S_ISVTX != 0 && own.is_trusted(&meta);
        if let Some(why) = changed_by(&meta, own).filter(|_| !is_sticky) {
            all.push(format!("the folder {} {why}", escape::path(folder)));
        }
    }
    all
}

impl Own {
    fn is_trusted(self, meta: &Metadata) -> bool {
        meta.uid() == 0 || meta.uid() == self.uid
    }
}

fn changed_by(meta: &Metadata, own: Own) -> Option<String> {
    if !own.is_trusted(meta) {
        Some(format!("belongs to uid {}, who may change it", meta.uid()))
    } else if meta.mode() & 0o002 != 0 {
        Some("is world-writable".to_owned())
    } else if meta.mode() & 0o020 != 0 && meta.gid() != 0 && meta.gid() != own.gid {
        Some(format!("is writable by group {}", meta.gid()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
    use std::path::PathBuf;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const OTHER: u32 = 12_345;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("conn-source-{name}-{}", std::process::id()));
            fs::create_dir(&path).expect("a folder");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
            Self(path)
        }

        fn file(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, "a text").expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn warnings(path: &Path) -> Vec<String> {
        let mut warnings = Vec::new();
        assert_eq!(read(path, 100, &mut warnings).expect("read"), b"a text");
        let known = warnings.clone();
        read(path, 100, &mut warnings).expect("read");
        assert_eq!(warnings, known, "once");
        warnings
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = Folder::new("kinds");
        let fifo = folder.0.join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).expect("a FIFO");
        let _socket = std::os::unix::net::UnixListener::bind(folder.0.join("socket")).expect("a socket");
        for (path, what) in
            [(&*fifo, "a FIFO"), (Path::new("/dev/zero"), "a device"), (&*folder.0, "a folder")]
        {
            let error = read(path, 100, &mut Vec::new()).expect_err("no file").to_string();
            assert_eq!(error, format!("it is {what}, not a regular file"));
        }
        assert!(read(&folder.0.join("socket"), 100, &mut Vec::new()).is_err());
        let file = folder.file("file", 0o644);
        assert_eq!(read(&file, 3, &mut Vec::new()).expect("read"), b"a t");
    }

    #[test]
    fn what_others_may_change_is_warned_of() {
        let folder = Folder::new("trust");
        let fine = folder.file("fine", 0o644);
        assert_eq!(warnings(&fine), [""; 0]);
        let open = folder.file("open", 0o646);
        assert_eq!(warnings(&open), [format!("{} is world-writable", open.display())]);
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).expect("its mode");
        assert_eq!(warnings(&fine), [format!("the folder {} is world-writable", folder.0.display())]);
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o1777)).expect("its mode");
        assert_eq!(warnings(&fine), [""; 0], "nobody else may replace it");
        let link = folder.0.join("link");
        symlink(&fine, &link).expect("a link");
        assert_eq!(warnings(&link), [""; 0]);
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        lchown(&link, Some(OTHER), None).expect("an owner");
        let text = format!("{} is a symbolic link of uid {OTHER}, who may change it", link.display());
        assert_eq!(warnings(&link), [text]);
        let group = folder.file("group", 0o664);
        chown(&group, None, Some(OTHER)).expect("a group");
        assert_eq!(warnings(&group), [format!("{} is writable by group {OTHER}", group.display())]);
        chown(&group, Some(OTHER), None).expect("an owner");
        let text = format!("{} belongs to uid {OTHER}, who may change it", group.display());
        assert_eq!(warnings(&group), [text]);
    }
}

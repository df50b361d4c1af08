//! How conn knows its own processes: by their executable file and user. A name or path anybody may have.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::file_stat::FileStat;
use super::host;
use super::info::{FileId, ProcessInfo};

/// The executable of this process, and its user. While it runs nobody can write to the file (`ETXTBSY`,
/// `deny_write_access`).
#[derive(Clone, Debug)]
pub(super) struct Own {
    /// As `stat` numbers it, and with the device of its file system, as the kernel's records do.
    files: [Option<FileId>; 2],
    uid: u32,
}

impl Own {
    /// Of this process.
    pub(super) fn find(proc: &Path) -> io::Result<Self> {
        let process = proc.join("self");
        let exe = File::open(process.join("exe"))?;
        let file = FileStat::of(&exe)?.file;
        let on_disk = host::device(&exe, &process.join("mountinfo")).map(|dev| FileId { dev, ..file });
        Ok(Self { files: [Some(file), on_disk], uid: fs::metadata(process)?.uid() })
    }

    /// Whether this process runs that file as that user. Another user's process may have been given other code
    /// (`LD_PRELOAD`).
    pub(super) fn is(&self, process: &ProcessInfo) -> bool {
        process.exe_file.is_some() && self.files.contains(&process.exe_file) && process.uid == self.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BootNs, Pid};

    #[test]
    fn by_the_file_and_the_user_and_never_by_a_name() {
        let own = Own::find(Path::new("/proc")).expect("this process");
        let exe = fs::metadata("/proc/self/exe").expect("its executable");
        let file = FileId { dev: exe.dev(), inode: exe.ino() };
        let uid = fs::metadata("/proc/self").expect("this process").uid();
        let process = |exe_file, uid| ProcessInfo {
            comm: b"conn"[..].into(),
            exe: Some(b"/usr/bin/conn"[..].into()),
            exe_file,
            uid,
            ..ProcessInfo::new(Pid(7), BootNs(7))
        };
        assert!(own.is(&process(Some(file), uid)));
        assert!(!own.is(&process(Some(file), uid + 1)), "another user's");
        assert!(!own.is(&process(Some(FileId { inode: file.inode + 1, ..file }), uid)), "another file");
        assert!(!own.is(&process(None, uid)), "a name is nothing");
    }
}

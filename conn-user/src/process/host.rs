//! The host's mounts and files: what process 1 sees, or, where that may not be read, this agent.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::file_stat::FileStat;
use super::files::{Caller, FileError, FileWorker};
use super::info::FileId;
use crate::host::mounts;

/// The host's mount namespace and root.
#[derive(Debug)]
pub(super) struct Host {
    /// Inode number of that namespace.
    pub(super) mnt_ns: Option<u32>,
    root: PathBuf,
    mountinfo: PathBuf,
    known: Mutex<Option<Known>>,
}

/// Ids of mounts are used again, so the table is read anew after every change.
#[derive(Debug)]
struct Known {
    mountinfo: File,
    ids: HashSet<u64>,
}

impl Host {
    /// Of process 1, or, where that cannot be read, of this one.
    pub(super) fn of(proc: &Path) -> Self {
        let number = |process: &str| {
            let meta = fs::metadata(proc.join(process).join("ns/mnt")).ok()?;
            u32::try_from(meta.ino()).ok()
        };
        let (mnt_ns, process) = match number("1") {
            Some(mnt_ns) => (Some(mnt_ns), "1"),
            None => (number("self"), "self"),
        };
        let process = proc.join(process);
        Self {
            mnt_ns,
            root: process.join("root"),
            mountinfo: process.join("mountinfo"),
            known: Mutex::default(),
        }
    }

    /// Whether the mount of what a path leads to is one of the host's. False where that cannot be known.
    pub(super) fn has(&self, path: &Path) -> bool {
        // Nobody is asked who may not answer: a FUSE server is not.
        let flags = AtFlags::STATX_DONT_SYNC;
        let Ok(stat) = rustix::fs::statx(CWD, path, flags, StatxFlags::MNT_ID) else { return false };
        stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 && self.has_id(stat.stx_mnt_id).unwrap_or(false)
    }

    fn has_id(&self, id: u64) -> io::Result<bool> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match &mut *known {
            Some(known) => known,
            none => none.insert(Known { mountinfo: File::open(&self.mountinfo)?, ids: HashSet::new() }),
        };
        if known.ids.is_empty() || known.has_changed()? {
            known.read()?;
        }
        Ok(known.ids.contains(&id))
    }
}

impl Host {
    /// Whether `file` is what `path` leads to in the host's mount namespace. `None`: that cannot be known.
    pub(super) fn is_own_file(
        &self,
        path: &[u8],
        file: FileId,
        files: &mut FileWorker,
        caller: Caller,
    ) -> Option<bool> {
        if !path.starts_with(b"/") {
            return None;
        }
        match files.open(&self.root, path, caller) {
            Ok(found) => Some(is_file(&found, file, &self.mountinfo)),
            Err(error) if is_nothing(&error) => Some(false),
            Err(_) => None,
        }
    }
}

impl Known {
    /// The kernel marks the file when the namespace changed since it was last asked (`mounts_poll`, fs/proc_namespace.c).
    fn has_changed(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.mountinfo, PollFlags::PRI)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(fds[0].revents().intersects(PollFlags::PRI | PollFlags::ERR))
    }

    fn read(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        self.mountinfo.rewind()?;
        self.mountinfo.read_to_end(&mut text)?;
        self.ids = mounts::all(&text).map(|mount| mount.id).collect();
        Ok(())
    }
}

/// Whether an open file is this one. The device may be the one of stat(2) or that of the file system itself, which is what
/// the kernel's records have; `mountinfo` has the file's mount.
pub(super) fn is_file(found: &File, file: FileId, mountinfo: &Path) -> bool {
    let Ok(stat) = FileStat::of(found) else { return false };
    let is_device = || stat.file.dev == file.dev || device(found, mountinfo) == Some(file.dev);
    stat.file.inode == file.inode && is_device()
}

/// The device of the file system that a file lies on (`super_block.s_dev`), by its mount.
pub(super) fn device(file: &File, mountinfo: &Path) -> Option<u64> {
    let id = mount_id(file)?;
    mounts::all(&fs::read(mountinfo).ok()?).find(|mount| mount.id == id).map(|mount| mount.dev)
}

/// The id of an open file's mount.
pub(super) fn mount_id(file: &File) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Whether an error says that there is no such file.
pub(super) fn is_nothing(error: &FileError) -> bool {
    matches!(error, FileError::Io(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn the_hosts_files_are_known_by_device_and_inode() {
        let (host, exe) = (Host::of(Path::new("/proc")), std::env::current_exe().expect("exe"));
        let meta = fs::metadata(&exe).expect("metadata");
        let own = FileId { dev: meta.dev(), inode: meta.ino() };
        let path = exe.as_os_str().as_bytes();
        let (mut files, caller) = (FileWorker::for_test(), Caller { uid: 0, dev: None });
        let mut is_own = |path, file| host.is_own_file(path, file, &mut files, caller);
        assert_eq!(is_own(path, own), Some(true));
        assert_eq!(is_own(path, FileId { inode: own.inode + 1, ..own }), Some(false));
        assert_eq!(is_own(path, FileId { dev: own.dev + 1, ..own }), Some(false));
        assert_eq!(is_own(b"/nonexistent/x", own), Some(false));
        assert_eq!(is_own(b"memfd:x", own), None);
    }

    #[test]
    fn mounts_are_the_hosts_or_not() {
        let host = Host::of(Path::new("/proc"));
        assert!(host.mnt_ns.is_some());
        assert!(host.has(&host.root));
        assert!(!host.has(Path::new("/proc/self/ns/net")), "no mount of any namespace");
        assert!(!host.has(Path::new("/nonexistent")));
    }
}

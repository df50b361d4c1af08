//! The file of an executable: found again, looked at, and never taken for another one.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::host;
use super::identity::{ExeFile, Replaced};
use super::info::FileId;
use super::procfs::ProcFs;
use crate::kernel::mounts;
use crate::units::{BootNs, Pid, WallNs};

/// Which process's executable is meant, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) pid: Pid,
    pub(super) start: BootNs,
    pub(super) path: Option<&'a [u8]>,
    pub(super) file: Option<FileId>,
    pub(super) deleted: bool,
    /// When it was executed, where that was seen.
    pub(super) executed: Option<WallNs>,
}

/// An executable that was found: held open, so that it stays this file.
#[derive(Debug)]
pub(super) struct Found {
    file: File,
    pub(super) meta: Metadata,
    /// By its process, which still runs it.
    live: bool,
}

/// A lower bound of how far the clock of files is behind: it moves with the timer tick, 10 ms at HZ=100
/// (`ktime_get_coarse_real_ts64`).
const COARSE_CLOCK: Duration = Duration::from_millis(10);

impl Found {
    /// Finds the executable by its process, or else, where the process is gone, by its path.
    pub(super) fn find(proc: &ProcFs, wanted: Wanted<'_>) -> Option<Self> {
        let by_process = || {
            let found = Self::open(&proc.file(wanted.pid, "exe"), true)?;
            // A process may set where the link leads (PR_SET_MM_MAP), and execute another file: only the file that is
            // known of it counts.
            let mountinfo = proc.file(wanted.pid, "mountinfo");
            let same = wanted.file.is_none_or(|file| host::is_file(&found.file, file, &mountinfo));
            (same && proc.is_there(wanted.pid, wanted.start)).then_some(found)
        };
        by_process().or_else(|| Self::by_path(wanted))
    }

    fn by_path(wanted: Wanted<'_>) -> Option<Self> {
        let (Some(path), Some(file), Some(executed), false) =
            (wanted.path, wanted.file, wanted.executed, wanted.deleted)
        else {
            return None;
        };
        let found = Self::open(Path::new(OsStr::from_bytes(path)), false)?;
        let same = file == FileId { dev: found.meta.dev(), inode: found.meta.ino() };
        // Nobody touched it since: `ctime` cannot be set.
        let changed = time(found.meta.ctime(), found.meta.ctime_nsec()) + COARSE_CLOCK;
        let executed = SystemTime::UNIX_EPOCH + Duration::from_nanos(executed.0);
        (same && changed < executed).then_some(found)
    }

    fn open(path: &Path, live: bool) -> Option<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
        let meta = file.metadata().ok()?;
        meta.is_file().then_some(Self { file, meta, live })
    }

    /// Opens it to be read.
    pub(super) fn content(&self) -> Option<File> {
        // The link of a descriptor leads to the same file, whatever bears its name now.
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())).ok()
    }

    /// Where it lies, and who may write it.
    pub(super) fn describe(&self, proc: &ProcFs, wanted: Wanted<'_>) -> ExeFile {
        let mounted = self.mounted(proc, wanted.pid).unwrap_or_default();
        ExeFile { writable: self.writable(proc, wanted), ..mounted }
    }

    fn mounted(&self, proc: &ProcFs, pid: Pid) -> Option<ExeFile> {
        let id = host::mount_id(&self.file)?;
        // The mounts of the process's own namespace: ids are the same in all.
        let table =
            if self.live { proc.file(pid, "mountinfo") } else { PathBuf::from("/proc/self/mountinfo") };
        let text = fs::read(table).ok()?;
        let mount = mounts::all(&text).find(|mount| mount.id == id)?;
        Some(ExeFile { fs: Some(mount.fs.into()), mount: Some(mount.point.into()), writable: None })
    }

    fn writable(&self, proc: &ProcFs, wanted: Wanted<'_>) -> Option<bool> {
        const BY_ALL: u32 = 0o002;
        if self.meta.mode() & BY_ALL != 0 {
            return Some(true);
        }
        let path = Path::new(OsStr::from_bytes(wanted.path?));
        let folder = |path: &Path| Some(fs::metadata(path.parent()?).ok()?.mode() & BY_ALL != 0);
        // Its path is one of its own root or of ours: where the file is, the folder is the right one.
        let inside = proc.file(wanted.pid, "root").join(path.strip_prefix("/").unwrap_or(path));
        let is_it = |path: &Path| {
            fs::metadata(path)
                .is_ok_and(|meta| meta.ino() == self.meta.ino() && meta.dev() == self.meta.dev())
        };
        if let Some(path) = [inside.as_path(), path].into_iter().find(|path| is_it(path)) {
            return folder(path);
        }
        // A deleted file has no name that proves it, but the kernel still knows the folder's.
        if wanted.deleted && self.live { folder(&inside) } else { None }
    }
}

/// Whether `path`, that of the executable of the process (`pid`, `start`), leads to the file that the process runs. `None`:
/// that cannot be known: the process is gone or out of reach, or the path is not one from the root.
///
/// The kernel itself follows the name: the link `/proc/PID/exe` shows where the file was moved to, and ` (deleted)` when it
/// was unlinked or another one was renamed over it (`d_path`, fs/d_path.c). Only then the path is looked up, in the root of
/// the process: that of a container is not ours.
pub(super) fn replaced(proc: &ProcFs, pid: Pid, start: BootNs, path: &[u8]) -> Option<Replaced> {
    const MARK: &[u8] = b" (deleted)";
    if !path.starts_with(b"/") {
        return None;
    }
    let link = proc.file(pid, "exe");
    let running = fs::metadata(&link).ok()?;
    let name = fs::read_link(&link).ok()?;
    let replaced = if name.as_os_str().as_bytes() == path && !path.ends_with(MARK) {
        Replaced::No
    } else {
        let is_it = |meta: &Metadata| meta.ino() == running.ino() && meta.dev() == running.dev();
        match host::inside(&proc.file(pid, "root"), path) {
            Ok(meta) if is_it(&meta) => Replaced::No,
            Ok(_) => Replaced::Other,
            Err(error) if host::is_nothing(&error) => {
                // After a chroot(2) the path is still one of the root of its mounts, which is ours where the mounts are.
                let ours = fs::metadata(proc.file(pid, "ns/mnt")).ok()?.ino()
                    == fs::metadata("/proc/self/ns/mnt").ok()?.ino();
                let outside = if ours { fs::metadata(OsStr::from_bytes(path)) } else { Err(error) };
                match outside {
                    Ok(meta) if is_it(&meta) => Replaced::No,
                    Ok(_) => Replaced::Other,
                    Err(error) if host::is_nothing(&error) => Replaced::Gone,
                    Err(_) => return None,
                }
            }
            Err(_) => return None,
        }
    };
    proc.is_there(pid, start).then_some(replaced)
}

fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let whole = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH + whole + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

#[cfg(test)]
#[path = "exe_tests.rs"]
pub(crate) mod tests;

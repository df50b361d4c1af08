//! The file of an executable: found again, looked at, and never taken for another one.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::file_stat::FileStat;
use super::files::{Caller, FileWorker, OWN_ROOT};
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
    /// Real user of the process.
    pub(super) uid: u32,
}

impl Wanted<'_> {
    fn caller(&self) -> Caller {
        Caller { uid: self.uid, dev: self.file.map(|file| file.dev) }
    }
}

/// An executable that was found: held open, so that it stays this file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: File,
    pub(super) stat: FileStat,
    /// By its process, which still runs it.
    live: bool,
}

/// A lower bound of how far the clock of files is behind: it moves with the timer tick, 10 ms at HZ=100
/// (`ktime_get_coarse_real_ts64`).
const COARSE_CLOCK: Duration = Duration::from_millis(10);

impl Found {
    /// Finds the executable by its process, or else, where the process is gone, by its path.
    pub(super) fn find(proc: &ProcFs, files: &mut FileWorker, wanted: Wanted<'_>) -> Option<Self> {
        let by_process = || {
            // The link leads to the file itself, so no file system is asked for it.
            let folder = proc.live(wanted.pid);
            let link = folder.join("exe");
            let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(link).ok()?;
            let found = Self::of(file, true)?;
            // A process may set where the link leads (PR_SET_MM_MAP), and execute another file: only the file that is
            // known of it counts.
            let mountinfo = folder.join("mountinfo");
            let same = wanted.file.is_none_or(|file| host::is_file(&found.file, file, &mountinfo));
            (same && proc.is_there(wanted.pid, wanted.start)).then_some(found)
        };
        by_process().or_else(|| Self::by_path(files, wanted))
    }

    fn by_path(files: &mut FileWorker, wanted: Wanted<'_>) -> Option<Self> {
        let (Some(path), Some(file), Some(executed), false) =
            (wanted.path, wanted.file, wanted.executed, wanted.deleted)
        else {
            return None;
        };
        let found = Self::of(files.open(Path::new(OWN_ROOT), path, wanted.caller()).ok()?, false)?;
        let same = file == found.stat.file;
        // Nobody touched it since: `ctime` cannot be set.
        let changed = time(found.stat.ctime) + COARSE_CLOCK;
        let executed = SystemTime::UNIX_EPOCH + Duration::from_nanos(executed.0);
        (same && changed < executed).then_some(found)
    }

    fn of(file: File, live: bool) -> Option<Self> {
        let stat = FileStat::of(&file).ok()?;
        stat.is_file().then_some(Self { file, stat, live })
    }

    /// Where it lies, and who may write it.
    pub(super) fn describe(&self, proc: &ProcFs, files: &mut FileWorker, wanted: Wanted<'_>) -> ExeFile {
        let mounted = self.mounted(proc, wanted.pid).unwrap_or_default();
        ExeFile { writable: self.writable(proc, files, wanted), ..mounted }
    }

    fn mounted(&self, proc: &ProcFs, pid: Pid) -> Option<ExeFile> {
        let id = host::mount_id(&self.file)?;
        // The mounts of the process's own namespace: ids are the same in all.
        let table =
            if self.live { proc.live(pid).join("mountinfo") } else { PathBuf::from("/proc/self/mountinfo") };
        let text = fs::read(table).ok()?;
        let mount = mounts::all(&text).find(|mount| mount.id == id)?;
        Some(ExeFile { fs: Some(mount.fs.into()), mount: Some(mount.point.into()), writable: None })
    }

    fn writable(&self, proc: &ProcFs, files: &mut FileWorker, wanted: Wanted<'_>) -> Option<bool> {
        const BY_ALL: u32 = 0o002;
        if self.stat.mode & BY_ALL != 0 {
            return Some(true);
        }
        let path = wanted.path?;
        let mut stat =
            |root: &Path, path: &[u8]| FileStat::of(files.open(root, path, wanted.caller()).ok()?).ok();
        let parent = Path::new(OsStr::from_bytes(path)).parent()?.as_os_str().as_bytes();
        // Its path is one of its own root or of ours: where the file is, the folder is the right one.
        let inside = proc.live(wanted.pid).join("root");
        for root in [&*inside, Path::new(OWN_ROOT)] {
            if stat(root, path).is_some_and(|stat| stat.file == self.stat.file) {
                return Some(stat(root, parent)?.mode & BY_ALL != 0);
            }
        }
        // A deleted file has no name that proves it, but the kernel still knows the folder's.
        if wanted.deleted && self.live { Some(stat(&inside, parent)?.mode & BY_ALL != 0) } else { None }
    }
}

/// Whether `path`, that of the executable of the process (`pid`, `start`), leads to the file that the process runs. `None`:
/// that cannot be known: the process is gone or out of reach, or the path is not one from the root.
///
/// The kernel itself follows the name: the link `/proc/PID/exe` shows where the file was moved to, and ` (deleted)` when it
/// was unlinked or another one was renamed over it (`d_path`, fs/d_path.c). Only then the path is looked up, in the root of
/// the process: that of a container is not ours.
pub(super) fn replaced(
    proc: &ProcFs,
    files: &mut FileWorker,
    (pid, start, uid): (Pid, BootNs, u32),
    path: &[u8],
) -> Option<Replaced> {
    const MARK: &[u8] = b" (deleted)";
    if !path.starts_with(b"/") {
        return None;
    }
    let folder = proc.live(pid);
    let link = folder.join("exe");
    let running = FileStat::at_link(&link).ok()?.file;
    let name = fs::read_link(&link).ok()?;
    let replaced = if name.as_os_str().as_bytes() == path && !path.ends_with(MARK) {
        Replaced::No
    } else {
        let caller = Caller { uid, dev: Some(running.dev) };
        let mut look = |root: &Path| match files.open(root, path, caller) {
            Ok(found) if FileStat::of(&found).ok()?.file == running => Some(Replaced::No),
            Ok(_) => Some(Replaced::Other),
            Err(error) if host::is_nothing(&error) => Some(Replaced::Gone),
            Err(_) => None,
        };
        match look(&folder.join("root"))? {
            Replaced::Gone => {
                // After a chroot(2) the path is still one of the root of its mounts, which is ours where the mounts are.
                let ours = fs::metadata(folder.join("ns/mnt")).ok()?.ino()
                    == fs::metadata("/proc/self/ns/mnt").ok()?.ino();
                if ours { look(Path::new(OWN_ROOT))? } else { Replaced::Gone }
            }
            found => found,
        }
    };
    proc.is_there(pid, start).then_some(replaced)
}

fn time((seconds, nanoseconds): (i64, u32)) -> SystemTime {
    let whole = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH + whole + Duration::from_nanos(nanoseconds.into())
}

#[cfg(test)]
#[path = "exe_tests.rs"]
pub(crate) mod tests;

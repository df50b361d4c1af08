//! The file of an executable: found again, looked at, and never taken for another one.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
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
use crate::host::mounts;
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
    /// Real user and group of the process.
    pub(super) uid: u32,
    pub(super) gid: u32,
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
        let file = Writers::of(&self.stat, proc, wanted);
        let folder = if file.all { None } else { self.folder(proc, files, wanted) };
        let folder = folder.map(|folder| Writers::of(&folder, proc, wanted));
        // What the file says stands without its folder; that neither may be written takes both.
        let either = |of: fn(Writers) -> bool| if of(file) { Some(true) } else { folder.map(of) };
        let (writable, user_writable) = (either(|by| by.all), either(|by| by.user));
        ExeFile { writable, user_writable, ..mounted }
    }

    /// Returns whether the file has no name any more: the kernel marks the link of a process to it (`d_path`, fs/d_path.c).
    pub(super) fn is_deleted(&self, proc: &ProcFs, wanted: Wanted<'_>) -> bool {
        let link = || fs::read_link(proc.file(wanted.pid, "exe")).ok();
        let is_marked = || link().zip(wanted.path).is_some_and(|(link, path)| is_marked(&link, path));
        self.live && (self.stat.links == 0 || is_marked())
    }

    fn mounted(&self, proc: &ProcFs, pid: Pid) -> Option<ExeFile> {
        let id = host::mount_id(&self.file)?;
        // The mounts of the process's own namespace: ids are the same in all.
        let table =
            if self.live { proc.live(pid).join("mountinfo") } else { PathBuf::from("/proc/self/mountinfo") };
        let text = fs::read(table).ok()?;
        let mount = mounts::all(&text).find(|mount| mount.id == id)?;
        let (fs, mount) = (Some(mount.fs.into()), Some(mount.point.into()));
        Some(ExeFile { fs, mount, ..ExeFile::default() })
    }

    /// Returns the attributes of the directory that the file is in.
    fn folder(&self, proc: &ProcFs, files: &mut FileWorker, wanted: Wanted<'_>) -> Option<FileStat> {
        let path = wanted.path?;
        let mut stat =
            |root: &Path, path: &[u8]| FileStat::of(files.open(root, path, wanted.caller()).ok()?).ok();
        let parent = Path::new(OsStr::from_bytes(path)).parent()?.as_os_str().as_bytes();
        // Its path is one of its own root or of ours: where the file is, the folder is the right one.
        let inside = proc.live(wanted.pid).join("root");
        for root in [&*inside, Path::new(OWN_ROOT)] {
            if stat(root, path).is_some_and(|stat| stat.file == self.stat.file) {
                return stat(root, parent);
            }
        }
        // A deleted file has no name that proves it, but the kernel still knows the folder's.
        if self.live && (wanted.deleted || self.is_deleted(proc, wanted)) {
            stat(&inside, parent)
        } else {
            None
        }
    }
}

const BY_GROUP: u32 = 0o020;
const BY_ALL: u32 = 0o002;

/// Who may write a file or directory, or change its mode so.
#[derive(Clone, Copy, Debug)]
struct Writers {
    all: bool,
    /// The user of a process, by itself or by a group. Root may write everything, which says nothing.
    user: bool,
}

impl Writers {
    fn of(stat: &FileStat, proc: &ProcFs, wanted: Wanted<'_>) -> Self {
        let all = stat.mode & BY_ALL != 0;
        let by_group = || {
            stat.mode & BY_GROUP != 0 && (stat.gid == wanted.gid || proc.is_in_group(wanted.pid, stat.gid))
        };
        Self { all, user: wanted.uid != 0 && (all || stat.uid == wanted.uid || by_group()) }
    }
}

/// The mark that the kernel puts behind a name that is none any more.
const MARK: &[u8] = b" (deleted)";

/// Returns whether a link to the file at `path` shows that it has no name any more.
fn is_marked(link: &Path, path: &[u8]) -> bool {
    link.as_os_str().as_bytes().ends_with(MARK) && !path.ends_with(MARK)
}

/// What became of an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    /// What its path leads to.
    pub(super) replaced: Replaced,
    /// It has no name any more.
    pub(super) deleted: bool,
}

/// A process image of which [`replaced`] is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    pub(super) pid: Pid,
    pub(super) start: BootNs,
    pub(super) uid: u32,
    /// Its executable, where that is known.
    pub(super) file: Option<FileId>,
    pub(super) path: &'a [u8],
}

/// Whether the path of the executable of an image leads to the file that it runs. `None`: that cannot be known: the process is gone
/// or out of reach, has executed another program since, or the path is not one from the root.
///
/// The kernel itself follows the name: the link `/proc/PID/exe` shows where the file was moved to, and ` (deleted)` when it
/// was unlinked or another one was renamed over it (`d_path`, fs/d_path.c). Only then the path is looked up, in the root of
/// the process: that of a container is not ours.
pub(super) fn replaced(proc: &ProcFs, files: &mut FileWorker, image: Image<'_>) -> Option<Fate> {
    let Image { pid, start, uid, file, path } = image;
    if !path.starts_with(b"/") {
        return None;
    }
    let folder = proc.live(pid);
    // Opened once: the process may execute another program meanwhile, which is another file with another name.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(folder.join("exe")).ok()?;
    if !file.is_none_or(|file| host::is_file(&open, file, &folder.join("mountinfo"))) {
        return None;
    }
    let running = FileStat::of(&open).ok()?;
    let name = fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd())).ok()?;
    let replaced = if name.as_os_str().as_bytes() == path && !path.ends_with(MARK) {
        Replaced::No
    } else {
        let caller = Caller { uid, dev: Some(running.file.dev) };
        let mut look = |root: &Path| match files.open(root, path, caller) {
            Ok(found) => {
                let found = FileStat::of(&found).ok()?;
                if found.file == running.file {
                    return Some(Replaced::No);
                }
                let parent = Path::new(OsStr::from_bytes(path)).parent()?.as_os_str().as_bytes();
                let folder = FileStat::of(files.open(root, parent, caller).ok()?).ok()?;
                let is_upgrade = is_upgrade(&running, &found, &folder);
                Some(if is_upgrade { Replaced::Upgraded } else { Replaced::Other })
            }
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
    let deleted = running.links == 0 || is_marked(&name, path);
    proc.is_there(pid, start).then_some(Fate { replaced, deleted })
}

/// Returns whether whoever puts programs into that directory has put another one there: root, or the owner of the one that runs.
/// Where everybody may write, anybody may.
const fn is_upgrade(running: &FileStat, found: &FileStat, folder: &FileStat) -> bool {
    let is_owners = found.uid == 0 || found.uid == running.uid;
    found.is_file() && is_owners && found.mode & BY_ALL == 0 && folder.mode & BY_ALL == 0
}

fn time((seconds, nanoseconds): (i64, u32)) -> SystemTime {
    let whole = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH + whole + Duration::from_nanos(nanoseconds.into())
}

#[cfg(test)]
#[path = "exe_tests.rs"]
pub(crate) mod tests;

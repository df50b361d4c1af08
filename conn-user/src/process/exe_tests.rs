//! Against this very process and files of a folder of its own.

use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::clock::{Clock, boot_now};
use crate::process::info::FileId;

fn me() -> (ProcFs, Pid, BootNs) {
    let (proc, pid) = (ProcFs::default(), Pid(std::process::id()));
    let start = super::super::procfs::ProcSource::read(&proc, pid).expect("self").start;
    (proc, pid, start)
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, mode: u32) -> Self {
        let path = std::env::temp_dir().join(format!("conn-exe-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        Self(path)
    }

    fn file(&self) -> (PathBuf, FileId) {
        let path = self.0.join("exe");
        fs::write(&path, "#!").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        let meta = fs::metadata(&path).expect("its metadata");
        (path, FileId { dev: meta.dev(), inode: meta.ino() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that is gone: its executable was `path`.
fn gone(path: &Path, file: FileId, executed_in_ms: i64) -> Wanted<'_> {
    let now = Clock::now().wall(boot_now()).0;
    Wanted {
        pid: Pid(u32::MAX),
        start: BootNs(0),
        path: Some(path.as_os_str().as_bytes()),
        file: Some(file),
        deleted: false,
        executed: Some(WallNs(now.saturating_add_signed(executed_in_ms * 1_000_000))),
        uid: 0,
        gid: 0,
    }
}

/// A process of root that was there before the agent.
fn running(pid: Pid, start: BootNs, path: &[u8], file: FileId) -> Wanted<'_> {
    let (path, file) = (Some(path), Some(file));
    Wanted { pid, start, path, file, deleted: false, executed: None, uid: 0, gid: 0 }
}

#[test]
fn a_live_process_leads_to_its_executable() {
    let (proc, pid, start) = me();
    let own = fs::metadata("/proc/self/exe").expect("metadata");
    let file = FileId { dev: own.dev(), inode: own.ino() };
    let path = std::env::current_exe().expect("path");
    let wanted = running(pid, start, path.as_os_str().as_bytes(), file);
    let mut files = FileWorker::for_test();
    let found = Found::find(&proc, &mut files, wanted).expect("found");
    assert_eq!(found.stat.file, file);
    let about = found.describe(&proc, &mut files, wanted);
    let (fs, mount) = (about.fs.expect("a file system"), about.mount.expect("a mount"));
    assert!(!fs.is_empty() && path.as_os_str().as_bytes().starts_with(&mount), "{fs:?} {mount:?}");
    assert!(about.writable.is_some());
    // Another file system may have a file of that number: a process may set where its link leads.
    let elsewhere = FileId { dev: own.dev() + 1, ..file };
    assert!(Found::find(&proc, &mut files, Wanted { file: Some(elsewhere), ..wanted }).is_none());
    // Another process of that id, and one that has executed something else since.
    assert!(
        Found::find(&proc, &mut files, Wanted { start: BootNs(start.0 + 1_000_000_000), ..wanted }).is_none()
    );
    let other = FileId { inode: own.ino() + 1, ..file };
    assert!(Found::find(&proc, &mut files, Wanted { file: Some(other), ..wanted }).is_none());
}

/// Issue 13, 1.9.
#[test]
fn a_process_whose_first_thread_has_exited_leads_to_its_executable() {
    use crate::process::procfs::ProcSource as _;

    let process = crate::process::procfs::tests::WithoutLeader::start();
    let proc = ProcFs::default();
    let seen = proc.read(process.pid()).expect("there");
    let path = seen.exe.expect("a path");
    let wanted = running(seen.pid, seen.start, &path, seen.exe_file.expect("a file"));
    let mut files = FileWorker::for_test();
    let found = Found::find(&proc, &mut files, wanted).expect("found");
    assert!(found.live);
    assert!(found.describe(&proc, &mut files, wanted).writable.is_some());
    let image = Image { pid: seen.pid, start: seen.start, uid: 0, file: seen.exe_file, path: &path };
    let fate = replaced(&proc, &mut files, image);
    assert_eq!(fate.map(|fate| fate.replaced), Some(Replaced::No));
}

#[test]
fn a_process_that_is_gone_leads_to_its_file_only_while_it_is_the_same() {
    let folder = Folder::new("gone", 0o755);
    let (path, file) = folder.file();
    let proc = ProcFs::default();
    let mut files = FileWorker::for_test();
    let mut found = |wanted| Found::find(&proc, &mut files, wanted).is_some();
    assert!(found(gone(&path, file, 1_000)));
    assert!(!found(gone(&path, file, -1_000)), "written after the exec");
    assert!(!found(gone(&path, FileId { inode: file.inode + 1, ..file }, 1_000)));
    assert!(!found(gone(&path, FileId { dev: file.dev + 1, ..file }, 1_000)));
    assert!(!found(Wanted { deleted: true, ..gone(&path, file, 1_000) }));
    assert!(!found(Wanted { executed: None, ..gone(&path, file, 1_000) }), "from when is not known");
    assert!(!found(gone(&folder.0, file, 1_000)), "a folder");
}

#[test]
fn who_may_write() {
    let (proc, mut files) = (ProcFs::default(), FileWorker::for_test());
    for (folder_mode, file_mode, expected) in
        [(0o755, 0o755, false), (0o1777, 0o755, true), (0o777, 0o755, true), (0o755, 0o757, true)]
    {
        let folder = Folder::new(&format!("{folder_mode:o}-{file_mode:o}"), folder_mode);
        let (path, file) = folder.file();
        fs::set_permissions(&path, fs::Permissions::from_mode(file_mode)).expect("its mode");
        let wanted = gone(&path, file, 1_000);
        let found = Found::find(&proc, &mut files, wanted).expect("found");
        let mut writable = || found.describe(&proc, &mut files, wanted).writable;
        assert_eq!(writable(), Some(expected), "{folder_mode:o} {file_mode:o}");
        // Another file has its name now.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "other").expect("a file");
        let still = (file_mode & 2 != 0).then_some(true);
        assert_eq!(writable(), still);
        let mut content = String::new();
        let link = format!("/proc/self/fd/{}", found.file.as_raw_fd());
        File::open(link).expect("open").read_to_string(&mut content).expect("read");
        assert_eq!(content, "#!");
    }
}

/// A user and group that no process of the tests has.
const OTHER: u32 = 4_000_000_000;

#[test]
fn what_the_own_user_may_write() {
    let (proc, mut files) = (ProcFs::default(), FileWorker::for_test());
    let own = |id: u32, is: bool| if is { id } else { OTHER + 1 };
    for (folder_mode, folder_is_own, file_mode, file_is_own, group_is_own, expected) in [
        (0o755, false, 0o755, false, true, false),
        (0o755, false, 0o555, true, false, true),
        (0o755, true, 0o755, false, false, true),
        (0o775, false, 0o755, false, true, true),
        (0o775, false, 0o755, false, false, false),
        (0o755, false, 0o775, false, true, true),
        (0o777, false, 0o755, false, false, true),
    ] {
        let folder = Folder::new(
            &format!("own-{folder_mode:o}-{file_mode:o}-{file_is_own}-{group_is_own}"),
            folder_mode,
        );
        let (path, file) = folder.file();
        let (uid, gid) = (OTHER, OTHER);
        std::os::unix::fs::chown(&folder.0, Some(own(uid, folder_is_own)), Some(own(gid, group_is_own)))
            .expect("chown");
        std::os::unix::fs::chown(&path, Some(own(uid, file_is_own)), Some(own(gid, group_is_own)))
            .expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(file_mode)).expect("its mode");
        let wanted = Wanted { uid, gid, ..gone(&path, file, 1_000) };
        let found = Found::find(&proc, &mut files, wanted).expect("found");
        let case = format!("{folder_mode:o} {folder_is_own} {file_mode:o} {file_is_own} {group_is_own}");
        assert_eq!(found.describe(&proc, &mut files, wanted).user_writable, Some(expected), "{case}");
        let root = found.describe(&proc, &mut files, Wanted { uid: 0, ..wanted });
        assert_eq!(root.user_writable, Some(false), "root: {case}");
    }
}

#[test]
fn an_executable_is_found_deleted_after_its_start() {
    let (sleeper, proc) = (Sleeper::start("deleted"), ProcFs::default());
    let (process, path) = (sleeper.process(), sleeper.path());
    let wanted = Wanted {
        pid: process.pid,
        start: process.start,
        file: process.exe_file,
        ..gone(&path, process.exe_file.expect("its file"), 1_000)
    };
    let mut files = FileWorker::for_test();
    let mut is_deleted = || Found::find(&proc, &mut files, wanted).expect("found").is_deleted(&proc, wanted);
    assert!(!process.exe_deleted && !is_deleted());
    // Another name is kept: the file still has no name at this path.
    fs::hard_link(&path, sleeper.folder.0.join("kept")).expect("a link");
    fs::remove_file(&path).expect("removed");
    assert!(is_deleted());
}

/// A copy of sleep(1) that runs, and is ended with the test.
pub(crate) struct Sleeper {
    folder: Folder,
    child: std::process::Child,
}

impl Sleeper {
    pub(crate) fn start(name: &str) -> Self {
        let folder = Folder::new(name, 0o755);
        let path = folder.0.join("sleeper");
        fs::copy("/bin/sleep", &path).expect("a copy");
        let start = || std::process::Command::new(&path).arg("600").spawn();
        // A child that another test forked meanwhile may hold the copy open for writing until its exec.
        let child = std::iter::repeat_with(start).inspect(|_| std::thread::yield_now()).find(
            |started| !matches!(started, Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy),
        );
        Self { folder, child: child.expect("endless").expect("a process") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.0.join("sleeper")
    }

    /// It as /proc shows it.
    pub(crate) fn process(&self) -> crate::process::info::ProcessInfo {
        let pid = Pid(self.child.id());
        let image = super::super::procfs::ProcSource::read(&ProcFs::default(), pid).expect("it runs");
        super::super::image::scanned(image)
    }

    /// Another file takes its name.
    pub(crate) fn replace(&self) {
        let new = self.folder.0.join("new");
        fs::write(&new, "another").expect("a file");
        fs::rename(new, self.path()).expect("renamed");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_became_of_the_executable_of_a_running_process() {
    let (sleeper, proc) = (Sleeper::start("replaced"), ProcFs::default());
    let files = std::cell::RefCell::new(FileWorker::for_test());
    let (process, path) = (sleeper.process(), sleeper.path());
    let now_is = |start, path: &[u8]| {
        let image = Image { pid: process.pid, start, uid: 0, file: process.exe_file, path };
        replaced(&proc, &mut files.borrow_mut(), image).map(|fate| (fate.replaced, fate.deleted))
    };
    let now = || now_is(process.start, path.as_os_str().as_bytes());
    assert_eq!(now(), Some((Replaced::No, false)));
    let aside = sleeper.folder.0.join("aside");
    fs::rename(&path, &aside).expect("moved");
    assert_eq!(now(), Some((Replaced::Gone, false)), "moved away");
    std::os::unix::fs::symlink(&aside, &path).expect("a link");
    assert_eq!(now(), Some((Replaced::No, false)), "a link leads to it");
    fs::remove_file(&path).expect("removed");
    fs::rename(&aside, &path).expect("moved back");
    assert_eq!(now(), Some((Replaced::No, false)));
    sleeper.replace();
    assert_eq!(now(), Some((Replaced::Upgraded, true)), "the same owner, in a folder of its own");
    fs::set_permissions(&sleeper.folder.0, fs::Permissions::from_mode(0o1777)).expect("its mode");
    assert_eq!(now(), Some((Replaced::Other, true)), "everybody may have put it there");
    fs::set_permissions(&sleeper.folder.0, fs::Permissions::from_mode(0o755)).expect("its mode");
    std::os::unix::fs::chown(&path, Some(OTHER), None).expect("another owner");
    assert_eq!(now(), Some((Replaced::Other, true)), "neither root's nor the owner's");
    fs::remove_file(&path).expect("removed");
    assert_eq!(now(), Some((Replaced::Gone, true)));
    assert_eq!(now_is(process.start, b"sleeper"), None, "not from the root");
    let other = BootNs(process.start.0 + 1_000_000_000);
    assert_eq!(now_is(other, path.as_os_str().as_bytes()), None, "another process");
}

/// Issue 13: a process that executed another program meanwhile says nothing of the one that was asked about.
#[test]
fn what_a_process_executes_next_is_no_replacement() {
    let (sleeper, proc) = (Sleeper::start("executes"), ProcFs::default());
    let (process, path) = (sleeper.process(), sleeper.path());
    let mut files = FileWorker::for_test();
    // As it was recorded: the process ran another file before.
    let before = process.exe_file.map(|file| FileId { inode: file.inode + 1, ..file });
    let of = |file| Image { pid: process.pid, start: process.start, uid: 0, file, path: b"/bin/true" };
    assert_eq!(replaced(&proc, &mut files, of(before)), None);
    let own = Image { path: path.as_os_str().as_bytes(), ..of(process.exe_file) };
    assert_eq!(replaced(&proc, &mut files, own).map(|fate| fate.replaced), Some(Replaced::No));
}

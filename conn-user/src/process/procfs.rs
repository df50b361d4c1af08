//! What /proc says of a process. A seam: the tables are tested without a kernel.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;

use conn_common::record::{EXEC_ARGS_MAX, PF_KTHREAD};

use super::args::{split_title, until_nul};
use super::cgroup::{CgroupFs, CgroupOf};
use super::file_stat::FileStat;
use super::host::Host;
use super::identity::ProcessState;
use super::info::{FileId, TICK_NS, is_same_tick};
use super::tty;
use crate::clock;
use crate::units::{BootNs, NetNs, Pid};

/// A process as /proc shows it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcImage {
    /// Process id.
    pub pid: Pid,
    /// Start, in whole ticks of [`TICK_NS`].
    pub start: BootNs,
    /// Parent, `None` for the first processes.
    pub ppid: Option<Pid>,
    /// Name of the group leader.
    pub comm: Box<[u8]>,
    /// Executable, without the mark of a deleted one.
    pub exe: Option<Arc<[u8]>>,
    /// The executable has no name any more.
    pub exe_deleted: bool,
    /// Which file it is.
    pub exe_file: Option<FileId>,
    /// The executable's mount is one of the host's mount namespace, so its path is the host's too. `None`: not known.
    pub exe_is_host: Option<bool>,
    /// Inode number of its mount namespace.
    pub mnt_ns: Option<u32>,
    /// Arguments.
    pub args: Box<[Box<[u8]>]>,
    /// There are more arguments than are kept ([`EXEC_ARGS_MAX`] bytes).
    pub args_truncated: bool,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Login uid, where set.
    pub login_uid: Option<u32>,
    /// Its cgroup.
    pub cgroup: Option<CgroupOf>,
    /// It is a kernel thread.
    pub kernel: bool,
}

impl ProcImage {
    /// Whether it executes anything: an exiting process has no image any more.
    pub(super) fn has_image(&self) -> bool {
        self.exe.is_some() || !self.args.is_empty()
    }
}

/// Counters of a [`ProcSource`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcStats {
    /// Processes whose arguments could not be read in time.
    pub stuck: u64,
    /// Processes whose arguments were not read, because too many or these were stuck before.
    pub refused: u64,
}

/// Where processes are looked up.
pub trait ProcSource: Send {
    /// The processes there are.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    fn pids(&self) -> io::Result<Vec<Pid>>;

    /// One process; `None` when it is gone, or became another one while it was read.
    fn read(&self, pid: Pid) -> Option<ProcImage>;

    /// Those of these processes that are there, in their order.
    fn read_each(&self, pids: &[Pid], each: &mut dyn FnMut(ProcImage)) {
        pids.iter().filter_map(|&pid| self.read(pid)).for_each(each);
    }

    /// What could not be read in time.
    fn stats(&self) -> ProcStats {
        ProcStats::default()
    }

    /// The cgroup of the process (`pid`, `start`); `None` when that one is gone.
    fn cgroup_of(&self, pid: Pid, start: BootNs) -> Option<CgroupOf>;

    /// Inode number of the host's mount namespace: that of process 1, or our own where that cannot be read.
    fn host_mnt_ns(&self) -> Option<u32>;

    /// The path of a cgroup, whether anything is in it or not; `None` when it is gone or out of reach.
    fn cgroup_path(&self, id: u64) -> Option<Box<[u8]>>;
}

/// The real /proc.
#[derive(Clone, Debug)]
pub struct ProcFs {
    root: PathBuf,
    host: Arc<Host>,
    cgroups: Arc<CgroupFs>,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

/// The members of `/proc/PID/stat` that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) comm: Box<[u8]>,
    pub(super) ppid: u32,
    pub(super) session: u32,
    /// Device number of the controlling terminal, 0: none.
    pub(super) tty: u32,
    pub(super) flags: u32,
    pub(super) start: BootNs,
    /// It has exited, or the first of its threads has.
    pub(super) is_zombie: bool,
}

/// What the link `/proc/PID/exe` says.
#[derive(Debug, Default)]
struct Exe {
    path: Option<Arc<[u8]>>,
    deleted: bool,
    file: Option<FileId>,
}

/// What the bytes of a `/proc/PID/stat` say, the start on the machine's clock whichever time namespace we are in.
pub(super) fn read_stat(bytes: &[u8]) -> Option<Stat> {
    let mut stat = parse_stat(bytes)?;
    if clock::is_shifted() && starts_are_shifted() {
        stat.start = clock::of_machine(stat.start);
    }
    Some(stat)
}

/// Whether `/proc` shifts start times for readers in a time namespace: kernels from 5.11 on do (`do_task_stat`,
/// `timens_add_boottime_ns`). A thread that has just started reports it: its start is now, by one clock or the other.
fn starts_are_shifted() -> bool {
    static SHIFTED: OnceLock<bool> = OnceLock::new();
    *SHIFTED.get_or_init(|| {
        let start = || parse_stat(&fs::read("/proc/thread-self/stat").ok()?).map(|stat| stat.start);
        let Some(Some(start)) = thread::Builder::new().spawn(start).ok().and_then(|it| it.join().ok()) else {
            return true;
        };
        let now = clock::boot_now().0;
        clock::of_machine(start).0.abs_diff(now) < start.0.abs_diff(now)
    })
}

/// The name stands in parentheses and may itself contain some: the last one ends it.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|&b| b == b'(')?;
    let close = bytes.iter().rposition(|&b| b == b')')?;
    let comm = bytes.get(open + 1..close)?;
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let is_zombie = fields.next()? == "Z";
    let ppid = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let tty: i32 = fields.next()?.parse().ok()?;
    let flags = fields.nth(1)?.parse().ok()?;
    let ticks: u64 = fields.nth(12)?.parse().ok()?;
    let start = BootNs(ticks.checked_mul(TICK_NS)?);
    Some(Stat { comm: comm.into(), ppid, session, tty: tty.cast_unsigned(), flags, start, is_zombie })
}

/// The real one of the four ids behind a name in `/proc/PID/status`.
fn status_id(status: &[u8], name: &[u8]) -> Option<u32> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(name))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

impl ProcFs {
    /// A /proc that is mounted elsewhere.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let host = Arc::new(Host::of(&root));
        Self { root, host, cgroups: Arc::new(CgroupFs::find()) }
    }

    /// The state of the process (`pid`, `start`), where that one is still there.
    pub(super) fn state(&self, pid: Pid, start: BootNs) -> Option<ProcessState> {
        let stat = self.stat(pid).filter(|stat| is_same_tick(stat.start, start))?;
        let folder = self.folder(pid, &stat);
        let cwd = fs::read_link(folder.join("cwd")).ok();
        let netns = fs::metadata(folder.join("ns/net")).ok();
        let state = ProcessState {
            cwd: cwd.map(|path| path.into_os_string().into_vec().into()),
            tty: tty::name(stat.tty),
            netns: netns.and_then(|meta| u32::try_from(meta.ino()).ok()).map(NetNs),
        };
        self.is_there(pid, start).then_some(state)
    }

    /// Whether the process (`pid`, `start`) is still there.
    pub(super) fn is_there(&self, pid: Pid, start: BootNs) -> bool {
        self.stat(pid).is_some_and(|stat| is_same_tick(stat.start, start))
    }

    fn stat(&self, pid: Pid) -> Option<Stat> {
        read_stat(&fs::read(self.file(pid, "stat")).ok()?)
    }

    /// The file of that name in the folder of a process.
    pub(super) fn file(&self, pid: Pid, name: &str) -> PathBuf {
        let mut path = self.root.join(pid.0.to_string());
        path.push(name);
        path
    }

    /// The folder of a process. Of one whose first thread has exited, that of another thread: a thread that exits gives up its memory,
    /// root and namespaces (`exit_mm`, `exit_fs`, `exit_task_namespaces` in `do_exit`), so there is no executable, no argument
    /// and no root in the process's own folder any more, while the other threads run on.
    pub(super) fn live(&self, pid: Pid) -> PathBuf {
        match self.stat(pid) {
            Some(stat) => self.folder(pid, &stat),
            None => self.root.join(pid.0.to_string()),
        }
    }

    fn folder(&self, pid: Pid, stat: &Stat) -> PathBuf {
        let own = self.root.join(pid.0.to_string());
        if !stat.is_zombie {
            return own;
        }
        let threads = fs::read_dir(own.join("task")).into_iter().flatten().filter_map(Result::ok);
        let runs = |folder: &PathBuf| fs::read_link(folder.join("exe")).is_ok();
        threads.map(|thread| thread.path()).find(runs).unwrap_or(own)
    }

    fn exe(folder: &Path) -> Exe {
        const MARK: &[u8] = b" (deleted)";
        let link = folder.join("exe");
        let Ok(target) = fs::read_link(&link) else { return Exe::default() };
        let mut path = target.into_os_string().into_vec();
        let stat = FileStat::at_link(&link).ok();
        // A file may be called so while it exists: its number of links decides.
        let deleted = path.ends_with(MARK) && stat.is_none_or(|stat| stat.links == 0);
        if deleted {
            path.truncate(path.len() - MARK.len());
        }
        Exe { path: Some(path.into()), deleted, file: stat.map(|stat| stat.file) }
    }

    /// The host's files.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Inode number of the mount namespace of the process with this folder.
    fn mnt_ns(folder: &Path) -> Option<u32> {
        fs::metadata(folder.join("ns/mnt")).ok().and_then(|meta| u32::try_from(meta.ino()).ok())
    }

    /// See [`ProcSource::read`]. Without the arguments nothing waits for what the process does; they count as truncated then.
    pub(super) fn image(&self, pid: Pid, with_args: bool) -> Option<ProcImage> {
        let stat = self.stat(pid)?;
        let status = fs::read(self.file(pid, "status")).ok()?;
        let kernel = stat.flags & PF_KTHREAD != 0;
        let folder = self.folder(pid, &stat);
        let exe = if kernel { Exe::default() } else { Self::exe(&folder) };
        let (args, args_truncated) = match (kernel, with_args) {
            (true, _) => (Box::default(), false),
            (false, true) => Self::args(&folder),
            (false, false) => (Box::default(), true),
        };
        let login_uid = fs::read(self.file(pid, "loginuid"))
            .ok()
            .and_then(|text| std::str::from_utf8(until_nul(&text)).ok()?.trim().parse().ok())
            .filter(|&uid| uid != u32::MAX);
        let mnt_ns = Self::mnt_ns(&folder);
        let exe_is_host = exe.path.is_some()
            && mnt_ns.is_some()
            && mnt_ns == self.host_mnt_ns()
            && self.host.has(&folder.join("exe"));
        let cgroup = fs::read(folder.join("cgroup")).ok().and_then(|text| self.cgroups.of_process(&text));
        // Still the same process: nothing above was read from the next one with this id.
        if self.stat(pid)?.start != stat.start {
            return None;
        }
        Some(ProcImage {
            pid,
            start: stat.start,
            ppid: (stat.ppid != 0).then_some(Pid(stat.ppid)),
            comm: stat.comm,
            exe: exe.path,
            exe_deleted: exe.deleted,
            exe_file: exe.file,
            exe_is_host: exe_is_host.then_some(true),
            mnt_ns,
            args,
            args_truncated,
            uid: status_id(&status, b"Uid:")?,
            gid: status_id(&status, b"Gid:")?,
            login_uid,
            cgroup,
            kernel,
        })
    }

    /// Returns whether a process has a group as its effective or a supplementary one; false where that cannot be read.
    pub(super) fn is_in_group(&self, pid: Pid, gid: u32) -> bool {
        let Ok(status) = fs::read_to_string(self.live(pid).join("status")) else { return false };
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
        groups.split_ascii_whitespace().any(|group| group.parse() == Ok(gid))
    }

    fn args(folder: &Path) -> (Box<[Box<[u8]>]>, bool) {
        let mut bytes = Vec::new();
        let Ok(file) = File::open(folder.join("cmdline")) else { return (Box::default(), false) };
        if file.take(EXEC_ARGS_MAX as u64 + 1).read_to_end(&mut bytes).is_err() {
            return (Box::default(), false);
        }
        let truncated = bytes.len() > EXEC_ARGS_MAX;
        bytes.truncate(EXEC_ARGS_MAX);
        (split_title(&bytes), truncated)
    }
}

impl ProcSource for ProcFs {
    fn pids(&self) -> io::Result<Vec<Pid>> {
        let mut pids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                pids.push(Pid(pid));
            }
        }
        Ok(pids)
    }

    fn read(&self, pid: Pid) -> Option<ProcImage> {
        self.image(pid, true)
    }

    fn cgroup_of(&self, pid: Pid, start: BootNs) -> Option<CgroupOf> {
        let text = fs::read(self.file(pid, "cgroup")).ok()?;
        self.cgroups.of_process(&text).filter(|_| self.is_there(pid, start))
    }

    fn host_mnt_ns(&self) -> Option<u32> {
        self.host.mnt_ns
    }

    fn cgroup_path(&self, id: u64) -> Option<Box<[u8]>> {
        self.cgroups.path_of(id)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let text = b"42 (a) R 1 (b) S 7 42 41 34816 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2 3";
        let stat = parse_stat(text).expect("stat");
        assert_eq!(&stat.comm[..], b"a) R 1 (b");
        assert_eq!((stat.ppid, stat.session), (7, 41));
        assert_eq!((stat.tty, stat.flags), (34_816, 4_194_560));
        assert_eq!(stat.start, BootNs(123_456 * TICK_NS));
    }

    #[test]
    fn stat_that_is_cut_is_refused() {
        for text in [&b""[..], b"42", b"42 (x", b"42 )x( S 1", b"42 (x) S 1 2 3", b"42 (x) S a b c d e f"] {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
    }

    #[test]
    fn status_ids() {
        let status = b"Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t100\t1\t1\t1\n";
        assert_eq!(status_id(status, b"Uid:"), Some(1000));
        assert_eq!(status_id(status, b"Gid:"), Some(100));
        assert_eq!(status_id(status, b"Nope:"), None);
    }

    #[test]
    fn groups_of_a_process() {
        let root = std::env::temp_dir().join(format!("conn-groups-{}", std::process::id()));
        fs::create_dir_all(root.join("7")).expect("a folder");
        fs::write(root.join("7/status"), "Gid:\t1\t1\t1\t1\nGroups:\t4 33 1000 \n").expect("a file");
        let proc = ProcFs::at(&root);
        assert!(proc.is_in_group(Pid(7), 33) && proc.is_in_group(Pid(7), 1000));
        assert!(
            !proc.is_in_group(Pid(7), 1) && !proc.is_in_group(Pid(7), 3) && !proc.is_in_group(Pid(8), 33)
        );
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn this_process() {
        let proc = ProcFs::default();
        let pid = Pid(std::process::id());
        assert!(proc.pids().expect("/proc").contains(&pid));
        let me = proc.read(pid).expect("self");
        let exe = std::env::current_exe().expect("exe");
        assert_eq!(me.exe.as_deref(), Some(exe.as_os_str().as_encoded_bytes()));
        assert_eq!(me.args.len(), std::env::args_os().count());
        assert!(!me.kernel && !me.exe_deleted);
        assert_eq!(me.mnt_ns, ProcFs::mnt_ns(Path::new("/proc/self")));
        assert_ne!(me.start, BootNs(0));
    }

    /// The first thread of the process exits and another one runs on, until the process is killed.
    pub(in crate::process) struct WithoutLeader(libc::pid_t);

    impl WithoutLeader {
        pub(in crate::process) fn start() -> Self {
            extern "C" fn wait(_: *mut libc::c_void) -> *mut libc::c_void {
                loop {
                    // SAFETY: no pointers.
                    unsafe { libc::pause() };
                }
            }
            // SAFETY: the child has one thread; it makes another one, and calls nothing of Rust's.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let mut thread = 0;
                let nothing = std::ptr::null_mut();
                // SAFETY: the pointers are valid or null; exit(2) of one thread runs no destructor.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::pthread_create(&raw mut thread, std::ptr::null(), wait, nothing);
                    libc::syscall(libc::SYS_exit, 0);
                }
            }
            assert!(child > 0, "fork");
            let process = Self(child);
            let is_zombie = || ProcFs::default().stat(process.pid()).is_some_and(|stat| stat.is_zombie);
            while !is_zombie() {
                thread::yield_now();
            }
            process
        }

        pub(in crate::process) const fn pid(&self) -> Pid {
            Pid(self.0.cast_unsigned())
        }
    }

    impl Drop for WithoutLeader {
        fn drop(&mut self) {
            // SAFETY: no pointers but to a null status.
            unsafe {
                libc::kill(self.0, libc::SIGKILL);
                libc::waitpid(self.0, std::ptr::null_mut(), 0);
            }
        }
    }

    /// Issue 13, 1.9: all rules on executables were silent about it.
    #[test]
    fn a_process_whose_first_thread_has_exited() {
        let (proc, process) = (ProcFs::default(), WithoutLeader::start());
        let me = proc.read(Pid(std::process::id())).expect("self");
        assert!(fs::read_link(proc.file(process.pid(), "exe")).is_err(), "its own folder says nothing");
        let seen = proc.read(process.pid()).expect("there");
        assert_eq!((seen.exe, seen.exe_file), (me.exe, me.exe_file));
        assert_eq!((seen.args, seen.mnt_ns, seen.exe_is_host), (me.args, me.mnt_ns, me.exe_is_host));
        let state = proc.state(process.pid(), seen.start).expect("there");
        let own = proc.state(me.pid, me.start).expect("self");
        assert!(state.cwd.is_some() && state.netns.is_some());
        assert_eq!((state.cwd, state.netns), (own.cwd, own.netns));
    }

    #[test]
    fn nobody() {
        assert_eq!(ProcFs::default().read(Pid(u32::MAX)), None);
        assert_eq!(ProcFs::at("/nonexistent").read(Pid(1)), None);
    }
}

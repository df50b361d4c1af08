//! /proc, read in another thread with a deadline.
//!
//! `/proc/PID/cmdline` reads the memory of the process. It waits for that one's `mmap_lock` and for page faults
//! (`get_mm_cmdline`, fs/proc/base.c; `__access_remote_vm`, mm/memory.c), so a process can make its readers wait for ever: one
//! that maps a file of a FUSE server which does not answer, for instance. Nothing else that a [`ProcImage`] is made of waits for
//! what a process does. Such a wait ends when the waiting process is killed, so a thread is enough.

use std::cell::RefCell;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use super::cgroup::CgroupOf;
use super::procfs::{ProcFs, ProcImage, ProcSource, ProcStats};
use crate::units::{BootNs, Pid};

/// How long one process may take to be read: it takes some 0.1 ms.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most threads that are left waiting. With more of them arguments are not read.
const STUCK_MAX: usize = 8;
/// Processes that are read ahead.
const AHEAD: usize = 256;

/// A reader of /proc that gives up on a process that makes it wait.
#[derive(Debug)]
pub struct GuardedProc {
    proc: ProcFs,
    patience: Duration,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    reader: Option<Reader>,
    /// Those that hang, each with the process that it hangs on.
    abandoned: Vec<(Pid, Reader)>,
    stats: ProcStats,
}

/// A thread that reads.
#[derive(Debug)]
struct Reader {
    pids: Sender<Pid>,
    images: Receiver<Option<ProcImage>>,
}

impl Reader {
    fn start(proc: ProcFs) -> io::Result<Self> {
        let ((pids, asked), (sender, images)) = (channel(), channel());
        let read = move || {
            for pid in asked {
                if sender.send(proc.image(pid, true)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("conn-proc".to_owned()).spawn(read)?;
        Ok(Self { pids, images })
    }
}

impl Default for GuardedProc {
    fn default() -> Self {
        Self::new(ProcFs::default())
    }
}

impl GuardedProc {
    /// Of this /proc.
    pub fn new(proc: ProcFs) -> Self {
        Self { proc, patience: PATIENCE, state: RefCell::default() }
    }

    /// Reads some processes in their order, as many as one thread does. Returns how many those were.
    fn read_some(&self, pids: &[Pid], each: &mut dyn FnMut(ProcImage)) -> usize {
        let Some(&first) = pids.first() else { return 0 };
        let state = &mut *self.state.borrow_mut();
        // Those that have got their answer need no room any more.
        state.abandoned.retain(|(_, reader)| matches!(reader.images.try_recv(), Err(TryRecvError::Empty)));
        let hangs = |pid: &Pid| state.abandoned.iter().any(|(stuck, _)| stuck == pid);
        let is_full = state.abandoned.len() >= STUCK_MAX;
        let reader = if is_full || hangs(&first) { None } else { state.reader.take() };
        let started = || Reader::start(self.proc.clone()).ok();
        let reader = reader.or_else(|| if is_full || hangs(&first) { None } else { started() });
        let Some(reader) = reader else {
            state.stats.refused += 1;
            self.proc.image(first, false).into_iter().for_each(each);
            return 1;
        };
        let asked = pids.iter().take(AHEAD).take_while(|pid| !hangs(pid));
        let asked = asked.take_while(|pid| reader.pids.send(**pid).is_ok()).count();
        if asked == 0 {
            // The thread has ended, which only a panic makes it do; the next one has a new thread.
            self.proc.image(first, false).into_iter().for_each(each);
            return 1;
        }
        for (read, &pid) in pids.iter().take(asked).enumerate() {
            match reader.images.recv_timeout(self.patience) {
                Ok(image) => image.into_iter().for_each(&mut *each),
                Err(error) => {
                    if error == RecvTimeoutError::Timeout {
                        state.abandoned.push((pid, reader));
                    }
                    state.stats.stuck += 1;
                    self.proc.image(pid, false).into_iter().for_each(each);
                    return read + 1;
                }
            }
        }
        state.reader = Some(reader);
        asked
    }
}

impl ProcSource for GuardedProc {
    fn pids(&self) -> io::Result<Vec<Pid>> {
        self.proc.pids()
    }

    fn read(&self, pid: Pid) -> Option<ProcImage> {
        let mut read = None;
        self.read_some(&[pid], &mut |image| read = Some(image));
        read
    }

    fn read_each(&self, pids: &[Pid], each: &mut dyn FnMut(ProcImage)) {
        let mut rest = pids;
        while !rest.is_empty() {
            rest = &rest[self.read_some(rest, each).max(1)..];
        }
    }

    fn cgroup_of(&self, pid: Pid, start: BootNs) -> Option<CgroupOf> {
        self.proc.cgroup_of(pid, start)
    }

    fn host_mnt_ns(&self) -> Option<u32> {
        self.proc.host_mnt_ns()
    }

    fn cgroup_path(&self, id: u64) -> Option<Box<[u8]>> {
        self.proc.cgroup_path(id)
    }

    fn stats(&self) -> ProcStats {
        self.state.borrow().stats
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// A /proc in which the arguments of some processes are a FIFO that nobody writes to.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, processes: u32, hangs: impl Fn(u32) -> bool) -> Self {
            let folder = std::env::temp_dir().join(format!("conn-guarded-{name}-{}", std::process::id()));
            for pid in 1..=processes {
                let process = folder.join(pid.to_string());
                fs::create_dir_all(&process).expect("a folder");
                let stat = format!("{pid} (p{pid}) S 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2 3");
                fs::write(process.join("stat"), stat).expect("a file");
                fs::write(process.join("status"), "Uid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\n").expect("a file");
                let args = process.join("cmdline");
                if hangs(pid) {
                    mknodat(CWD, &args, FileType::Fifo, Mode::RUSR, 0).expect("a FIFO");
                } else {
                    fs::write(args, "an\0argument\0").expect("a file");
                }
            }
            Self(folder)
        }

        /// The one who hangs on this process goes on.
        fn go_on(path: &Path) {
            // It waits for a writer to open it.
            drop(fs::OpenOptions::new().write(true).open(path).expect("open"));
        }

        fn args(&self, pid: u32) -> PathBuf {
            self.0.join(pid.to_string()).join("cmdline")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn read(proc: &GuardedProc, count: u32) -> Vec<(u32, usize, bool)> {
        let (pids, mut all) = ((1..=count).map(Pid).collect::<Vec<_>>(), Vec::new());
        proc.read_each(&pids, &mut |image| all.push((image.pid.0, image.args.len(), image.args_truncated)));
        all
    }

    #[test]
    fn all_are_read_in_order() {
        let folder = Folder::new("all", 600, |_| false);
        let proc =
            GuardedProc { patience: Duration::from_mins(1), ..GuardedProc::new(ProcFs::at(&folder.0)) };
        let expected: Vec<_> = (1..=600).map(|pid| (pid, 2, false)).collect();
        assert_eq!(read(&proc, 600), expected);
        assert_eq!(proc.read(Pid(601)), None);
        assert_eq!(proc.read(Pid(3)).expect("it").args.len(), 2);
        assert_eq!(proc.stats(), ProcStats::default());
    }

    #[test]
    fn a_process_that_hangs_is_read_without_its_arguments() {
        let folder = Folder::new("hangs", 5, |pid| pid == 2);
        let mut proc =
            GuardedProc { patience: Duration::from_millis(1), ..GuardedProc::new(ProcFs::at(&folder.0)) };
        let image = proc.read(Pid(2)).expect("the rest of it");
        assert_eq!((image.uid, image.args.len(), image.args_truncated), (7, 0, true));
        assert_eq!(proc.stats(), ProcStats { stuck: 1, refused: 0 });
        // It is not waited for again.
        proc.patience = Duration::from_mins(1);
        assert_eq!(
            read(&proc, 5),
            [(1, 2, false), (2, 0, true), (3, 2, false), (4, 2, false), (5, 2, false)]
        );
        assert_eq!(proc.stats(), ProcStats { stuck: 1, refused: 1 });
        Folder::go_on(&folder.args(2));
    }

    #[test]
    fn threads_that_hang_are_bounded() {
        let folder = Folder::new("bounded", 20, |_| true);
        let proc =
            GuardedProc { patience: Duration::from_millis(1), ..GuardedProc::new(ProcFs::at(&folder.0)) };
        let expected: Vec<_> = (1..=20).map(|pid| (pid, 0, true)).collect();
        assert_eq!(read(&proc, 20), expected);
        assert_eq!(proc.stats(), ProcStats { stuck: STUCK_MAX as u64, refused: 20 - STUCK_MAX as u64 });
        assert_eq!(proc.state.borrow().abandoned.len(), STUCK_MAX);
        for pid in 1..=STUCK_MAX as u32 {
            Folder::go_on(&folder.args(pid));
        }
    }
}

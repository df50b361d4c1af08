//! Opens and reads files whose file system may never answer: a FUSE server that does not, an NFS server that is gone.
//!
//! A thread that waits for such a file system often cannot be killed (`request_wait_answer`, fs/fuse/dev.c), nor can then the
//! process that it belongs to. So workers are processes of their own, and each request has a deadline. A worker that misses
//! it is abandoned, and another one takes its place. What the kernel knows without asking a file system needs no worker.

mod budget;
mod serve;
mod wire;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use thiserror::Error;

pub(super) use self::budget::Budgets;
use self::wire::{Reply, Request, Room};
use super::digest::FileState;
use super::identity::Sha256;
use crate::clock::boot_now;
use crate::units::{BootNs, DurationNs};

/// The subcommand of `conn` that is the process which starts workers.
pub const SUBCOMMAND: &str = "file-workers";

/// Most abandoned workers. With more of them nothing is asked until one has its answer.
const STUCK_MAX: usize = 8;
/// Most abandoned workers on behalf of one user.
const STUCK_OF_USER: usize = 3;
/// How long finding files may make us wait on behalf of one user: so long at once, and then a twentieth of the time.
const WAIT: DurationNs = DurationNs(5_000_000_000);
const WAIT_SHARE: u64 = 20;

/// Counters of [`FileWorkers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileWorkerStats {
    /// Workers that missed the deadline, ever.
    pub stuck: u64,
    /// Of these, those that still wait for a file system.
    pub stuck_now: usize,
    /// Requests that were not made: workers hang on this file system or for this user, or there are too many.
    pub refused: u64,
}

/// Why a worker did not do what it was asked.
#[derive(Debug, Error)]
pub(super) enum FileError {
    /// It has not answered, and is abandoned.
    #[error("the file system does not answer")]
    Stuck,
    /// Nothing was asked: too many did not answer.
    #[error("the file system did not answer before")]
    Refused,
    /// There is no worker, or it failed.
    #[error("no file worker: {0}")]
    Worker(#[source] io::Error),
    /// The kernel's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// For whom something is asked: a user and the file system of the executable. One user's hung file systems are not another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) dev: Option<u64>,
}

/// What a worker does, which decides its priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Finds files.
    Find,
    /// Reads whole files.
    Hash,
}

impl Role {
    /// How long an answer may take. A local disk needs milliseconds, for a path as for a part of a file; a stuck request keeps others
    /// waiting so long, and the end of the agent, too, if a rule waits for what is asked.
    const fn patience(self) -> Duration {
        match self {
            Self::Find => Duration::from_millis(500),
            Self::Hash => Duration::from_secs(2),
        }
    }

    /// See nice(2).
    const fn nice(self) -> u8 {
        match self {
            Self::Find => 0,
            Self::Hash => 5,
        }
    }
}

/// Starts workers, and remembers those that are stuck.
#[derive(Debug)]
pub struct FileWorkers {
    starter: Starter,
    state: Mutex<State>,
    stuck: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
enum Starter {
    /// Processes, by the one that has the other end of this.
    Processes(OwnedFd),
    /// Threads of this process. One that is stuck keeps the process from ending.
    Threads,
    /// None answers. The other ends are kept here.
    #[cfg(test)]
    Silent(Mutex<Vec<OwnedFd>>),
}

#[derive(Debug, Default)]
struct State {
    abandoned: Vec<Abandoned>,
    waits: Budgets,
}

#[derive(Debug)]
struct Abandoned {
    /// Hangs up when the worker ends, which it does when it has its answer.
    socket: OwnedFd,
    caller: Caller,
}

impl Abandoned {
    fn is_stuck(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        polled.is_ok() && !fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

/// The program of [`SUBCOMMAND`], which `conn` starts and nobody else.
///
/// # Errors
/// When standard input is not the socket that it needs.
pub fn supervise() -> io::Result<ExitCode> {
    serve::supervise()
}

impl FileWorkers {
    /// With workers that are processes. To be called before the agent is large, has threads or a real-time priority, and by
    /// the binary `conn` only: it is what is executed.
    ///
    /// # Errors
    /// When the process that starts them cannot be started.
    pub fn processes() -> io::Result<Arc<Self>> {
        let (control, other) = pair()?;
        Command::new("/proc/self/exe")
            .arg0("conn")
            .arg(SUBCOMMAND)
            // What a terminal sends to the foreground is not for it.
            .process_group(0)
            .stdin(Stdio::from(other))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self::with(Starter::Processes(control)))
    }

    /// With workers that are threads: for those who need not end in time.
    pub fn threads() -> Arc<Self> {
        Self::with(Starter::Threads)
    }

    fn with(starter: Starter) -> Arc<Self> {
        let waits = Budgets::new(WAIT, WAIT_SHARE);
        let state = Mutex::new(State { abandoned: Vec::new(), waits });
        Arc::new(Self { starter, state, stuck: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    /// The counters.
    pub fn stats(&self) -> FileWorkerStats {
        let mut state = self.state();
        state.abandoned.retain(Abandoned::is_stuck);
        FileWorkerStats {
            stuck: self.stuck.load(Ordering::Relaxed),
            stuck_now: state.abandoned.len(),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to ask at all.
    fn admits(&self, caller: Caller, role: Role, needs_worker: bool, now: BootNs) -> bool {
        let mut state = self.state();
        state.abandoned.retain(Abandoned::is_stuck);
        let of_user = state.abandoned.iter().filter(|one| one.caller.uid == caller.uid).count();
        let admits = of_user < STUCK_OF_USER
            && state.abandoned.iter().all(|one| one.caller != caller)
            && !(needs_worker && state.abandoned.len() >= STUCK_MAX)
            && !(role == Role::Find && state.waits.is_over(caller.uid, now));
        if !admits {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        admits
    }

    fn start(&self, role: Role) -> io::Result<OwnedFd> {
        let (socket, other) = pair()?;
        match &self.starter {
            Starter::Processes(control) => wire::send(control, &[role.nice()], Some(other.as_fd()))?,
            Starter::Threads => {
                let serve = move || serve::serve(&other);
                thread::Builder::new().name("conn-files".to_owned()).spawn(serve)?;
            }
            #[cfg(test)]
            Starter::Silent(ends) => ends.lock().unwrap_or_else(PoisonError::into_inner).push(other),
        }
        Ok(socket)
    }

    fn abandon(&self, socket: OwnedFd, caller: Caller) {
        // Then it ends when it has its answer.
        let _ = shutdown(&socket, Shutdown::Write);
        self.stuck.fetch_add(1, Ordering::Relaxed);
        self.state().abandoned.push(Abandoned { socket, caller });
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// One worker at a time, and the next one when it is stuck.
#[derive(Debug)]
pub(super) struct FileWorker {
    workers: Arc<FileWorkers>,
    role: Role,
    patience: Duration,
    socket: Option<OwnedFd>,
    room: Room,
    /// Counts the workers: what was begun with one is unknown to the next.
    generation: u64,
}

/// What became of hashing for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many bytes were read, and there are more.
    Read(u64),
    /// The hash; `None`: the file changed meanwhile.
    Done(Option<Sha256>),
}

impl FileWorker {
    pub(super) fn new(workers: Arc<FileWorkers>, role: Role) -> Self {
        Self { workers, role, patience: role.patience(), socket: None, room: Room::default(), generation: 0 }
    }

    /// Opens (`O_PATH`) what is at a path in a root, which is a link of /proc: links in the path, absolute ones too, do not lead out
    /// of it.
    ///
    /// # Errors
    /// See [`FileError`].
    pub(super) fn open(&mut self, root: &Path, path: &[u8], caller: Caller) -> Result<File, FileError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(io::Error::from)?;
        // Nearly always the answer is in the kernel's caches: the names of what runs are.
        match serve::open(root.as_fd(), path, true) {
            // An older kernel does not know the flag.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINVAL | libc::ENOSYS)) => {}
            opened => return Ok(opened?.into()),
        }
        match self.call(&Request::Open(path.into()), Some(root.as_fd()), caller)? {
            (Reply::Opened, Some(file)) => Ok(file.into()),
            other => Err(unexpected(&other.0)),
        }
    }

    /// Hashes a part of a file that was opened with `O_PATH`, under a number of its own.
    ///
    /// # Errors
    /// See [`FileError`].
    pub(super) fn hash(
        &mut self,
        job: &mut Begun,
        file: &File,
        state: FileState,
        caller: Caller,
    ) -> Result<Progress, FileError> {
        let is_begun = job.generation == Some(self.generation) && self.socket.is_some();
        let (request, file) = if is_begun {
            (Request::Continue(job.number), None)
        } else {
            (Request::Hash(job.number, state), Some(file.as_fd()))
        };
        let (reply, _) = self.call(&request, file, caller)?;
        job.generation = Some(self.generation);
        match reply {
            Reply::Read(bytes) => Ok(Progress::Read(bytes)),
            Reply::Hashed(hash) => Ok(Progress::Done(hash)),
            other => Err(unexpected(&other)),
        }
    }

    fn call(
        &mut self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
        caller: Caller,
    ) -> Result<(Reply, Option<OwnedFd>), FileError> {
        let asked = boot_now();
        if !self.workers.admits(caller, self.role, self.socket.is_none(), asked) {
            return Err(FileError::Refused);
        }
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.start().map_err(FileError::Worker)?,
        };
        let answer = wire::send(&socket, &request.encode(), file)
            .and_then(|()| wire::receive(&socket, &mut self.room));
        if self.role == Role::Find {
            let now = boot_now();
            self.workers.state().waits.charge(caller.uid, now.since(asked), now);
        }
        let (packet, file) = match answer {
            Ok(Some(answer)) => answer,
            // It has ended; the next request has a new one.
            Ok(None) => return Err(FileError::Worker(io::ErrorKind::BrokenPipe.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.workers.abandon(socket, caller);
                return Err(FileError::Stuck);
            }
            Err(error) => return Err(FileError::Worker(error)),
        };
        let reply = Reply::decode(packet).ok_or(io::ErrorKind::InvalidData).map_err(io::Error::from);
        self.socket = Some(socket);
        match reply.map_err(FileError::Worker)? {
            Reply::Failed(errno) => Err(FileError::Io(io::Error::from_raw_os_error(errno))),
            reply => Ok((reply, file)),
        }
    }

    fn start(&mut self) -> io::Result<OwnedFd> {
        let socket = self.workers.start(self.role)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(self.patience))?;
        self.generation += 1;
        Ok(socket)
    }
}

/// A file that is being hashed.
#[derive(Debug)]
pub(super) struct Begun {
    number: u64,
    /// Which worker knows it.
    generation: Option<u64>,
}

impl Begun {
    /// Of no worker yet. No other file has this number.
    pub(super) const fn new(number: u64) -> Self {
        Self { number, generation: None }
    }
}

fn unexpected(reply: &Reply) -> FileError {
    FileError::Worker(io::Error::other(format!("unexpected reply {reply:?}")))
}

/// Root of this process.
pub(super) const OWN_ROOT: &str = "/";

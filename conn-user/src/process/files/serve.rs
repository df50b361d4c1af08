//! The other end: what opens and reads files for the agent. It may wait for a file system for ever.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::wire::{self, Reply, Request, Room};
use crate::process::digest::{Hashing, Step};

/// Bytes of a file that are read for one request, and the time after which it is answered with less: on a
/// slow or busy machine the bytes would take longer than the agent waits.
const SLICE: u64 = 16 << 20;
const SLICE_TIME: Duration = Duration::from_millis(250);

/// Serves the requests of a socket until its other end is closed.
pub(super) fn serve(socket: &OwnedFd) {
    let mut room = Room::default();
    let mut hashes = HashMap::new();
    while let Ok(Some((packet, file))) = wire::receive(socket, &mut room) {
        let Some(request) = Request::decode(packet) else { return };
        let (reply, file) = match answer(request, file, &mut hashes) {
            Ok((reply, file)) => (reply, file),
            Err(error) => (Reply::Failed(error.raw_os_error().unwrap_or(libc::EIO)), None),
        };
        if wire::send(socket, &reply.encode(), file.as_ref().map(|file| file.as_fd())).is_err() {
            return;
        }
    }
}

fn answer(
    request: Request,
    beside: Option<OwnedFd>,
    hashes: &mut HashMap<u64, Hashing>,
) -> io::Result<(Reply, Option<OwnedFd>)> {
    let need = |beside: Option<OwnedFd>| beside.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
    match request {
        Request::Open(path) => Ok((Reply::Opened, Some(open(need(beside)?.as_fd(), &path, false)?))),
        Request::Hash(number, state) => {
            let file = need(beside)?;
            // The link of a descriptor leads to the same file, whatever bears its name now.
            let content = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            hashes.insert(number, Hashing::new(content, state));
            Ok((step(number, hashes)?, None))
        }
        Request::Continue(number) => Ok((step(number, hashes)?, None)),
    }
}

fn step(number: u64, hashes: &mut HashMap<u64, Hashing>) -> io::Result<Reply> {
    let mut hashing = hashes.remove(&number).ok_or(io::ErrorKind::NotFound)?;
    Ok(match hashing.step(SLICE, SLICE_TIME)? {
        Step::Read(bytes) => {
            hashes.insert(number, hashing);
            Reply::Read(bytes)
        }
        Step::Done(hash) => Reply::Hashed(hash),
    })
}

/// Opens what is at the path in a root; links in it, absolute ones too, do not lead out of that. `is_cached`: only what the kernel
/// finds without asking a file system, else `EAGAIN` (`LOOKUP_CACHED`, fs/namei.c; Linux 5.12).
pub(super) fn open(root: BorrowedFd<'_>, path: &[u8], is_cached: bool) -> io::Result<OwnedFd> {
    let cached = if is_cached { ResolveFlags::CACHED } else { ResolveFlags::empty() };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | cached)?)
}

/// The program of the process that starts workers: standard input is the socket on which they are asked for. It ends when the
/// agent closes that, and whatever still works with it.
///
/// It touches no file itself, so it is never stuck. It has one thread, so a fork of it may do anything.
pub(super) fn supervise() -> io::Result<ExitCode> {
    const IGNORED: [libc::c_int; 5] =
        [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGCHLD];
    for signal in IGNORED {
        // SAFETY: no handler is installed. A terminal and a service manager signal all processes: the agent still needs its
        // workers then. Ended workers are not waited for.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // The agent may have real-time priority, which is not for those who read files.
    // SAFETY: the parameter is read only. A failure leaves the priority as it is.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &libc::sched_param { sched_priority: 0 }) };
    // For people who list processes: the name would be that of the link, `exe`.
    rustix::thread::set_name(c"conn-files")?;
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let mut room = Room::default();
    while let Some((packet, socket)) = wire::receive(&control, &mut room)? {
        let (Some(&nice), Some(socket)) = (packet.first(), socket) else { continue };
        // SAFETY: this process has one thread, so the child may go on as any process.
        if unsafe { libc::fork() } == 0 {
            drop(control);
            // SAFETY: no pointers are passed. The second one: 0 is the calling thread. Failures cost nothing.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::setpriority(libc::PRIO_PROCESS, 0, nice.into());
            }
            serve(&socket);
            return Ok(ExitCode::SUCCESS);
        }
        // Without a child nobody has the socket any more, which the agent sees.
    }
    Ok(ExitCode::SUCCESS)
}

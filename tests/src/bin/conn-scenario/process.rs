//! Several processes that act in step.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};

use crate::conn::{Conn, Listener};
use crate::facts::{emit_me, reap};
use crate::sys::check;

/// One end of a pair over which two processes report each other numbers: steps and ports.
pub(crate) struct Pipe(UnixStream);

impl Pipe {
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (a, b) = UnixStream::pair().context("socketpair")?;
        Ok((Self(a), Self(b)))
    }

    /// The pipe that this program was started with as its standard input.
    pub(crate) fn of_stdin() -> Result<Self> {
        let fd = io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
        Ok(Self(fd.into()))
    }

    pub(crate) fn emit(&self, number: u64) -> Result<()> {
        (&self.0).write_all(&number.to_ne_bytes()).context("report the other process")
    }

    pub(crate) fn hear(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        (&self.0).read_exact(&mut bytes).context("the other process is gone")?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// A port that the other process reported.
    pub(crate) fn hear_port(&self) -> Result<u16> {
        u16::try_from(self.hear()?).context("not a port")
    }

    /// Reports that this process came to a step, and waits until the other one has come too.
    pub(crate) fn sync(&self) -> Result<()> {
        self.emit(0)?;
        self.hear().map(drop)
    }

    /// The socket, to be given to another program.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.0
    }

    pub(crate) fn raw(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// A forked process.
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) pipe: Pipe,
}

impl Child {
    /// Waits for its success.
    pub(crate) fn join(self) -> Result<()> {
        reap(self.pid, None)
    }

    /// Ends it at once, and waits until it is gone.
    pub(crate) fn kill(self) -> Result<()> {
        // SAFETY: no pointers are passed; the pid is a child of ours that nobody has reaped.
        check(unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) }).context("kill")?;
        reap(self.pid, Some(libc::SIGKILL))
    }
}

/// Forks; the child runs `body` and exits. Call it only while this process has one thread.
pub(crate) fn fork(body: impl FnOnce(&Pipe) -> Result<()>) -> Result<Child> {
    // SAFETY: this process has one thread, so the child may do anything.
    fork_by(|| check(unsafe { libc::fork() }), body)
}

/// The same with another call that forks.
pub(crate) fn fork_by(
    fork: impl FnOnce() -> io::Result<i32>,
    body: impl FnOnce(&Pipe) -> Result<()>,
) -> Result<Child> {
    let (mine, theirs) = Pipe::pair()?;
    let pid = fork().context("fork")?;
    if pid == 0 {
        drop(mine);
        // A child must not outlive a workload that gave up.
        // SAFETY: no pointers are passed.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        let code = match emit_me().and_then(|()| body(&theirs)) {
            Ok(()) => 0,
            Err(e) => {
                eprintln!("conn-scenario: child {}: {e:#}", std::process::id());
                1
            }
        };
        // SAFETY: ends the process without running the parent's destructors a second time.
        unsafe { libc::_exit(code) };
    }
    Ok(Child { pid: u32::try_from(pid).context("pid")?, pipe: mine })
}

/// A server process that accepts one connection, and this process as its client.
pub(crate) fn two(
    ip: IpAddr,
    server: impl FnOnce(Conn, &Pipe) -> Result<()>,
    client: impl FnOnce(Conn, &Pipe) -> Result<()>,
) -> Result<()> {
    two_with(ip, ip, Conn::connect, server, client)
}

/// The same, with another address for the client and its own way to connect.
pub(crate) fn two_with(
    listen: IpAddr,
    to: IpAddr,
    connect: impl FnOnce(SocketAddr) -> Result<Conn>,
    server: impl FnOnce(Conn, &Pipe) -> Result<()>,
    client: impl FnOnce(Conn, &Pipe) -> Result<()>,
) -> Result<()> {
    let child = fork(|pipe| {
        let listener = Listener::new(listen)?;
        pipe.emit(u64::from(listener.port()))?;
        let conn = listener.accept().context("server")?;
        pipe.sync()?;
        server(conn, pipe).context("server")?;
        listener.close()
    })?;
    let port = child.pipe.hear_port()?;
    let conn = connect(SocketAddr::new(to, port)).context("client")?;
    child.pipe.sync()?;
    client(conn, &child.pipe).context("client")?;
    child.join()
}

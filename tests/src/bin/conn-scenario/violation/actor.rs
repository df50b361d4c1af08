//! A program that is executed to do one thing: under another name, from another place, or with a connection as its input.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::act::bound;
use crate::facts::emit_me;
use crate::process::Pipe;
use crate::sys;

/// The hidden command `actor connect|listen|share ADDRESS TAG`, or `actor wait TAG`. Its standard input is its starter's pipe,
/// which it reports that it has done it; it ends when it hears from there. One that waits ends with its input.
pub(crate) const ACTOR: &str = "actor";

/// See [`ACTOR`].
pub(crate) fn actor(args: &[String]) -> Result<()> {
    emit_me()?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["wait", _] = words.as_slice() {
        return std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).context("wait").map(drop);
    }
    let [what, address, _] = words.as_slice() else {
        bail!("connect, listen or share, an address, and a tag")
    };
    let address: SocketAddr = address.parse().context("address")?;
    let done = match *what {
        "connect" => {
            let fd = sys::socket(false, false, 0)?;
            sys::connect(&fd, address).context("connect")?;
            fd
        }
        "listen" | "share" => {
            let fd = bound(address, *what == "share")?;
            sys::listen(&fd, 8).context("listen")?;
            fd
        }
        _ => bail!("no such act: {what}"),
    };
    let pipe = Pipe::of_stdin()?;
    pipe.emit(0)?;
    pipe.hear()?;
    drop(done);
    Ok(())
}

/// A running actor that has done it.
pub(super) struct Acting {
    child: Child,
    pipe: Pipe,
}

impl Acting {
    /// Starts a program that is an actor and waits until it has done it.
    pub(super) fn start(program: &Path, what: &str, address: SocketAddr, tag: &str) -> Result<Self> {
        let (mine, theirs) = Pipe::pair()?;
        let mut command = Command::new(program);
        command.args([ACTOR, what, &address.to_string(), tag]).stdin(OwnedFd::from(theirs.into_stream()));
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        // Its copy of the other end is gone, so that the end of the actor is heard.
        drop(command);
        mine.hear().context("the actor did not do it")?;
        Ok(Self { child, pipe: mine })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill the actor")?;
        self.child.wait().context("wait for the actor").map(drop)
    }

    /// Lets it end.
    pub(super) fn end(mut self) -> Result<()> {
        self.pipe.emit(0)?;
        let status = self.child.wait().context("wait for the actor")?;
        ensure!(status.success(), "the actor: {status}");
        Ok(())
    }
}

/// A waiting actor, with this as its input.
pub(super) fn waiting(input: impl Into<Stdio>, tag: &str) -> Result<Child> {
    let mut command = Command::new(itself()?);
    command.args([ACTOR, "wait", tag]).stdin(input).spawn().context("start a waiting actor")
}

/// This program.
pub(super) fn itself() -> Result<PathBuf> {
    std::env::current_exe().context("own path")
}

/// A copy of this program at another path, gone with the value.
pub(super) struct Copy(PathBuf);

impl Copy {
    pub(super) fn new(name: &str) -> Result<Self> {
        let copy = Self(std::env::temp_dir().join(format!("conn-{name}-{}", std::process::id())));
        std::fs::copy(itself()?, &copy.0).context("copy this program")?;
        Ok(copy)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts another file in its place, as an upgrade does.
    pub(super) fn replace(&self) -> Result<()> {
        let new = self.0.with_extension("new");
        std::fs::copy(itself()?, &new).context("copy this program")?;
        std::fs::rename(new, &self.0).context("put it in the place of the other")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A copy of this program in memory, and the path to execute it by.
pub(super) fn in_memory() -> Result<(OwnedFd, OsString)> {
    // SAFETY: the name is a C string that outlives the call.
    let fd = unsafe { libc::memfd_create(c"v-memfd".as_ptr(), 0) };
    ensure!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just given this descriptor to us alone.
    let mut file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(&std::fs::read(itself()?).context("read this program")?).context("write to memory")?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    // A file that is open for writing is not executed (ETXTBSY): opened again it is for reading only.
    let again = std::fs::File::open(&path).context("open it again")?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), again.as_raw_fd());
    Ok((again.into(), path.into()))
}

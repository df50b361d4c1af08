//! Who may connect: the socket's folder, its group and mode, and who is at the other end.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::event::escape;

/// Its members and root connect.
const MODE_GROUP: u32 = 0o660;
/// Root connects.
const MODE_ALONE: u32 = 0o600;
/// A longer file is read as far as this.
const GROUPS_MAX: usize = 8 << 20;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another agent has it.
    #[error(
        "another agent{} answers at {}: end it, or give this one another `socket`",
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})")), escape::path(path)
    )]
    Taken {
        /// The socket.
        path: PathBuf,
        /// The other agent.
        pid: Option<i32>,
    },
    /// There is something else.
    #[error("{} is no socket: remove it, or give another `socket`", escape::path(path))]
    NoSocket {
        /// What is there.
        path: PathBuf,
    },
    /// It cannot be given to the group.
    #[error(
        "cannot give {} to the group {}: {error}; that takes CAP_CHOWN, or an agent in that group (SupplementaryGroups= of \
         systemd)",
        escape::path(path), escape::string(group.as_bytes())
    )]
    Group {
        /// The socket.
        path: PathBuf,
        /// The group.
        group: String,
        /// Why.
        error: io::Error,
    },
    /// It cannot be made.
    #[error("cannot listen at {}: {error}", escape::path(path))]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A socket that listens. It is removed when this is dropped.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub listener: UnixListener,
    /// Where it is.
    pub path: PathBuf,
    /// The group whose members may connect; `None`: the group is not there.
    pub group: Option<String>,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

/// Listens at a path, for root and the members of the group. The folder is made where there is none. A socket that nobody listens to
/// any more is replaced.
///
/// # Errors
/// When another agent listens there, or it cannot be made.
pub fn bind(path: &Path, group: &str) -> Result<Bound, BindError> {
    let failed = |error| BindError::Io { path: path.to_owned(), error };
    if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
    }
    remove_stale(path)?;
    let listener = bind_private(path).map_err(failed)?;
    let id = group_id(group);
    if let Some(id) = id {
        let given = chown(path, None, Some(id));
        given.map_err(|error| {
            let _ = fs::remove_file(path);
            BindError::Group { path: path.to_owned(), group: group.to_owned(), error }
        })?;
    }
    let mode = if id.is_some() { MODE_GROUP } else { MODE_ALONE };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    let group = id.map(|_| group.to_owned());
    Ok(Bound { listener, path: path.to_owned(), group, file: file(path) })
}

/// Binds such that nobody else connects before the mode is set.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: it has no memory to be valid, and cannot fail.
    let before = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    listener
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Io { path: path.to_owned(), error };
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about.map_err(failed)?,
    };
    if !about.file_type().is_socket() {
        return Err(BindError::NoSocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(other) => {
            Err(BindError::Taken { path: path.to_owned(), pid: Peer::of(&other).ok().map(|peer| peer.pid) })
        }
        // Nobody listens.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn file(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|about| (about.dev(), about.ino()))
}

impl Bound {
    /// Removes the socket: nobody connects any more. Another one may have its place by now, which stays.
    pub fn remove(&self) {
        if self.file.is_some() && file(&self.path) == self.file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Who is at the other end of a connection: as it was when it connected, or listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id, in this pid namespace.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Peer {
    /// That of a connection (`SO_PEERCRED`).
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let of = rustix::net::sockopt::socket_peercred(stream)?;
        Ok(Self { pid: of.pid.as_raw_nonzero().get(), uid: of.uid.as_raw(), gid: of.gid.as_raw() })
    }
}

/// The id of a group of `/etc/group`; `None`: there is none of this name.
pub fn group_id(name: &str) -> Option<u32> {
    groups().find(|(own, _)| own == name).map(|(_, id)| id)
}

/// The name of a group of `/etc/group`.
pub fn group_name(id: u32) -> Option<String> {
    groups().find(|(_, own)| *own == id).map(|(name, _)| name)
}

fn groups() -> impl Iterator<Item = (String, u32)> {
    let text = fs::read("/etc/group").unwrap_or_default();
    parse(&text[..text.len().min(GROUPS_MAX)]).into_iter()
}

fn parse(text: &[u8]) -> Vec<(String, u32)> {
    let group = |line: &[u8]| {
        let mut fields = str::from_utf8(line).ok()?.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        Some((name.to_owned(), id.parse().ok()?)).filter(|(name, _)| !name.is_empty())
    };
    text.split(|byte| *byte == b'\n').filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("conn-access-{name}-{}", std::process::id())).join("conn.sock")
    }

    fn clean(path: &Path) {
        let _ = fs::remove_dir_all(path.parent().expect("a folder"));
    }

    #[test]
    fn groups_of_a_file() {
        let text = b"root:x:0:\nconn:x:990:alice,bob\n:x:7:\nno line\nx:x:-1:\n+:::\n";
        assert_eq!(parse(text), [("root".to_owned(), 0), ("conn".to_owned(), 990)]);
    }

    #[test]
    fn a_socket_is_there_while_its_agent_lives_and_for_whom_it_may_be() {
        let path = place("mode");
        let bound = bind(&path, "no-such-group-of-conn").expect("a socket");
        assert_eq!(bound.group, None);
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, MODE_ALONE);
        assert_eq!(fs::metadata(path.parent().expect("a folder")).expect("there").mode() & 0o777, 0o755);
        let taken = bind(&path, "root").expect_err("it lives").to_string();
        assert!(taken.contains(&format!("another agent (pid {})", std::process::id())), "{taken}");
        drop(bound);
        assert!(!path.exists());
        clean(&path);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let path = place("stale");
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        drop(UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists(), "std leaves it there, as one that was killed does");
        let first = bind(&path, "root").expect("a socket");
        // Another one has the place by now: the first one leaves it.
        fs::remove_file(&path).expect("removed");
        let second = UnixListener::bind(&path).expect("a socket");
        drop(first);
        assert!(path.exists());
        drop(second);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "a text").expect("a file");
        assert!(matches!(bind(&path, "root"), Err(BindError::NoSocket { .. })));
        clean(&path);
    }
}

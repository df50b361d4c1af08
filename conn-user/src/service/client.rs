//! A client of an agent's socket. It blocks.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;

use super::access::group_name;
use super::protocol::{ProtocolError, Request, read_answer, write_request};
use crate::event::escape;
use crate::process::users::Users;

/// Longest answer that is one line: rule files may be large.
const ANSWER_MAX: u64 = 256 << 20;
/// How long an agent may take to begin to answer: it may be starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("no agent runs here: there is no socket at {}; `conn agent` makes one", escape::path(.0))]
    NotThere(PathBuf),
    /// Nobody listens.
    #[error("no agent answers at {}: it was killed, and left its socket", escape::path(.0))]
    NoAnswer(PathBuf),
    /// This user may not connect.
    #[error("the socket of the agent at {} is {}", escape::path(path), remedy(group.as_deref(), user))]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The group whose members may; `None`: root alone.
        group: Option<String>,
        /// Who asks.
        user: String,
    },
    /// The connection broke.
    #[error("the agent at {}: {error}", escape::path(path))]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The agent refuses, or speaks another version.
    #[error("the agent at {}: {error}", escape::path(path))]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: ProtocolError,
    },
}

fn remedy(group: Option<&str>, user: &str) -> String {
    match group {
        Some(group) => format!(
            "for root and the group {group}; ask root to add you: usermod -aG {group} {user}, and log in again"
        ),
        None => "for root alone; ask root to make a group for it (groupadd --system conn) and to restart the agent"
            .to_owned(),
    }
}

impl ClientError {
    /// Whether there is no agent at all: who asked may do it itself.
    pub const fn is_nobody(&self) -> bool {
        matches!(self, Self::NotThere(_) | Self::NoAnswer(_))
    }

    /// Whether this user may not.
    pub const fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }
}

/// A connection to an agent.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When there is no agent, or this user may not.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let own = || path.to_owned();
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ClientError::NotThere(own()),
            io::ErrorKind::ConnectionRefused => ClientError::NoAnswer(own()),
            io::ErrorKind::PermissionDenied => denied(path),
            _ => ClientError::Io { path: own(), error },
        })?;
        let stream = BufReader::new(stream);
        Ok(Self { path: own(), stream })
    }

    /// Asks, and reads the answer. What it announces follows in [`Self::rest`].
    ///
    /// # Errors
    /// When the agent refuses, or the connection breaks.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let broken = |path: &Path, error| ClientError::Io { path: path.to_owned(), error };
        let mut line = Vec::new();
        write_request(request, &mut line);
        let sent = self.stream.get_mut().write_all(&line);
        // Who was refused before it asked has an answer all the same.
        if let Err(error) = sent
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(broken(&self.path, error));
        }
        let timed = self.stream.get_ref().set_read_timeout(Some(PATIENCE));
        timed.map_err(|error| broken(&self.path, error))?;
        let mut answer = String::new();
        let read = self.stream.by_ref().take(ANSWER_MAX).read_line(&mut answer);
        match read {
            Ok(0) => return Err(broken(&self.path, io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
                return Err(broken(&self.path, error));
            }
            Err(error) => return Err(broken(&self.path, error)),
        }
        read_answer(&answer).map_err(|error| ClientError::Protocol { path: self.path.clone(), error })
    }

    /// Reads all that follows an answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn rest_to_end(mut self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        let read = self.stream.read_to_end(out).map(drop);
        read.map_err(|error| ClientError::Io { path: self.path.clone(), error })
    }

    /// What follows an answer; it may take as long as it takes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn rest(self) -> io::Result<BufReader<UnixStream>> {
        self.stream.get_ref().set_read_timeout(None)?;
        Ok(self.stream)
    }
}

fn denied(path: &Path) -> ClientError {
    // The folder may be read by everybody.
    let gid = std::fs::metadata(path).ok().filter(|about| about.mode() & 0o060 != 0).map(|about| about.gid());
    let group = gid.filter(|gid| *gid != 0).map(|gid| group_name(gid).unwrap_or_else(|| gid.to_string()));
    // SAFETY: it has no arguments and cannot fail.
    let uid = unsafe { libc::geteuid() };
    let user = Users::default().name(uid);
    let user = user.map_or_else(|| format!("of uid {uid}"), |name| escape::string(&name));
    ClientError::Denied { path: path.to_owned(), group, user }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_remedy() {
        let denied = |group: Option<&str>| {
            ClientError::Denied {
                path: "/run/conn/conn.sock".into(),
                group: group.map(str::to_owned),
                user: "alice".to_owned(),
            }
            .to_string()
        };
        assert_eq!(
            denied(Some("conn")),
            "the socket of the agent at /run/conn/conn.sock is for root and the group conn; ask root to add you: \
             usermod -aG conn alice, and log in again"
        );
        assert!(denied(None).contains("for root alone"));
        let path = std::env::temp_dir().join(format!("conn-client-{}", std::process::id()));
        let error = Client::connect(&path).expect_err("nobody");
        assert!(error.is_nobody() && matches!(error, ClientError::NotThere(_)));
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let error = Client::connect(&path).expect_err("nobody listens");
        assert!(error.is_nobody() && error.to_string().contains("was killed"), "{error}");
        std::fs::remove_file(&path).expect("removed");
    }
}

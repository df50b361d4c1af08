//! What is found out about a process image after its first record, in the background ([`super::inspect`]).
//!
//! Shared by everything that holds the process: a connection that was opened before its opener's executable was
//! hashed is closed with the hash.

use std::sync::{Arc, OnceLock};

use crate::units::{BootNs, NetNs};

/// Facts of a process image that may still come. Two are equal when they are the same.
#[derive(Clone, Debug, Default)]
pub struct Identity(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    state: OnceLock<ProcessState>,
    exe: Arc<ExeCells>,
}

#[derive(Debug, Default)]
struct ExeCells {
    executed: Option<BootNs>,
    file: OnceLock<ExeFile>,
    sha256: OnceLock<Option<Sha256>>,
}

/// A SHA-256.
pub type Sha256 = [u8; 32];

/// What /proc shows of a process's state, once: soon after its exec, or at its first use of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessState {
    /// Working directory, attacker-controlled bytes.
    pub cwd: Option<Box<[u8]>>,
    /// The controlling terminal.
    pub tty: Tty,
    /// Network namespace of the process; its sockets may be in others.
    pub netns: Option<NetNs>,
}

/// A controlling terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tty {
    /// Not known.
    #[default]
    Unknown,
    /// It has none.
    None,
    /// This one, without `/dev/`: `pts/3`, `tty1`.
    Named(Box<str>),
}

/// Where the executable lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExeFile {
    /// Type of the file system, as in `/proc/PID/mountinfo`.
    pub fs: Option<Box<[u8]>>,
    /// Where that is mounted, in the process's own mount namespace.
    pub mount: Option<Box<[u8]>>,
    /// Every user may write the file or its directory.
    pub writable: Option<bool>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Identity {}

impl Identity {
    /// Of an image that was executed at this instant.
    pub fn executed_at(at: BootNs) -> Self {
        let exe = Arc::new(ExeCells { executed: Some(at), ..ExeCells::default() });
        Self(Arc::new(Cells { state: OnceLock::new(), exe }))
    }

    /// When the image was executed, where that was seen.
    pub fn executed(&self) -> Option<BootNs> {
        self.0.exe.executed
    }

    /// For a new process with the same executable.
    #[must_use]
    pub fn forked(&self) -> Self {
        Self(Arc::new(Cells { state: OnceLock::new(), exe: Arc::clone(&self.0.exe) }))
    }

    /// The state of the process, once known.
    pub fn state(&self) -> Option<&ProcessState> {
        self.0.state.get()
    }

    /// Where the executable lies, once known.
    pub fn exe(&self) -> Option<&ExeFile> {
        self.0.exe.file.get()
    }

    /// The hash of the executable, once known.
    pub fn sha256(&self) -> Option<&Sha256> {
        self.0.exe.sha256.get()?.as_ref()
    }

    /// Whether the hash is known, or known to be out of reach.
    pub fn sha256_settled(&self) -> bool {
        self.0.exe.sha256.get().is_some()
    }

    /// Grows with what is known: what was made from an older one must be made anew.
    #[inline]
    pub fn version(&self) -> u8 {
        let cells = &*self.0;
        u8::from(cells.state.get().is_some())
            | u8::from(cells.exe.file.get().is_some()) << 1
            | u8::from(cells.exe.sha256.get().is_some()) << 2
    }

    /// Tells the state. The first word counts.
    pub fn set_state(&self, state: ProcessState) {
        let _ = self.0.state.set(state);
    }

    /// Tells where the executable lies. The first word counts.
    pub fn set_exe(&self, file: ExeFile) {
        let _ = self.0.exe.file.set(file);
    }

    /// Tells the hash; `None`: it cannot be known. The first word counts.
    pub fn set_sha256(&self, hash: Option<Sha256>) {
        let _ = self.0.exe.sha256.set(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_shares_the_executable_only() {
        let parent = Identity::default();
        let child = parent.forked();
        parent.set_state(ProcessState::default());
        parent.set_sha256(Some([7; 32]));
        assert_eq!((child.state(), child.sha256()), (None, Some(&[7; 32])));
        assert_ne!(parent, child);
    }

    #[test]
    fn each_fact_makes_a_new_version() {
        let identity = Identity::default();
        let mut versions = vec![identity.version()];
        identity.set_sha256(None);
        versions.push(identity.version());
        identity.set_state(ProcessState::default());
        versions.push(identity.version());
        identity.set_exe(ExeFile::default());
        versions.push(identity.version());
        assert!(
            versions.is_sorted() && {
                versions.dedup();
                versions.len() == 4
            },
            "{versions:?}"
        );
        assert!(identity.sha256().is_none() && identity.sha256_settled());
    }
}

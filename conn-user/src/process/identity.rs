//! What is found out about a process image after its first record, in the background ([`super::inspect`]).
//!
//! Shared by everything that holds the process: a connection that was opened before its opener's executable was
//! hashed is closed with the hash. Facts are set by the thread that handles events, at a point of the stream that a recording
//! shows (a `facts` event); the background only sends answers.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::units::{BootNs, DurationNs, NetNs};

/// Facts of a process image that may still come. Two are equal when they are the same.
#[derive(Clone, Debug, Default)]
pub struct Identity(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    state: OnceLock<ProcessState>,
    exe: ExeCells,
    /// Requests that are not answered yet.
    awaited: AtomicU64,
    /// Nothing more will be found out unless it is asked again.
    settled: AtomicBool,
    /// In a replay: an event has shown that all of it was asked for.
    all_asked: AtomicBool,
    /// When its executable was compared last, in nanoseconds since boot; 0: never. Of each process by itself: another one
    /// of the same image may have another root.
    compared: AtomicU64,
    /// A [`Replaced`], or 0.
    replaced: AtomicU8,
    /// The executable lost its name after the exec.
    deleted: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct ExeCells {
    executed: Option<BootNs>,
    file: OnceLock<Arc<ExeFile>>,
    is_host: OnceLock<bool>,
    sha256: OnceLock<Option<Sha256>>,
    copy_of: OnceLock<Option<Arc<str>>>,
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
    /// The process's own user, who is not root, may write the file or its directory.
    pub user_writable: Option<bool>,
}

/// Whether the path of a process's executable still leads to the file that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It does.
    No = 1,
    /// It leads to another file.
    Other = 2,
    /// It leads to none.
    Gone = 3,
    /// That cannot be known: the process is gone, or out of reach.
    Unknown = 4,
    /// It leads to another file, which root or the owner of the one that runs put there: as an upgrade or a build does.
    Upgraded = 5,
}

impl Replaced {
    /// Returns whether the path leads to the running file no more.
    pub const fn is_replaced(self) -> bool {
        matches!(self, Self::Other | Self::Gone | Self::Upgraded)
    }
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
        let exe = ExeCells { executed: Some(at), ..ExeCells::default() };
        Self(Arc::new(Cells { exe, ..Cells::default() }))
    }

    /// When the image was executed, where that was seen.
    pub fn executed(&self) -> Option<BootNs> {
        self.0.exe.executed
    }

    /// For a new process with the same executable: with what is known of that now. What is found out later is found out of each.
    #[must_use]
    pub fn forked(&self) -> Self {
        let deleted = AtomicBool::new(self.is_deleted());
        Self(Arc::new(Cells { exe: self.0.exe.clone(), deleted, ..Cells::default() }))
    }

    /// Distinguishes it from others as long as it lives.
    pub fn key(&self) -> u64 {
        Arc::as_ptr(&self.0).addr() as u64
    }

    /// Takes note that it was asked for.
    pub(super) fn ask(&self) {
        self.0.awaited.fetch_add(1, Ordering::Relaxed);
        self.0.settled.store(false, Ordering::Relaxed);
    }

    /// Takes note that one request is answered, or will not be.
    pub(super) fn answered(&self) {
        let left = self.0.awaited.load(Ordering::Relaxed).saturating_sub(1);
        self.0.awaited.store(left, Ordering::Relaxed);
        if left == 0 {
            self.settle();
        }
    }

    /// Whether nothing more will be found out unless it is asked again. The table settles those of whom it asks nothing when they use
    /// the network: kernel threads, the idle task, processes for which it had no room, and all where there is no inspector.
    pub fn is_settled(&self) -> bool {
        self.0.settled.load(Ordering::Relaxed)
    }

    /// Takes note that nothing more will be found out unless it is asked again.
    pub fn settle(&self) {
        self.0.settled.store(true, Ordering::Relaxed);
    }

    /// Takes note, in a replay, of an event by which the agent asked for all of it: more may be found out
    /// again. Only the first such event counts.
    pub fn ask_all(&self) {
        if !self.0.all_asked.swap(true, Ordering::Relaxed) {
            self.0.settled.store(false, Ordering::Relaxed);
        }
    }

    /// The state of the process, once known.
    pub fn state(&self) -> Option<&ProcessState> {
        self.0.state.get()
    }

    /// Where the executable lies, once known.
    pub fn exe(&self) -> Option<&ExeFile> {
        self.0.exe.file.get().map(|file| &**file)
    }

    /// Whether the executable is the host's own file at its path: what the path led to in the host's mount namespace. `None`:
    /// not known, or not yet.
    pub fn exe_is_host(&self) -> Option<bool> {
        self.0.exe.is_host.get().copied()
    }

    /// The hash of the executable, once known.
    pub fn sha256(&self) -> Option<&Sha256> {
        self.0.exe.sha256.get()?.as_ref()
    }

    /// Whether the hash is known, or known to be out of reach.
    pub fn sha256_settled(&self) -> bool {
        self.0.exe.sha256.get().is_some()
    }

    /// Returns the name of this host's own shell, interpreter or network tool whose content the executable has, where its own
    /// name does not say so. `None`: it is none, or that is not known (yet).
    pub fn copy_of(&self) -> Option<&str> {
        self.0.exe.copy_of.get()?.as_deref()
    }

    /// Returns whether it is known what the executable is a copy of, if anything.
    pub fn copy_of_settled(&self) -> bool {
        self.0.exe.copy_of.get().is_some()
    }

    /// What the last comparison of the executable with its path said; `None`: there was none, or it is under way.
    pub fn replaced(&self) -> Option<Replaced> {
        match self.0.replaced.load(Ordering::Relaxed) {
            1 => Some(Replaced::No),
            2 => Some(Replaced::Other),
            3 => Some(Replaced::Gone),
            4 => Some(Replaced::Unknown),
            5 => Some(Replaced::Upgraded),
            _ => None,
        }
    }

    /// Returns whether the executable was found without a name after the exec. It does not get one again.
    pub fn is_deleted(&self) -> bool {
        self.0.deleted.load(Ordering::Relaxed)
    }

    /// Sets that the executable has no name any more.
    pub fn set_deleted(&self) {
        self.0.deleted.store(true, Ordering::Relaxed);
    }

    /// Reports what a comparison said.
    pub fn set_replaced(&self, replaced: Replaced) {
        self.0.replaced.store(replaced as u8, Ordering::Relaxed);
    }

    /// Whether it is time to compare ([`Self::is_time_to_compare`]); if so, the last comparison is forgotten.
    pub fn is_to_be_compared(&self, now: BootNs, every: DurationNs) -> bool {
        let is_time = self.is_time_to_compare(now, every);
        if is_time {
            self.compare_again(now);
        }
        is_time
    }

    /// Forgets the last comparison, which is repeated now.
    pub fn compare_again(&self, now: BootNs) {
        self.0.compared.store(now.0.max(1), Ordering::Relaxed);
        self.0.replaced.store(0, Ordering::Relaxed);
    }

    /// Whether it is time to compare: never twice within `every`, and not again once the file was replaced,
    /// for it does not come back.
    pub fn is_time_to_compare(&self, now: BootNs, every: DurationNs) -> bool {
        let last = BootNs(self.0.compared.load(Ordering::Relaxed));
        let is_replaced = self.replaced().is_some_and(Replaced::is_replaced);
        !is_replaced && (last.0 == 0 || now.since(last) >= every)
    }

    /// Reports apart what is known, one bit or more a fact: what was made from another one must be made anew.
    #[inline]
    pub fn version(&self) -> u16 {
        let cells = &*self.0;
        u16::from(cells.state.get().is_some())
            | u16::from(cells.exe.file.get().is_some()) << 1
            | u16::from(cells.exe.sha256.get().is_some()) << 2
            | u16::from(cells.replaced.load(Ordering::Relaxed)) << 3
            | u16::from(cells.exe.is_host.get().is_some()) << 6
            | u16::from(self.is_deleted()) << 7
            | u16::from(self.copy_of_settled()) << 8
            | u16::from(self.copy_of().is_some()) << 9
    }

    /// Takes over what was known of the process whose copy this one is, which is gone. The network namespace is the one thing that a
    /// clone(2) may change at once.
    pub(super) fn copy(&self, parent: &Self) {
        if let Some(state) = parent.state() {
            self.set_state(ProcessState { netns: None, ..state.clone() });
        }
        if let Some(file) = parent.exe() {
            self.set_exe(file.clone());
        }
        if let Some(hash) = parent.sha256() {
            self.set_sha256(Some(*hash));
        }
        if parent.is_deleted() {
            self.set_deleted();
        }
        if let Some(copy_of) = parent.0.exe.copy_of.get() {
            self.set_copy_of(copy_of.clone());
        }
    }

    /// Takes over what is known of the same image elsewhere.
    pub fn learn(&self, other: &Self) {
        if let Some(state) = other.state() {
            self.set_state(state.clone());
        }
        if let Some(file) = other.exe() {
            self.set_exe(file.clone());
        }
        if let Some(is_host) = other.exe_is_host() {
            self.set_exe_is_host(is_host);
        }
        if let Some(hash) = other.sha256() {
            self.set_sha256(Some(*hash));
        }
        if let Some(replaced) = other.replaced() {
            self.set_replaced(replaced);
        }
        if other.is_deleted() {
            self.set_deleted();
        }
        if let Some(copy_of) = other.0.exe.copy_of.get() {
            self.set_copy_of(copy_of.clone());
        }
    }

    /// Reports the state. The first word counts.
    pub fn set_state(&self, state: ProcessState) {
        let _ = self.0.state.set(state);
    }

    /// Reports where the executable lies. The first word counts.
    pub fn set_exe(&self, file: ExeFile) {
        let _ = self.0.exe.file.set(Arc::new(file));
    }

    /// Sets whether the executable is the host's own file. The first answer counts.
    pub fn set_exe_is_host(&self, is_host: bool) {
        let _ = self.0.exe.is_host.set(is_host);
    }

    /// Sets what the executable is a copy of; `None`: of nothing that is known. The first answer counts.
    pub fn set_copy_of(&self, name: Option<Arc<str>>) {
        let _ = self.0.exe.copy_of.set(name);
    }

    /// Reports the hash; `None`: it cannot be known. The first word counts.
    pub fn set_sha256(&self, hash: Option<Sha256>) {
        let _ = self.0.exe.sha256.set(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_begins_with_what_is_known_of_the_executable() {
        let parent = Identity::default();
        parent.set_state(ProcessState::default());
        parent.set_sha256(Some([7; 32]));
        parent.set_exe_is_host(true);
        let child = parent.forked();
        assert_eq!((child.state(), child.sha256()), (None, Some(&[7; 32])));
        assert_eq!(child.exe_is_host(), Some(true));
        parent.set_exe(ExeFile::default());
        assert_eq!(child.exe(), None, "that is found out of each");
        assert_ne!(parent, child);
        parent.set_deleted();
        assert!(!child.is_deleted() && parent.forked().is_deleted());
    }

    #[test]
    fn it_is_settled_when_the_last_request_is_answered() {
        let identity = Identity::default();
        assert!(!identity.is_settled());
        identity.ask();
        identity.ask();
        identity.answered();
        assert!(!identity.is_settled());
        identity.answered();
        assert!(identity.is_settled() && !identity.forked().is_settled());
        identity.ask();
        assert!(!identity.is_settled());
    }

    #[test]
    fn an_executable_is_compared_once_in_a_while_until_it_is_replaced() {
        let (identity, every) = (Identity::default(), DurationNs(60));
        assert!(
            identity.is_to_be_compared(BootNs(0), every) && !identity.is_to_be_compared(BootNs(59), every)
        );
        identity.set_replaced(Replaced::No);
        assert!(identity.is_time_to_compare(BootNs(100), every), "asked only");
        assert_eq!(identity.replaced(), Some(Replaced::No));
        assert!(identity.forked().is_to_be_compared(BootNs(2), every), "each process by itself");
        assert!(identity.is_to_be_compared(BootNs(100), every));
        assert_eq!(identity.replaced(), None, "under way");
        identity.set_replaced(Replaced::Gone);
        assert!(!identity.is_to_be_compared(BootNs(1_000), every));
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
        identity.set_replaced(Replaced::No);
        versions.push(identity.version());
        identity.set_exe_is_host(false);
        versions.push(identity.version());
        identity.set_deleted();
        versions.push(identity.version());
        identity.set_copy_of(Some("bash".into()));
        versions.push(identity.version());
        assert!(
            versions.is_sorted() && {
                versions.dedup();
                versions.len() == 8
            },
            "{versions:?}"
        );
        assert!(identity.sha256().is_none() && identity.sha256_settled());
    }
}

//! Finds executables: where they lie, what they are copies of, and hashes that are known.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::stats::{Counts, count};
use super::{Depth, Fact};
use crate::clock::Clock;
use crate::process::digest::{Cache, FileState, SIZE_MAX};
use crate::process::exe::{self, Fate, Found, Wanted};
use crate::process::file_stat::FileStat;
use crate::process::files::{Begun, Caller, FileWorker, OWN_ROOT, Progress};
use crate::process::identity::{Identity, Replaced, Sha256};
use crate::process::info::{ProcessInfo, is_of_package};
use crate::process::procfs::ProcFs;
use crate::process::tools::{Tool, Tools};

/// Finds executables.
pub(super) struct Finder {
    pub(super) tools: Arc<Mutex<Tools>>,
    pub(super) proc: ProcFs,
    pub(super) files: FileWorker,
    pub(super) cache: Arc<Mutex<Cache>>,
    pub(super) counts: Arc<Counts>,
    pub(super) hashes: bool,
    /// Counts the tools that were hashed.
    pub(super) tool_number: u64,
}

impl Finder {
    pub(super) fn needs_hash(&self, identity: &Identity) -> bool {
        self.hashes && !identity.sha256_settled()
    }

    pub(super) fn fate(&mut self, process: &ProcessInfo, path: &[u8]) -> Fate {
        let ProcessInfo { pid, start, uid, exe_file: file, .. } = *process;
        let image = exe::Image { pid, start, uid, file, path };
        exe::replaced(&self.proc, &mut self.files, image).unwrap_or_else(|| {
            count(&self.counts.compare_failed);
            Fate { replaced: Replaced::Unknown, deleted: false }
        })
    }

    /// Looks whether the executable is the host's own file at its path. The process may be gone.
    pub(super) fn is_host_file(&mut self, process: &ProcessInfo) -> Option<bool> {
        let (path, file) = (process.exe.as_deref()?, process.exe_file?);
        let caller = Caller { uid: process.uid, dev: Some(file.dev) };
        self.proc.host().is_own_file(path, file, &mut self.files, caller)
    }

    /// Finds out where the executable lies, what it is a copy of, and its hash if that is known. Returns the file to hash, if
    /// one is.
    pub(super) fn executable(
        &mut self,
        process: &ProcessInfo,
        depth: Depth,
        facts: &mut Vec<Fact>,
    ) -> Option<(File, FileState)> {
        let identity = &process.identity;
        let wanted = Wanted {
            pid: process.pid,
            start: process.start,
            path: process.exe.as_deref(),
            file: process.exe_file,
            deleted: process.exe_deleted,
            executed: identity.executed().map(|boot| Clock::now().wall(boot)),
            uid: process.uid,
            gid: process.gid,
        };
        let is_all = depth == Depth::All;
        let Some(found) = Found::find(&self.proc, &mut self.files, wanted) else {
            if is_all {
                count(&self.counts.unreadable);
            }
            return None;
        };
        if is_all && !process.exe_is_deleted() && found.is_deleted(&self.proc, wanted) {
            facts.push(Fact::Deleted);
        }
        if (is_all || is_soon_judged(process)) && identity.exe().is_none() {
            facts.push(Fact::Exe(found.describe(&self.proc, &mut self.files, wanted)));
        }
        let state = FileState::of(&found.stat);
        let asks_copy = !identity.copy_of_settled();
        let tools = if asks_copy { self.tools(process, &state) } else { Vec::new() };
        let needs_hash = is_all && self.needs_hash(identity);
        if asks_copy && tools.is_empty() {
            facts.push(Fact::CopyOf(None));
        }
        if !needs_hash && tools.is_empty() {
            return None;
        }
        let known = |state: &FileState| lock(&self.cache).get(state);
        if let Some(hash) = known(&state) {
            if !tools.is_empty() {
                let hashes: Option<Vec<_>> = tools.iter().map(|tool| known(&tool.state)).collect();
                // The other thread hashes the tools.
                let Some(hashes) = hashes else { return Some((found.file, state)) };
                let same = tools.iter().zip(hashes).find(|(_, of)| *of == hash);
                facts.push(Fact::CopyOf(same.map(|(tool, _)| Arc::clone(&tool.name))));
            }
            facts.push(Fact::Sha256(Some(hash)));
        } else if state.size > SIZE_MAX {
            count(&self.counts.too_large);
            facts.push(Fact::Sha256(None));
        } else {
            return Some((found.file, state));
        }
        None
    }

    /// Returns the tools of this host that the executable in this state may be a copy of.
    pub(super) fn tools(&self, process: &ProcessInfo, state: &FileState) -> Vec<Tool> {
        let Some(path) = process.exe.as_deref() else { return Vec::new() };
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).candidates(state, path)
    }

    /// Returns the tool of this host that has this hash, of those that the executable in this state may be a copy of. Hashes
    /// them where that was not done.
    pub(super) fn copy_of(
        &mut self,
        process: &ProcessInfo,
        state: &FileState,
        hash: Sha256,
    ) -> Option<Arc<str>> {
        let tools = self.tools(process, state);
        let found = tools.iter().find(|tool| self.hash_of(tool) == Some(hash));
        found.map(|tool| Arc::clone(&tool.name))
    }

    pub(super) fn hash_of(&mut self, tool: &Tool) -> Option<Sha256> {
        if let Some(hash) = lock(&self.cache).get(&tool.state) {
            return Some(hash);
        }
        let caller = Caller { uid: 0, dev: Some(tool.state.dev()) };
        let file = self.files.open(Path::new(OWN_ROOT), &tool.path, caller).ok()?;
        // Another link to the file, or another mode, makes its state another one, though its content is the same.
        let state = FileState::of(&FileStat::of(&file).ok()?);
        if let Some(hash) = lock(&self.cache).get(&state) {
            return Some(hash);
        }
        // The files of the queue are numbered from 1.
        self.tool_number += 1;
        let mut begun = Begun::new(u64::MAX - self.tool_number);
        loop {
            match self.files.hash(&mut begun, &file, state, caller).ok()? {
                Progress::Read(_) => {}
                Progress::Done(hash) => {
                    lock(&self.cache).put(state, hash?);
                    return hash;
                }
            }
        }
    }
}

/// The first uid of people (`UID_MIN` of login.defs).
pub(super) const UID_MIN: u32 = 1000;

/// Returns whether rules will ask who may write this executable as soon as the process uses the network,
/// which it may do and be gone before anybody has looked: a program of a service user that no package
/// brought. Not one of root, which may become another user before it does, and the answer is about the user.
/// What people run is asked about when it does use the network: a build starts thousands of programs.
pub(super) fn is_soon_judged(process: &ProcessInfo) -> bool {
    (1..UID_MIN).contains(&process.uid) && process.exe.as_deref().is_some_and(|exe| !is_of_package(exe))
}

pub(super) fn lock(cache: &Mutex<Cache>) -> std::sync::MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

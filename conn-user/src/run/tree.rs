//! The processes of a run: the command's, and every one that it or a descendant created.

use std::collections::HashMap;
use std::sync::Arc;

use crate::process::hash::IntBuild;
use crate::process::info::{ProcessInfo, TICK_NS};
use crate::units::{BootNs, Pid};

/// Most processes of a tree, ended ones included. What is created beyond them is counted and not followed.
const MEMBERS_MAX: usize = 1 << 20;

/// A process by its id and start in ticks ([`ProcessInfo::start_ticks`]): the same by a record and by /proc.
fn key(pid: Pid, start: BootNs) -> u64 {
    // A boot has less than 2^40 ticks: 348 years.
    u64::from(pid.0) << 40 | ((start.0 / TICK_NS) & ((1 << 40) - 1))
}

/// Who belongs to the run. A process stays in it whatever it does: another program, session or parent (a daemon's is process 1)
/// changes nothing, and neither does its end, because its sockets end after it.
#[derive(Debug, Default)]
pub struct Tree {
    /// What is known of those that live.
    members: HashMap<u64, Option<Arc<ProcessInfo>>, IntBuild>,
    creator: Option<Pid>,
    root: Option<u64>,
    over: Option<BootNs>,
    living: usize,
    not_kept: u64,
}

impl Tree {
    /// The next process that this one creates is the command's own; before it nobody belongs to the tree. Its record reports its id
    /// as the kernel numbers it, which in a pid namespace nobody else does.
    pub const fn expect_root(&mut self, creator: Pid) {
        self.creator = Some(creator);
    }

    /// A process was created.
    pub fn on_fork(&mut self, creator: Pid, creator_start: BootNs, child: &Arc<ProcessInfo>) {
        if self.root.is_none() && self.creator == Some(creator) {
            self.root = Some(key(child.pid, child.start));
            self.add(child);
        } else if self.members.contains_key(&key(creator, creator_start)) {
            self.add(child);
        }
    }

    /// The run is over: what begins later is none of it. Processes that go on belong to it still, for their ends.
    pub const fn close(&mut self, at: BootNs) {
        self.over = Some(at);
    }

    /// Whether the run was over before this instant.
    pub fn is_over(&self, at: BootNs) -> bool {
        self.over.is_some_and(|over| over < at)
    }

    /// A process executed a program.
    pub fn on_exec(&mut self, process: &Arc<ProcessInfo>) {
        if self.has(process)
            && let Some(Some(info)) = self.members.get_mut(&key(process.pid, process.start))
        {
            info.clone_from(process);
        }
    }

    /// A process ended.
    pub fn on_exit(&mut self, process: &ProcessInfo) {
        if let Some(info) = self.members.get_mut(&key(process.pid, process.start))
            && info.take().is_some()
        {
            self.living -= 1;
        }
    }

    /// Whether a process belongs to the tree. One whose creation was not seen does if one above it does.
    pub fn has(&mut self, process: &Arc<ProcessInfo>) -> bool {
        if self.members.contains_key(&key(process.pid, process.start)) {
            return true;
        }
        let is_below =
            process.ancestors.iter().any(|above| self.members.contains_key(&key(above.pid, above.start)));
        let is_new = is_below && !self.is_over(process.start);
        if is_new {
            self.add(process);
        }
        is_new
    }

    fn add(&mut self, process: &Arc<ProcessInfo>) {
        let key = key(process.pid, process.start);
        if self.members.contains_key(&key) || self.is_over(process.start) {
            return;
        }
        if self.members.len() >= MEMBERS_MAX {
            self.not_kept += 1;
            return;
        }
        self.members.insert(key, Some(Arc::clone(process)));
        self.living += 1;
    }

    /// Processes that have not ended, the command's own among them.
    pub const fn living(&self) -> usize {
        self.living
    }

    /// Processes that it had, ended ones included.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether the command's own process was not seen (yet).
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Processes that were not followed: limit reached.
    pub const fn not_kept(&self) -> u64 {
        self.not_kept
    }

    /// Those that have not ended, but for the command's own process, by their ids.
    pub fn survivors(&self) -> Vec<Arc<ProcessInfo>> {
        let others = self.members.iter().filter(|(key, _)| Some(**key) != self.root);
        let mut living: Vec<_> = others.filter_map(|(_, info)| info.clone()).collect();
        living.sort_unstable_by_key(|process| (process.pid, process.start));
        living
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::lineage;

    const CONN: (Pid, BootNs) = (Pid(50), BootNs(4 * TICK_NS));
    const ROOT: (Pid, BootNs) = (Pid(100), BootNs(5 * TICK_NS + 7));

    fn process(pid: u32) -> Arc<ProcessInfo> {
        Arc::new(ProcessInfo::new(Pid(pid), BootNs(6 * TICK_NS)))
    }

    fn planted() -> Tree {
        let mut tree = Tree::default();
        tree.on_fork(CONN.0, CONN.1, &process(98));
        tree.expect_root(CONN.0);
        tree.on_fork(Pid(1), BootNs(0), &process(99));
        assert!(tree.is_empty());
        tree.on_fork(CONN.0, CONN.1, &Arc::new(ProcessInfo::new(ROOT.0, ROOT.1)));
        // It creates only one, but a backup program may repeat it.
        tree.on_fork(CONN.0, CONN.1, &process(98));
        assert_eq!((tree.len(), tree.living()), (1, 1));
        tree
    }

    #[test]
    fn descendants_belong_to_it_however_deep() {
        let mut tree = planted();
        let mut above = ROOT;
        for pid in 101..200 {
            let child = process(pid);
            tree.on_fork(above.0, above.1, &child);
            tree.on_exit(&ProcessInfo::new(above.0, above.1));
            assert!(tree.has(&child), "{pid}");
            above = (child.pid, child.start);
        }
        assert_eq!((tree.len(), tree.living()), (100, 1));
        assert_eq!(tree.survivors().iter().map(|process| process.pid.0).collect::<Vec<_>>(), [199]);
    }

    #[test]
    fn others_do_not() {
        let mut tree = planted();
        tree.on_fork(Pid(1), BootNs(0), &process(7));
        assert!(!tree.has(&process(7)));
        let reused = Arc::new(ProcessInfo::new(ROOT.0, BootNs(9 * TICK_NS)));
        assert!(!tree.has(&reused), "another process with the command's id");
        tree.on_exit(&reused);
        assert_eq!(tree.living(), 1);
    }

    #[test]
    fn an_end_is_counted_once_and_ends_no_membership() {
        let mut tree = planted();
        let child = process(7);
        tree.on_fork(ROOT.0, ROOT.1, &child);
        tree.on_fork(ROOT.0, ROOT.1, &child);
        assert_eq!(tree.living(), 2);
        tree.on_exit(&child);
        tree.on_exit(&child);
        tree.on_fork(ROOT.0, ROOT.1, &child);
        assert_eq!(tree.living(), 1, "a backup program that repeats a fork wakes nobody");
        assert!(tree.has(&child));
        assert!(tree.survivors().is_empty(), "the command's own process is none");
    }

    #[test]
    fn a_fork_that_was_lost_shows_by_the_ancestors() {
        let mut tree = planted();
        let root = ProcessInfo::new(ROOT.0, ROOT.1);
        let child = Arc::new(ProcessInfo { ancestors: lineage::below(&root), ..(*process(7)).clone() });
        assert!(tree.has(&child));
        tree.on_fork(child.pid, child.start, &process(8));
        assert!(tree.has(&process(8)));
    }

    #[test]
    fn who_is_created_when_it_is_over_is_none_of_it() {
        let mut tree = planted();
        let (child, late) = (process(7), Arc::new(ProcessInfo::new(Pid(8), BootNs(8 * TICK_NS))));
        tree.on_fork(ROOT.0, ROOT.1, &child);
        tree.close(BootNs(7 * TICK_NS));
        tree.on_fork(child.pid, child.start, &late);
        let below = ProcessInfo { ancestors: lineage::below(&child), ..ProcessInfo::clone(&late) };
        assert!(tree.has(&child) && !tree.has(&late) && !tree.has(&Arc::new(below)));
        assert_eq!(tree.survivors().len(), 1);
        assert!(tree.is_over(BootNs(7 * TICK_NS + 1)) && !tree.is_over(BootNs(7 * TICK_NS)));
    }

    #[test]
    fn an_exec_keeps_it_and_reports_the_new_name() {
        let mut tree = planted();
        let child = process(7);
        tree.on_fork(ROOT.0, ROOT.1, &child);
        tree.on_exec(&Arc::new(ProcessInfo { comm: b"new"[..].into(), ..(*child).clone() }));
        assert_eq!(&*tree.survivors()[0].comm, b"new");
    }
}

//! The processes that are known, by process id, and when the exited ones are forgotten.

use std::collections::hash_map::Entry as Place;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::entry::{Entry, Exited};
use super::hash::IntMap;
use super::info::ProcessInfo;
use super::table::ProcessLimits;
use crate::units::{BootNs, Pid};

/// Shortest time between two sweeps of a full table against /proc.
const SWEEP_EVERY_NS: u64 = 10_000_000_000;

/// The processes that had one process id, the newest apart.
#[derive(Debug)]
struct Slot {
    newest: Entry,
    older: Vec<Entry>,
}

impl Slot {
    fn iter(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.newest).chain(&self.older)
    }
}

/// Every known process, within the limits.
#[derive(Debug)]
pub(super) struct Entries {
    slots: IntMap<u32, Slot>,
    /// Those that exited, in the order in which they are forgotten.
    exits: VecDeque<Exited>,
    known: usize,
    serial: u64,
    clock: BootNs,
    next_sweep: BootNs,
    limits: ProcessLimits,
    evicted: u64,
    not_kept: u64,
}

impl Entries {
    pub(super) fn new(limits: ProcessLimits) -> Self {
        Self {
            slots: IntMap::default(),
            exits: VecDeque::new(),
            known: 0,
            serial: 0,
            clock: BootNs(0),
            next_sweep: BootNs(0),
            limits,
            evicted: 0,
            not_kept: 0,
        }
    }

    /// Processes, exited ones included.
    pub(super) const fn len(&self) -> usize {
        self.known
    }

    /// Exited processes.
    pub(super) fn exited(&self) -> usize {
        self.exits.len()
    }

    /// Exited processes that were forgotten before their grace was over: limit reached.
    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Processes that were not remembered: limit reached.
    pub(super) const fn not_kept(&self) -> u64 {
        self.not_kept
    }

    /// The process with this id and exact start.
    #[inline]
    pub(super) fn find(&mut self, pid: Pid, start: BootNs) -> Option<&mut Entry> {
        self.lookup(pid, start, false)
    }

    /// The process with this id and start; `coarse`: the start is in whole ticks.
    #[inline]
    pub(super) fn lookup(&mut self, pid: Pid, start: BootNs, coarse: bool) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(&pid.0)?;
        if slot.newest.info.is(pid, start, coarse) {
            return Some(&mut slot.newest);
        }
        slot.older.iter_mut().find(|entry| entry.info.is(pid, start, coarse))
    }

    /// The newest process with this id.
    pub(super) fn newest(&self, pid: Pid) -> Option<&Entry> {
        self.slots.get(&pid.0).map(|slot| &slot.newest)
    }

    /// See [`Self::newest`].
    pub(super) fn newest_mut(&mut self, pid: Pid) -> Option<&mut Entry> {
        self.slots.get_mut(&pid.0).map(|slot| &mut slot.newest)
    }

    /// Every process that had this id.
    pub(super) fn of_id(&self, pid: Pid) -> impl Iterator<Item = &Entry> {
        self.slots.get(&pid.0).into_iter().flat_map(Slot::iter)
    }

    /// Of each id the newest process that has not exited.
    pub(super) fn running(&self) -> impl Iterator<Item = &Entry> {
        self.slots.values().map(|slot| &slot.newest).filter(|entry| !entry.exited)
    }

    /// Of each id the newest process.
    pub(super) fn all_newest_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.slots.values_mut().map(|slot| &mut slot.newest)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.slots.values().map(|slot| slot.iter().count()).sum()
    }

    /// Remembers a process that is not known. One that has the same id and started earlier has exited, whether its record came or
    /// not. `alive` lists the processes that run, for when there is no room.
    pub(super) fn insert(
        &mut self,
        info: ProcessInfo,
        exited: bool,
        alive: impl FnOnce() -> io::Result<Vec<Pid>>,
    ) -> Arc<ProcessInfo> {
        let info = Arc::new(info);
        if !self.make_room(alive) {
            self.not_kept += 1;
            // Who is not in the table is not inspected.
            info.identity.settle();
            return info;
        }
        self.serial += 1;
        let mut entry = Entry::new(Arc::clone(&info), self.serial);
        if exited {
            self.exits.extend(entry.exit(self.clock));
        }
        match self.slots.entry(info.pid.0) {
            Place::Vacant(vacant) => {
                vacant.insert(Slot { newest: entry, older: Vec::new() });
            }
            Place::Occupied(occupied) => {
                let slot = occupied.into_mut();
                if entry.info.start >= slot.newest.info.start {
                    std::mem::swap(&mut slot.newest, &mut entry);
                }
                self.exits.extend(entry.exit(self.clock));
                slot.older.push(entry);
            }
        }
        self.known += 1;
        info
    }

    /// Marks a process as exited: it stays known for the grace.
    pub(super) fn exit(&mut self, pid: Pid, start: BootNs) {
        let now = self.clock;
        let exit = self.find(pid, start).and_then(|entry| entry.exit(now));
        self.exits.extend(exit);
    }

    fn make_room(&mut self, alive: impl FnOnce() -> io::Result<Vec<Pid>>) -> bool {
        if self.known < self.limits.max {
            return true;
        }
        if self.exits.is_empty() && self.clock >= self.next_sweep {
            self.next_sweep = BootNs(self.clock.0 + SWEEP_EVERY_NS);
            if let Ok(alive) = alive() {
                self.sweep(&alive);
            }
        }
        let Some(oldest) = self.exits.pop_front() else { return false };
        self.remove(&oldest);
        self.evicted += 1;
        true
    }

    /// Finds the processes whose exit records were lost.
    #[cold]
    fn sweep(&mut self, alive: &[Pid]) {
        let alive: HashSet<u32> = alive.iter().map(|pid| pid.0).collect();
        for (pid, slot) in &mut self.slots {
            if !alive.contains(pid) {
                self.exits.extend(slot.newest.exit(self.clock));
            }
        }
    }

    /// Moves the clock and drops processes whose grace is over.
    pub(super) fn advance(&mut self, now: BootNs) {
        self.clock = self.clock.max(now);
        while let Some(oldest) = self.exits.front()
            && self.clock.since(oldest.at) > self.limits.grace
            && let Some(oldest) = self.exits.pop_front()
        {
            if self.of_exit(&oldest).is_some_and(Entry::is_in_use) {
                self.exits.push_back(Exited { at: self.clock, ..oldest });
            } else {
                self.remove(&oldest);
            }
        }
    }

    fn of_exit(&self, exited: &Exited) -> Option<&Entry> {
        self.of_id(exited.pid).find(|entry| entry.serial == exited.serial)
    }

    fn remove(&mut self, gone: &Exited) {
        let Place::Occupied(mut occupied) = self.slots.entry(gone.pid.0) else { return };
        let slot = occupied.get_mut();
        if slot.newest.serial == gone.serial {
            match slot.older.pop() {
                Some(entry) => slot.newest = entry,
                None => drop(occupied.remove()),
            }
        } else if let Some(at) = slot.older.iter().position(|entry| entry.serial == gone.serial) {
            slot.older.swap_remove(at);
        } else {
            return;
        }
        self.known -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::hook_only;
    use crate::process::testing::task;
    use crate::units::DurationNs;

    fn entries(max: usize) -> Entries {
        Entries::new(ProcessLimits { max, grace: DurationNs(10) })
    }

    fn insert(entries: &mut Entries, pid: u32, start: u64, alive: &[u32]) -> Arc<ProcessInfo> {
        let alive = alive.iter().copied().map(Pid).collect();
        entries.insert(hook_only(&task(pid, start, "p")), false, || Ok(alive))
    }

    #[test]
    fn a_later_process_with_the_same_id_means_that_the_earlier_has_exited() {
        let mut entries = entries(9);
        insert(&mut entries, 1, 100, &[]);
        insert(&mut entries, 1, 200, &[]);
        assert_eq!((entries.len(), entries.exited(), entries.count()), (2, 1, 2));
        assert_eq!(entries.newest(Pid(1)).expect("known").info.start, BootNs(200));
        assert!(entries.find(Pid(1), BootNs(100)).expect("known").exited);
        entries.advance(BootNs(11));
        assert_eq!((entries.len(), entries.exited(), entries.count()), (1, 0, 1), "its grace is over");
    }

    #[test]
    fn what_is_in_use_stays_beyond_its_grace() {
        let mut entries = entries(9);
        let used = insert(&mut entries, 1, 100, &[]);
        entries.exit(Pid(1), BootNs(100));
        entries.exit(Pid(1), BootNs(100));
        assert_eq!(entries.exited(), 1, "once");
        entries.advance(BootNs(11));
        assert_eq!(entries.len(), 1);
        drop(used);
        entries.advance(BootNs(22));
        assert_eq!(entries.len(), 0);
    }

    #[test]
    fn a_full_table_forgets_exited_processes_or_keeps_no_more() {
        let mut entries = entries(2);
        insert(&mut entries, 1, 100, &[]);
        insert(&mut entries, 2, 100, &[]);
        insert(&mut entries, 3, 100, &[1, 2]);
        assert_eq!((entries.len(), entries.not_kept(), entries.evicted()), (2, 1, 0), "all run");
        insert(&mut entries, 3, 100, &[]);
        assert_eq!(entries.not_kept(), 2, "asked just before");
        entries.advance(BootNs(SWEEP_EVERY_NS));
        insert(&mut entries, 3, 100, &[2]);
        assert_eq!((entries.len(), entries.evicted()), (2, 1), "the exit record of 1 was lost");
        assert!(entries.newest(Pid(1)).is_none() && entries.newest(Pid(3)).is_some());
    }
}

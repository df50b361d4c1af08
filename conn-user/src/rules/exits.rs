//! How processes ended: what closes a socket may be the end of its process, and the record of that may come before the
//! record of the close or after it.

use std::collections::VecDeque;

use super::rule_run::{Followers, RuleRun};
use crate::process::hash::IntMap;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::BootNs;

/// Ends that are remembered. The sockets of a process are closed within its exit (`do_exit`), some microseconds to
/// milliseconds from its record.
const RECENT_MAX: usize = 4096;
/// Most processes whose end is waited for.
const FOLLOWED_MAX: usize = 65_536;

#[derive(Clone, Copy, Debug)]
struct Exited {
    start: BootNs,
    start_is_coarse: bool,
    status: ExitStatus,
    at: BootNs,
    serial: u64,
}

#[derive(Debug)]
struct Followed {
    start: BootNs,
    start_is_coarse: bool,
    by: Followers,
}

/// How the latest processes ended.
#[derive(Debug, Default)]
pub(super) struct Exits {
    recent: IntMap<u32, Exited>,
    order: VecDeque<(u32, u64)>,
    serial: u64,
    followed: IntMap<u32, Followed>,
    unfollowed: u64,
}

impl Exits {
    /// A process ended at this instant. Returns the rules that waited for it.
    pub(super) fn add(&mut self, process: &ProcessInfo, status: ExitStatus, at: BootNs) -> Followers {
        self.serial += 1;
        let (start, start_is_coarse, serial) = (process.start, process.start_is_coarse, self.serial);
        self.recent.insert(process.pid.0, Exited { start, start_is_coarse, status, at, serial });
        self.order.push_back((process.pid.0, serial));
        if self.order.len() > RECENT_MAX
            && let Some((pid, serial)) = self.order.pop_front()
            && self.recent.get(&pid).is_some_and(|exited| exited.serial == serial)
        {
            self.recent.remove(&pid);
        }
        match self.followed.get(&process.pid.0) {
            Some(followed) if process.is(process.pid, followed.start, followed.start_is_coarse) => {
                self.followed.remove(&process.pid.0).map(|followed| followed.by).unwrap_or_default()
            }
            _ => Followers::default(),
        }
    }

    /// How and when it ended, if it did of late.
    pub(super) fn of(&self, process: &ProcessInfo) -> Option<(ExitStatus, BootNs)> {
        let exited = self.recent.get(&process.pid.0)?;
        process.is(process.pid, exited.start, exited.start_is_coarse).then_some((exited.status, exited.at))
    }

    /// Has the rule reported its end.
    pub(super) fn follow(&mut self, process: &ProcessInfo, rule: RuleRun) {
        let full = self.followed.len() >= FOLLOWED_MAX;
        let (start, start_is_coarse) = (process.start, process.start_is_coarse);
        let fresh = || Followed { start, start_is_coarse, by: Followers::default() };
        let followed = match self.followed.get_mut(&process.pid.0) {
            Some(followed) => followed,
            None if full => {
                self.unfollowed += 1;
                return;
            }
            None => self.followed.entry(process.pid.0).or_insert_with(fresh),
        };
        if !process.is(process.pid, followed.start, followed.start_is_coarse) {
            // The end of the earlier process with that id was lost.
            *followed = fresh();
        }
        followed.by.add(rule);
    }

    /// Processes whose end is not waited for: limit reached.
    pub(super) const fn unfollowed(&self) -> u64 {
        self.unfollowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Pid;

    fn rule(place: u32) -> RuleRun {
        RuleRun { place, serial: place + 1 }
    }

    fn process(pid: u32, start: u64) -> ProcessInfo {
        ProcessInfo::new(Pid(pid), BootNs(start))
    }

    #[test]
    fn an_id_may_be_used_again() {
        let mut exits = Exits::default();
        exits.follow(&process(1, 10), rule(0));
        assert_eq!(
            exits.add(&process(1, 20), ExitStatus::Code(1), BootNs(30)).iter().count(),
            0,
            "another process"
        );
        assert_eq!(exits.of(&process(1, 20)), Some((ExitStatus::Code(1), BootNs(30))));
        assert_eq!(exits.of(&process(1, 10)), None);
        exits.follow(&process(1, 30), rule(2));
        exits.follow(&process(1, 30), rule(1));
        // The rule before at this place was removed.
        let other = RuleRun { place: 2, serial: 9 };
        exits.follow(&process(1, 30), other);
        let followers = exits.add(&process(1, 30), ExitStatus::Signal(9), BootNs(40));
        assert_eq!(followers.iter().collect::<Vec<_>>(), [rule(1), other]);
        assert_eq!(
            exits.add(&process(1, 30), ExitStatus::Signal(9), BootNs(40)).iter().count(),
            0,
            "reported once"
        );
    }

    #[test]
    fn is_bounded() {
        let mut exits = Exits::default();
        for pid in 0..2 * FOLLOWED_MAX as u32 {
            exits.follow(&process(pid, 1), rule(0));
            exits.add(&process(pid, 2), ExitStatus::Code(0), BootNs(3));
        }
        assert_eq!((exits.recent.len(), exits.order.len()), (RECENT_MAX, RECENT_MAX));
        assert_eq!((exits.followed.len(), exits.unfollowed()), (FOLLOWED_MAX, FOLLOWED_MAX as u64));
    }
}

//! Tracks connections by process for detectors, each until some time after its end: looked up by process and instant, ended by
//! connection, expired in the order in which they ended. No operation walks over all of them.

use std::collections::{BTreeMap, VecDeque};

use super::detector::Scene;
use super::work;
use crate::flow::model::ConnId;
use crate::process::hash::IntMap;
use crate::process::info::TICK_NS;
use crate::units::{BootNs, DurationNs, Pid};

/// Identifies a process by its id and its start in ticks of /proc: a lineage may know no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder(u32, u64);

impl Holder {
    pub(super) const fn new(pid: Pid, start: BootNs) -> Self {
        Self(pid.0, start.0 / TICK_NS)
    }
}

/// Locates a connection in [`Held::of_process`].
#[derive(Clone, Copy, Debug)]
struct Place {
    holder: Holder,
    at: BootNs,
    id: u64,
}

/// Tracks connections with a `T` for each.
#[derive(Debug)]
pub(super) struct Held<T> {
    /// How long a connection is tracked after its end.
    within: DurationNs,
    max: usize,
    /// By instant, then by connection.
    of_process: IntMap<Holder, BTreeMap<(BootNs, u64), T>>,
    /// The open ones by their ids, which ascend with time.
    open: BTreeMap<u64, Place>,
    /// Ended connections with the instants at which they expire, ascending.
    ended: VecDeque<(BootNs, Place)>,
    evicted: u64,
    /// One timer waits for the next expiry.
    has_timer: bool,
}

impl<T> Held<T> {
    /// Creates an empty one for at most `max` connections, each until `within` after its end.
    pub(super) fn new(max: usize, within: DurationNs) -> Self {
        Self {
            within,
            max,
            of_process: IntMap::default(),
            open: BTreeMap::new(),
            ended: VecDeque::new(),
            evicted: 0,
            has_timer: false,
        }
    }

    /// Returns whether this connection is tracked as open.
    pub(super) fn is_open(&self, id: ConnId) -> bool {
        self.open.contains_key(&id.0)
    }

    /// Returns the number of tracked connections.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.ended.len()
    }

    /// Returns how many were evicted early.
    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Tracks an open connection of this process since `at`, until the detector's `on_end`.
    pub(super) fn follow(&mut self, id: ConnId, holder: Holder, at: BootNs, what: T, scene: &mut Scene<'_>) {
        self.enter(id, holder, at, what);
        if !scene.follow(id) {
            self.on_end(id, scene.now, scene);
        }
    }

    /// Ends a connection: it expires `within` later.
    pub(super) fn on_end(&mut self, id: ConnId, at: BootNs, scene: &mut Scene<'_>) {
        self.end(id, at);
        self.wait(scene);
    }

    /// Removes expired connections. To be called by the detector's `on_timer`.
    pub(super) fn on_timer(&mut self, scene: &mut Scene<'_>) {
        self.has_timer = false;
        self.expire(scene.now);
        self.wait(scene);
    }

    fn wait(&mut self, scene: &mut Scene<'_>) {
        if !self.has_timer
            && let Some(due) = self.next_expiry()
        {
            scene.set_timer(due, 0);
            self.has_timer = true;
        }
    }

    /// Adds a connection. At the limit it evicts the one that ended first, or else the oldest open one: short connections do
    /// not displace those that stay.
    fn enter(&mut self, id: ConnId, holder: Holder, at: BootNs, what: T) {
        let place = Place { holder, at, id: id.0 };
        self.open.insert(id.0, place);
        self.of_process.entry(holder).or_default().insert((at, id.0), what);
        if self.len() > self.max
            && let Some(evicted) =
                self.ended.pop_front().map(|(_, place)| place).or_else(|| self.oldest_open())
        {
            self.evicted += 1;
            self.remove(evicted);
        }
    }

    fn oldest_open(&mut self) -> Option<Place> {
        self.open.pop_first().map(|(_, place)| place)
    }

    fn end(&mut self, id: ConnId, now: BootNs) {
        let Some(place) = self.open.remove(&id.0) else { return };
        let due = BootNs(now.0.saturating_add(self.within.0).saturating_add(1));
        // Ends come out of order by what two CPUs' records differ: that much longer it counts.
        let due = self.ended.back().map_or(due, |(last, _)| due.max(*last));
        self.ended.push_back((due, place));
    }

    /// Returns when the next one expires.
    fn next_expiry(&self) -> Option<BootNs> {
        self.ended.front().map(|(due, _)| *due)
    }

    fn expire(&mut self, now: BootNs) {
        while let Some((_, place)) = self.ended.pop_front_if(|(due, _)| *due <= now) {
            work::looked_at(1);
            self.remove(place);
        }
    }

    fn remove(&mut self, Place { holder, at, id }: Place) {
        if let Some(own) = self.of_process.get_mut(&holder) {
            own.remove(&(at, id));
            if own.is_empty() {
                self.of_process.remove(&holder);
            }
        }
    }

    /// Returns the connections of this process that began no later than `until`, the latest first.
    pub(super) fn of(&self, holder: Holder, until: BootNs) -> impl Iterator<Item = &T> {
        let own = self.of_process.get(&holder);
        own.into_iter().flat_map(move |own| own.range(..=(until, u64::MAX)).rev().map(|(_, what)| what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: DurationNs = DurationNs(100);

    const SSHD: Holder = Holder(10, 1);
    const NGINX: Holder = Holder(11, 1);

    fn enter(held: &mut Held<u64>, holder: Holder, id: u64, at: u64) {
        held.enter(ConnId(id), holder, BootNs(at), at);
    }

    fn found(held: &Held<u64>, holder: Holder, until: u64) -> Option<u64> {
        held.of(holder, BootNs(until)).next().copied()
    }

    #[test]
    fn the_latest_counts_until_some_time_after_its_end() {
        let mut ways = Held::new(8, WITHIN);
        for (id, at) in [(1, 10), (2, 20), (3, 30)] {
            enter(&mut ways, SSHD, id, at);
        }
        assert_eq!(
            [9, 10, 29, 99].map(|until| found(&ways, SSHD, until)),
            [None, Some(10), Some(20), Some(30)]
        );
        assert_eq!(found(&ways, NGINX, 99), None, "another process");
        ways.end(ConnId(3), BootNs(50));
        // By the clock of another CPU it ended before.
        ways.end(ConnId(2), BootNs(49));
        assert_eq!(ways.next_expiry(), Some(BootNs(151)));
        ways.expire(BootNs(150));
        assert_eq!(found(&ways, SSHD, 99), Some(30));
        ways.expire(BootNs(151));
        assert_eq!((found(&ways, SSHD, 99), ways.len(), ways.next_expiry()), (Some(10), 1, None));
        ways.end(ConnId(1), BootNs(200));
        ways.expire(BootNs(301));
        assert!(ways.of_process.is_empty() && ways.len() == 0);
    }

    #[test]
    fn who_stays_is_not_evicted_by_those_who_come_and_go() {
        let mut ways = Held::new(8, WITHIN);
        enter(&mut ways, SSHD, 1, 1);
        for id in 2..100 {
            enter(&mut ways, NGINX, id, id);
            ways.end(ConnId(id), BootNs(id));
        }
        assert_eq!((found(&ways, SSHD, 1), ways.len(), ways.evicted()), (Some(1), 8, 91));
        for id in 100..200 {
            enter(&mut ways, NGINX, id, id);
        }
        assert_eq!((found(&ways, SSHD, 1), ways.len()), (None, 8), "as many stay");
        assert_eq!(found(&ways, NGINX, 191), None);
        assert_eq!(found(&ways, NGINX, 192), Some(192));
    }
}

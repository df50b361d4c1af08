//! The connections by which processes were reached, for as long as they count: found by process and instant, ended by
//! connection, and expired in the order in which they ended. Nothing here walks over what is remembered.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::flow::model::ConnId;
use crate::process::hash::IntMap;
use crate::process::info::ProcessInfo;
use crate::rules::program::ProcessKey;
use crate::rules::work;
use crate::units::{BootNs, DurationNs, Pid};

/// A connection by which a process was reached.
#[derive(Clone, Debug)]
pub(super) struct WayIn {
    /// When it was accepted; of one that was there before, the earliest instant at which it can have been.
    pub(super) at: BootNs,
    pub(super) from: SocketAddr,
    pub(super) local: SocketAddr,
    /// Who accepted it.
    pub(super) process: Arc<ProcessInfo>,
}

/// Where a connection is in [`WaysIn::of_process`].
#[derive(Clone, Copy, Debug)]
struct Place {
    process: ProcessKey,
    at: BootNs,
    id: u64,
}

/// The connections by which processes were reached.
#[derive(Clone, Debug)]
pub(super) struct WaysIn {
    /// For how long one counts after its end.
    within: DurationNs,
    max: usize,
    /// By instant, then by connection.
    of_process: IntMap<ProcessKey, BTreeMap<(BootNs, u64), WayIn>>,
    /// The open ones by their ids, which ascend with time.
    open: BTreeMap<u64, Place>,
    /// The ended ones, each with the instant at which it counts no more: ascending.
    ended: VecDeque<(BootNs, Place)>,
    evicted: u64,
}

impl WaysIn {
    /// Remembers at most so many, each until `within` after its end.
    pub(super) fn new(max: usize, within: DurationNs) -> Self {
        Self {
            within,
            max,
            of_process: IntMap::default(),
            open: BTreeMap::new(),
            ended: VecDeque::new(),
            evicted: 0,
        }
    }

    /// Whether this connection is remembered as open.
    pub(super) fn is_open(&self, id: ConnId) -> bool {
        self.open.contains_key(&id.0)
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.ended.len()
    }

    /// How many were evicted while they counted.
    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Remembers an open connection. Where there are too many, one goes that ended first, or else the oldest open one: who came
    /// in and stays must not be forgotten for those who come and go.
    pub(super) fn enter(&mut self, id: ConnId, way: WayIn) {
        let place =
            Place { process: ProcessKey::new(way.process.pid, way.process.start), at: way.at, id: id.0 };
        self.open.insert(id.0, place);
        self.of_process.entry(place.process).or_default().insert((place.at, place.id), way);
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

    /// The connection has ended.
    pub(super) fn end(&mut self, id: ConnId, now: BootNs) {
        let Some(place) = self.open.remove(&id.0) else { return };
        let due = BootNs(now.0.saturating_add(self.within.0).saturating_add(1));
        // Ends come out of order by what two CPUs' records differ: that much longer it counts.
        let due = self.ended.back().map_or(due, |(last, _)| due.max(*last));
        self.ended.push_back((due, place));
    }

    /// When the next one counts no more.
    pub(super) fn next_expiry(&self) -> Option<BootNs> {
        self.ended.front().map(|(due, _)| *due)
    }

    /// Forgets those that count no more.
    pub(super) fn expire(&mut self, now: BootNs) {
        while let Some((_, place)) = self.ended.pop_front_if(|(due, _)| *due <= now) {
            work::looked_at(1);
            self.remove(place);
        }
    }

    fn remove(&mut self, Place { process, at, id }: Place) {
        if let Some(own) = self.of_process.get_mut(&process) {
            own.remove(&(at, id));
            if own.is_empty() {
                self.of_process.remove(&process);
            }
        }
    }

    /// The connection by which this process was reached last, among those that were accepted no later than `until`.
    pub(super) fn last(&self, pid: Pid, start: BootNs, until: BootNs) -> Option<&WayIn> {
        let own = self.of_process.get(&ProcessKey::new(pid, start))?;
        own.range(..=(until, u64::MAX)).next_back().map(|(_, way)| way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::process;

    const WITHIN: DurationNs = DurationNs(100);

    fn way(server: &Arc<ProcessInfo>, at: u64) -> WayIn {
        let end = |text: &str| text.parse().expect("an end");
        let process = Arc::clone(server);
        WayIn { at: BootNs(at), from: end("203.0.113.1:5000"), local: end("10.0.0.1:22"), process }
    }

    fn found(ways: &WaysIn, server: &ProcessInfo, until: u64) -> Option<u64> {
        ways.last(server.pid, server.start, BootNs(until)).map(|way| way.at.0)
    }

    #[test]
    fn the_latest_counts_until_some_time_after_its_end() {
        let (server, mut ways) = (process(10, "/usr/sbin/sshd"), WaysIn::new(8, WITHIN));
        for (id, at) in [(1, 10), (2, 20), (3, 30)] {
            ways.enter(ConnId(id), way(&server, at));
        }
        assert_eq!(
            [9, 10, 29, 99].map(|until| found(&ways, &server, until)),
            [None, Some(10), Some(20), Some(30)]
        );
        assert_eq!(found(&ways, &process(11, "/usr/sbin/sshd"), 99), None, "another process");
        ways.end(ConnId(3), BootNs(50));
        // By the clock of another CPU it ended before.
        ways.end(ConnId(2), BootNs(49));
        assert_eq!(ways.next_expiry(), Some(BootNs(151)));
        ways.expire(BootNs(150));
        assert_eq!(found(&ways, &server, 99), Some(30));
        ways.expire(BootNs(151));
        assert_eq!((found(&ways, &server, 99), ways.len(), ways.next_expiry()), (Some(10), 1, None));
        ways.end(ConnId(1), BootNs(200));
        ways.expire(BootNs(301));
        assert!(ways.of_process.is_empty() && ways.len() == 0);
    }

    #[test]
    fn who_stays_is_not_evicted_by_those_who_come_and_go() {
        let (sshd, nginx) = (process(10, "/usr/sbin/sshd"), process(11, "/usr/sbin/nginx"));
        let mut ways = WaysIn::new(8, WITHIN);
        ways.enter(ConnId(1), way(&sshd, 1));
        for id in 2..100 {
            ways.enter(ConnId(id), way(&nginx, id));
            ways.end(ConnId(id), BootNs(id));
        }
        assert_eq!((found(&ways, &sshd, 1), ways.len(), ways.evicted()), (Some(1), 8, 91));
        for id in 100..200 {
            ways.enter(ConnId(id), way(&nginx, id));
        }
        assert_eq!((found(&ways, &sshd, 1), ways.len()), (None, 8), "as many stay");
        assert_eq!(found(&ways, &nginx, 191), None);
        assert_eq!(found(&ways, &nginx, 192), Some(192));
    }
}

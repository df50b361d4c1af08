//! Processes whose standard input or output is a connection, or leads to another process: what rules ask of programs that run
//! already when they begin.

use smallvec::SmallVec;

use super::model::ConnId;
use super::snapshot::model::{Holder, StdioPeers};
use crate::process::hash::IntMap;
use crate::process::info::is_same_tick;
use crate::units::{BootNs, Pid};

/// Most processes that are remembered; they are few, and leave with their exit.
const KEPT_MAX: usize = 65_536;

/// What is known of a process.
#[derive(Debug)]
struct Of {
    start: BootNs,
    conn: Option<ConnId>,
    peers: SmallVec<[(Pid, BootNs); 1]>,
}

/// Remembers the standard input and output of processes, those of the start-up snapshot and those of exec records.
#[derive(Debug, Default)]
pub struct StdioTable {
    by_pid: IntMap<u32, Of>,
}

impl StdioTable {
    /// Remembers that these, as far as they are wanted, hold a connection, where it is the standard input or output of one of them as its program was
    /// executed. A program that closed its own and opened a connection has that at the first free descriptor, 0; so the same
    /// connection must be two of the three, or have been inherited.
    pub(super) fn found(
        &mut self,
        holders: &[Holder],
        conn: ConnId,
        mut is_wanted: impl FnMut(&Holder) -> bool,
    ) {
        let first = holders.iter().map(|holder| holder.start).min();
        for holder in holders.iter().filter(|holder| holder.fd <= 1) {
            let is_own = |other: &&Holder| (other.pid, other.start) == (holder.pid, holder.start);
            let standard = holders.iter().filter(is_own).filter(|other| other.fd <= 2).count();
            let is_inherited = first.is_some_and(|first| first < holder.start);
            if (standard >= 2 || is_inherited)
                && is_wanted(holder)
                && let Some(of) = self.of(holder.pid, holder.start)
                && (holder.fd == 0 || of.conn.is_none())
            {
                of.conn = Some(conn);
            }
        }
    }

    /// Remembers the peers of a process.
    pub(super) fn found_peers(&mut self, found: StdioPeers) {
        let (pid, start) = found.process;
        if let Some(of) = self.of(pid, start) {
            of.peers = found.peers;
        }
    }

    /// Takes note that a process has executed a program, and which connection its standard input or output is.
    pub fn executed(&mut self, pid: Pid, start: BootNs, conn: Option<ConnId>) {
        if conn.is_some() {
            if let Some(of) = self.of(pid, start) {
                of.conn = conn;
            }
        } else if let Some(of) = self.by_pid.get_mut(&pid.0) {
            of.conn = None;
        }
    }

    /// Forgets a process that has exited.
    pub fn exited(&mut self, pid: Pid) {
        if !self.by_pid.is_empty() {
            self.by_pid.remove(&pid.0);
        }
    }

    /// The connection that is the standard input or output of a process. It may have ended since.
    pub fn conn(&self, pid: Pid, start: BootNs) -> Option<ConnId> {
        self.known(pid, start)?.conn
    }

    /// The processes with which its standard input and output exchange data ([`StdioPeers`]).
    pub fn peers(&self, pid: Pid, start: BootNs) -> &[(Pid, BootNs)] {
        self.known(pid, start).map(|of| &of.peers[..]).unwrap_or_default()
    }

    fn known(&self, pid: Pid, start: BootNs) -> Option<&Of> {
        self.by_pid.get(&pid.0).filter(|of| is_same_tick(of.start, start))
    }

    /// What is known of a process, to be filled; `None`: there is no room.
    fn of(&mut self, pid: Pid, start: BootNs) -> Option<&mut Of> {
        if self.by_pid.len() >= KEPT_MAX && !self.by_pid.contains_key(&pid.0) {
            return None;
        }
        let new = || Of { start, conn: None, peers: SmallVec::new() };
        let of = self.by_pid.entry(pid.0).or_insert_with(new);
        if !is_same_tick(of.start, start) {
            *of = new();
        }
        Some(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::info::TICK_NS;

    const T0: BootNs = BootNs(5 * TICK_NS);

    /// Of each the process and the descriptor; a process with a larger id started later.
    fn holds(of: &[(u32, u32)]) -> Vec<Holder> {
        let start = |pid: u32| BootNs(T0.0 + u64::from(pid - 10) * TICK_NS);
        of.iter().map(|&(pid, fd)| Holder { pid: Pid(pid), start: start(pid), fd }).collect()
    }

    #[test]
    fn what_a_program_opened_itself_is_not_its_standard_input() {
        let found = |of: &[(u32, u32)], pid: u32| {
            let mut table = StdioTable::default();
            table.found(&holds(of), ConnId(1), |_| true);
            let start = BootNs(T0.0 + u64::from(pid - 10) * TICK_NS);
            table.conn(Pid(pid), start).is_some()
        };
        assert!(!found(&[(10, 0)], 10), "a daemon that closed its own");
        assert!(!found(&[(10, 0), (10, 5)], 10));
        assert!(!found(&[(10, 2), (10, 5)], 10), "error output alone");
        assert!(found(&[(10, 0), (10, 1), (10, 2)], 10));
        assert!(found(&[(10, 5), (11, 0)], 11), "inherited");
        assert!(!found(&[(10, 5), (11, 0)], 10));
    }

    #[test]
    fn a_process_is_its_id_and_its_start() {
        let mut table = StdioTable::default();
        table.found(&holds(&[(10, 1), (10, 2)]), ConnId(1), |_| true);
        table.found(&holds(&[(10, 0), (10, 1)]), ConnId(2), |_| true);
        table.found(&holds(&[(10, 1), (10, 2)]), ConnId(3), |_| true);
        assert_eq!(table.conn(Pid(10), BootNs(T0.0 + 7)), Some(ConnId(2)), "its input");
        assert_eq!(table.conn(Pid(10), BootNs(T0.0 + TICK_NS)), None, "another process");
        table.executed(Pid(10), T0, None);
        assert_eq!(table.conn(Pid(10), T0), None);
        table.executed(Pid(10), T0, Some(ConnId(4)));
        assert_eq!(table.conn(Pid(10), T0), Some(ConnId(4)));
        table.exited(Pid(10));
        assert_eq!(table.conn(Pid(10), T0), None);
    }

    #[test]
    fn peers_stay_through_an_exec() {
        let mut table = StdioTable::default();
        let peers = SmallVec::from_elem((Pid(9), BootNs(0)), 1);
        table.found_peers(StdioPeers { process: (Pid(10), T0), peers: peers.clone() });
        table.executed(Pid(10), T0, None);
        assert_eq!(table.peers(Pid(10), T0), &peers[..]);
        assert_eq!(table.peers(Pid(11), T0), []);
    }
}

//! Since when a connection of a snapshot exists: what its socket, conntrack and its owners report.

use crate::flow::born::{Born, BornBy};
use crate::flow::model::Direction;
use crate::flow::snapshot::model::{SnapSocket, TcpState};
use crate::host::netlink::Filled;
use crate::host::sockdiag::TcpInfo;
use crate::process::fds::{Descriptors, Held};
use crate::process::hash::IntMap;
use crate::units::{BootNs, DurationNs, Pid};

/// How far a difference in the kernel's ticks, reported in milliseconds, may be off either way: a tick of 10 ms (`HZ` is 100
/// or more), the rounding of `jiffies_to_msecs`, and ticks that came late, because interrupts were off or the virtual
/// CPU did not run (52 ms were seen under emulation, on a host that was busy with other things).
pub(in crate::flow) const TICK: u64 = 100_000_000;
/// After this the kernel's 32 bit milliseconds begin anew.
const WRAP: u64 = (1 << 32) * 1_000_000;
/// A handshake takes less than the first time-out (`TCP_TIMEOUT_INIT`), if no packet is lost.
const HANDSHAKE: u64 = 1_000_000_000;
/// Descriptors that a service started by init for one connection gets it on (`Accept=yes`: 3, or 0 to 2).
const LAST_PASSED: u32 = 3;

/// What the socket itself reports.
pub(super) fn of_socket(
    state: TcpState,
    info: Option<&TcpInfo>,
    filled: Filled,
    suspended: DurationNs,
) -> Born {
    let mut born = Born {
        earliest: BootNs(0),
        latest: filled.to,
        earliest_by: BornBy::Boot,
        latest_by: BornBy::Snapshot,
    };
    // The stamps are set when the handshake is over.
    let Some(info) = info.filter(|_| !matches!(state, TcpState::SynSent | TcpState::SynRecv)) else {
        return born;
    };
    let ms = |ms: u32| u64::from(ms) * 1_000_000;
    // Both stamps begin at the handshake: the older one is nearer to it, and is it if nothing moved it.
    let exact = if info.data_segs_out == 0 {
        Some((ms(info.last_data_sent_ms), BornBy::NeverSent))
    } else if info.data_segs_in == 0 {
        Some((ms(info.last_data_recv_ms), BornBy::NeverReceived))
    } else {
        None
    };
    let quiet = ms(info.last_data_sent_ms.max(info.last_data_recv_ms));
    let (age, by) = exact.unwrap_or((quiet, BornBy::LastActivity));
    let latest = BootNs(filled.to.0.saturating_sub(age).saturating_add(TICK));
    if latest < born.latest || exact.is_some() {
        born.latest = latest.min(born.latest);
        born.latest_by = by;
    }
    // On a machine that is up for longer the milliseconds may have begun anew, and the age be larger.
    if exact.is_some() && filled.to.0 < WRAP {
        let most = age.saturating_add(TICK).saturating_add(suspended.0);
        born.earliest = BootNs(filled.from.0.saturating_sub(most).max(1));
        born.earliest_by = by;
    }
    born
}

fn is_exact(by: BornBy) -> bool {
    matches!(by, BornBy::NeverSent | BornBy::NeverReceived)
}

/// Narrows the interval by conntrack's entry, which began between the two instants of `start`, with the SYN unless it was
/// `picked_up` later.
pub(super) fn by_conntrack(born: &mut Born, start: (BootNs, BootNs), picked_up: bool) {
    let (earliest, latest) = start;
    // A socket that never sent or received knows better; and what is later than the latest is about another
    // connection, or by a clock that was set.
    if is_exact(born.earliest_by) || earliest > born.latest {
        return;
    }
    let latest = if picked_up { latest } else { BootNs(latest.0.saturating_add(HANDSHAKE)) };
    if latest < born.latest {
        born.latest = latest;
        born.latest_by = BornBy::Conntrack;
    }
    if !picked_up {
        born.earliest = earliest;
        born.earliest_by = BornBy::Conntrack;
    }
}

/// What the owners report. `wide` is how long the snapshot took, `suspended` as for [`of_socket`].
pub(super) fn by_owner(born: &mut Born, origin: BootNs, wide: DurationNs, suspended: DurationNs) {
    // Later than the latest: the connection was inherited or handed over.
    if origin > born.latest {
        return;
    }
    // The owner is so young that the milliseconds did not begin anew in its time.
    if is_exact(born.latest_by) && born.earliest().is_none() && born.latest.since(origin).0 < WRAP - 2 * TICK
    {
        let most = wide.0.saturating_add(2 * TICK).saturating_add(suspended.0);
        born.earliest = BootNs(born.latest.0.saturating_sub(most).max(1));
        born.earliest_by = born.latest_by;
    }
    if born.earliest < origin {
        born.earliest = origin;
        born.earliest_by = BornBy::OwnerStart;
    }
}

/// Since when a socket of these processes can exist, if none was handed over from elsewhere.
#[derive(Debug, Default)]
pub(super) struct Origins {
    known: IntMap<u32, Option<BootNs>>,
}

impl Origins {
    /// Of a socket that is held by these.
    pub(super) fn of(&mut self, socket: &SnapSocket, held: &[Held], all: &Descriptors) -> Option<BootNs> {
        let perhaps_passed =
            socket.direction == Some(Direction::In) && held.iter().all(|held| held.fd <= LAST_PASSED);
        if perhaps_passed {
            return None;
        }
        held.iter().map(|held| self.of_process(held.pid, all)).min()?
    }

    /// The earliest start among a process and its ancestors below init; `None` where an ancestor is not known.
    fn of_process(&mut self, pid: Pid, all: &Descriptors) -> Option<BootNs> {
        if let Some(&known) = self.known.get(&pid.0) {
            return known;
        }
        let origin = climb(pid, all);
        self.known.insert(pid.0, origin);
        origin
    }
}

fn climb(pid: Pid, all: &Descriptors) -> Option<BootNs> {
    /// More than any real tree has; a table of /proc read over some time may even have a loop.
    const DEEPEST: usize = 256;
    const INIT: Pid = Pid(1);
    let mut at = pid;
    let mut earliest: Option<BootNs> = None;
    for _ in 0..DEEPEST {
        let parentage = all.parentage(at)?;
        earliest = Some(earliest.map_or(parentage.start, |earliest| earliest.min(parentage.start)));
        if at == INIT {
            return earliest;
        }
        if parentage.ppid == INIT {
            // One that leads no session has lost its real parent.
            return earliest.filter(|_| parentage.session == at);
        }
        at = parentage.ppid;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::snapshot::testing::socket;
    use crate::process::fds::Parentage;

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;
    const NOW: u64 = 10 * DAY;

    fn at(now: u64) -> Filled {
        Filled { from: BootNs(now - 1000), to: BootNs(now) }
    }

    fn info(sent: (u32, u32), received: (u32, u32)) -> TcpInfo {
        TcpInfo {
            data_segs_out: sent.0,
            last_data_sent_ms: sent.1,
            data_segs_in: received.0,
            last_data_recv_ms: received.1,
            ..TcpInfo::default()
        }
    }

    fn born(info: &TcpInfo, now: u64, suspended: u64) -> Born {
        of_socket(TcpState::Established, Some(info), at(now), DurationNs(suspended))
    }

    #[test]
    fn last_activity_is_the_latest() {
        let born = born(&info((3, 60_000), (5, 1_000)), NOW, 0);
        assert_eq!((born.earliest(), born.earliest_by), (None, BornBy::Boot));
        assert_eq!((born.latest.0, born.latest_by), (NOW - 60 * SECOND + TICK, BornBy::LastActivity));
    }

    #[test]
    fn just_active_is_no_more_than_there() {
        let born = born(&info((3, 0), (5, 4)), NOW, 0);
        assert_eq!((born.latest.0, born.latest_by), (NOW, BornBy::Snapshot));
    }

    #[test]
    fn who_never_sent_or_never_received_knows_its_age() {
        for (info, by) in [
            (info((0, 60_000), (5, 1_000)), BornBy::NeverSent),
            (info((5, 1_000), (0, 60_000)), BornBy::NeverReceived),
            (info((0, 60_000), (0, 60_000)), BornBy::NeverSent),
        ] {
            let born = born(&info, NOW, 0);
            assert_eq!((born.earliest_by, born.latest_by), (by, by));
            assert_eq!(born.earliest.0, NOW - 1000 - 60 * SECOND - TICK);
            assert_eq!(born.latest.0, NOW - 60 * SECOND + TICK);
        }
        let young = born(&info((0, 0), (0, 0)), NOW, 0);
        assert_eq!((young.latest.0, young.latest_by), (NOW, BornBy::NeverSent));
    }

    #[test]
    fn suspend_makes_it_older() {
        let born = born(&info((0, 60_000), (0, 60_000)), NOW, DAY);
        assert_eq!(born.earliest.0, NOW - 1000 - 60 * SECOND - TICK - DAY);
    }

    #[test]
    fn before_the_handshake_the_stamps_say_nothing() {
        for state in [TcpState::SynSent, TcpState::SynRecv] {
            let info = info((0, u32::MAX), (0, u32::MAX));
            let born = of_socket(state, Some(&info), at(NOW), DurationNs(0));
            assert_eq!((born.earliest(), born.latest.0, born.latest_by), (None, NOW, BornBy::Snapshot));
        }
    }

    /// The milliseconds begin anew after 49.7 days: then only a younger owner makes them exact.
    #[test]
    fn long_uptime() {
        let now = 100 * DAY;
        let never = born(&info((0, 60_000), (0, 60_000)), now, 0);
        assert_eq!((never.earliest(), never.latest_by), (None, BornBy::NeverSent));
        let mut young = never;
        by_owner(&mut young, BootNs(now - DAY), DurationNs(SECOND), DurationNs(0));
        assert_eq!(young.earliest_by, BornBy::NeverSent);
        let earliest = young.earliest().expect("bound").0;
        assert!(earliest <= now - 1000 - 60 * SECOND - TICK && earliest > now - 62 * SECOND);
        let mut old = never;
        by_owner(&mut old, BootNs(now - 60 * DAY), DurationNs(SECOND), DurationNs(0));
        assert_eq!((old.earliest(), old.earliest_by), (Some(BootNs(now - 60 * DAY)), BornBy::OwnerStart));
    }

    #[test]
    fn owners_narrow_and_never_contradict() {
        let mut active = born(&info((3, 60_000), (5, 1_000)), NOW, 0);
        let before = active;
        by_owner(&mut active, BootNs(NOW - SECOND), DurationNs(0), DurationNs(0));
        assert_eq!(active, before, "its owner began after it: inherited");
        by_owner(&mut active, BootNs(NOW - DAY), DurationNs(0), DurationNs(0));
        assert_eq!((active.earliest(), active.earliest_by), (Some(BootNs(NOW - DAY)), BornBy::OwnerStart));
        let mut exact = born(&info((0, 60_000), (0, 60_000)), NOW, 0);
        let before = exact;
        by_owner(&mut exact, BootNs(NOW - DAY), DurationNs(0), DurationNs(0));
        assert_eq!(exact, before, "the socket knows better");
    }

    #[test]
    fn conntrack() {
        let active = born(&info((3, 60_000), (5, 1_000)), NOW, 0);
        let start = BootNs(NOW - DAY);
        let mut tracked = active;
        by_conntrack(&mut tracked, (start, start), false);
        assert_eq!((tracked.earliest(), tracked.earliest_by), (Some(start), BornBy::Conntrack));
        assert_eq!((tracked.latest.0, tracked.latest_by), (start.0 + SECOND, BornBy::Conntrack));
        let mut picked_up = active;
        by_conntrack(&mut picked_up, (start, start), true);
        assert_eq!((picked_up.earliest(), picked_up.latest), (None, start));
        let mut other = active;
        by_conntrack(&mut other, (BootNs(NOW - SECOND), BootNs(NOW - SECOND)), false);
        assert_eq!(other, active, "later than what is known");
        let mut exact = born(&info((0, 60_000), (0, 60_000)), NOW, 0);
        let before = exact;
        by_conntrack(&mut exact, (BootNs(NOW - 61 * SECOND), BootNs(NOW - 61 * SECOND)), false);
        assert_eq!(exact, before);
    }

    fn family(all: &[(u32, u32, u32, u64)]) -> Descriptors {
        let parentage = |&(pid, ppid, session, start): &(u32, u32, u32, u64)| {
            (Pid(pid), Parentage { start: BootNs(start), ppid: Pid(ppid), session: Pid(session) })
        };
        Descriptors::of(Vec::new(), all.iter().map(parentage))
    }

    fn origin(all: &Descriptors, direction: Direction, held: &[(u32, u32)]) -> Option<u64> {
        let socket = SnapSocket { direction: Some(direction), ..socket("10.0.0.1:80", "10.0.0.2:40000") };
        let held: Vec<_> = held.iter().map(|&(pid, fd)| Held { inode: 1, pid: Pid(pid), fd }).collect();
        Origins::default().of(&socket, &held, all).map(|at| at.0)
    }

    #[test]
    fn the_earliest_ancestor_below_init_counts() {
        // A daemon and its worker; a shell of a session and its child; an orphan; one whose parent is gone.
        let all = family(&[
            (1, 0, 1, 1),
            (10, 1, 10, 100),
            (11, 10, 10, 200),
            (20, 1, 19, 300),
            (30, 29, 30, 400),
            (40, 1, 40, 50),
        ]);
        let one = |pid| origin(&all, Direction::Out, &[(pid, 7)]);
        assert_eq!(one(10), Some(100));
        assert_eq!(one(11), Some(100), "it may have inherited");
        assert_eq!(one(1), Some(1), "held by init");
        assert_eq!(one(20), None, "its parent is gone");
        assert_eq!(one(30), None, "its parent cannot be read");
        assert_eq!(origin(&all, Direction::Out, &[(11, 7), (40, 7)]), Some(50));
        assert_eq!(origin(&all, Direction::Out, &[(11, 7), (20, 7)]), None);
        assert_eq!(origin(&all, Direction::Out, &[]), None);
    }

    #[test]
    fn what_init_may_have_accepted_has_no_bound() {
        let all = family(&[(10, 1, 10, 100)]);
        assert_eq!(origin(&all, Direction::In, &[(10, 3)]), None);
        assert_eq!(origin(&all, Direction::In, &[(10, 0), (10, 1)]), None);
        assert_eq!(origin(&all, Direction::In, &[(10, 3), (10, 4)]), Some(100));
        assert_eq!(origin(&all, Direction::Out, &[(10, 3)]), Some(100));
    }

    #[test]
    fn a_loop_ends() {
        let all = family(&[(10, 11, 10, 100), (11, 10, 10, 100)]);
        assert_eq!(origin(&all, Direction::Out, &[(10, 7)]), None);
    }
}

//! Since when a connection of a snapshot exists: what its socket, conntrack and its owners tell.

use crate::flow::born::{Born, BornBy};
use crate::flow::model::Direction;
use crate::flow::snapshot::model::{SnapSocket, TcpState};
use crate::kernel::netlink::Filled;
use crate::kernel::sockdiag::TcpInfo;
use crate::process::fds::{Descriptors, Held};
use crate::process::hash::IntMap;
use crate::units::{BootNs, DurationNs, Pid};

/// How far a difference in the kernel's ticks, told in milliseconds, may be off either way: a tick of 10 ms (`HZ` is 100
/// or more) and the rounding of `jiffies_to_msecs`.
const TICK: u64 = 11_000_000;
/// After this the kernel's 32 bit milliseconds begin anew.
const WRAP: u64 = (1 << 32) * 1_000_000;
/// A handshake takes less than the first time-out (`TCP_TIMEOUT_INIT`), if no packet is lost.
const HANDSHAKE: u64 = 1_000_000_000;
/// Descriptors that a service started by init for one connection gets it on (`Accept=yes`: 3, or 0 to 2).
const LAST_PASSED: u32 = 3;

/// What the socket itself tells.
pub(super) fn of_socket(
    state: TcpState,
    info: Option<&TcpInfo>,
    filled: Filled,
    suspended: DurationNs,
) -> Born {
    let mut born =
        Born { earliest: None, latest: filled.to, earliest_by: BornBy::Boot, latest_by: BornBy::Snapshot };
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
        born.earliest = Some(BootNs(filled.from.0.saturating_sub(most)));
        born.earliest_by = by;
    }
    born
}

fn is_exact(by: BornBy) -> bool {
    matches!(by, BornBy::NeverSent | BornBy::NeverReceived)
}

/// What conntrack tells: its entry began at `start`, with the SYN unless it was `picked_up` later.
pub(super) fn by_conntrack(born: &mut Born, start: BootNs, picked_up: bool) {
    // A socket that never sent or received knows better; and what is later than the latest is about another
    // connection, or by a clock that was set.
    if is_exact(born.earliest_by) || start > born.latest {
        return;
    }
    let latest = if picked_up { start } else { BootNs(start.0.saturating_add(HANDSHAKE)) };
    if latest < born.latest {
        born.latest = latest;
        born.latest_by = BornBy::Conntrack;
    }
    if !picked_up {
        born.earliest = Some(start);
        born.earliest_by = BornBy::Conntrack;
    }
}

/// What the owners tell. `wide` is how long the snapshot took, `suspended` as for [`of_socket`].
pub(super) fn by_owner(born: &mut Born, origin: BootNs, wide: DurationNs, suspended: DurationNs) {
    // Later than the latest: the connection was inherited or handed over.
    if origin > born.latest {
        return;
    }
    // The owner is so young that the milliseconds did not begin anew in its time.
    if is_exact(born.latest_by) && born.earliest.is_none() && born.latest.since(origin).0 < WRAP - 2 * TICK {
        let most = wide.0.saturating_add(2 * TICK).saturating_add(suspended.0);
        born.earliest = Some(BootNs(born.latest.0.saturating_sub(most)));
        born.earliest_by = born.latest_by;
    }
    if born.earliest.is_none_or(|earliest| earliest < origin) {
        born.earliest = Some(origin);
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
        let kin = all.kin(at)?;
        earliest = Some(earliest.map_or(kin.start, |earliest| earliest.min(kin.start)));
        if at == INIT {
            return earliest;
        }
        if kin.ppid == INIT {
            // One that leads no session has lost its real parent.
            return earliest.filter(|_| kin.session == at);
        }
        at = kin.ppid;
    }
    None
}

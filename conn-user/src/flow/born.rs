//! Since when a connection exists that was there before the agent. A socket has no time of birth.

use crate::units::BootNs;

/// When a connection began: somewhere between two instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Born {
    /// Not before; 0: no bound but the boot.
    pub earliest: BootNs,
    /// Not after.
    pub latest: BootNs,
    /// How `earliest` is known; without it [`BornBy::Boot`].
    pub earliest_by: BornBy,
    /// How `latest` is known.
    pub latest_by: BornBy,
}

impl Born {
    /// Before which it did not begin, if there is a bound.
    pub fn earliest(&self) -> Option<BootNs> {
        (self.earliest.0 != 0).then_some(self.earliest)
    }
}

/// How a bound of [`Born`] is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BornBy {
    /// The machine was not up before.
    Boot,
    /// conntrack's time stamp (`nf_conntrack_timestamp`), by the wall clock: a clock that was set since shifts it. The
    /// handshake is taken to end within a second of the SYN.
    Conntrack,
    /// A socket that never sent: `tcpi_last_data_sent` counts from the handshake (`tcp_finish_connect`,
    /// `tcp_create_openreq_child`).
    NeverSent,
    /// A socket that never received: `tcpi_last_data_recv` counts from the handshake (`tcp_finish_connect`,
    /// `tcp_create_openreq_child`).
    NeverReceived,
    /// The last data that was sent or received.
    LastActivity,
    /// The start of the process that holds it. It may have inherited the socket, so the earliest of its holders and
    /// their ancestors below init counts, and there is no bound where an ancestor is not known any more (a child of
    /// init that does not lead its session) or where init may have accepted (an incoming connection on descriptors 0
    /// to 3 only). Whether an older process handed the socket over (`SCM_RIGHTS`) nothing reports.
    OwnerStart,
    /// It was there when the snapshot was taken.
    Snapshot,
    /// A running agent saw it begin.
    Seen,
}

impl Born {
    /// Exactly then, as a record had it.
    pub const fn seen(at: BootNs) -> Self {
        Self { earliest: at, latest: at, earliest_by: BornBy::Seen, latest_by: BornBy::Seen }
    }

    /// What both know together. Where they contradict each other, `self` holds.
    #[must_use]
    pub fn narrowed_by(self, other: &Self) -> Self {
        let mut born = self;
        if other.earliest > born.earliest {
            (born.earliest, born.earliest_by) = (other.earliest, other.earliest_by);
        }
        if other.latest < born.latest {
            (born.latest, born.latest_by) = (other.latest, other.latest_by);
        }
        if born.earliest > born.latest { self } else { born }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_intervals_narrow_each_other() {
        let born = |earliest, latest, by| Born {
            earliest: BootNs(earliest),
            latest: BootNs(latest),
            earliest_by: by,
            latest_by: by,
        };
        let (wide, late) = (born(10, 90, BornBy::OwnerStart), born(40, 200, BornBy::LastActivity));
        let both = wide.narrowed_by(&late);
        assert_eq!((both.earliest, both.earliest_by), (BootNs(40), BornBy::LastActivity));
        assert_eq!((both.latest, both.latest_by), (BootNs(90), BornBy::OwnerStart));
        let exact = Born::seen(BootNs(300));
        assert_eq!(exact.narrowed_by(&wide), exact, "a contradiction: the one that was asked first holds");
        assert_eq!(Born::seen(BootNs(50)).narrowed_by(&wide), Born::seen(BootNs(50)));
    }
}

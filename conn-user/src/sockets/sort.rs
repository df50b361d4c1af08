//! The order of a list.

use std::cmp::Ordering;

use super::model::Listed;
use crate::event::age::Age;
use crate::event::names::{self, Named};
use crate::flow::model::Traffic;
use crate::units::{BootNs, DurationNs};

/// What a list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SortKey {
    /// The most that its age may be: without an upper bound, the time since the boot. The youngest first.
    Age,
    /// Bytes in both directions, the fewest first.
    Bytes,
    /// Id of its oldest holder.
    Pid,
    /// Name of its oldest holder.
    Proc,
    /// Local address and port.
    Local,
    /// Remote address and port.
    Remote,
}

impl Named for SortKey {
    const ALL: &'static [Self] = &[Self::Age, Self::Bytes, Self::Pid, Self::Proc, Self::Local, Self::Remote];

    fn name(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Bytes => "bytes",
            Self::Pid => "pid",
            Self::Proc => "proc",
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

/// A key and a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sort {
    /// The key.
    pub key: SortKey,
    /// The other way round.
    pub reverse: bool,
}

impl std::str::FromStr for Sort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (reverse, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        match names::from_written(name) {
            Some(key) => Ok(Self { key, reverse }),
            None => {
                Err(format!("write one of {}, or one with - before it", names::all::<SortKey>().join(", ")))
            }
        }
    }
}

impl std::fmt::Display for Sort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.reverse { "-" } else { "" }, self.key.name())
    }
}

/// Sorts; without a key listeners come first, and all by address. What has no value for the key comes last either way.
pub fn sort(sockets: &mut [Listed], by: Option<Sort>, at: BootNs) {
    sockets.sort_by(|one, other| {
        let place = |listed: &Listed| (!listed.listens(), listed.socket.local, listed.socket.remote);
        let first = by.map_or(Ordering::Equal, |by| by.compare(one, other, at));
        first.then_with(|| place(one).cmp(&place(other))).then(one.socket.cookie.cmp(&other.socket.cookie))
    });
}

impl Sort {
    fn compare(self, one: &Listed, other: &Listed, at: BootNs) -> Ordering {
        match self.key {
            SortKey::Age => self.order(one, other, |listed| listed.age(at).map(|age| oldest(age, at))),
            SortKey::Bytes => self.order(one, other, |listed| listed.socket.traffic.map(total)),
            SortKey::Pid => self.order(one, other, |listed| listed.holders.first().map(|holder| holder.pid)),
            SortKey::Proc => {
                self.order(one, other, |listed| listed.owner().map(|process| process.comm.clone()))
            }
            SortKey::Local => self.order(one, other, |listed| Some(listed.socket.local)),
            SortKey::Remote => {
                self.order(one, other, |listed| (!listed.listens()).then_some(listed.socket.remote))
            }
        }
    }

    fn order<K: Ord>(self, one: &Listed, other: &Listed, key: impl Fn(&Listed) -> Option<K>) -> Ordering {
        match (key(one), key(other)) {
            (Some(one), Some(other)) if self.reverse => other.cmp(&one),
            (Some(one), Some(other)) => one.cmp(&other),
            // `None` is the smaller one for the standard library.
            (one, other) => other.is_some().cmp(&one.is_some()),
        }
    }
}

/// The upper bound of an age, and the lower one for those that have the same. What may be old must not hide behind what is
/// known to be a little older than nothing.
fn oldest(age: Age, at: BootNs) -> (DurationNs, DurationNs) {
    (age.at_most.unwrap_or(DurationNs(at.0)), age.at_least)
}

fn total(traffic: Traffic) -> u64 {
    traffic.bytes_in.saturating_add(traffic.bytes_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::samples;

    fn sorted(by: &str) -> Vec<String> {
        let mut listing = samples::listing();
        sort(&mut listing.sockets, by.parse().ok(), listing.ended);
        listing.sockets.iter().map(|listed| listed.socket.local.to_string()).collect()
    }

    #[test]
    fn what_has_no_value_comes_last_either_way() {
        for key in SortKey::ALL {
            let up = sorted(key.name());
            let down = sorted(&format!("-{}", key.name()));
            assert_eq!(up.len(), down.len());
            assert_ne!(up, down, "{key:?}");
        }
        // Only connections have bytes, and only those with counters.
        assert_eq!(sorted("bytes").last(), sorted("-bytes").last());
    }

    /// A shell whose connection carried data a moment ago, and others of which less is known.
    #[test]
    fn what_may_be_old_is_not_hidden_by_what_is_known_to_be_young() {
        use crate::flow::born::{Born, BornBy};
        let seconds = |ago: u64| BootNs(samples::ENDED.0 - ago * 1_000_000_000);
        let aged = |port: u16, at_most: Option<u64>, at_least: u64, latest_by| {
            let mut socket = samples::connection();
            socket.local.set_port(port);
            socket.born = Some(Born {
                earliest: at_most.map_or(BootNs(0), seconds),
                latest: seconds(at_least),
                earliest_by: if at_most.is_some() { BornBy::OwnerStart } else { BornBy::Boot },
                latest_by,
            });
            samples::held(socket, &[])
        };
        let mut sockets = vec![
            aged(1, Some(60), 59, BornBy::NeverSent),
            aged(2, Some(540), 0, BornBy::LastActivity),
            aged(3, Some(10), 0, BornBy::Snapshot),
            aged(4, None, 1, BornBy::LastActivity),
            aged(5, Some(60), 0, BornBy::LastActivity),
        ];
        sort(&mut sockets, "-age".parse().ok(), samples::ENDED);
        let order: Vec<u16> = sockets.iter().map(|listed| listed.socket.local.port()).collect();
        assert_eq!(order, [4, 2, 1, 5, 3]);
    }

    #[test]
    fn listeners_come_first_by_default() {
        let mut listing = samples::listing();
        sort(&mut listing.sockets, None, listing.ended);
        assert!(listing.sockets.is_sorted_by_key(|listed| !listed.listens()));
    }

    #[test]
    fn keys() {
        assert_eq!("-age".parse(), Ok(Sort { key: SortKey::Age, reverse: true }));
        assert!("size".parse::<Sort>().expect_err("no key").contains("age, bytes, pid, proc, local, remote"));
    }
}

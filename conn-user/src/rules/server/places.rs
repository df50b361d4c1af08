//! What is remembered by place: bounded, the oldest is forgotten first and counted.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use crate::flow::model::canonical_ip;

/// A map that forgets what was entered first.
#[derive(Debug)]
pub(super) struct Places<K, V> {
    map: HashMap<K, V>,
    /// In the order in which they were entered; some were removed since.
    order: VecDeque<K>,
    max: usize,
    forgotten: u64,
}

impl<K: Hash + Eq + Clone, V> Places<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { map: HashMap::new(), order: VecDeque::new(), max, forgotten: 0 }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    /// The value, entered where there is none.
    pub(super) fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            while self.order.len() >= self.max
                && let Some(oldest) = self.order.pop_front()
            {
                self.forgotten += u64::from(self.map.remove(&oldest).is_some());
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key).or_insert_with(new)
    }

    /// What was forgotten for want of room.
    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }
}

/// Address and port of a listener in their plain form.
pub(super) fn plain(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(end.ip()).0, end.port())
}

/// Whether connections to one address may come to the other's listener. `::` takes IPv4 too, but for `IPV6_V6ONLY`, which
/// is not known.
pub(super) fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let all = |ip: IpAddr| ip.is_ipv6() && ip.is_unspecified();
    one == other
        || all(one)
        || all(other)
        || (one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified()))
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn which_addresses_overlap() {
        let overlap = |one: &str, other: &str| {
            let (one, other) = (one.parse().expect("an address"), other.parse().expect("an address"));
            assert_eq!(overlap(one, other), overlap(other, one));
            overlap(one, other)
        };
        assert!(overlap("0.0.0.0", "10.0.0.1") && overlap("::", "10.0.0.1") && overlap("::", "::1"));
        assert!(overlap("::", "0.0.0.0") && overlap("10.0.0.1", "10.0.0.1"));
        assert!(!overlap("10.0.0.1", "10.0.0.2") && !overlap("0.0.0.0", "::1"));
    }

    #[test]
    fn forgets_the_oldest() {
        let mut places = Places::new(2);
        for key in [1, 2, 1, 3] {
            *places.entry(key, || 0) += 1;
        }
        assert_eq!((places.get_mut(&1).copied(), places.get_mut(&2).copied()), (None, Some(1)));
        assert_eq!(places.forgotten(), 1);
        assert_eq!(places.len(), 2);
    }
}

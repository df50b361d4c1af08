//! What is remembered by place: bounded, the oldest is forgotten first and counted.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::flow::model::{ListenEvent, canonical_ip};
use crate::host::interfaces::Device;

/// A map that forgets what was entered first.
#[derive(Clone, Debug)]
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

    /// What was forgotten because a limit was reached.
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

/// Where a listener takes connections at a port. Of a scope that is not known the widest is assumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    ip: IpAddr,
    device: Option<Arc<Device>>,
    v6only: bool,
}

impl Reached {
    pub(super) fn by(listener: &ListenEvent) -> Self {
        let scope = listener.scope.clone().unwrap_or_default();
        Self { ip: plain(listener.local).ip(), device: scope.device, v6only: scope.v6only }
    }

    /// Whether connections to one may come to the other. `::` takes IPv4 too, but for `IPV6_V6ONLY`. One that is bound to an
    /// interface takes what comes over it from one that is not (`compute_score`).
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let all = |reached: &Self| reached.ip.is_unspecified() && reached.ip.is_ipv6() && !reached.v6only;
        let (one, another) = (self.ip, other.ip);
        let by_address = one == another
            || all(self)
            || all(other)
            || (one.is_ipv4() == another.is_ipv4() && (one.is_unspecified() || another.is_unspecified()));
        by_address && (self.device.is_none() || other.device.is_none() || self.device == other.device)
    }

    /// Whether it is the same place: nobody but who shares it (`SO_REUSEPORT`) can listen there beside it.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        self.ip == other.ip && self.device == other.device
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn which_addresses_overlap() {
        let reached = |text: &str| {
            let (text, v6only) = text.strip_suffix(" v6only").map_or((text, false), |text| (text, true));
            let (ip, device) = text.split_once('%').map_or((text, None), |(ip, device)| (ip, Some(device)));
            let device = device.map(|device| Arc::new(Device::new(device)));
            Reached { ip: ip.parse().expect("an address"), device, v6only }
        };
        let overlap = |one: &str, other: &str| {
            let (one, other) = (reached(one), reached(other));
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        assert!(overlap("0.0.0.0", "10.0.0.1") && overlap("::", "10.0.0.1") && overlap("::", "::1"));
        assert!(overlap("::", "0.0.0.0") && overlap("10.0.0.1", "10.0.0.1"));
        assert!(!overlap("10.0.0.1", "10.0.0.2") && !overlap("0.0.0.0", "::1"));
        assert!(
            !overlap(":: v6only", "0.0.0.0") && overlap(":: v6only", "::1") && overlap(":: v6only", "::")
        );
        assert!(!overlap("0.0.0.0%eth0", "0.0.0.0%eth1") && overlap("0.0.0.0%eth0", "10.0.0.1%eth0"));
        assert!(overlap("0.0.0.0%eth0", "0.0.0.0") && overlap("::", "10.0.0.1%eth0"));
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

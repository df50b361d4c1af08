//! Sets of numbers and addresses as sorted ranges: asked in logarithmic time, however many a list has.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::flow::model::canonical_ip;

/// A number that ranges can be made of.
pub(super) trait Number: Copy + Ord {
    /// The lowest.
    const LOWEST: Self;
    /// The highest.
    const HIGHEST: Self;

    /// The one after it.
    fn next(self) -> Option<Self>;

    /// The one before it.
    fn previous(self) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Number for $type {
            const LOWEST: Self = <$type>::MIN;
            const HIGHEST: Self = <$type>::MAX;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}
numbers!(u32 u64 u128);

/// A set of numbers: inclusive ranges that neither overlap nor touch, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranges<T>(Box<[(T, T)]>);

impl<T: Number> Ranges<T> {
    /// Of inclusive ranges in any order.
    pub(super) fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|after, before| {
            let one = before.1.next().is_none_or(|next| after.0 <= next);
            if one {
                before.1 = before.1.max(after.1);
            }
            one
        });
        Self(ranges.into())
    }

    pub(super) fn contains(&self, number: T) -> bool {
        self.contains_all(number, number)
    }

    /// Whether every number of an inclusive range is in it.
    pub(super) fn contains_all(&self, low: T, high: T) -> bool {
        // What touches was joined: it is in one range or not in it.
        let after = self.0.partition_point(|(own, _)| *own <= low);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, own)| high <= *own)
    }

    /// Whether some number of an inclusive range is in it.
    fn contains_some(&self, low: T, high: T) -> bool {
        let at = self.0.partition_point(|(_, own)| *own < low);
        self.0.get(at).is_some_and(|(own, _)| *own <= high)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (T, T)> {
        self.0.iter().copied()
    }

    /// Every number that is not in it.
    fn complement(&self) -> Self {
        let mut from = Some(T::LOWEST);
        let mut ranges = Vec::with_capacity(self.0.len() + 1);
        for (low, high) in self.iter() {
            if let (Some(from), Some(to)) = (from, low.previous())
                && from <= to
            {
                ranges.push((from, to));
            }
            from = high.next();
        }
        ranges.extend(from.map(|from| (from, T::HIGHEST)));
        Self(ranges.into())
    }
}

/// Addresses in the making of an [`IpSet`].
#[derive(Debug, Default)]
pub(crate) struct IpRanges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl IpRanges {
    /// Adds a network; one of IPv4-mapped addresses is the IPv4 network that it is, for events have no such addresses.
    pub(super) fn add(&mut self, net: IpNet) {
        match canonical_net(net) {
            IpNet::V4(net) => self.v4.push((net.network().to_bits(), net.broadcast().to_bits())),
            IpNet::V6(net) => self.v6.push((net.network().to_bits(), net.broadcast().to_bits())),
        }
    }

    pub(crate) fn add_set(&mut self, set: &IpSet) {
        self.v4.extend(set.v4.iter());
        self.v6.extend(set.v6.iter());
    }
}

/// A set of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IpSet {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl From<IpRanges> for IpSet {
    fn from(ranges: IpRanges) -> Self {
        Self { v4: Ranges::new(ranges.v4), v6: Ranges::new(ranges.v6) }
    }
}

impl IpSet {
    /// The addresses of networks.
    pub(crate) fn of(nets: &[IpNet]) -> Self {
        let mut ranges = IpRanges::default();
        for net in nets {
            ranges.add(*net);
        }
        ranges.into()
    }

    /// Every address that is not in it.
    pub(super) fn complement(&self) -> Self {
        Self { v4: self.v4.complement(), v6: self.v6.complement() }
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        match canonical_ip(ip).0 {
            IpAddr::V4(v4) => self.v4.contains(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.contains(v6.to_bits()),
        }
    }

    /// Whether it has no address.
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }

    /// Whether it has every address of `other`.
    pub(crate) fn contains_set(&self, other: &Self) -> bool {
        other.v4.iter().all(|(low, high)| self.v4.contains_all(low, high))
            && other.v6.iter().all(|(low, high)| self.v6.contains_all(low, high))
    }

    /// Whether it has an address of `other`.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        other.v4.iter().any(|(low, high)| self.v4.contains_some(low, high))
            || other.v6.iter().any(|(low, high)| self.v6.contains_some(low, high))
    }

    /// Its inclusive ranges, ascending: of IPv4 and of IPv6.
    pub(super) fn ranges(
        &self,
    ) -> (impl Iterator<Item = (u32, u32)> + '_, impl Iterator<Item = (u128, u128)> + '_) {
        (self.v4.iter(), self.v6.iter())
    }

    /// How many addresses of the family of `ip` it has, less one for each range; cut at the largest number.
    pub(super) fn size(&self, ip: IpAddr) -> u128 {
        let sum = |size: u128, (low, high): (u128, u128)| size.saturating_add(high - low);
        match canonical_ip(ip).0 {
            IpAddr::V4(_) => self.v4.iter().map(|(low, high)| (low.into(), high.into())).fold(0, sum),
            IpAddr::V6(_) => self.v6.iter().fold(0, sum),
        }
    }
}

/// A network of IPv4-mapped addresses as the IPv4 network that it is: events have no mapped addresses.
pub(crate) fn canonical_net(net: IpNet) -> IpNet {
    match (canonical_ip(net.addr()).0, net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(v4), Some(prefix)) if net.addr().is_ipv6() => {
            Ipv4Net::new(v4, prefix).map_or(net.trunc(), |net| IpNet::V4(net).trunc())
        }
        _ => net.trunc(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn numbers() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let edge = prop_oneof![4 => 0..12_u32, 1 => u32::MAX - 3..=u32::MAX];
        vec((edge.clone(), edge).prop_map(|(one, other)| (one.min(other), one.max(other))), 0..5)
    }

    proptest! {
        #[test]
        fn a_set_is_its_ranges(ranges in numbers()) {
            let set = Ranges::new(ranges.clone());
            let other = set.complement();
            for number in (0..14).chain(u32::MAX - 5..=u32::MAX) {
                let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&number));
                prop_assert_eq!(set.contains(number), inside);
                prop_assert_eq!(other.contains(number), !inside);
                let both = set.contains(number) && number.checked_add(1).is_some_and(|next| set.contains(next));
                prop_assert_eq!(set.contains_all(number, number.saturating_add(1)), both || (inside && number == u32::MAX));
            }
            for (low, high) in [(0, 3), (2, 5), (6, 11)] {
                let some = (low..=high).any(|number| set.contains(number));
                prop_assert_eq!(set.contains_some(low, high), some);
            }
            let all: Vec<_> = set.iter().collect();
            prop_assert!(all.windows(2).all(|pair| u64::from(pair[0].1) + 1 < u64::from(pair[1].0)), "{all:?}");
            prop_assert_eq!(other.complement(), set);
        }
    }
}

//! Many sets of numbers at once: which of them have a number, in one search.

use std::collections::{BTreeMap, HashMap};

/// A number that sets are made of.
pub(super) trait Number: Copy + Ord {
    /// The one after it.
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Sets, each named by a number of its own. All the ranges of all of them cut the numbers into pieces; a piece knows who has
/// it.
#[derive(Debug)]
pub(super) struct Spans<T> {
    /// Where each piece begins; the one before the first is nobody's.
    begins: Vec<T>,
    /// Who has it, by its place in `owners`.
    owned: Vec<u32>,
    /// Pieces of the same owners share a list.
    owners: Vec<Box<[u32]>>,
}

impl<T> Default for Spans<T> {
    fn default() -> Self {
        Self { begins: Vec::new(), owned: Vec::new(), owners: Vec::new() }
    }
}

impl<T: Number> Spans<T> {
    /// Of inclusive ranges, each with its set.
    pub(super) fn new(ranges: &[(T, T, u32)]) -> Self {
        // At each number: who begins there, and whose range ended right before it.
        let mut edges: BTreeMap<T, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
        for (low, high, set) in ranges {
            edges.entry(*low).or_default().0.push(*set);
            if let Some(after) = high.next() {
                edges.entry(after).or_default().1.push(*set);
            }
        }
        let mut spans = Self::default();
        let mut known: HashMap<Box<[u32]>, u32> = HashMap::new();
        // Two ranges of one set may overlap.
        let mut here: BTreeMap<u32, u32> = BTreeMap::new();
        for (at, (began, ended)) in edges {
            for set in began {
                *here.entry(set).or_default() += 1;
            }
            for set in ended {
                if let Some(count) = here.get_mut(&set) {
                    *count -= 1;
                    if *count == 0 {
                        here.remove(&set);
                    }
                }
            }
            let owners: Box<[u32]> = here.keys().copied().collect();
            let list = *known.entry(owners.clone()).or_insert_with(|| {
                spans.owners.push(owners);
                spans.owners.len() as u32 - 1
            });
            spans.begins.push(at);
            spans.owned.push(list);
        }
        spans
    }

    /// The sets that have the number, ascending.
    #[inline]
    pub(super) fn of(&self, number: T) -> &[u32] {
        if self.begins.is_empty() {
            return &[];
        }
        let after = self.begins.partition_point(|begin| *begin <= number);
        let list = after.checked_sub(1).and_then(|piece| self.owned.get(piece));
        list.and_then(|list| self.owners.get(*list as usize)).map_or(&[], |owners| owners)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_search(ranges in vec((0..20_u32, 0..20_u32, 0..4_u32), 0..12), at in prop_oneof![0..22_u32, Just(u32::MAX)]) {
            let ranges: Vec<_> = ranges.into_iter().map(|(one, other, set)| {
                (one.min(other), if one.max(other) == 19 { u32::MAX } else { one.max(other) }, set)
            }).collect();
            let mut expected: Vec<u32> =
                ranges.iter().filter(|(low, high, _)| (*low..=*high).contains(&at)).map(|of| of.2).collect();
            expected.sort_unstable();
            expected.dedup();
            let spans = Spans::new(&ranges);
            prop_assert_eq!(spans.of(at), expected);
        }
    }
}

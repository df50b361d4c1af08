//! Connections counted by what they have in common.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::keys::{Sort, SortKey};
use crate::units::WallNs;

/// Most groups that are kept: some 300 MB.
pub const GROUPS_MAX: usize = 2_000_000;

/// What a key has in a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// Not known, or there is none.
    Null,
    /// A number.
    Number(i64),
    /// A text as JSON has it.
    Text(Arc<str>),
}

/// The values of a group, in the order of its keys.
pub type Values = SmallVec<[Value; 2]>;

/// What is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Connections.
    pub count: u64,
    /// Payload bytes received, where they are known.
    pub bytes_in: u64,
    /// Payload bytes sent, where they are known.
    pub bytes_out: u64,
    /// When the first one began.
    pub first: WallNs,
    /// When the last one ended, or began if it did not.
    pub last: WallNs,
}

impl Sum {
    /// Adds another one.
    pub(super) fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }

    const fn of(&self, key: SortKey) -> u64 {
        match key {
            SortKey::Time | SortKey::Duration => self.last.0,
            SortKey::Bytes => self.bytes_in.saturating_add(self.bytes_out),
            SortKey::BytesIn => self.bytes_in,
            SortKey::BytesOut => self.bytes_out,
            SortKey::Count => self.count,
        }
    }
}

/// There are more groups than are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {GROUPS_MAX} groups: choose other keys, a filter or a shorter span")]
pub struct TooMany;

/// Groups in the making.
#[derive(Debug, Default)]
pub(super) struct Groups(HashMap<Values, Sum>);

impl Groups {
    /// Adds to a group.
    ///
    /// # Errors
    /// When there is no room for a group that is new.
    pub(super) fn add(&mut self, values: Values, sum: &Sum) -> Result<(), TooMany> {
        let is_full = self.0.len() >= GROUPS_MAX;
        match self.0.entry(values) {
            std::collections::hash_map::Entry::Occupied(mut own) => own.get_mut().add(sum),
            std::collections::hash_map::Entry::Vacant(_) if is_full => return Err(TooMany),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(*sum);
            }
        }
        Ok(())
    }

    /// The groups in this order, at most so many. Those that are equal in it are in the order of their values.
    pub(super) fn sorted(self, sort: Sort, limit: Option<u64>) -> Vec<(Values, Sum)> {
        let mut all: Vec<(Values, Sum)> = self.0.into_iter().collect();
        let order = |one: &(Values, Sum), other: &(Values, Sum)| -> Ordering {
            let by = one.1.of(sort.key).cmp(&other.1.of(sort.key));
            let by = if sort.reverse { by.reverse() } else { by };
            by.then_with(|| one.0.cmp(&other.0))
        };
        all.sort_unstable_by(order);
        if let Some(limit) = limit {
            all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    fn sum(count: u64, bytes_in: u64, first: u64, last: u64) -> Sum {
        Sum { count, bytes_in, bytes_out: 1, first: WallNs(first), last: WallNs(last) }
    }

    #[test]
    fn groups_are_summed_and_sorted() {
        let mut groups = Groups::default();
        let text = |text: &str| -> Values { smallvec![Value::Text(text.into())] };
        for (name, sum) in [
            ("b", sum(1, 10, 5, 6)),
            ("a", sum(1, 1, 9, 9)),
            ("b", sum(3, 10, 2, 4)),
            ("c", sum(1, 500, 7, 8)),
        ] {
            groups.add(text(name), &sum).expect("room");
        }
        groups.add(smallvec![Value::Null], &sum(1, 0, 1, 1)).expect("room");
        let names = |sort, limit| -> Vec<Value> {
            let groups = Groups(groups.0.clone());
            groups.sorted(sort, limit).into_iter().map(|(values, _)| values[0].clone()).collect()
        };
        let of = |name: &str| Value::Text(name.into());
        assert_eq!(names(Sort::MOST, None), [of("b"), Value::Null, of("a"), of("c")]);
        assert_eq!(names(Sort { key: SortKey::BytesIn, reverse: true }, Some(2)), [of("c"), of("b")]);
        assert_eq!(names(Sort::TIME, Some(1)), [Value::Null]);
        let b = groups.0[&text("b")];
        assert_eq!(b, Sum { count: 4, bytes_in: 20, bytes_out: 2, first: WallNs(2), last: WallNs(6) });
    }
}

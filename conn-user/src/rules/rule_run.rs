//! The name of a rule at work, by which others remember it.

/// A rule at work: its place in the engine, and the number of the detector there. A place is used again, a number never: what is
/// left of a rule that was removed is not taken for the one that has its place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRun {
    /// The place.
    pub place: u32,
    /// The number, in the order in which detectors began.
    pub serial: u32,
}

impl RuleRun {
    /// Stands for the engine itself, which has timers of its own.
    pub(super) const ENGINE: Self = Self { place: u32::MAX, serial: 0 };
}

/// Which rules follow a connection, listener or process, by place.
#[derive(Debug, Default)]
pub(super) struct Followers(smallvec::SmallVec<[RuleRun; 4]>);

impl Followers {
    /// Adds a rule, once. One that had its place before is of no use any more.
    pub(super) fn add(&mut self, rule: RuleRun) {
        match self.0.binary_search_by_key(&rule.place, |own| own.place) {
            Ok(at) => self.0[at] = rule,
            Err(at) => self.0.insert(at, rule),
        }
    }

    /// The rules, by place.
    pub(super) fn iter(&self) -> impl Iterator<Item = RuleRun> {
        self.0.iter().copied()
    }
}

//! Identifies a running rule to timers, alerts and whatever else refers to it.

/// A running rule: its place in the engine, and the number of the detector there. Places are reused, numbers
/// are not, so what is left of a removed rule is not taken for the rule that has its place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRun {
    /// The place.
    pub place: u32,
    /// The number, in the order in which detectors began.
    pub serial: u32,
}

impl RuleRun {
    /// The engine itself, which has timers of its own.
    pub(super) const ENGINE: Self = Self { place: u32::MAX, serial: 0 };
}

/// The rules that follow a connection, listener or process, by place.
#[derive(Debug, Default)]
pub(super) struct Followers(smallvec::SmallVec<[RuleRun; 4]>);

impl Followers {
    /// Adds a rule, once. It replaces a removed rule that had its place before.
    pub(super) fn add(&mut self, rule: RuleRun) {
        match self.0.binary_search_by_key(&rule.place, |own| own.place) {
            Ok(at) => self.0[at] = rule,
            Err(at) => self.0.insert(at, rule),
        }
    }

    /// Returns the rules, by place.
    pub(super) fn iter(&self) -> impl Iterator<Item = RuleRun> {
        self.0.iter().copied()
    }
}

//! What was watched, and what was not: the ledger that says of a span of time whether everything in it was seen.

use std::collections::VecDeque;

use crate::kernel::gap::Gap;
use crate::units::BootNs;

/// Losses that are kept apart; older ones are joined to one span in which something is missing.
const KEPT: usize = 1024;

/// The ledger, from the attach on.
#[derive(Debug)]
pub struct Coverage {
    attached: BootNs,
    losses: VecDeque<Loss>,
    /// Joined losses: from the first one's beginning to the last one's end.
    joined: Option<(BootNs, BootNs)>,
}

/// A loss of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What was lost, and between which instants.
    pub gap: Gap,
    /// When the tables were right again. What began and ended in the gap stays missing.
    pub repaired: Option<BootNs>,
}

/// What the ledger says of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// Everything.
    All,
    /// Nothing before this instant: the programs were not attached. From then on everything.
    Since(BootNs),
    /// These losses touch it.
    Except(Vec<&'a Loss>),
    /// Something is missing, and the ledger does not know any more what.
    Unknown,
}

impl Coverage {
    /// A ledger that begins at the attach.
    pub const fn new(attached: BootNs) -> Self {
        Self { attached, losses: VecDeque::new(), joined: None }
    }

    /// When it begins.
    pub const fn attached(&self) -> BootNs {
        self.attached
    }

    /// Enters a loss.
    pub fn lose(&mut self, gap: Gap) {
        self.losses.push_back(Loss { gap, repaired: None });
        if self.losses.len() > KEPT
            && let Some(oldest) = self.losses.pop_front()
        {
            let (from, to) = self.joined.unwrap_or((oldest.gap.from, oldest.gap.to));
            self.joined = Some((from.min(oldest.gap.from), to.max(oldest.gap.to)));
        }
    }

    /// The tables are right again; `seen` is when the snapshot that shows it began. Losses that go on after it stay open.
    pub fn repaired(&mut self, seen: BootNs, at: BootNs) {
        for loss in &mut self.losses {
            if loss.repaired.is_none() && loss.gap.to <= seen {
                loss.repaired = Some(at);
            }
        }
    }

    /// Whether the tables may be wrong now.
    pub fn is_open(&self) -> bool {
        self.losses.iter().any(|loss| loss.repaired.is_none())
    }

    /// What was seen of the span from `from` to `to`, both included.
    pub fn of(&self, from: BootNs, to: BootNs) -> Seen<'_> {
        if self.joined.is_some_and(|(first, last)| first <= to && from <= last) {
            return Seen::Unknown;
        }
        let touching: Vec<&Loss> =
            self.losses.iter().filter(|loss| loss.gap.from <= to && from <= loss.gap.to).collect();
        if !touching.is_empty() {
            return Seen::Except(touching);
        }
        if from < self.attached { Seen::Since(self.attached) } else { Seen::All }
    }
}

#[cfg(test)]
mod tests {
    use conn_common::hook::HookId;

    use super::*;
    use crate::kernel::gap::GapCause;

    fn gap(from: u64, to: u64) -> Gap {
        Gap {
            hook: HookId::State,
            cause: GapCause::RingFull,
            cpu: Some(0),
            lost: 1,
            from: BootNs(from),
            to: BootNs(to),
        }
    }

    fn of(coverage: &Coverage, from: u64, to: u64) -> Seen<'_> {
        coverage.of(BootNs(from), BootNs(to))
    }

    #[test]
    fn a_span_without_loss() {
        let coverage = Coverage::new(BootNs(100));
        assert_eq!(of(&coverage, 100, 200), Seen::All);
        assert_eq!(of(&coverage, 50, 200), Seen::Since(BootNs(100)));
        assert!(!coverage.is_open());
    }

    #[test]
    fn a_loss_touches_what_it_overlaps() {
        let mut coverage = Coverage::new(BootNs(0));
        coverage.lose(gap(100, 200));
        assert_eq!(of(&coverage, 0, 99), Seen::All);
        assert_eq!(of(&coverage, 201, 300), Seen::All);
        for (from, to) in [(0, 100), (200, 300), (150, 160), (0, 300)] {
            assert!(matches!(of(&coverage, from, to), Seen::Except(losses) if losses.len() == 1), "{from}");
        }
    }

    #[test]
    fn a_repair_closes_what_was_before_it() {
        let mut coverage = Coverage::new(BootNs(0));
        coverage.lose(gap(100, 200));
        coverage.lose(gap(150, 400));
        coverage.repaired(BootNs(300), BootNs(350));
        assert!(coverage.is_open(), "the second went on");
        let Seen::Except(losses) = of(&coverage, 100, 120) else { panic!("touched") };
        assert_eq!(losses[0].repaired, Some(BootNs(350)));
        coverage.repaired(BootNs(500), BootNs(600));
        assert!(!coverage.is_open());
        let Seen::Except(losses) = of(&coverage, 100, 160) else { panic!("touched") };
        assert_eq!(losses[0].repaired, Some(BootNs(350)), "a repair is not repeated");
    }

    #[test]
    fn old_losses_are_joined() {
        let mut coverage = Coverage::new(BootNs(0));
        for n in 0..KEPT as u64 + 10 {
            coverage.lose(gap(1000 * n, 1000 * n + 10));
        }
        assert_eq!(of(&coverage, 5, 6), Seen::Unknown);
        assert_eq!(of(&coverage, 500, 600), Seen::Unknown, "between two that were joined");
        assert_eq!(of(&coverage, 20_500, 20_600), Seen::All);
    }
}

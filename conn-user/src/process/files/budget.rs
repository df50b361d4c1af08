//! How much each user has cost.

use std::collections::HashMap;

use crate::units::{BootNs, DurationNs};

/// Most users that are remembered.
const USERS_MAX: usize = 4096;

/// What each user may cost: so much at once, and a share of the time from then on.
#[derive(Debug, Default)]
pub(in crate::process) struct Budgets {
    burst: DurationNs,
    /// One part of so many.
    share: u64,
    users: HashMap<u32, Spent>,
}

#[derive(Clone, Copy, Debug)]
struct Spent {
    cost: DurationNs,
    at: BootNs,
}

impl Budgets {
    /// `burst` at once, and then one part in `share` of the time.
    pub(in crate::process) fn new(burst: DurationNs, share: u64) -> Self {
        Self { burst, share: share.max(1), users: HashMap::new() }
    }

    /// Takes note of a cost.
    pub(in crate::process) fn charge(&mut self, uid: u32, cost: DurationNs, now: BootNs) {
        if self.users.len() >= USERS_MAX && !self.users.contains_key(&uid) {
            let share = self.share;
            self.users.retain(|_, spent| spent.left(share, now).0 > 0);
            if self.users.len() >= USERS_MAX {
                // All of them owe something: the one that owes least is forgotten.
                let least = self.users.iter().min_by_key(|(_, spent)| spent.left(share, now));
                if let Some((&least, _)) = least {
                    self.users.remove(&least);
                }
            }
        }
        let before = self.users.get(&uid).map_or(DurationNs(0), |spent| spent.left(self.share, now));
        self.users.insert(uid, Spent { cost: DurationNs(before.0.saturating_add(cost.0)), at: now });
    }

    /// Whether the user has spent too much.
    pub(in crate::process) fn is_over(&self, uid: u32, now: BootNs) -> bool {
        self.over(uid, now).0 > 0
    }

    /// When the user is below the bound again; in the past if it is.
    pub(in crate::process) fn until(&self, uid: u32, now: BootNs) -> BootNs {
        BootNs(now.0.saturating_add(self.over(uid, now).0.saturating_mul(self.share)))
    }

    fn over(&self, uid: u32, now: BootNs) -> DurationNs {
        let spent = self.users.get(&uid).map_or(DurationNs(0), |spent| spent.left(self.share, now));
        DurationNs(spent.0.saturating_sub(self.burst.0))
    }
}

impl Spent {
    fn left(self, share: u64, now: BootNs) -> DurationNs {
        DurationNs(self.cost.0.saturating_sub(now.since(self.at).0 / share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_pays_off_what_it_cost() {
        let mut budgets = Budgets::new(DurationNs(100), 10);
        budgets.charge(1, DurationNs(100), BootNs(1000));
        assert!(!budgets.is_over(1, BootNs(1000)), "the burst");
        budgets.charge(1, DurationNs(30), BootNs(1000));
        assert!(budgets.is_over(1, BootNs(1299)) && !budgets.is_over(2, BootNs(1000)));
        assert_eq!(budgets.until(1, BootNs(1000)), BootNs(1300));
        assert!(!budgets.is_over(1, BootNs(1300)));
        assert_eq!(budgets.until(1, BootNs(1300)), BootNs(1300));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut budgets = Budgets::new(DurationNs(1), 1);
        budgets.charge(7, DurationNs(u64::MAX), BootNs(0));
        for uid in 100..300 + USERS_MAX as u32 {
            budgets.charge(uid, DurationNs(1000), BootNs(0));
            assert!(budgets.users.len() <= USERS_MAX);
        }
        assert!(budgets.is_over(7, BootNs(0)), "who owes most is not forgotten");
    }
}

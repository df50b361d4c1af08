//! When a thread needs real-time priority, and how much of it it may have, by clocks that are handed in.

use std::time::Duration;

/// Of every period a thread may have so much of a processor at real-time priority. The kernel's own limit for all such threads
/// is 95 % (`sched_rt_runtime_us`).
pub(super) const BUDGET: Duration = Duration::from_millis(70);
pub(super) const PERIOD: Duration = Duration::from_millis(100);
/// The reader is starved if, while much waits, it has had less of a processor than this share of so long a time or longer: more
/// than a processor's turns among a few threads make of it.
const SHARE: (u32, u32) = (3, 4);
const STARVED: Duration = Duration::from_millis(20);
/// How long real-time priority is kept after that. Whoever starves the reader again soon makes it keep it twice as long.
const HOLD: Duration = Duration::from_secs(10);
const HOLD_LONGEST: Duration = Duration::from_mins(5);
const SOON: Duration = Duration::from_mins(1);

/// What is to be done about the priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To real-time priority, which is needed.
    Raise,
    /// To the ordinary one, for the rest of the period.
    GiveBack,
    /// Back to real-time priority, for the next period.
    TakeAgain,
    /// To the ordinary one: it is needed no more.
    Lower,
}

/// When real-time priority is needed.
#[derive(Debug)]
pub(super) struct OnDemand {
    /// Since when much waits, at most for a period, and the thread's processor time then.
    behind: Option<(Duration, Duration)>,
    raised: Option<Raised>,
    /// For how long it is raised the next time.
    hold: Duration,
    lowered: Option<Duration>,
}

#[derive(Debug)]
struct Raised {
    until: Duration,
    budget: Budget,
}

impl OnDemand {
    /// The thread begins with work to do.
    pub(super) const fn new(now: Duration, cpu: Duration) -> Self {
        Self { behind: Some((now, cpu)), raised: None, hold: HOLD, lowered: None }
    }

    /// Whether the thread has real-time priority, but for its budget.
    pub(super) const fn is_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// Whether no clock needs to be read.
    pub(super) const fn is_calm(&self, is_behind: bool) -> bool {
        !is_behind && self.behind.is_none() && self.raised.is_none()
    }

    /// It is `now`, and the thread has had so much of a processor.
    pub(super) fn at(&mut self, now: Duration, cpu: Duration, is_behind: bool) -> Option<Step> {
        if let Some(raised) = &mut self.raised {
            if now < raised.until || is_behind {
                return raised.budget.at(now, cpu);
            }
            self.raised = None;
            self.lowered = Some(now);
            return Some(Step::Lower);
        }
        if !self.is_starved(now, cpu, is_behind) {
            return None;
        }
        self.raise(now, cpu);
        Some(Step::Raise)
    }

    /// When the next period begins, in which the thread has its budget again. `None`: it has no real-time priority.
    pub(super) fn next_period(&self) -> Option<Duration> {
        self.raised.as_ref().map(|raised| raised.budget.period.0 + PERIOD)
    }

    /// The thread has real-time priority from now on, whether it had it before or had used its budget.
    pub(super) fn raise(&mut self, now: Duration, cpu: Duration) {
        if let Some(raised) = &mut self.raised {
            raised.budget = Budget::new(now, cpu);
            return;
        }
        let soon = self.lowered.is_some_and(|lowered| now.saturating_sub(lowered) < SOON);
        self.hold = if soon { (self.hold * 2).min(HOLD_LONGEST) } else { HOLD };
        self.raised = Some(Raised { until: now + self.hold, budget: Budget::new(now, cpu) });
        self.behind = None;
    }

    fn is_starved(&mut self, now: Duration, cpu: Duration, is_behind: bool) -> bool {
        if !is_behind {
            self.behind = None;
            return false;
        }
        let (since, used) = *self.behind.get_or_insert((now, cpu));
        let (wall, used) = (now.saturating_sub(since), cpu.saturating_sub(used));
        if wall >= STARVED && used * SHARE.1 < wall * SHARE.0 {
            return true;
        }
        if wall >= PERIOD {
            self.behind = Some((now, cpu));
        }
        false
    }
}

/// How much of a period is used, by clocks that are handed in.
#[derive(Debug)]
pub(super) struct Budget {
    /// When the period began, and the thread's processor time then.
    period: (Duration, Duration),
    is_given_back: bool,
}

impl Budget {
    pub(super) const fn new(now: Duration, cpu: Duration) -> Self {
        Self { period: (now, cpu), is_given_back: false }
    }

    /// It is `now`, and the thread has had so much of a processor.
    pub(super) fn at(&mut self, now: Duration, cpu: Duration) -> Option<Step> {
        if now.saturating_sub(self.period.0) >= PERIOD {
            self.period = (now, cpu);
            return std::mem::take(&mut self.is_given_back).then_some(Step::TakeAgain);
        }
        if !self.is_given_back && cpu.saturating_sub(self.period.1) >= BUDGET {
            self.is_given_back = true;
            return Some(Step::GiveBack);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_budget_is_of_each_period() {
        let mut budget = Budget::new(MS(0), MS(0));
        let steps = [
            (50, 50, None),
            (70, 70, Some(Step::GiveBack)),
            (90, 80, None),
            (100, 85, Some(Step::TakeAgain)),
            (160, 145, None),
            // What was used at the ordinary priority counts in no period but its own.
            (175, 155, Some(Step::GiveBack)),
            (200, 160, Some(Step::TakeAgain)),
            (5_000, 160, None),
            (5_069, 229, None),
            (5_070, 230, Some(Step::GiveBack)),
        ];
        for (now, cpu, step) in steps {
            assert_eq!(budget.at(MS(now), MS(cpu)), step, "at {now} ms");
        }
    }

    /// Whoever is given the priority again in each period has it no longer than the first time.
    #[test]
    fn who_is_given_it_again_keeps_it_no_longer() {
        let mut on_demand = OnDemand::new(MS(0), MS(0));
        on_demand.raise(MS(0), MS(0));
        for period in 0..5 {
            let (began, used) = (MS(period * 100), MS(period * 70));
            assert_eq!(on_demand.at(began + MS(70), used + MS(70), true), Some(Step::GiveBack));
            assert_eq!(on_demand.next_period(), Some(began + PERIOD));
            on_demand.raise(began + PERIOD, used + MS(70));
        }
        assert_eq!(on_demand.at(HOLD, MS(400), false), Some(Step::Lower));
        assert_eq!(on_demand.next_period(), None);
    }

    #[test]
    fn who_is_kept_from_the_processor_takes_real_time_priority() {
        let mut on_demand = OnDemand::new(MS(0), MS(0));
        // (now, processor time, whether much waits, what is done)
        let steps = [
            // All of the processor, and later two thirds of it.
            (100, 100, true, None),
            (110, 104, true, None),
            (130, 120, true, Some(Step::Raise)),
            (200, 189, true, None),
            (201, 190, true, Some(Step::GiveBack)),
            (230, 200, false, Some(Step::TakeAgain)),
            (10_130, 300, true, None),
            (10_131, 301, false, Some(Step::Lower)),
            // Nothing waits: it sleeps.
            (20_000, 301, false, None),
            (20_001, 301, true, None),
            (20_020, 301, true, None),
            (20_021, 301, true, Some(Step::Raise)),
            // The second time within a minute: twice as long.
            (40_020, 400, false, None),
            (40_021, 400, false, Some(Step::Lower)),
            (200_000, 400, true, None),
            (200_100, 410, true, Some(Step::Raise)),
            (210_100, 500, false, Some(Step::Lower)),
        ];
        for (now, cpu, is_behind, step) in steps {
            assert_eq!(on_demand.at(MS(now), MS(cpu), is_behind), step, "at {now} ms");
        }
    }
}

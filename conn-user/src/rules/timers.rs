//! Timers of detectors: a binary heap whose entries can be cancelled, so that it is never larger than what waits.

use super::rule_run::RuleRun;
use super::work;
use crate::units::BootNs;

/// A timer that waits. Of no use after it fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(u32);

impl TimerId {
    /// Stands for a timer that was not set.
    pub(super) const NONE: Self = Self(NOWHERE);
}

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The rule. A rule that is removed has its timers cancelled ([`Timers::cancel_rule`]) before another one gets its place.
    pub rule: RuleRun,
    /// What the detector called it.
    pub token: u64,
}

/// The timers.
#[derive(Debug, Default)]
pub struct Timers {
    /// A heap by time, then by the order in which they were set: that of a run is that of its replay, whichever slots are free.
    heap: Vec<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// By the place of a rule: the slot of the timer that it set last, from which its others are linked.
    of_rule: Vec<u32>,
    set: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    at: BootNs,
    /// How many were set before it.
    serial: u64,
    alarm: Alarm,
    /// Its place in the heap.
    place: u32,
    /// The slots of its rule's timers that were set before it and after it.
    before: u32,
    after: u32,
}

/// A slot that waits for nothing.
const NOWHERE: u32 = u32::MAX;

impl Timers {
    /// When the next one is due.
    pub fn next(&self) -> Option<BootNs> {
        self.heap.first().map(|&id| self.slots[id as usize].at)
    }

    /// When the next one of the rule at this place is due. Looks at all of its timers.
    pub fn next_of(&self, place: u32) -> Option<BootNs> {
        self.of_rule(place).map(|id| self.slots[id as usize].at).min()
    }

    /// The slots of a rule's timers.
    fn of_rule(&self, place: u32) -> impl Iterator<Item = u32> {
        let is_slot = |id: &u32| *id != NOWHERE;
        let last = self.of_rule.get(place as usize).copied().filter(is_slot);
        std::iter::successors(last, move |id| Some(self.slots[*id as usize].before).filter(is_slot))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Sets one.
    pub fn set(&mut self, at: BootNs, alarm: Alarm) -> TimerId {
        let place = self.heap.len() as u32;
        let slot = Slot { at, serial: self.set, alarm, place, before: NOWHERE, after: NOWHERE };
        self.set += 1;
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        self.heap.push(id);
        self.link(id, alarm.rule.place);
        self.up(place);
        TimerId(id)
    }

    /// Links a slot as the last one of its rule.
    fn link(&mut self, id: u32, place: u32) {
        if place == RuleRun::ENGINE.place {
            return;
        }
        let place = place as usize;
        if self.of_rule.len() <= place {
            self.of_rule.resize(place + 1, NOWHERE);
        }
        let before = std::mem::replace(&mut self.of_rule[place], id);
        self.slots[id as usize].before = before;
        if let Some(before) = self.slots.get_mut(before as usize) {
            before.after = id;
        }
    }

    fn unlink(&mut self, id: u32) {
        let Slot { before, after, alarm, .. } = self.slots[id as usize];
        if let Some(before) = self.slots.get_mut(before as usize) {
            before.after = after;
        }
        match self.slots.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => {
                if let Some(last) = self.of_rule.get_mut(alarm.rule.place as usize) {
                    *last = before;
                }
            }
        }
    }

    /// Takes one back.
    pub fn cancel(&mut self, timer: TimerId) {
        let Some(place) = self.slots.get(timer.0 as usize).map(|slot| slot.place) else { return };
        if place != NOWHERE {
            self.remove(place);
        }
    }

    /// Takes back those of a rule.
    pub fn cancel_rule(&mut self, rule: RuleRun) {
        let ids: Vec<u32> = self.of_rule(rule.place).collect();
        work::looked_at(ids.len());
        for id in ids {
            self.cancel(TimerId(id));
        }
    }

    /// The first one that is due, if any.
    pub fn due(&mut self, now: BootNs) -> Option<(BootNs, Alarm)> {
        let &first = self.heap.first()?;
        let Slot { at, alarm, .. } = self.slots[first as usize];
        (at <= now).then(|| {
            self.remove(0);
            (at, alarm)
        })
    }

    fn remove(&mut self, place: u32) {
        let last = self.heap.len() as u32 - 1;
        self.swap(place, last);
        if let Some(id) = self.heap.pop() {
            self.slots[id as usize].place = NOWHERE;
            self.unlink(id);
            self.free.push(id);
        }
        if place < last {
            self.up(place);
            self.down(place);
        }
    }

    fn before(&self, one: u32, other: u32) -> bool {
        let key = |place: u32| {
            let slot = &self.slots[self.heap[place as usize] as usize];
            (slot.at, slot.serial)
        };
        key(one) < key(other)
    }

    fn swap(&mut self, one: u32, other: u32) {
        self.heap.swap(one as usize, other as usize);
        for place in [one, other] {
            let id = self.heap[place as usize];
            self.slots[id as usize].place = place;
        }
    }

    fn up(&mut self, mut place: u32) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.before(place, parent) {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
    }

    fn down(&mut self, mut place: u32) {
        let count = self.heap.len() as u32;
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let mut first = place;
            for child in [left, right] {
                if child < count && self.before(child, first) {
                    first = child;
                }
            }
            if first == place {
                break;
            }
            self.swap(place, first);
            place = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Set(u64, u32),
        Cancel(usize),
        CancelRule(u32),
        Due(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            6 => (0..100_u64, 0..3_u32).prop_map(|(at, rule)| Act::Set(at, rule)),
            4 => (0..50_usize).prop_map(Act::Cancel),
            1 => (0..3_u32).prop_map(Act::CancelRule),
            2 => (0..100_u64).prop_map(Act::Due),
        ];
        proptest::collection::vec(act, 0..200)
    }

    proptest! {
        /// Against a list that is searched.
        #[test]
        fn equals_a_list(acts in acts()) {
            let mut timers = Timers::default();
            let mut list: Vec<(u64, u64, TimerId, u32)> = Vec::new();
            for (token, act) in (0..).zip(acts) {
                match act {
                    Act::Set(at, place) => {
                        let rule = RuleRun { place, serial: 1 };
                        list.push((at, token, timers.set(BootNs(at), Alarm { rule, token }), place));
                    }
                    Act::Cancel(which) if which < list.len() => timers.cancel(list.remove(which).2),
                    Act::Cancel(_) => {}
                    Act::CancelRule(place) => {
                        timers.cancel_rule(RuleRun { place, serial: 1 });
                        list.retain(|own| own.3 != place);
                    }
                    Act::Due(now) => while let Some((at, alarm)) = timers.due(BootNs(now)) {
                        // Of those due at one instant the one that was set first.
                        let first = list.iter().map(|(at, token, ..)| (*at, *token)).min();
                        prop_assert_eq!(Some((at.0, alarm.token)), first);
                        let place = list.iter().position(|(own, token, ..)| (*own, *token) == (at.0, alarm.token));
                        list.remove(place.expect("a timer that was set"));
                    },
                }
                prop_assert_eq!(timers.len(), list.len());
                prop_assert_eq!(timers.next().map(|at| at.0), list.iter().map(|(at, ..)| *at).min());
                for place in 0..3 {
                    let own = list.iter().filter(|own| own.3 == place).map(|own| own.0).min();
                    prop_assert_eq!(timers.next_of(place).map(|at| at.0), own);
                }
            }
        }
    }
}

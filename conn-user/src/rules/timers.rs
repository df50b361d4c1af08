//! Timers of detectors: a binary heap whose entries can be cancelled, so that it is never larger than what waits.

use crate::units::BootNs;

/// A timer that waits. Of no use after it fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(u32);

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The rule, by its place in the engine.
    pub rule: u32,
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
}

/// A slot that waits for nothing.
const NOWHERE: u32 = u32::MAX;

impl Timers {
    /// When the next one is due.
    pub fn next(&self) -> Option<BootNs> {
        self.heap.first().map(|&id| self.slots[id as usize].at)
    }

    /// When the next one of this rule is due. Looks at all of them.
    pub fn next_of(&self, rule: u32) -> Option<BootNs> {
        let waiting = self.heap.iter().filter_map(|&id| self.slots.get(id as usize));
        waiting.filter(|slot| slot.alarm.rule == rule).map(|slot| slot.at).min()
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
        let slot = Slot { at, serial: self.set, alarm, place };
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
        self.up(place);
        TimerId(id)
    }

    /// Takes one back.
    pub fn cancel(&mut self, timer: TimerId) {
        let Some(place) = self.slots.get(timer.0 as usize).map(|slot| slot.place) else { return };
        if place != NOWHERE {
            self.remove(place);
        }
    }

    /// Takes back those of some rules.
    pub fn cancel_rules(&mut self, gone: impl Fn(u32) -> bool) {
        let ids: Vec<u32> =
            self.heap.iter().copied().filter(|id| gone(self.slots[*id as usize].alarm.rule)).collect();
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
        Set(u64),
        Cancel(usize),
        Due(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            3 => (0..100_u64).prop_map(Act::Set),
            2 => (0..50_usize).prop_map(Act::Cancel),
            1 => (0..100_u64).prop_map(Act::Due),
        ];
        proptest::collection::vec(act, 0..200)
    }

    proptest! {
        /// Against a list that is searched.
        #[test]
        fn equals_a_list(acts in acts()) {
            let mut timers = Timers::default();
            let mut list: Vec<(u64, u64, TimerId)> = Vec::new();
            for (token, act) in (0..).zip(acts) {
                match act {
                    Act::Set(at) => {
                        list.push((at, token, timers.set(BootNs(at), Alarm { rule: 0, token })));
                    }
                    Act::Cancel(which) if which < list.len() => timers.cancel(list.remove(which).2),
                    Act::Cancel(_) => {}
                    Act::Due(now) => while let Some((at, alarm)) = timers.due(BootNs(now)) {
                        // Of those due at one instant the one that was set first.
                        let first = list.iter().map(|(at, token, _)| (*at, *token)).min();
                        prop_assert_eq!(Some((at.0, alarm.token)), first);
                        let place = list.iter().position(|(own, token, _)| (*own, *token) == (at.0, alarm.token));
                        list.remove(place.expect("a timer that was set"));
                    },
                }
                prop_assert_eq!(timers.len(), list.len());
                prop_assert_eq!(timers.next().map(|at| at.0), list.iter().map(|(at, ..)| *at).min());
            }
        }
    }
}

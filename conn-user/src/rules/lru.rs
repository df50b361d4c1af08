//! A map that can name the entry which was used longest ago: what a detector remembers is bounded, and to find what has to go
//! must not cost a walk through all of it.

use crate::process::hash::IntMap;

/// An index that leads nowhere.
const NONE: u32 = u32::MAX;

/// A map by number. Its entries are in the order of their last use ([`Lru::touch`]), but for those that are pinned.
#[derive(Clone, Debug)]
pub(super) struct Lru<V> {
    places: IntMap<u64, u32>,
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

#[derive(Clone, Debug)]
struct Node<V> {
    key: u64,
    /// `None`: the node is free.
    value: Option<V>,
    is_pinned: bool,
    older: u32,
    newer: u32,
}

impl<V> Default for Lru<V> {
    fn default() -> Self {
        Self { places: IntMap::default(), nodes: Vec::new(), free: Vec::new(), oldest: NONE, newest: NONE }
    }
}

impl<V> Lru<V> {
    /// Returns the number of entries, pinned ones among them.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn contains_key(&self, key: u64) -> bool {
        self.places.contains_key(&key)
    }

    /// Returns the value. That does not count as a use of the entry.
    pub(super) fn get(&self, key: u64) -> Option<&V> {
        self.nodes.get(*self.places.get(&key)? as usize)?.value.as_ref()
    }

    /// Returns the value, to be changed. That does not count as a use of the entry.
    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        self.nodes.get_mut(*self.places.get(&key)? as usize)?.value.as_mut()
    }

    /// Makes the entry the one that was used last.
    pub(super) fn touch(&mut self, key: u64) {
        if let Some(&at) = self.places.get(&key)
            && at != self.newest
            && self.nodes.get(at as usize).is_some_and(|node| !node.is_pinned)
        {
            self.unlink(at);
            self.link(at);
        }
    }

    /// Enters a value as the one that was used last; returns the one that was there.
    pub(super) fn insert(&mut self, key: u64, value: V) -> Option<V> {
        if let Some(old) = self.get_mut(key) {
            let old = std::mem::replace(old, value);
            self.touch(key);
            return Some(old);
        }
        let node = Node { key, value: Some(value), is_pinned: false, older: NONE, newer: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        self.places.insert(key, at);
        self.link(at);
        None
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<V> {
        let at = self.places.remove(&key)?;
        if !self.nodes.get(at as usize)?.is_pinned {
            self.unlink(at);
        }
        self.free.push(at);
        self.nodes.get_mut(at as usize)?.value.take()
    }

    /// Keeps the entry from being evicted.
    pub(super) fn pin(&mut self, key: u64) {
        if let Some(&at) = self.places.get(&key)
            && !self.nodes[at as usize].is_pinned
        {
            self.unlink(at);
            self.nodes[at as usize].is_pinned = true;
        }
    }

    /// Lets it be evicted again, as the one that was used last.
    pub(super) fn unpin(&mut self, key: u64) {
        if let Some(&at) = self.places.get(&key)
            && self.nodes[at as usize].is_pinned
        {
            self.nodes[at as usize].is_pinned = false;
            self.link(at);
        }
    }

    /// Has an entry, as the one that was used last. With `max` entries the oldest goes, which `evicted` counts; `false`: all of them are
    /// pinned, so there is no room.
    pub(super) fn enter(&mut self, key: u64, max: usize, evicted: &mut u64) -> bool
    where
        V: Default,
    {
        if self.contains_key(key) {
            self.touch(key);
            return true;
        }
        if self.len() >= max {
            *evicted += 1;
            if self.evict().is_none() {
                return false;
            }
        }
        self.insert(key, V::default());
        true
    }

    /// Removes the entry that was used longest ago; `None`: there is none, or all are pinned.
    pub(super) fn evict(&mut self) -> Option<(u64, V)> {
        let key = self.nodes.get(self.oldest as usize)?.key;
        self.remove(key).map(|value| (key, value))
    }

    fn link(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        let node = &mut self.nodes[at as usize];
        (node.older, node.newer) = (before, NONE);
        match self.nodes.get_mut(before as usize) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Node { older, newer, .. } = self.nodes[at as usize];
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
        match self.nodes.get_mut(newer as usize) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u64),
        Touch(u64),
        Remove(u64),
        Pin(u64),
        Unpin(u64),
        Evict,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let key = 0..8_u64;
        let act = prop_oneof![
            3 => key.clone().prop_map(Act::Insert),
            2 => key.clone().prop_map(Act::Touch),
            1 => key.clone().prop_map(Act::Remove),
            1 => key.clone().prop_map(Act::Pin),
            1 => key.prop_map(Act::Unpin),
            1 => Just(Act::Evict),
        ];
        proptest::collection::vec(act, 0..100)
    }

    proptest! {
        /// Against a list that is searched: keys with their values and whether they are pinned, by their last use.
        #[test]
        fn equals_a_list(acts in acts()) {
            let mut lru = Lru::default();
            let mut list: Vec<(u64, usize, bool)> = Vec::new();
            for (number, act) in acts.into_iter().enumerate() {
                let place = |list: &[(u64, usize, bool)], key| list.iter().position(|own| own.0 == key);
                match act {
                    Act::Insert(key) => {
                        let before = place(&list, key).map(|at| list.remove(at));
                        prop_assert_eq!(lru.insert(key, number), before.map(|own| own.1));
                        list.push((key, number, before.is_some_and(|own| own.2)));
                    }
                    Act::Touch(key) => {
                        lru.touch(key);
                        if let Some(at) = place(&list, key) {
                            let own = list.remove(at);
                            list.push(own);
                        }
                    }
                    Act::Remove(key) => {
                        let own = place(&list, key).map(|at| list.remove(at).1);
                        prop_assert_eq!(lru.remove(key), own);
                    }
                    Act::Pin(key) => {
                        lru.pin(key);
                        list.iter_mut().filter(|own| own.0 == key).for_each(|own| own.2 = true);
                    }
                    Act::Unpin(key) => {
                        lru.unpin(key);
                        if let Some(at) = place(&list, key).filter(|at| list[*at].2) {
                            let own = list.remove(at);
                            list.push((own.0, own.1, false));
                        }
                    }
                    Act::Evict => {
                        let oldest = list.iter().position(|own| !own.2).map(|at| list.remove(at));
                        prop_assert_eq!(lru.evict(), oldest.map(|own| (own.0, own.1)));
                    }
                }
                prop_assert_eq!(lru.len(), list.len());
                for (key, value, _) in &list {
                    prop_assert!(lru.contains_key(*key));
                    prop_assert_eq!(lru.get(*key), Some(value));
                }
                prop_assert!(lru.nodes.len() <= 8, "nodes are used again");
            }
        }
    }
}

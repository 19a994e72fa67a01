//! A bounded map that forgets what was not touched for longest, at a constant cost.
//!
//! Two generations: what is touched moves to the young one; when that is half the bound, the old one is forgotten
//! and counted, and the young one becomes old. So nothing that was touched within the last half of the bound is ever
//! forgotten, and a flood of new keys costs no search for a victim.

use std::hash::Hash;

use foldhash::{HashMap, HashMapExt as _};

use crate::metrics;

/// See the module.
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
    name: &'static str,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// A map of at most `bound` entries, under whose `name` the forgotten ones are counted.
    pub(crate) fn new(name: &'static str, bound: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: (bound / 2).max(1),
            name,
        }
    }

    /// The entry, which thereby is among the last to be forgotten.
    pub(crate) fn touch(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let known = self.young.contains_key(&key);
        let moved = if known { None } else { self.old.remove(&key) };
        if !known && self.young.len() >= self.half {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            metrics::behaviour_forgotten(self.name, forgotten.len());
        }
        self.young
            .entry(key)
            .or_insert_with(|| moved.unwrap_or_else(make))
    }

    /// The entry as it is, its place unchanged.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// The entry as it is, to change.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if self.young.contains_key(key) {
            return self.young.get_mut(key);
        }
        self.old.get_mut(key)
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// Entries at present.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_keys_leaves_the_touched_one_and_keeps_the_bound() {
        let mut map = Recent::new("test", 100);
        *map.touch(0, || 0) = 7;
        for key in 1..100_000 {
            map.touch(key, || 0);
            if key % 20 == 0 {
                assert_eq!(*map.touch(0, || 0), 7, "at {key}");
            }
            assert!(map.len() <= 101);
        }
        assert!(map.get(&1).is_none(), "what nobody touched is forgotten");
        assert_eq!(map.remove(&0), Some(7));
        assert!(map.get_mut(&0).is_none());
    }
}

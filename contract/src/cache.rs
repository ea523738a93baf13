//! A map that forgets what has not been used for long.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};

struct Entry<K, V> {
    key: K,
    value: V,
    /// Asked for since the hand passed.
    used: AtomicBool,
}

/// At most `capacity` values by key: when it is full, a new one takes the place of one that was
/// not asked for lately (the clock algorithm: Corbato 1968). Whatever is kept under programs or
/// shapes, of which a process may see any number, is kept in one of these.
pub struct Cache<K, V> {
    capacity: usize,
    places: HashMap<K, usize>,
    entries: Vec<Entry<K, V>>,
    hand: usize,
}

impl<K: Hash + Eq + Clone, V> Cache<K, V> {
    /// An empty cache of at least one place.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { capacity, places: HashMap::new(), entries: Vec::new(), hand: 0 }
    }

    /// The value kept under `key`.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let entry = &self.entries[*self.places.get(key)?];
        entry.used.store(true, Ordering::Relaxed);
        Some(&entry.value)
    }

    /// Keeps `value` under `key`, instead of what was there.
    pub fn insert(&mut self, key: K, value: V) {
        let entry = Entry { key: key.clone(), value, used: AtomicBool::new(true) };
        let at = match self.places.get(&key) {
            Some(&at) => at,
            None if self.entries.len() < self.capacity => {
                self.places.insert(key, self.entries.len());
                self.entries.push(entry);
                return;
            }
            None => {
                let at = self.unused();
                self.places.remove(&self.entries[at].key);
                self.places.insert(key, at);
                at
            }
        };
        self.entries[at] = entry;
    }

    /// The next place that was not asked for since the hand last passed.
    fn unused(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.entries.len();
            if !self.entries[at].used.swap(false, Ordering::Relaxed) {
                return at;
            }
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn what_is_asked_for_stays_and_the_number_is_bounded() {
        let mut cache = Cache::new(8);
        cache.insert("often".to_string(), 0);
        for i in 1..1000 {
            assert_eq!(cache.get("often"), Some(&0), "after {i}");
            cache.insert(i.to_string(), i);
            assert_eq!(cache.get(&i.to_string()), Some(&i));
            assert!(cache.len() <= 8);
        }
        assert_eq!(cache.get("1"), None);
    }

    #[test]
    fn a_value_is_replaced_under_its_key() {
        let mut cache = Cache::new(2);
        for i in 0..10 {
            cache.insert("a".to_string(), i);
        }
        assert_eq!((cache.len(), cache.get("a")), (1, Some(&9)));
    }
}

//! A map that forgets what has not been used for long.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

struct Entry<V> {
    value: V,
    /// The cache's time when it was last asked for.
    used: AtomicU64,
}

/// At most `capacity` values by key: when it is full, a new one takes the place of the one that was
/// not asked for for longest. Whatever is kept under programs or shapes, of which a process may
/// see any number, is kept in one of these. Finding that place looks at every value: what is kept
/// costs far more to make.
pub struct Cache<K, V> {
    capacity: usize,
    entries: HashMap<K, Entry<V>>,
    time: AtomicU64,
}

impl<K: Hash + Eq + Clone, V> Cache<K, V> {
    /// An empty cache of at least one place.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), entries: HashMap::new(), time: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::Relaxed)
    }

    /// The value kept under `key`.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let entry = self.entries.get(key)?;
        entry.used.store(self.now(), Ordering::Relaxed);
        Some(&entry.value)
    }

    /// Keeps `value` under `key`, instead of what was there.
    pub fn insert(&mut self, key: K, value: V) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            let used = |e: &(&K, &Entry<V>)| e.1.used.load(Ordering::Relaxed);
            if let Some(oldest) = self.entries.iter().min_by_key(used).map(|e| e.0.clone()) {
                self.entries.remove(&oldest);
            }
        }
        let used = AtomicU64::new(self.now());
        self.entries.insert(key, Entry { value, used });
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

//! The last answers of the peers' list, for a moment.
//!
//! Dashboards ask for the same list again and again. An answer is used again for a quarter of a second at most, and never
//! over an event or the end of a mutation that this ingress has heard of since.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

const FRESH: Duration = Duration::from_millis(250);
const ENTRIES: usize = 64;

#[derive(Debug, Default)]
pub struct ListCache {
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    read_at: Instant,
    generation: u64,
    etag: String,
    body: Bytes,
}

impl ListCache {
    /// The answer to `query`, if nothing was heard of since: `generation` is what it was read at.
    pub fn get(&self, query: &str, generation: u64, now: Instant) -> Option<(String, Bytes)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(query)?;
        let fresh = entry.generation == generation && now.saturating_duration_since(entry.read_at) < FRESH;
        fresh.then(|| (entry.etag.clone(), entry.body.clone()))
    }

    /// `generation` and `read_at` are of before the read.
    pub fn put(&self, query: String, generation: u64, read_at: Instant, etag: String, body: Bytes) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES && !entries.contains_key(&query) {
            entries.clear();
        }
        entries.insert(query, Entry { read_at, generation, etag, body });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_used_again_only_while_nothing_happened() {
        let cache = ListCache::default();
        let start = Instant::now();
        cache.put("a".to_owned(), 7, start, "\"x\"".to_owned(), Bytes::from_static(b"{}"));
        assert!(cache.get("a", 7, start + Duration::from_millis(249)).is_some());
        assert!(cache.get("a", 8, start).is_none(), "something happened");
        assert!(cache.get("a", 7, start + FRESH).is_none(), "too old");
        assert!(cache.get("b", 7, start).is_none());
    }
}

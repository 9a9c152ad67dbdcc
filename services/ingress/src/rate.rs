//! A token bucket for each actor.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets that are kept. Beyond it, full ones are forgotten: a forgotten bucket is a full one.
const BUCKETS: usize = 10_000;

/// Allows each actor so many requests a second; a burst may be as large.
#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl RateLimit {
    pub fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second.max(1)), buckets: Mutex::new(HashMap::new()) }
    }

    /// Takes one token of the actor's.
    pub fn allow(&self, actor: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(actor) {
            let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_second;
            bucket.tokens = (bucket.tokens + earned).min(self.per_second);
            bucket.at = now;
            if bucket.tokens < 1.0 {
                return false;
            }
            bucket.tokens -= 1.0;
            return true;
        }
        if buckets.len() >= BUCKETS {
            let full = self.per_second;
            buckets.retain(|_, bucket| {
                let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * full;
                bucket.tokens + earned < full
            });
        }
        buckets.insert(actor.to_owned(), Bucket { tokens: self.per_second - 1.0, at: now });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_actor_has_its_burst_and_then_its_rate() {
        let limit = RateLimit::new(2);
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(limit.allow("ana", at(0)) && limit.allow("ana", at(0)));
        assert!(!limit.allow("ana", at(0)));
        assert!(limit.allow("bo", at(0)), "another actor has its own bucket");
        assert!(!limit.allow("ana", at(400)));
        assert!(limit.allow("ana", at(600)));
        assert!(!limit.allow("ana", at(600)));
    }
}

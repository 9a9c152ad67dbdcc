//! Load that never stops, and what came of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::{Connection, NoAnswer};

/// Of one service, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    failed: AtomicU64,
    /// Requests that the proxy asked for again, since the first backend gave no answer.
    retried: AtomicU64,
    longest_us: AtomicU64,
    /// What the first failures were, for whoever has to find the cause.
    reasons: Mutex<Vec<String>>,
}

/// How many reasons are kept.
const REASONS: usize = 5;

/// Counters at a moment, or of a span between two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub requests: u64,
    pub failed: u64,
    pub retried: u64,
}

impl Count {
    pub fn since(self, before: Count) -> Count {
        Count {
            requests: self.requests.saturating_sub(before.requests),
            failed: self.failed.saturating_sub(before.failed),
            retried: self.retried.saturating_sub(before.retried),
        }
    }
}

impl std::ops::Add for Count {
    type Output = Count;
    fn add(self, other: Count) -> Count {
        Count {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            retried: self.retried + other.retried,
        }
    }
}

impl Counters {
    pub fn count(&self) -> Count {
        Count {
            requests: self.requests.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            retried: self.retried.load(Ordering::Relaxed),
        }
    }

    /// The slowest answer since this was last asked.
    pub fn take_longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }

    pub fn reasons(&self) -> Vec<String> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    fn done(&self, took: Duration, failure: Option<String>) {
        self.longest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(reason) = failure {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
            if reasons.len() < REASONS {
                reasons.push(format!("{} {reason}", jiff::Timestamp::now()));
            }
        }
    }
}

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(10);

/// Clients of one service, each with one connection to the proxy and one request at a time.
pub struct Load {
    clients: TaskTracker,
    stop: CancellationToken,
}

impl Load {
    pub fn start(proxy: SocketAddr, service: &'static str, clients: usize, counters: &Arc<Counters>) -> Self {
        let load = Self { clients: TaskTracker::new(), stop: CancellationToken::new() };
        for _ in 0..clients {
            let (counters, stop) = (counters.clone(), load.stop.clone());
            load.clients.spawn(async move { client(proxy, service, &counters, &stop).await });
        }
        load.clients.close();
        load
    }

    /// Ends it; requests in progress are answered and counted.
    pub async fn stop(self) {
        self.stop.cancel();
        self.clients.wait().await;
    }
}

async fn client(proxy: SocketAddr, service: &str, counters: &Counters, stop: &CancellationToken) {
    let path = format!("/{service}");
    let mut connection = None;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let answer = match &mut connection {
            Some(open) => ask(open, &path).await,
            None => match Connection::open(proxy).await {
                Ok(open) => ask(connection.insert(open), &path).await,
                Err(error) => Err(NoAnswer::None(error).to_string()),
            },
        };
        if answer.is_err() {
            connection = None;
        }
        counters.done(began.elapsed(), answer.err());
        stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
    }
}

/// Anything but a 200 is a failure.
async fn ask(connection: &mut Connection, path: &str) -> Result<(), String> {
    match connection.get(path).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_count_and_remember_the_first_reasons() {
        let counters = Counters::default();
        let before = counters.count();
        for n in 0..10 {
            counters.done(Duration::from_millis(n), (n % 2 == 1).then(|| format!("reason {n}")));
        }
        counters.retried();
        let all = counters.count().since(before);
        assert_eq!(all, Count { requests: 10, failed: 5, retried: 1 });
        assert_eq!(counters.count().since(counters.count()), Count::default());
        assert_eq!((all + all).requests, 20);
        assert_eq!(counters.reasons().len(), REASONS);
        assert!(counters.reasons()[0].ends_with("reason 1"));
        assert_eq!(counters.take_longest(), Duration::from_millis(9));
        assert_eq!(counters.take_longest(), Duration::ZERO);
    }
}

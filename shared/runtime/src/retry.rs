//! Retry with backoff. The one file that knows the `backoff` crate, which is no longer maintained.

use std::future::Future;
use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use tokio_util::sync::CancellationToken;

/// Growing, jittered pauses between attempts.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// From `first`, about doubling, never longer than `longest`, without an end.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let inner = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_max_interval(longest)
            .with_multiplier(2.0)
            .with_max_elapsed_time(None)
            .build();
        Self(inner)
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// Repeats `attempt` until it succeeds, or until `stop`; then nothing. `failed` is told of each failure, to log it once.
pub async fn until_done<T, E, F>(
    stop: &CancellationToken,
    mut backoff: Backoff,
    mut attempt: impl FnMut() -> F,
    mut failed: impl FnMut(E, Duration),
) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
{
    loop {
        match stop.run_until_cancelled(attempt()).await? {
            Ok(value) => return Some(value),
            Err(error) => {
                let pause = backoff.pause();
                failed(error, pause);
                stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        for _ in 0..50 {
            assert!(backoff.pause() <= Duration::from_millis(150));
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(15));
    }

    #[tokio::test]
    async fn it_is_tried_until_it_succeeds_or_is_told_to_stop() {
        let stop = CancellationToken::new();
        let quick = || Backoff::new(Duration::from_millis(1), Duration::from_millis(2));
        let mut failures = 0;
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            std::future::ready(if attempts < 3 { Err("not yet") } else { Ok(attempts) })
        };
        assert_eq!(until_done(&stop, quick(), attempt, |_, _| failures += 1).await, Some(3));
        assert_eq!(failures, 2);
        stop.cancel();
        let never = || std::future::ready(Err::<(), _>("never"));
        assert_eq!(until_done(&stop, quick(), never, |_, _| ()).await, None);
    }
}

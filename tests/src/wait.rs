//! Waiting for conditions. The only place of these tests that sleeps.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long anything may take that should take moments: two busy cores and an unoptimised build.
pub const PATIENCE: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(15);

/// Polls until the condition gives a value.
///
/// # Panics
/// After the deadline, with what was waited for.
pub async fn eventually<T>(what: impl Display, within: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_ok(what, within, async || condition().await.ok_or("not yet")).await
}

/// Polls until the condition is fulfilled; the last thing in its way is told when it never is.
///
/// # Panics
/// After the deadline, with what was waited for and why it was not so.
pub async fn eventually_ok<T, E: Display>(
    what: impl Display,
    within: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(why) => assert!(begun.elapsed() < within, "not within {within:?}: {what}: {why}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

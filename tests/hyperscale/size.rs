//! How large the crowd is: `OMNIRELAY_HYPERSCALE`, 1.0 where it is not set; and the seed of its whims, `OMNIRELAY_SEED`.

use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub clusters: usize,
    /// In each cluster.
    pub peers: usize,
    /// On each peer.
    pub workloads: usize,
    pub operators: usize,
    /// People at a terminal.
    pub typists: usize,
    /// What each of them does.
    pub actions: usize,
    /// Clusters that are drained as a whole, or nearly.
    pub waves: usize,
    /// Peers in each wave.
    pub wave: usize,
    /// What each editor, and each captain, changes.
    pub changes: usize,
    pub seed: u64,
}

impl Size {
    pub fn of_the_environment() -> Self {
        let factor: f64 = read("OMNIRELAY_HYPERSCALE").unwrap_or(1.0);
        let times = |n: f64, least: usize| ((n * factor).round() as usize).max(least);
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |age| age.as_nanos() as u64);
        Self {
            clusters: times(25.0, 4),
            peers: times(40.0, 12).min(40),
            workloads: 2,
            operators: 16,
            typists: 4,
            actions: times(60.0, 10),
            waves: times(16.0, 2),
            wave: times(30.0, 6).min(40),
            changes: times(8.0, 3),
            seed: read("OMNIRELAY_SEED").unwrap_or_else(clock),
        }
    }
}

fn read<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")))
}

//! What this process remembers of peers: none of it is the truth, all of it may be lost.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use omnirelay_workflow::{PeerId, WorkloadId};
use tokio::time::Instant;
use uuid::Uuid;

use super::diff::Suspicions;
use super::holds;

/// How long a silent peer is remembered.
pub const FORGET: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct PeerMemory {
    /// Of the last heartbeat taken, by its agent and number.
    pub incarnation: Uuid,
    pub seq: u64,
    pub heard: Instant,
    /// When its heartbeat was last compared with the record.
    pub looked: Instant,
    pub suspicions: Suspicions,
    /// Drift that has been told of: workload and epoch.
    pub told: BTreeSet<(WorkloadId, u64)>,
    /// The hold command that it was last sent.
    pub asked: Option<holds::Asked>,
}

impl PeerMemory {
    /// After a first look at `now`.
    pub fn new(incarnation: Uuid, seq: u64, now: Instant, suspicions: Suspicions) -> Self {
        Self { incarnation, seq, heard: now, looked: now, suspicions, told: BTreeSet::new(), asked: None }
    }
}

pub type Memory = HashMap<PeerId, PeerMemory>;

/// Forgets peers that have not been heard of for long.
pub fn forget(memory: &mut Memory, now: Instant) {
    memory.retain(|_, peer| now < peer.heard + FORGET);
}

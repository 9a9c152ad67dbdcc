//! When the end of the chain is signed, and who is told.

use omnirelay_bus::Bus;
use omnirelay_contract::chain::Checkpoint;
use omnirelay_contract::subject;
use omnirelay_store::audit as store;
use omnirelay_store::{PgPool, StoreError};
use omnirelay_workflow::Timestamp;
use tokio::time::Instant;

use crate::SigningKey;
use crate::service::CheckpointEvery;

pub struct Checkpoints {
    key: SigningKey,
    every: CheckpointEvery,
    /// The last record that this service signed, and when.
    seq: u64,
    at: Instant,
}

impl Checkpoints {
    pub fn new(key: SigningKey, every: CheckpointEvery) -> Self {
        Self { key, every, seq: 0, at: Instant::now() }
    }

    /// Whether `seq` is not signed yet.
    pub fn is_new(&self, seq: u64) -> bool {
        seq > self.seq
    }

    pub fn is_due(&self, seq: u64, now: Instant) -> bool {
        self.is_new(seq) && (seq - self.seq >= self.every.records || now - self.at >= self.every.time)
    }

    /// Signs the end of the chain: into the database and onto the bus. Nothing where another service has done so before.
    pub async fn sign(
        &mut self,
        pool: &PgPool,
        bus: &Bus,
        seq: u64,
        hash: &str,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let checkpoint = Checkpoint::sign(seq, hash, Timestamp::now(), &self.key);
        let is_first = store::insert_checkpoint(pool, &checkpoint).await?;
        self.seq = seq;
        self.at = Instant::now();
        if !is_first {
            return Ok(None);
        }
        match serde_json::to_vec(&checkpoint) {
            Ok(payload) => {
                let subject = subject::AUDIT_CHECKPOINT.to_owned();
                if let Err(error) = bus.publish(subject, async_nats::HeaderMap::new(), payload.into()).await {
                    tracing::warn!(%error, seq, "a checkpoint did not reach the bus");
                }
            }
            Err(error) => tracing::error!(%error, seq, "a checkpoint cannot be serialised"),
        }
        Ok(Some(checkpoint))
    }
}

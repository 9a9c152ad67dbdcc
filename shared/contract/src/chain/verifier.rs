//! The verifier: records and checkpoints in, what is wrong out. It keeps nothing of a record but its seq, hash and position,
//! and of every operation the next sequence number.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use ed25519_dalek::VerifyingKey;
use serde_json::Value;

use omnirelay_workflow::OperationId;

use super::{Checkpoint, GENESIS, canonical_hash, canonical_into, key_id};
use crate::audit::{AuditRecord, BadRecord, OperationGap, Verification};

/// More gaps than these are not named: the answer has to be read by somebody.
const NAMED_GAPS: usize = 1_000;

/// Checks a whole log, from its first record on.
///
/// Records are pushed in the order of the log. A checkpoint is pushed before its record or right after it.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<VerifyingKey>,
    seq: u64,
    hash: String,
    position: u64,
    records: u64,
    checkpoints: u64,
    first_bad: Option<BadRecord>,
    /// Checkpoints whose record has not come yet, by seq.
    awaited: BTreeMap<u64, Vec<Checkpoint>>,
    operations: HashMap<OperationId, Followed>,
    canonical: String,
}

/// What was seen of an operation.
#[derive(Debug)]
struct Followed {
    /// All below were seen.
    next: u64,
    /// Seen beyond a gap that may yet be closed. Empty for nearly all.
    ahead: BTreeSet<u64>,
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Verifier {
    /// Without a key, checkpoints are compared with their records, but as their signatures are not checked they are not counted.
    pub fn new() -> Self {
        Self {
            keys: Vec::new(),
            seq: 0,
            hash: GENESIS.to_owned(),
            position: 0,
            records: 0,
            checkpoints: 0,
            first_bad: None,
            awaited: BTreeMap::new(),
            operations: HashMap::new(),
            canonical: String::new(),
        }
    }

    /// Every checkpoint must be signed by this key, or one given to [`Verifier::add_key`].
    pub fn with_key(key: VerifyingKey) -> Self {
        let mut verifier = Self::new();
        verifier.add_key(key);
        verifier
    }

    /// A further key, such as the one before a rotation.
    pub fn add_key(&mut self, key: VerifyingKey) {
        self.keys.push(key);
    }

    /// The next record of the log.
    pub fn push(&mut self, record: &AuditRecord) {
        self.records += 1;
        self.follow_operation(record);
        if self.first_bad.is_some() {
            return; // The first is what is asked for; after it, the rest of the chain proves nothing.
        }
        if let Err(bad) = self.check(record) {
            self.first_bad = Some(bad);
            return;
        }
        self.seq = record.seq;
        self.position = record.position;
        self.hash.clone_from(&record.hash);
        while let Some(entry) = self.awaited.first_entry() {
            if *entry.key() > self.seq {
                break;
            }
            for checkpoint in entry.remove() {
                self.push_checkpoint(&checkpoint);
            }
        }
    }

    /// A checkpoint, of a record that was just pushed or is yet to come.
    pub fn push_checkpoint(&mut self, checkpoint: &Checkpoint) {
        if self.first_bad.is_some() {
            return;
        }
        if checkpoint.seq > self.seq {
            self.awaited.entry(checkpoint.seq).or_default().push(checkpoint.clone());
        } else {
            self.check_checkpoint(checkpoint);
        }
    }

    /// A record that could not be read at all, `seq` being where it should be.
    pub fn push_unreadable(&mut self, why: &str) {
        self.records += 1;
        self.bad(self.seq + 1, format!("cannot be read: {why}"));
    }

    /// Says which record the writer of the log holds for the last one. Weaker than a checkpoint, as it is not signed.
    pub fn expect_last(&mut self, seq: u64, hash: &str) {
        if self.seq < seq {
            self.bad(self.seq + 1, format!("is missing: the log ends at {}, and {seq} had been written", self.seq));
        } else if self.seq == seq && self.hash != hash {
            self.bad(seq, format!("its hash is {}, and {hash} had been written", self.hash));
        }
    }

    /// What was found.
    pub fn finish(mut self) -> Verification {
        if let Some((&seq, _)) = self.awaited.last_key_value() {
            self.bad(
                self.seq + 1,
                format!("is missing: the log ends at {}, and a checkpoint knows record {seq}", self.seq),
            );
        }
        let mut gaps: Vec<_> = self
            .operations
            .into_iter()
            .filter(|(_, followed)| !followed.ahead.is_empty())
            .map(|(operation, followed)| OperationGap { operation, missing: followed.next })
            .collect();
        gaps.sort_unstable_by_key(|gap| gap.operation);
        gaps.truncate(NAMED_GAPS);
        Verification {
            ok: self.first_bad.is_none() && gaps.is_empty(),
            records: self.records,
            checkpoints: self.checkpoints,
            first_bad: self.first_bad,
            gaps,
        }
    }

    fn check(&mut self, record: &AuditRecord) -> Result<(), BadRecord> {
        let expected = self.seq + 1;
        if record.seq > expected {
            let why = format!("is missing: record {} comes after record {}", record.seq, self.seq);
            return Err(BadRecord { seq: expected, why });
        }
        let bad = |why: String| Err(BadRecord { seq: record.seq, why });
        if record.seq < expected {
            return bad(format!("is out of order: it comes after record {}", self.seq));
        }
        if record.prev_hash != self.hash {
            return bad(match self.seq {
                0 => "its prevHash is not that of a first record: what was before it is missing".to_owned(),
                before => format!("its prevHash is not the hash of record {before}: one of the two was changed"),
            });
        }
        self.canonical.clear();
        canonical_into(record, &mut self.canonical);
        let computed = canonical_hash(&self.canonical);
        if computed != record.hash {
            return bad(format!(
                "its content was changed: its hash is {}, its content hashes to {computed}",
                record.hash
            ));
        }
        if record.position <= self.position {
            return bad(format!(
                "its position {} is not above {}, that of the record before",
                record.position, self.position
            ));
        }
        Ok(())
    }

    fn check_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let seq = checkpoint.seq;
        if seq < self.seq {
            return self.bad(seq, format!("its checkpoint stands behind record {}, where it proves nothing", self.seq));
        }
        if checkpoint.hash != self.hash {
            return self.bad(seq, format!("its hash is {}, and its checkpoint says {}", self.hash, checkpoint.hash));
        }
        if self.keys.is_empty() {
            return;
        }
        let key = self.keys.iter().find(|key| key_id(key) == checkpoint.key_id).unwrap_or(&self.keys[0]);
        match checkpoint.verify(key) {
            Ok(()) => self.checkpoints += 1,
            Err(error) => self.bad(seq, format!("its checkpoint cannot be trusted: {error}")),
        }
    }

    fn bad(&mut self, seq: u64, why: String) {
        if self.first_bad.is_none() {
            self.first_bad = Some(BadRecord { seq, why });
        }
    }

    fn follow_operation(&mut self, record: &AuditRecord) {
        let Some(operation) = record.operation else { return };
        let Some(seq) = record.detail.get("operationSeq").and_then(Value::as_u64) else { return };
        let followed = match self.operations.entry(operation) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Followed { next: 1, ahead: BTreeSet::new() }),
        };
        if seq > followed.next {
            followed.ahead.insert(seq);
        } else if seq == followed.next {
            followed.next += 1;
            while followed.ahead.remove(&followed.next) {
                followed.next += 1;
            }
        }
    }
}

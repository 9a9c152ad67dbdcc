//! Signed checkpoints: what shows that the end of the chain was not cut off or written anew.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use omnirelay_workflow::Timestamp;

use super::hex;

/// "Record `seq` had this hash at that time", signed.
///
/// What is signed is the text `omnirelay-checkpoint-v1`, `seq`, `hash`, `at`, `keyId`, each followed by a line feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    pub seq: u64,
    /// The hash of the record `seq`.
    pub hash: String,
    pub at: Timestamp,
    /// [`key_id`] of the key that verifies the signature.
    pub key_id: String,
    /// Ed25519 (RFC 8032), 128 digits of lower-case hex.
    pub signature: String,
}

/// Why a checkpoint proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("it is signed by key {theirs}, and was checked with key {ours}")]
    OtherKey { theirs: String, ours: String },
    #[error("its signature is not that of key {0}")]
    BadSignature(String),
}

/// The first 16 hex digits of the SHA-256 of the public key.
pub fn key_id(key: &VerifyingKey) -> String {
    hex(&Sha256::digest(key.as_bytes())[..8])
}

impl Checkpoint {
    /// Signs that the record `seq` has `hash`. The time is kept to the microsecond, as the database keeps it.
    pub fn sign(seq: u64, hash: &str, at: Timestamp, key: &SigningKey) -> Self {
        let mut checkpoint = Self {
            seq,
            hash: hash.to_owned(),
            at: super::record::whole_micros(at),
            key_id: key_id(&key.verifying_key()),
            signature: String::new(),
        };
        checkpoint.signature = hex(&key.sign(checkpoint.signed_text().as_bytes()).to_bytes());
        checkpoint
    }

    /// Whether `key` signed this checkpoint, as it is.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), CheckpointError> {
        let ours = key_id(key);
        if self.key_id != ours {
            return Err(CheckpointError::OtherKey { theirs: self.key_id.clone(), ours });
        }
        let signature = unhex(&self.signature).map(|bytes| Signature::from_bytes(&bytes));
        match signature {
            Some(signature) if key.verify_strict(self.signed_text().as_bytes(), &signature).is_ok() => Ok(()),
            Some(_) | None => Err(CheckpointError::BadSignature(ours)),
        }
    }

    fn signed_text(&self) -> String {
        format!("omnirelay-checkpoint-v1\n{}\n{}\n{}\n{}\n", self.seq, self.hash, self.at, self.key_id)
    }
}

fn unhex(text: &str) -> Option<[u8; 64]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 64];
    if digits.len() != 128 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

//! The keys that tokens are checked with, and new ones for development.

use std::fmt;
use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey, spki::der::pem::LineEnding};
use jsonwebtoken::DecodingKey;
use omnirelay_workflow::word_enum;
use serde::Deserialize;

use super::AuthError;

word_enum!(
    Algorithm { EdDsa = "EdDSA", Rs256 = "RS256", Es256 = "ES256", Hs256 = "HS256" }
);

/// Whose tokens are accepted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The `iss` that a token must have.
    pub issuer: String,
    /// The `aud` that a token must name.
    pub audience: String,
    pub keys: Vec<KeyConfig>,
}

/// A key in a file: a public key in PEM, or the shared secret of `HS256` as it stands (a final newline is dropped).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The `kid` of the tokens that it checks. A token without one is accepted only while there is a single key.
    pub kid: String,
    pub alg: Algorithm,
    pub key_file: PathBuf,
}

/// A key in memory.
#[derive(Clone)]
pub struct Key {
    pub kid: String,
    pub alg: Algorithm,
    /// PEM text of a public key, or the bytes of a secret.
    pub material: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("alg", &self.alg).finish_non_exhaustive()
    }
}

impl KeyConfig {
    pub(super) fn load(&self) -> Result<Key, AuthError> {
        let mut material = std::fs::read(&self.key_file).map_err(|source| AuthError::KeyFile {
            kid: self.kid.clone(),
            path: self.key_file.clone(),
            source,
        })?;
        if self.alg == Algorithm::Hs256 && material.last() == Some(&b'\n') {
            material.pop();
        }
        Ok(Key { kid: self.kid.clone(), alg: self.alg, material })
    }
}

impl Key {
    pub(super) fn decoding(&self) -> Result<DecodingKey, AuthError> {
        let key = match self.alg {
            Algorithm::EdDsa => DecodingKey::from_ed_pem(&self.material),
            Algorithm::Rs256 => DecodingKey::from_rsa_pem(&self.material),
            Algorithm::Es256 => DecodingKey::from_ec_pem(&self.material),
            Algorithm::Hs256 if self.material.len() < 32 => {
                return Err(AuthError::WeakSecret { kid: self.kid.clone() });
            }
            Algorithm::Hs256 => Ok(DecodingKey::from_secret(&self.material)),
        };
        key.map_err(|_| AuthError::Key { kid: self.kid.clone(), alg: self.alg })
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(alg: Algorithm) -> Self {
        match alg {
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

/// An Ed25519 pair in PEM.
#[derive(Clone)]
pub struct KeyPair {
    /// PKCS#8. Whoever has it can be anybody.
    pub private_pem: String,
    pub public_pem: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public_pem", &self.public_pem).finish_non_exhaustive()
    }
}

/// A new Ed25519 pair, for `dev` and for those who issue their own tokens.
pub fn generate_key_pair() -> Result<KeyPair, AuthError> {
    let key = SigningKey::from_bytes(&rand::random::<[u8; 32]>());
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| AuthError::Generate)?;
    let public_pem = key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(|_| AuthError::Generate)?;
    Ok(KeyPair { private_pem: private.to_string(), public_pem })
}

//! Verifies a bearer and remembers that it did.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation};
use omnirelay_contract::audit::Actor;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Algorithm, AuthConfig, Key, Scopes};

/// Verified tokens that are remembered. Beyond it the oldest expiries go first; they are only verified again.
const REMEMBERED: usize = 16_384;
/// Difference of clocks that is forgiven, seconds.
const LEEWAY_SECS: u64 = 5;
/// A token longer than this is not read at all.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Why somebody is not who they say, or why nobody can be verified. Never holds a token or a key.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("no bearer token: send `Authorization: Bearer <token>`")]
    Missing,
    #[error("the token is not a JWT")]
    Malformed,
    #[error("the token names no key that is known here (`kid`)")]
    UnknownKey,
    #[error("the token's algorithm is not that of its key")]
    Algorithm,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet (`nbf`)")]
    NotYetValid,
    #[error("the token is not for this audience (`aud`)")]
    Audience,
    #[error("the token is not of the expected issuer (`iss`)")]
    Issuer,
    #[error("the token lacks the claim `{0}`")]
    MissingClaim(String),
    #[error("a claim of the token has the wrong form")]
    Claims,
    #[error("cannot read key {kid:?} from {path}: {source}")]
    KeyFile {
        kid: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("key {kid:?} is not an {alg} key in PEM")]
    Key { kid: String, alg: Algorithm },
    #[error("the secret of key {kid:?} is shorter than 32 bytes")]
    WeakSecret { kid: String },
    #[error("no key is configured, so nobody could ever be let in")]
    NoKeys,
    #[error("two keys have the kid {0:?}")]
    DuplicateKid(String),
    #[error("the private key is not an Ed25519 key in PKCS#8 PEM")]
    SigningKey,
    #[error("a key could not be generated")]
    Generate,
}

/// Somebody whose token was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's `sub`.
    pub subject: String,
    pub scopes: Scopes,
    /// The scopes as the token has them, for the audit.
    pub granted: Vec<String>,
    /// The token's `jti`, never the token.
    pub token_id: Option<String>,
}

impl Principal {
    /// As the audit records it.
    pub fn actor(&self, address: Option<String>) -> Actor {
        Actor { subject: self.subject.clone(), scopes: self.granted.clone(), token_id: self.token_id.clone(), address }
    }
}

/// Verifies bearers. One for a process; share it in an `Arc`.
pub struct Authenticator {
    keys: HashMap<String, Verifier>,
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
}

struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

struct Remembered {
    principal: Arc<Principal>,
    expires_at: i64,
}

#[derive(Deserialize)]
struct Body {
    sub: String,
    exp: i64,
    #[serde(default)]
    scope: Option<Words>,
    #[serde(default)]
    scp: Option<Words>,
    #[serde(default)]
    jti: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Text(String),
    List(Vec<String>),
}

impl Authenticator {
    /// Reads the key files.
    pub fn new(config: &AuthConfig) -> Result<Self, AuthError> {
        let keys = config.keys.iter().map(super::KeyConfig::load).collect::<Result<Vec<_>, _>>()?;
        Self::with_keys(&config.issuer, &config.audience, &keys)
    }

    pub fn with_keys(issuer: &str, audience: &str, keys: &[Key]) -> Result<Self, AuthError> {
        if keys.is_empty() {
            return Err(AuthError::NoKeys);
        }
        let mut verifiers = HashMap::with_capacity(keys.len());
        for key in keys {
            let mut validation = Validation::new(key.alg.into());
            validation.leeway = LEEWAY_SECS;
            validation.validate_nbf = true;
            validation.set_issuer(&[issuer]);
            validation.set_audience(&[audience]);
            validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            let verifier = Verifier { key: key.decoding()?, validation };
            if verifiers.insert(key.kid.clone(), verifier).is_some() {
                return Err(AuthError::DuplicateKid(key.kid.clone()));
            }
        }
        Ok(Self { keys: verifiers, remembered: Mutex::new(HashMap::new()) })
    }

    /// Verifies the value of an `Authorization` header's bearer (the token alone).
    pub fn authenticate(&self, bearer: &str) -> Result<Arc<Principal>, AuthError> {
        self.authenticate_at(bearer, jiff::Timestamp::now().as_second())
    }

    fn authenticate_at(&self, bearer: &str, now: i64) -> Result<Arc<Principal>, AuthError> {
        if bearer.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Malformed);
        }
        let fingerprint: [u8; 32] = Sha256::digest(bearer.as_bytes()).into();
        if let Some(known) = self.remembered().get(&fingerprint)
            && known.expires_at > now
        {
            return Ok(Arc::clone(&known.principal));
        }
        let (principal, expires_at) = self.verify(bearer)?;
        let principal = Arc::new(principal);
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, known| known.expires_at > now);
        }
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(fingerprint, Remembered { principal: Arc::clone(&principal), expires_at });
        Ok(principal)
    }

    fn verify(&self, bearer: &str) -> Result<(Principal, i64), AuthError> {
        let header = jsonwebtoken::decode_header(bearer).map_err(|error| reason(error.kind()))?;
        let verifier = match &header.kid {
            Some(kid) => self.keys.get(kid),
            None if self.keys.len() == 1 => self.keys.values().next(),
            None => None,
        }
        .ok_or(AuthError::UnknownKey)?;
        let body = jsonwebtoken::decode::<Body>(bearer, &verifier.key, &verifier.validation)
            .map_err(|error| reason(error.kind()))?
            .claims;
        // A subject goes into the record and the logs: no control characters, and nothing endless.
        if body.sub.is_empty() || body.sub.len() > 256 || body.sub.chars().any(char::is_control) {
            return Err(AuthError::Claims);
        }
        let granted: Vec<String> = [body.scope, body.scp].into_iter().flatten().flat_map(Words::into_list).collect();
        let scopes = Scopes::granted(granted.iter().map(String::as_str));
        Ok((Principal { subject: body.sub, scopes, granted, token_id: body.jti }, body.exp))
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("kids", &self.keys.keys()).finish_non_exhaustive()
    }
}

impl Words {
    fn into_list(self) -> Vec<String> {
        match self {
            Words::Text(text) => text.split_ascii_whitespace().map(str::to_owned).collect(),
            Words::List(list) => list,
        }
    }
}

fn reason(kind: &ErrorKind) -> AuthError {
    match kind {
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::ExpiredSignature => AuthError::Expired,
        ErrorKind::ImmatureSignature => AuthError::NotYetValid,
        ErrorKind::InvalidAudience => AuthError::Audience,
        ErrorKind::InvalidIssuer => AuthError::Issuer,
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::MissingAlgorithm
        | ErrorKind::UnsupportedAlgorithm => AuthError::Algorithm,
        ErrorKind::MissingRequiredClaim(claim) => AuthError::MissingClaim(claim.clone()),
        ErrorKind::InvalidSubject | ErrorKind::InvalidClaimFormat(_) => AuthError::Claims,
        _ => AuthError::Malformed,
    }
}

#[cfg(test)]
mod tests;

//! Confirmation tokens: proof that this actor saw the plan of exactly this request, on the target as it still is.
//!
//! A token is its expiry and an HMAC over actor, request, target, the target's revision and the expiry. The key is shared by
//! all replicas through the database, so any of them accepts what another gave.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use omnirelay_contract::rest::Confirmation;
use omnirelay_workflow::Timestamp;
use sha2::Sha256;

/// How long a plan may be looked at.
pub const VALID_FOR: Duration = Duration::from_secs(300);

/// What a token is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub actor: &'a str,
    pub request_digest: &'a str,
    /// `peers/edge-7`.
    pub target: &'a str,
    pub revision: u64,
}

/// Why a token does not confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unconfirmed {
    Missing,
    Malformed,
    Expired,
    /// Of another actor or request, or the target has changed since.
    Stale,
}

impl Unconfirmed {
    pub fn detail(self) -> &'static str {
        match self {
            Unconfirmed::Missing => {
                "this is destructive: look at `plan`, then repeat the request with `confirmation` set to its token"
            }
            Unconfirmed::Malformed => {
                "`confirmation` is not a token of ours: look at `plan`, then repeat the request with its token"
            }
            Unconfirmed::Expired => {
                "the confirmation has expired: look at the new `plan`, then repeat the request with its token"
            }
            Unconfirmed::Stale => {
                "the confirmation is for another request, another actor, or the target as it was before it changed: look at the new `plan`, then repeat the request with its token"
            }
        }
    }
}

/// Gives and checks tokens.
#[derive(Clone)]
pub struct Confirmations {
    key: Vec<u8>,
}

impl std::fmt::Debug for Confirmations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Confirmations")
    }
}

impl Confirmations {
    pub fn new(key: Vec<u8>) -> Self {
        Self { key }
    }

    pub fn give(&self, subject: Subject<'_>, now: Timestamp) -> Confirmation {
        let expires = now.as_second().saturating_add(VALID_FOR.as_secs() as i64);
        let mut token = expires.to_be_bytes().to_vec();
        token.extend_from_slice(&self.mac(subject, expires).finalize().into_bytes());
        Confirmation {
            token: URL_SAFE_NO_PAD.encode(token),
            expires_at: Timestamp::from_second(expires).unwrap_or(Timestamp::MAX),
        }
    }

    pub fn check(&self, token: Option<&str>, subject: Subject<'_>, now: Timestamp) -> Result<(), Unconfirmed> {
        let token = token.ok_or(Unconfirmed::Missing)?;
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Unconfirmed::Malformed)?;
        let (expiry, mac) = bytes.split_first_chunk::<8>().ok_or(Unconfirmed::Malformed)?;
        let expires = i64::from_be_bytes(*expiry);
        // The comparison takes the same time wherever the difference is.
        self.mac(subject, expires).verify_slice(mac).map_err(|_| Unconfirmed::Stale)?;
        if expires <= now.as_second() { Err(Unconfirmed::Expired) } else { Ok(()) }
    }

    fn mac(&self, subject: Subject<'_>, expires: i64) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key of any length");
        for part in [subject.actor, subject.request_digest, subject.target] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.update(&subject.revision.to_be_bytes());
        mac.update(&expires.to_be_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'_> = Subject { actor: "ana", request_digest: "d1", target: "peers/a", revision: 7 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_token_confirms_exactly_what_it_was_given_for() {
        let ours = Confirmations::new(b"shared by the replicas".to_vec());
        let other = Confirmations::new(b"another".to_vec());
        let token = ours.give(SUBJECT, at(1_000)).token;
        let check = |confirmations: &Confirmations, token: Option<&str>, subject, now, expect| {
            assert_eq!(confirmations.check(token, subject, at(now)), expect, "{token:?} {subject:?} {now}");
        };
        let token = token.as_str();
        check(&ours, Some(token), SUBJECT, 1_299, Ok(()));
        check(&ours, Some(token), SUBJECT, 1_300, Err(Unconfirmed::Expired));
        check(&ours, None, SUBJECT, 1_000, Err(Unconfirmed::Missing));
        check(&ours, Some(""), SUBJECT, 1_000, Err(Unconfirmed::Malformed));
        check(&ours, Some("no token!"), SUBJECT, 1_000, Err(Unconfirmed::Malformed));
        check(&other, Some(token), SUBJECT, 1_000, Err(Unconfirmed::Stale));
        for subject in [
            Subject { actor: "bo", ..SUBJECT },
            Subject { request_digest: "d2", ..SUBJECT },
            Subject { target: "peers/b", ..SUBJECT },
            Subject { revision: 8, ..SUBJECT },
        ] {
            check(&ours, Some(token), subject, 1_000, Err(Unconfirmed::Stale));
        }
        // A later expiry written into a token is not believed.
        let mut forged = URL_SAFE_NO_PAD.decode(token).expect("base64");
        forged[7] ^= 0xff;
        check(&ours, Some(&URL_SAFE_NO_PAD.encode(forged)), SUBJECT, 1_000, Err(Unconfirmed::Stale));
    }
}

//! Issues tokens: for `omnirelay auth token` and for development. Production tokens come from an identity provider.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use uuid::Uuid;

use super::{AuthError, Scope};

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Claims {
    pub issuer: String,
    pub audience: String,
    pub subject: String,
    pub scopes: Vec<Scope>,
    pub valid_for: Duration,
    pub kid: String,
}

#[derive(Serialize)]
struct Body<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    scope: String,
    jti: String,
    iat: i64,
    exp: i64,
}

/// A token signed with an Ed25519 private key (PKCS#8 PEM).
pub fn mint(private_pem: &str, claims: &Claims) -> Result<String, AuthError> {
    let key = EncodingKey::from_ed_pem(private_pem.as_bytes()).map_err(|_| AuthError::SigningKey)?;
    let now = jiff::Timestamp::now().as_second();
    let mut header = Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.kid = Some(claims.kid.clone());
    let words: Vec<&str> = claims.scopes.iter().map(|scope| scope.as_str()).collect();
    let body = Body {
        iss: &claims.issuer,
        aud: &claims.audience,
        sub: &claims.subject,
        scope: words.join(" "),
        jti: Uuid::new_v4().to_string(),
        iat: now,
        exp: now.saturating_add(i64::try_from(claims.valid_for.as_secs()).unwrap_or(i64::MAX)),
    };
    jsonwebtoken::encode(&header, &body, &key).map_err(|_| AuthError::SigningKey)
}

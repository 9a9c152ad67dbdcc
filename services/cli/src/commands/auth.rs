//! `auth`: issue a token from a private key, and see what the token in use says. A token is printed only where it was asked
//! for, by `auth token` on stdout.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use omnirelay_runtime::auth::{self, Scope};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{duration, word};
use crate::client::Request;
use crate::context::Token;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::session::{GlobalArgs, Session};

#[derive(Debug, Subcommand)]
pub enum Auth {
    /// Issue a token from an Ed25519 private key; it goes to stdout
    Token(TokenArgs),
    /// What the token in use claims, and whether the API accepts it
    Whoami,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The private key, PKCS#8 in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Whom it is for
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// mesh.read, mesh.observe, mesh.operate, mesh.approve or mesh.admin; several with commas
    #[arg(long, required = true, value_delimiter = ',', value_parser = word::<Scope>)]
    scope: Vec<Scope>,
    /// How long it is good for
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    ttl: Duration,
    #[arg(long, default_value = "omnirelay")]
    issuer: String,
    #[arg(long, default_value = "omnirelay")]
    audience: String,
    /// The key's name in the server's configuration
    #[arg(long, default_value = "default")]
    kid: String,
}

pub async fn run(command: Auth, global: &GlobalArgs) -> Result<Exit, Failure> {
    match command {
        Auth::Token(args) => token(args),
        Auth::Whoami => whoami(global).await,
    }
}

fn token(args: TokenArgs) -> Result<Exit, Failure> {
    let pem = std::fs::read_to_string(&args.key)
        .map_err(|error| Failure::error(format!("cannot read the key {}: {error}", args.key.display())))?;
    let claims = auth::Claims {
        issuer: args.issuer,
        audience: args.audience,
        subject: args.subject,
        scopes: args.scope,
        valid_for: args.ttl,
        kid: args.kid,
    };
    let token = auth::mint(&pem, &claims).map_err(|error| {
        Failure::error(format!("no token from {}: {error}", args.key.display()))
            .hint("an Ed25519 private key in PKCS#8 PEM is wanted: openssl genpkey -algorithm ed25519")
    })?;
    output::print(&token)?;
    Ok(Exit::Succeeded)
}

/// What `whoami` tells. Claims are shown as they stand; only `accepted` was checked, by the API.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Whoami {
    subject: Option<String>,
    scopes: Vec<String>,
    issuer: Option<String>,
    audience: Value,
    expires_at: Option<Timestamp>,
    context: String,
    url: String,
    token_from: String,
    accepted: bool,
    /// Why it is not accepted.
    why: Option<String>,
}

async fn whoami(global: &GlobalArgs) -> Result<Exit, Failure> {
    let session = Session::open(global).await?;
    let token = session.client.token().ok_or_else(|| {
        Failure::new(Exit::Auth, format!("there is no token for {}", session.target.name))
            .hint("set OMNIRELAY_TOKEN, or omnirelay context set NAME --token-file FILE")
    })?;
    let claims = Claims::of(token).unwrap_or_default();
    let refused = match session.client.send(&Request::get("/control/status")).await {
        Ok(_) => None,
        Err(error) if matches!(error.status(), Some(401 | 403)) => Some(error),
        Err(error) => return Err(error.into()),
    };
    let answer = Whoami {
        scopes: claims.scopes(),
        subject: claims.sub,
        issuer: claims.iss,
        audience: claims.aud,
        expires_at: claims.exp.and_then(|exp| Timestamp::from_second(exp).ok()),
        context: session.target.name.clone(),
        url: session.target.url.clone(),
        token_from: session.target.token.describe(),
        accepted: refused.is_none(),
        why: refused.as_ref().map(ToString::to_string),
    };
    output::one(session.format, &answer)?;
    Ok(if answer.accepted { Exit::Succeeded } else { Exit::Auth })
}

/// A token's claims as they stand, unverified.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Claims {
    pub sub: Option<String>,
    pub iss: Option<String>,
    #[serde(default)]
    pub aud: Value,
    pub exp: Option<i64>,
    scope: Option<String>,
    #[serde(default)]
    scp: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is not a JWT")]
pub struct NotAJwt;

impl Claims {
    pub fn of(token: &Token) -> Result<Self, NotAJwt> {
        let payload = token.expose().split('.').nth(1).ok_or(NotAJwt)?;
        let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|_| NotAJwt)?;
        serde_json::from_slice(&bytes).map_err(|_| NotAJwt)
    }

    fn scopes(&self) -> Vec<String> {
        let words = self.scope.iter().flat_map(|scope| scope.split_whitespace()).map(str::to_owned);
        words.chain(self.scp.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_token_says_what_was_asked() {
        let pair = auth::generate_key_pair().expect("pair");
        let claims = auth::Claims {
            issuer: "omnirelay".to_owned(),
            audience: "omnirelay".to_owned(),
            subject: "ana".to_owned(),
            scopes: vec![Scope::Operate, Scope::Approve],
            valid_for: Duration::from_secs(60),
            kid: "default".to_owned(),
        };
        let token = auth::mint(&pair.private_pem, &claims).expect("token");
        let read = Claims::of(&Token::new(&token).expect("token")).expect("claims");
        assert_eq!(read.sub.as_deref(), Some("ana"));
        assert_eq!(read.scopes(), ["mesh.operate", "mesh.approve"]);
    }

    #[test]
    fn what_is_not_a_jwt() {
        for text in ["secret", "a.b.c", "a.e30", "..", "a.!.c"] {
            let claims = Claims::of(&Token::new(text).expect("token"));
            assert_eq!(claims.is_err(), text != "a.e30", "{text}");
        }
    }
}

//! Further people and bots of a stack: tokens as its identity provider would give them.

use std::time::Duration;

use omnirelay_runtime::auth::{self, Claims, Scope};

use crate::api::Api;
use crate::stack::{Role, Stack};

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Role {
    /// The scope of its token.
    pub const fn scope(self) -> Scope {
        match self {
            Role::Read => Scope::Observe,
            Role::Operate => Scope::Operate,
            Role::Approve => Scope::Approve,
            Role::Admin => Scope::Admin,
        }
    }
}

impl Stack {
    /// A token of somebody who is not one of the four of the env file.
    pub fn token_of(&self, subject: &str, scope: Scope) -> String {
        let key = std::fs::read_to_string(self.state_dir().join("auth.key.pem")).expect("the stack's signing key");
        let claims = Claims {
            issuer: "omnirelay-dev".to_owned(),
            audience: "omnirelay".to_owned(),
            subject: subject.to_owned(),
            scopes: vec![scope],
            valid_for: DAY,
            kid: "dev".to_owned(),
        };
        auth::mint(&key, &claims).expect("a token")
    }

    /// A client of theirs.
    pub fn api_of(&self, subject: &str, scope: Scope) -> Api {
        Api::new(self.url(), Some(&self.token_of(subject, scope)))
    }
}

//! Who is asking: JWT bearers verified against pinned keys, and what their scopes allow.
//!
//! A token's key is chosen by its `kid`, and a key is used with its own algorithm only, so a token cannot choose how it is
//! checked. `exp`, `iss`, `aud` and `sub` must be there. A verified token is remembered by its SHA-256 until it expires:
//! one automation sends thousands of requests a second with the same one. No token ever appears in an error or a log.

mod keys;
mod mint;
mod scope;
mod verify;

pub use keys::{Algorithm, AuthConfig, Key, KeyConfig, KeyPair, generate_key_pair};
pub use mint::{Claims, mint};
pub use scope::{Scope, Scopes};
pub use verify::{AuthError, Authenticator, Principal};

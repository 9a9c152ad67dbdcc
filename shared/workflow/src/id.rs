//! Identifiers, parsed once at the edge and trusted inside.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An operation's id: a UUIDv7, so ids sort by the time of submission.
pub type OperationId = Uuid;
/// A hold's id.
pub type HoldId = Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not an id: use 1 to 63 letters, digits, '-' or '_', beginning with a letter or digit")]
pub struct InvalidId {
    pub what: &'static str,
    pub text: String,
}

/// `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`: safe as a token of a NATS subject, a path segment and a file name.
fn check(what: &'static str, text: &str) -> Result<(), InvalidId> {
    let mut bytes = text.bytes();
    let head = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let tail = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if head && tail && text.len() <= 63 {
        Ok(())
    } else {
        Err(InvalidId { what, text: text.chars().take(80).collect() })
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the shape of an id.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check($what, text)?;
                Ok(Self(text.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                check($what, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

text_id!(
    /// A peer of the mesh.
    PeerId, "peer"
);
text_id!(
    /// A cluster of peers.
    ClusterId, "cluster"
);
text_id!(
    /// Something that runs on a peer and can be moved.
    WorkloadId, "workload"
);
text_id!(
    /// A command to an agent. It is the idempotency key of the command: `<operation>-<n>`.
    CommandId, "command"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_subject_tokens() {
        let long = "a".repeat(63);
        for good in ["a", "7", "edge-7", "Web_01", long.as_str()] {
            assert!(PeerId::parse(good).is_ok(), "{good}");
        }
        let longer = "a".repeat(64);
        for bad in ["", "-a", "_a", "a.b", "a*", ">", "a b", "ä", "a/b", "a:b", longer.as_str()] {
            assert!(PeerId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn deserialising_checks_the_shape() {
        assert!(serde_json::from_str::<PeerId>("\"edge-7\"").is_ok());
        assert!(serde_json::from_str::<PeerId>("\"edge.7\"").is_err());
    }
}

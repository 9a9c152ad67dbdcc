//! Two digests: of a request, to know it again, and of what an operation will do.

use std::fmt::Write as _;
use std::io;

use omnirelay_workflow::operation::Verb;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// SHA-256 over method, path, canonical body and `If-Match`, in hexadecimal. `body` is the parsed body without its
/// confirmation: its members in the order of the type and defaults left out, so that spelling does not matter.
pub fn request(method: &str, path: &str, body: &impl Serialize, if_match: Option<&str>) -> String {
    let mut hash = Hashing(Sha256::new());
    hash.part(method);
    hash.part(path);
    hash.part(if_match.unwrap_or(""));
    // Writing into a hash does not fail, and a body that was parsed can be written.
    let _written = serde_json::to_writer(&mut hash, body);
    hex(&hash.0.finalize())
}

/// SHA-256 over verb, target and parameters, in hexadecimal: what approvers and operators compare.
pub fn operation(verb: Verb, target: &str, params: &str) -> String {
    let mut hash = Hashing(Sha256::new());
    hash.part(verb.as_str());
    hash.part(target);
    hash.part(params);
    hex(&hash.0.finalize())
}

pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _written = write!(text, "{byte:02x}");
    }
    text
}

struct Hashing(Sha256);

impl Hashing {
    /// With its length before it, so that no two sequences of parts are the same bytes.
    fn part(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
    }
}

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_contract::rest::DrainBody;

    use super::*;

    #[test]
    fn the_same_request_in_another_spelling_is_the_same() {
        let digest = |text: &str| {
            let body: DrainBody = serde_json::from_str(text).expect("a body");
            request("POST", "/control/peers/a:drain", &body, None)
        };
        let one = digest(r#"{"reason":"x","deadline":"30m"}"#);
        assert_eq!(one, digest(r#"{ "deadline": "1800s", "reason": "x", "keepMoved": false }"#));
        assert_ne!(one, digest(r#"{"reason":"y","deadline":"30m"}"#));
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn every_part_counts() {
        let body = DrainBody::default();
        let digests = [
            request("POST", "/a", &body, None),
            request("PUT", "/a", &body, None),
            request("POST", "/b", &body, None),
            request("POST", "/a", &body, Some("\"1\"")),
            request("POS", "T/a", &body, None),
        ];
        for (n, one) in digests.iter().enumerate() {
            assert!(!digests[n + 1..].contains(one), "{n}");
        }
    }
}

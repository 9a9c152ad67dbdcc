//! `label` and `annotate`: a merge patch of a peer's labels or metadata, for the peer as it was read.
//!
//! Whoever changes other keys of the same peer at the same time is no reason to give up: the peer is read again, what
//! changed is shown, and the patch is sent for the peer as it is now. Where the keys themselves were changed it stops.

use clap::Args;
use omnirelay_contract::problem::Code;
use omnirelay_contract::rest::{Mutated, PatchPeerBody, Peer};
use reqwest::Method;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::WhyArgs;
use super::conclude::{WaitArgs, conclude, display_name, had_nothing_to_do, unchanged};
use super::confirmed;
use crate::client::{ClientError, Request, understand};
use crate::diff;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::note;
use crate::resolve;
use crate::session::{GlobalArgs, Session};

/// How often others may be quicker.
const TRIES: usize = 20;

#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Id or name
    peer: String,
    /// KEY=VALUE sets it, KEY- takes it away
    #[arg(required = true, value_name = "KEY=VALUE | KEY-", value_parser = change)]
    changes: Vec<Change>,
    #[command(flatten)]
    why: WhyArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// What of the peer is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Values are text.
    Labels,
    /// Values are JSON; what is not JSON is text.
    Metadata,
}

/// `zone=a`, or `tier-` without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    key: String,
    value: Option<String>,
}

pub async fn run(args: LabelArgs, part: Part, global: &GlobalArgs) -> Result<Exit, Failure> {
    let patch = part.patch(&args.changes)?;
    let session = Session::open(global).await?;
    let peer = resolve::peer(&session.client, &args.peer).await?;
    let (labels, metadata) = match part {
        Part::Labels => (Some(patch), None),
        Part::Metadata => (None, Some(patch)),
    };
    let body = PatchPeerBody { reason: args.why.reason, change_ticket: args.why.ticket, labels, metadata, gate: None };
    patched(&session, peer, &body, &args.wait).await
}

/// Sends the patch for the peer as it was read, and again where others changed something else of it.
pub async fn patched(
    session: &Session,
    mut peer: Peer,
    body: &PatchPeerBody,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let json = confirmed::json(body)?;
    let mut refused = None;
    for _ in 0..TRIES {
        // Another ETag is another request. What the worker refused has its key bound: the old one would only find that again.
        let key = Uuid::new_v4().to_string();
        let path = format!("/control/peers/{}", peer.id);
        let request = Request::mutation(Method::PATCH, path, &key, json.clone()).if_match(peer.revision);
        let problem = match session.client.send(&request).await {
            Ok(answer) => {
                let mutated: Mutated = understand(&request.path, answer.body)?;
                let name = display_name(&peer);
                if had_nothing_to_do(&mutated) {
                    return unchanged(session, &mutated, &format!("{name} is like that already"));
                }
                return conclude(session, mutated, name, wait).await;
            }
            Err(ClientError::Problem(problem)) if problem.code == Code::RevisionMismatch => problem,
            Err(error) => return Err(error.into()),
        };
        let now: Peer = session.client.get(&request.path).await?;
        let (before, after) = (parts_of(&peer), parts_of(&now));
        note(&format!("{} was changed meanwhile, revision {} -> {}:", display_name(&now), peer.revision, now.revision));
        for line in diff::keys(&before, &after) {
            note(&format!("  {line}"));
        }
        if let Some(key) = touched(&before, &after, &json) {
            return Err(Failure::new(
                Exit::Refused,
                format!("{key} was changed by somebody else: nothing was changed"),
            )
            .hint(format!("look at it, then decide again: omnirelay mesh peers get {}", display_name(&now))));
        }
        note("not what is asked for here: trying again");
        peer = now;
        refused = Some(problem);
    }
    match refused {
        Some(problem) => Err(Failure::of_problem(&problem)),
        None => Err(Failure::error("nothing was sent")),
    }
}

impl Part {
    fn patch(self, changes: &[Change]) -> Result<Value, Failure> {
        let mut patch = Map::new();
        for change in changes {
            let value = match (&change.value, self) {
                (None, _) => Value::Null,
                (Some(text), Part::Labels) => Value::String(text.clone()),
                (Some(text), Part::Metadata) => value(text).map_err(|why| Failure::new(Exit::Usage, why))?,
            };
            if patch.insert(change.key.clone(), value).is_some() {
                return Err(Failure::new(Exit::Usage, format!("{} is given twice", change.key)));
            }
        }
        Ok(Value::Object(patch))
    }
}

/// JSON, or text where it is no JSON. What begins like JSON and is none is a slip of the hand, not a text.
pub fn value(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(error) if text.starts_with(['{', '[', '"']) => Err(format!("{text:?} is not JSON: {error}")),
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

fn change(text: &str) -> Result<Change, String> {
    let change = match text.split_once('=') {
        Some((key, value)) => Change { key: key.to_owned(), value: Some(value.to_owned()) },
        None => Change { key: text.strip_suffix('-').unwrap_or_default().to_owned(), value: None },
    };
    if change.key.is_empty() { Err("write KEY=VALUE, or KEY- to take it away".to_owned()) } else { Ok(change) }
}

fn parts_of(peer: &Peer) -> Value {
    json!({"labels": peer.labels, "metadata": peer.metadata})
}

/// The first key that the patch is about and somebody else has changed.
fn touched(before: &Value, after: &Value, patch: &Value) -> Option<String> {
    for part in ["labels", "metadata"] {
        let Some(patch) = patch.get(part) else { continue };
        let Value::Object(keys) = patch else {
            // All of them are taken away.
            return (before.get(part) != after.get(part)).then(|| part.to_owned());
        };
        let of = |side: &Value, key: &str| side.get(part).and_then(|members| members.get(key)).cloned();
        if let Some(key) = keys.keys().find(|key| of(before, key) != of(after, key)) {
            return Some(format!("{part}.{key}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_become_a_merge_patch() {
        let check = |part: Part, texts: &[&str], expected: Value| {
            let changes: Vec<Change> = texts.iter().map(|text| change(text).expect("a change")).collect();
            let patch = part.patch(&changes).unwrap_or_else(|failure| json!(failure.what));
            assert_eq!(patch, expected, "{texts:?}");
        };
        check(Part::Labels, &["zone=a", "tier-", "n=1"], json!({"zone": "a", "tier": null, "n": "1"}));
        check(Part::Labels, &["a=b=c", "empty="], json!({"a": "b=c", "empty": ""}));
        check(Part::Metadata, &["owner=\"net\"", "rack-", "n=1"], json!({"owner": "net", "rack": null, "n": 1}));
        check(Part::Metadata, &["owner=net", "o={\"a\":[1]}"], json!({"owner": "net", "o": {"a": [1]}}));
        check(Part::Labels, &["a=1", "a-"], json!("a is given twice"));
        for wrong in ["zone", "=a", "-", ""] {
            assert!(change(wrong).is_err(), "{wrong}");
        }
        assert!(value("{\"a\":").is_err());
    }

    #[test]
    fn only_the_same_keys_are_a_conflict() {
        let check = |after: Value, patch: Value, expected: Option<&str>| {
            let before = json!({"labels": {"zone": "a"}, "metadata": {}});
            assert_eq!(touched(&before, &after, &patch).as_deref(), expected, "{after} {patch}");
        };
        let other = json!({"labels": {"zone": "a", "tier": "1"}, "metadata": {"x": 1}});
        check(other.clone(), json!({"labels": {"zone": "b"}}), None);
        check(other.clone(), json!({"labels": {"tier": null}}), Some("labels.tier"));
        check(other.clone(), json!({"metadata": {"x": 2}, "labels": {"zone": "c"}}), Some("metadata.x"));
        check(other, json!({"labels": null}), Some("labels"));
        check(json!({"labels": {}, "metadata": {}}), json!({"labels": {"zone": "b"}}), Some("labels.zone"));
    }
}

//! The events that tell of what was observed.

use omnirelay_contract::audit::Actor;
use omnirelay_contract::event::{AuditFacts, Event, EventData};
use omnirelay_contract::subject;
use omnirelay_store::StoreError;
use omnirelay_store::events::NewEvent;
use omnirelay_workflow::resource::Health;
use omnirelay_workflow::{ClusterId, PeerId, Timestamp};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::diff::Drift;

/// The registry took in a cluster that `by` named.
pub fn cluster_adopted(id: &ClusterId, state: &str, by: &PeerId) -> Result<NewEvent, StoreError> {
    let news =
        News { resource: "clusters", id: id.as_str(), what: "changed", verb: "clusters.adopt", outcome: "succeeded" };
    event(news, format!("agent:{by}"), Some(1), json!({ "adopted": true, "clusterState": state }))
}

/// The registry took in a peer that spoke up.
pub fn peer_adopted(id: &PeerId, cluster: &ClusterId) -> Result<NewEvent, StoreError> {
    let news = News { resource: "peers", id: id.as_str(), what: "changed", verb: "peers.adopt", outcome: "succeeded" };
    event(news, format!("agent:{id}"), Some(1), json!({ "adopted": true, "cluster": cluster }))
}

/// A peer looks otherwise than before.
pub fn health(id: &PeerId, health: Health, was: Health, last_seen: Timestamp) -> Result<NewEvent, StoreError> {
    let news =
        News { resource: "peers", id: id.as_str(), what: "health", verb: "peers.observe", outcome: health.as_str() };
    event(news, OBSERVER.to_owned(), None, json!({ "health": health, "was": was, "lastSeen": last_seen }))
}

/// A peer runs what is not its to run.
pub fn drift(drift: &Drift) -> Result<NewEvent, StoreError> {
    let news = News {
        resource: "workloads",
        id: drift.workload.as_str(),
        what: "drift",
        verb: "workloads.observe",
        outcome: "drift",
    };
    let detail = json!({
        "peer": drift.peer,
        "owner": drift.owner,
        "epoch": drift.epoch,
        "recordEpoch": drift.record_epoch,
        "why": drift.why.as_str(),
    });
    event(news, OBSERVER.to_owned(), None, detail)
}

const OBSERVER: &str = "system:observer";

#[derive(Clone, Copy)]
struct News<'a> {
    resource: &'a str,
    id: &'a str,
    what: &'a str,
    verb: &'a str,
    outcome: &'a str,
}

fn event(news: News<'_>, actor: String, revision: Option<u64>, detail: Value) -> Result<NewEvent, StoreError> {
    let data = EventData {
        actor: Some(actor.clone()),
        audit: AuditFacts {
            verb: news.verb.to_owned(),
            outcome: news.outcome.to_owned(),
            actor: Some(Actor::system(actor)),
            revision_after: revision,
            ..AuditFacts::default()
        },
        detail: match detail {
            Value::Object(detail) => detail,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
        },
        ..EventData::default()
    };
    let event = Event::new(Uuid::now_v7(), news.resource, news.id, news.what, Timestamp::now(), data);
    Ok(NewEvent {
        id: event.id,
        resource: news.resource.to_owned(),
        nats_subject: subject::event(news.resource, news.id, news.what),
        operation: None,
        payload: serde_json::to_string(&event).map_err(|error| StoreError::corrupt("an event", error))?,
    })
}

//! What is done about requests and events: read, decide, say so, log one line.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, ApiError};
use crate::policy::{Decision, Policy, Request, Staged, decide};

/// What is asked for may change while it is looked at, and again.
const LOOKS: u64 = 5;
/// Until the API asks again for what has changed.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

pub struct Bot {
    api: Api,
    policy: Policy,
    /// As the token says it.
    me: Option<String>,
    /// Operation → what was said last, so that a poll neither says nor logs it again.
    said: HashMap<String, Said>,
    /// Names of the changes whose time had come.
    begun: HashSet<String>,
    /// What is to be staged and is not yet, since the API could not be asked.
    pending: Vec<Staged>,
}

#[derive(PartialEq)]
struct Said {
    digest: String,
    decision: Decision,
    /// The API wanted none of it, and would not the next time.
    refused: bool,
}

impl Bot {
    pub fn new(api: Api, policy: Policy) -> Self {
        let me = api.subject();
        Self { api, policy, me, said: HashMap::new(), begun: HashSet::new(), pending: Vec::new() }
    }

    pub fn subject(&self) -> &str {
        self.me.as_deref().unwrap_or("unknown")
    }

    /// An event says that an approval is asked for. What for is read anew: it may be an old event.
    pub async fn requested(&mut self, event: &[u8]) -> Result<(), ApiError> {
        let Some(id) = subject_id(event) else { return Ok(()) };
        match self.api.get(&format!("/control/operations/{id}")).await {
            Ok(operation) => self.consider(operation).await,
            Err(ApiError::Refused { code, detail, .. }) => {
                tracing::warn!(operation = id, code, detail, "an operation cannot be read");
                Ok(())
            }
            Err(away) => Err(away),
        }
    }

    /// Everything that waits for an approval, and everything whose time has come.
    pub async fn look_at_all(&mut self) -> Result<(), ApiError> {
        for due in self.policy.due(Timestamp::now()) {
            if self.begun.insert(due.name.clone()) {
                self.pending.push(due);
            }
        }
        self.stage_pending().await?;
        let waiting = self.api.list("/control/approvals").await?;
        let ids: HashSet<&str> = waiting.iter().filter_map(|operation| operation["id"].as_str()).collect();
        self.said.retain(|id, _| ids.contains(id.as_str()));
        for operation in waiting {
            self.consider(operation).await?;
        }
        Ok(())
    }

    /// An event that something may have to be staged after.
    pub async fn happened(&mut self, event: &[u8]) -> Result<(), ApiError> {
        let Ok(event) = serde_json::from_slice::<Value>(event) else { return Ok(()) };
        self.pending.extend(self.policy.after(&event));
        self.stage_pending().await
    }

    /// How long until something may have to be done that nobody tells.
    pub fn next_look(&self) -> Duration {
        self.policy.next_look(Timestamp::now())
    }

    async fn consider(&mut self, mut operation: Value) -> Result<(), ApiError> {
        for look in 1..=LOOKS {
            let Some(request) = self.request(&operation).await? else { return Ok(()) };
            let decision = decide(&self.policy, self.me.as_deref(), &request, Timestamp::now());
            if self.said.get(&request.operation).is_some_and(|said| said.refused && said.digest == request.digest) {
                return Ok(());
            }
            let (action, comment) = match &decision {
                Decision::Approve { comment } => ("approve", comment),
                Decision::Reject { comment } => ("reject", comment),
                Decision::Leave { .. } => {
                    self.log(&request, decision, false);
                    return Ok(());
                }
            };
            let path = format!("/control/operations/{}:{action}", request.operation);
            let body = json!({ "digest": request.digest, "comment": comment });
            match self.api.post(&path, None, &body).await {
                Ok(_) => {
                    self.log(&request, decision, false);
                    return Ok(());
                }
                // It is no longer what we decided about: look at what it is.
                Err(ApiError::Refused { code, .. }) if code == "digest-mismatch" => {
                    tokio::time::sleep(BETWEEN_LOOKS * look as u32).await;
                    operation = self.api.get(&format!("/control/operations/{}", request.operation)).await?;
                }
                Err(ApiError::Refused { code, detail, .. }) => {
                    self.log(&request, Decision::Leave { why: format!("refused, {code}: {detail}") }, true);
                    return Ok(());
                }
                Err(away) => return Err(away),
            }
        }
        // It is asked for again, with an event, whenever it has changed.
        Ok(())
    }

    /// What is asked, if the operation has an open gate at which this bot has not spoken.
    async fn request(&self, operation: &Value) -> Result<Option<Request>, ApiError> {
        let Some(mut request) = Request::of(operation, self.me.as_deref()) else { return Ok(None) };
        for peer in &request.peers {
            match self.api.get(&format!("/control/peers/{peer}")).await {
                Ok(peer) => request.clusters.extend(peer["cluster"].as_str().map(str::to_owned)),
                // Nobody's: no rule that names clusters approves it.
                Err(ApiError::Refused { .. }) => {
                    request.clusters.insert(String::new());
                }
                Err(away) => return Err(away),
            }
        }
        Ok(Some(request))
    }

    async fn stage_pending(&mut self) -> Result<(), ApiError> {
        while let Some(next) = self.pending.first().cloned() {
            self.stage(next).await?;
            self.pending.remove(0);
        }
        Ok(())
    }

    async fn stage(&self, staged: Staged) -> Result<(), ApiError> {
        let Staged { name, key, path, mut body } = staged;
        for _ in 0..LOOKS {
            match self.api.post(&path, Some(&key), &body).await {
                Ok(answer) => {
                    let operation = answer["operation"]["id"].as_str().unwrap_or_default();
                    tracing::info!(rule = name, path, operation, "staged");
                    return Ok(());
                }
                // A destructive change wants its plan confirmed. People see it where they approve.
                Err(ApiError::Refused { code, body: problem, .. }) if code == "confirmation-required" => {
                    body["confirmation"] = problem["plan"]["confirmation"]["token"].clone();
                }
                Err(ApiError::Refused { code, detail, .. }) => {
                    tracing::warn!(rule = name, path, code, detail, "not staged");
                    return Ok(());
                }
                Err(away) => return Err(away),
            }
        }
        tracing::warn!(rule = name, path, "not staged: its plan changes faster than it can be confirmed");
        Ok(())
    }

    /// One line for each decision.
    fn log(&mut self, request: &Request, decision: Decision, refused: bool) {
        let Request { operation, digest, verb, target, requester, .. } = request;
        let said = Said { digest: digest.clone(), decision, refused };
        if self.said.get(operation) == Some(&said) {
            return;
        }
        let (decision, comment) = match &said.decision {
            Decision::Approve { comment } => ("approved", comment),
            Decision::Reject { comment } => ("rejected", comment),
            Decision::Leave { why } => ("left to others", why),
        };
        let ticket = request.ticket.as_deref().unwrap_or("none");
        tracing::info!(operation, verb, target, requester, ticket, digest, comment, "{decision}");
        self.said.insert(operation.clone(), said);
    }
}

/// `edge-7` of an event about `peers/edge-7`.
fn subject_id(event: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(event).ok()?;
    event["subject"].as_str()?.split_once('/').map(|(_, id)| id.to_owned())
}

//! `POST /control/clusters/{id}:promote`, `:demote`, and `PUT /control/clusters/{id}`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use omnirelay_contract::rest::{DemoteBody, PromoteBody, PutClusterBody};
use omnirelay_workflow::ClusterId;
use omnirelay_workflow::operation::{Target, Verb};
use omnirelay_workflow::patch;
use omnirelay_workflow::promote::Params;
use omnirelay_workflow::resource::ClusterState;
use omnirelay_workflow::settings::Amount;
use serde_json::json;

use super::mutation::{Parsed, common, digest_of, params_of, serve};
use super::{Segment, id};
use crate::answer::Refusal;
use crate::submission::Asked;
use crate::{App, request};

/// Clusters that one promotion replaces, at most.
const MAX_DEMOTED: usize = 100;

pub async fn act(State(app): State<Arc<App>>, Segment(segment): Segment, request: Request) -> Response {
    let Some((cluster, action)) = segment.rsplit_once(':') else {
        return super::method_not_allowed(request.method().clone(), request.uri().clone()).await;
    };
    let verb = match action {
        "promote" => Verb::ClustersPromote,
        "demote" => Verb::ClustersDemote,
        _ => return super::not_found(request.uri().clone()).await,
    };
    serve(&app, verb, format!("clusters/{cluster}"), request, async |_, parts, body| {
        let cluster: ClusterId = id(cluster)?;
        let (params, common, request_digest) = if verb == Verb::ClustersPromote {
            let mut body: PromoteBody = request::body(&parts.headers, body).await?;
            let common = common!(body, confirmed)?;
            if body.demote.len() > MAX_DEMOTED {
                return Err(Refusal::invalid(format!("demote: at most {MAX_DEMOTED} clusters")));
            }
            if body.demote.contains(&cluster) {
                return Err(Refusal::invalid(format!("demote: {cluster} is what is promoted")));
            }
            let digest = digest_of(parts, &body)?;
            (Params { promote: Some(cluster.clone()), demote: body.demote, force: body.force }, common, digest)
        } else {
            let mut body: DemoteBody = request::body(&parts.headers, body).await?;
            let common = common!(body, confirmed)?;
            let digest = digest_of(parts, &body)?;
            (Params { promote: None, demote: vec![cluster.clone()], force: body.force }, common, digest)
        };
        Ok(Parsed {
            verb,
            id: None,
            about: Target::Cluster(cluster),
            common,
            params: params_of(&params)?,
            asked: Asked::Clusters(params),
            request_digest,
        })
    })
    .await
}

pub async fn put(State(app): State<Arc<App>>, Segment(segment): Segment, request: Request) -> Response {
    if segment.contains(':') {
        // An action, which is only ever posted.
        return super::method_not_allowed(request.method().clone(), request.uri().clone()).await;
    }
    serve(&app, Verb::ClustersPut, format!("clusters/{segment}"), request, async |_, parts, body| {
        let cluster: ClusterId = id(&segment)?;
        let body: PutClusterBody = request::body(&parts.headers, body).await?;
        let common = common!(body)?;
        request::free_text("region", body.region.as_ref(), 253)?;
        patch::checked_labels(&json!(body.labels)).map_err(|wrong| Refusal::invalid(wrong.to_string()))?;
        if body.state.is_some_and(|state| !matches!(state, ClusterState::Active | ClusterState::Passive)) {
            return Err(Refusal::invalid("state: active or passive, and only for the creation"));
        }
        if let Some(amount) = &body.max_unavailable
            && serde_json::from_value::<Amount>(amount.clone()).is_err()
        {
            return Err(Refusal::invalid("maxUnavailable: a number of peers, or a percentage like \"25%\""));
        }
        let create = request::creates_only(&parts.headers)?;
        Ok(Parsed {
            verb: Verb::ClustersPut,
            id: None,
            about: Target::Cluster(cluster),
            asked: Asked::PutCluster { create, state: body.state },
            common,
            params: params_of(&PutClusterBody { reason: None, change_ticket: None, gate: None, ..body.clone() })?,
            request_digest: digest_of(parts, &body)?,
        })
    })
    .await
}

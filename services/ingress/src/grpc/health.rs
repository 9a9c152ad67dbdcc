//! `grpc.health.v1.Health`: what `/readyz` says, for the whole server and for the control service alike.

use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use futures_util::{Stream, stream};
use http::Method;
use omnirelay_contract::grpc::v1::control_server::SERVICE_NAME;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::gateway::{Gateway, Origin};

/// How often a watched readiness is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Asks `/readyz`.
#[derive(Debug, Clone)]
pub struct Readiness {
    gateway: Gateway,
    stop: CancellationToken,
}

impl Readiness {
    pub fn new(gateway: Gateway, stop: CancellationToken) -> Self {
        Self { gateway, stop }
    }

    async fn now(&self) -> ServingStatus {
        if self.stop.is_cancelled() {
            return ServingStatus::NotServing;
        }
        let origin = Origin::of(&Request::new(()));
        match self.gateway.send(origin, Method::GET, "/readyz", Body::empty()).await {
            Ok(response) if response.status().is_success() => ServingStatus::Serving,
            Ok(_) | Err(_) => ServingStatus::NotServing,
        }
    }
}

fn known(service: &str) -> bool {
    service.is_empty() || service == SERVICE_NAME
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Readiness {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if known(&request.get_ref().service) {
            Ok(Response::new(answer(self.now().await)))
        } else {
            Err(Status::not_found("there is no such service here"))
        }
    }

    /// The readiness now, and then each change of it until the shutdown.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = known(&request.get_ref().service);
        let watched = stream::unfold((self.clone(), None), move |(readiness, told)| async move {
            loop {
                if told == Some(ServingStatus::NotServing) && readiness.stop.is_cancelled() {
                    return None;
                }
                let status = if known { readiness.now().await } else { ServingStatus::ServiceUnknown };
                if told != Some(status) {
                    return Some((Ok(answer(status)), (readiness, Some(status))));
                }
                if readiness.stop.is_cancelled() {
                    return None;
                }
                let stop = readiness.stop.clone();
                let _cut_short = stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
            }
        });
        Ok(Response::new(Box::pin(watched)))
    }
}

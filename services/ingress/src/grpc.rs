//! gRPC on the same port: every rpc is the REST request that means the same, made inside the process.
//!
//! `omnirelay.control.v1.Control` decides nothing. An rpc becomes a method, a path, headers and a JSON body
//! ([`gateway`]), goes through the very router that HTTP requests go through, with the address of its peer, and what
//! comes back is read into a message; a problem becomes a status ([`refusal`]). So authentication, order of checks,
//! idempotency, audit and metrics are those of REST and cannot differ. [`watch`] reads the event stream the same way,
//! [`health`] asks `/readyz`.

mod control;
mod gateway;
mod health;
mod refusal;
mod watch;

use axum::Router;
use axum::body::Body;
use futures_util::StreamExt;
use http::Request;
use omnirelay_contract::grpc::DESCRIPTORS;
use omnirelay_contract::grpc::v1::control_server::{ControlServer, SERVICE_NAME};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::HealthServer;
use tower::{Service, ServiceExt};

use gateway::Gateway;

/// The largest message that is read. The router refuses what is too large for REST, with a problem; this is only so that
/// nobody makes us hold more than that.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Why the services cannot be made: the committed descriptors are broken. A test would have said so.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors of the gRPC services cannot be read: {0}")]
pub struct DescriptorError(#[from] tonic_reflection::server::Error);

/// The REST router with the gRPC services beside its routes.
pub fn beside(rest: Router, stop: &CancellationToken) -> Result<Router, DescriptorError> {
    let gateway = Gateway::new(rest.clone());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let control = ControlServer::new(control::Control(gateway.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok(rest
        .route_service(&format!("/{SERVICE_NAME}/{{rpc}}"), control)
        .route_service("/grpc.health.v1.Health/{rpc}", HealthServer::new(health::Readiness::new(gateway, stop.clone())))
        .route_service("/grpc.reflection.v1.ServerReflection/{rpc}", until(stop, reflection().build_v1()?))
        .route_service("/grpc.reflection.v1alpha.ServerReflection/{rpc}", until(stop, reflection().build_v1alpha()?)))
}

/// Reflection clients may keep their stream open for ever, and a shutdown waits for open streams. So with `stop` the service
/// sees the end of the client's requests, answers what it has, and closes.
fn until<S>(
    stop: &CancellationToken,
    service: S,
) -> tower::util::MapRequest<S, impl FnMut(Request<Body>) -> Request<Body> + Clone + use<S>>
where
    S: Service<Request<Body>>,
{
    let stop = stop.clone();
    service.map_request(move |request: Request<Body>| {
        let stopped = stop.clone().cancelled_owned();
        request.map(|body| Body::from_stream(body.into_data_stream().take_until(stopped)))
    })
}

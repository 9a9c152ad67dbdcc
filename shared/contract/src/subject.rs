//! NATS subjects, streams and headers. Ids were checked when parsed, so they are safe tokens here.

use omnirelay_workflow::PeerId;

pub const STREAM_REQUESTS: &str = "OMNI_REQUESTS";
pub const STREAM_EVENTS: &str = "OMNI_EVENTS";
pub const STREAM_REPORTS: &str = "OMNI_REPORTS";

pub const ALL_REQUESTS: &str = "omni.v1.request.>";
pub const ALL_EVENTS: &str = "omni.v1.event.>";
pub const ALL_REPORTS: &str = "omni.v1.report.>";
pub const ALL_HEARTBEATS: &str = "omni.v1.heartbeat.*";

/// Core message: a signed checkpoint of the audit, as in its log files.
pub const AUDIT_CHECKPOINT: &str = "omni.v1.audit.checkpoint";

/// Header of an event: its position, a decimal u64.
pub const HEADER_POSITION: &str = "Omni-Position";
/// Headers of a request and of a command: the W3C trace context.
pub const HEADER_TRACEPARENT: &str = "traceparent";

/// `omni.v1.request.<resource>.<id>.<verb>`, for instance `omni.v1.request.peers.edge-7.drain`.
pub fn request(resource: &str, id: &str, verb: &str) -> String {
    format!("omni.v1.request.{resource}.{id}.{verb}")
}

/// `omni.v1.event.<resource>.<id>.<what>`, for instance `omni.v1.event.peers.edge-7.cordoned`.
pub fn event(resource: &str, id: &str, what: &str) -> String {
    format!("omni.v1.event.{resource}.{id}.{what}")
}

/// `omni.v1.report.<peer>.<kind>`; kinds are `command` and `observed`.
pub fn report(peer: &PeerId, kind: &str) -> String {
    format!("omni.v1.report.{peer}.{kind}")
}

/// `omni.v1.agent.<peer>.<verb>`: a command, answered by request and reply.
pub fn agent(peer: &PeerId, verb: &str) -> String {
    format!("omni.v1.agent.{peer}.{verb}")
}

pub fn heartbeat(peer: &PeerId) -> String {
    format!("omni.v1.heartbeat.{peer}")
}

/// Where an ingress hears which operations are done. `ingress` is the instance's own id.
pub fn done(ingress: &str) -> String {
    format!("omni.v1.done.{ingress}")
}

//! `omnirelay.control.v1`: the control API over gRPC, generated from `proto/`.
//!
//! Every message has the members of the REST API's JSON and reads and writes that JSON with serde, so that an rpc is the
//! route of the same name in another encoding. [`json`] has the free values, [`status`] the details of a refusal.
//!
//! After a change of a `.proto` file: `REGENERATE=1 cargo test -p omnirelay-contract --test generated`.

pub mod json;
pub mod status;

#[expect(clippy::large_enum_variant, reason = "of the frames of a watch nearly all are the large one, an event")]
/// Messages, `control_client::ControlClient` and `control_server::ControlServer`.
pub mod v1 {
    include!("grpc/generated/omnirelay.control.v1.rs");
}

/// The `FileDescriptorSet` that reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!("grpc/generated/descriptors.bin");

/// The domain of our `ErrorInfo`.
pub const DOMAIN: &str = "omnirelay";

#[cfg(test)]
mod tests;

//! The API described by itself: an OpenAPI 3.1 document at `/openapi.json`, for everybody.
//!
//! It is made from one table of [`routes`], the [`schemas`] of what goes over the wire and an [`examples`] of each;
//! [`document`] puts them together. Nothing of it is derived: the wire types live in crates that know nothing of HTTP, so
//! the tests compare instead, in both directions: every example is read and written by the type that it is an example
//! of and must fit its schema, and a real ingress is asked for every route. `docs/openapi.json` is the committed copy.
//!
//! After a change: `REGENERATE=1 cargo test -p omnirelay-ingress --lib openapi`.

mod document;
mod examples;
mod routes;
mod schemas;
mod shape;
mod status;

use std::sync::LazyLock;

use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;

use crate::page::{answer, content_tag};

/// The document's text and its tag.
static SERVED: LazyLock<(Bytes, String)> = LazyLock::new(|| {
    let text = text();
    let tag = content_tag(&[text.as_bytes()]);
    (Bytes::from(text), tag)
});

/// `GET /openapi.json`.
pub async fn serve(headers: HeaderMap) -> Response {
    let (body, tag) = &*SERVED;
    answer(&headers, tag, body.clone())
}

fn text() -> String {
    let mut text = format!("{:#}", document::document());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;

//! What is read from a request's headers, query and body, and how each is refused.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Query;
use http::{HeaderMap, Uri, header};
use omnirelay_contract::problem::Code;
use omnirelay_store::intake::RESERVED_KEY;
use serde::de::DeserializeOwned;

use crate::answer::Refusal;

/// Larger bodies are refused with 413.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest that anybody may wait for an operation.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: whatever is there.
    Any,
    /// Any of these. A weak or foreign tag matches nothing.
    Revisions(Vec<u64>),
}

impl IfMatch {
    /// The revisions as the worker looks at them again; nothing where any will do.
    pub fn revisions(&self) -> Option<&[u64]> {
        match self {
            IfMatch::Any => None,
            IfMatch::Revisions(revisions) => Some(revisions),
        }
    }

    pub fn allows(&self, revision: u64) -> bool {
        match self {
            IfMatch::Any => true,
            IfMatch::Revisions(revisions) => revisions.contains(&revision),
        }
    }
}

/// A header as text; one that is not text is refused.
pub fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    headers
        .get(name)
        .map(|value| value.to_str().map_err(|_| Refusal::invalid(format!("the header {name} is not visible ASCII"))))
        .transpose()
}

pub fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Refusal> {
    let Some(value) = text(headers, "if-match")? else { return Ok(None) };
    if value.trim() == "*" {
        return Ok(Some(IfMatch::Any));
    }
    let mut revisions = Vec::new();
    for tag in value.split(',').map(str::trim) {
        let strong = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        let weak = tag.starts_with("W/\"") && tag.ends_with('"');
        match strong {
            Some(inner) => revisions.extend(inner.parse::<u64>().ok()),
            None if weak => {}
            None => {
                return Err(Refusal::invalid(
                    "If-Match is an ETag in quotes, as the resource's own read gives it: \"7\"",
                ));
            }
        }
    }
    Ok(Some(IfMatch::Revisions(revisions)))
}

/// `If-None-Match: *` of a mutation: create only. Any other tag says nothing that could be kept.
pub fn creates_only(headers: &HeaderMap) -> Result<bool, Refusal> {
    match text(headers, "if-none-match")?.map(str::trim) {
        None => Ok(false),
        Some("*") => Ok(true),
        Some(_) => Err(Refusal::invalid("If-None-Match of a PUT is *: create only")),
    }
}

/// Whether `If-None-Match` names this tag (compared weakly, as RFC 9110 wants it for reads).
pub fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    let Some(value) = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) else { return false };
    value.trim() == "*" || value.split(',').map(str::trim).any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The caller's idempotency key, checked.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(key) = text(headers, "idempotency-key")? else { return Ok(None) };
    if key.is_empty() || key.len() > 255 || !key.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err(Refusal::invalid("Idempotency-Key is 1 to 255 visible ASCII characters"));
    }
    if key.starts_with(RESERVED_KEY) {
        return Err(Refusal::invalid(format!(
            "an Idempotency-Key that begins with {RESERVED_KEY} is not yours to choose"
        )));
    }
    Ok(Some(key))
}

/// How long to wait for the end, from `Prefer` (RFC 7240). Preferences that are not known are ignored, as it demands.
pub fn wait(headers: &HeaderMap, default: Duration) -> Result<Duration, Refusal> {
    let mut wait = default;
    for value in headers.get_all("prefer") {
        let value = value.to_str().map_err(|_| Refusal::invalid("the header prefer is not visible ASCII"))?;
        for preference in value.split([',', ';']).map(str::trim) {
            let (name, argument) = preference.split_once('=').map_or((preference, None), |(n, a)| (n, Some(a)));
            if name.trim().eq_ignore_ascii_case("respond-async") {
                wait = Duration::ZERO;
            } else if name.trim().eq_ignore_ascii_case("wait") {
                let seconds = argument
                    .and_then(|text| text.trim().trim_matches('"').parse::<u64>().ok())
                    .ok_or_else(|| Refusal::invalid("Prefer: wait=<seconds> wants a whole number of seconds"))?;
                wait = Duration::from_secs(seconds).min(MAX_WAIT);
            }
        }
    }
    Ok(wait)
}

/// The query's parameters. One that is not in `known`, or is given twice, is refused by name.
pub fn query(uri: &Uri, known: &[&str]) -> Result<Vec<(String, String)>, Refusal> {
    if uri.query().is_none_or(str::is_empty) {
        return Ok(Vec::new());
    }
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| Refusal::invalid(format!("the query cannot be read: {error}")))?;
    for (n, (name, value)) in pairs.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let name: String = name.chars().take(60).collect();
            return Err(Refusal::invalid(format!("the query parameter {name:?} is not known here; known: {known}")));
        }
        if pairs[..n].iter().any(|(earlier, _)| earlier == name) {
            return Err(Refusal::invalid(format!("the query parameter {name} is given twice")));
        }
        if value.contains('\0') {
            return Err(Refusal::invalid(format!("the query parameter {name} contains a null character")));
        }
    }
    Ok(pairs)
}

/// `validateOnly` of a mutation's query.
pub fn validate_only(uri: &Uri) -> Result<bool, Refusal> {
    match query(uri, &["validateOnly"])?.first() {
        None => Ok(false),
        Some((_, value)) => match value.as_str() {
            "true" | "" => Ok(true),
            "false" => Ok(false),
            _ => Err(Refusal::invalid("validateOnly is true or false")),
        },
    }
}

/// What a body may call itself.
const JSON: &[&str] = &["application/json"];
/// RFC 7396: a patch.
const PATCH: &[&str] = &["application/json", "application/merge-patch+json"];

/// A JSON body; nothing at all is `{}`. Unknown members and wrong types are refused by name.
pub async fn body<T: DeserializeOwned + Default>(headers: &HeaderMap, body: Body) -> Result<T, Refusal> {
    body_as(headers, body, JSON).await
}

/// A merge patch, which may also call itself JSON.
pub async fn patch<T: DeserializeOwned + Default>(headers: &HeaderMap, body: Body) -> Result<T, Refusal> {
    body_as(headers, body, PATCH).await
}

async fn body_as<T: DeserializeOwned + Default>(
    headers: &HeaderMap,
    body: Body,
    media_types: &[&str],
) -> Result<T, Refusal> {
    let too_large =
        || Refusal::new(Code::PayloadTooLarge, format!("the body is larger than {MAX_BODY_BYTES} bytes: send less"));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let bytes = axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        // The limit's own error has no public type to downcast to from here.
        if cause.to_string().contains("length limit") {
            too_large()
        } else {
            Refusal::invalid("the body ended before it was complete")
        }
    })?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim();
    if !media_types.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        let detail = format!("send the body as `Content-Type: {}`", media_types.join("` or `"));
        return Err(Refusal::new(Code::UnsupportedMediaType, detail));
    }
    // A derived struct would take an array too, its members by their order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Refusal::invalid("the body is not a JSON object: {} is the smallest"));
    }
    match Json::<T>::from_bytes(&bytes) {
        Ok(Json(body)) => Ok(body),
        Err(rejection) => {
            use std::error::Error as _;
            let reason = rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string);
            Err(Refusal::invalid(format!("the body cannot be read: {reason}")))
        }
    }
}

/// Free text of a body: bounded, and nothing that PostgreSQL cannot store.
pub fn free_text(name: &str, text: Option<&String>, max_chars: usize) -> Result<(), Refusal> {
    match text {
        Some(text) if text.contains('\0') => Err(Refusal::invalid(format!("{name} contains a null character"))),
        Some(text) if text.chars().count() > max_chars => {
            Err(Refusal::invalid(format!("{name} is longer than {max_chars} characters")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! Lists: parameters, page tokens that are bound to them, and the answer with its ETag.

use std::str::FromStr;

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use sha2::{Digest, Sha256};

use crate::answer::{Refusal, json};
use crate::{digest, request};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
/// Parameters that every list has.
const COMMON: &[&str] = &["pageSize", "limit", "pageToken", "orderBy"];

/// A list's parameters, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    filters: Vec<(String, String)>,
    pub limit: u32,
    /// The key behind which the page begins.
    pub after: Option<String>,
    pub order_by: Option<String>,
    /// What a page token is bound to: the list, its filters and its order.
    binding: [u8; 8],
}

impl ListQuery {
    /// `filters` are the names of the list's own.
    pub fn parse(uri: &Uri, filters: &[&str]) -> Result<Self, Refusal> {
        let known: Vec<&str> = filters.iter().chain(COMMON).copied().collect();
        let mut pairs = request::query(uri, &known)?;
        let mut take = |name: &str| {
            let index = pairs.iter().position(|(known, _)| known == name)?;
            Some(pairs.remove(index).1)
        };
        let (page_size, limit, token, order_by) = (take("pageSize"), take("limit"), take("pageToken"), take("orderBy"));
        if page_size.is_some() && limit.is_some() {
            return Err(Refusal::invalid("pageSize and limit are the same: give one of them"));
        }
        let limit = match page_size.or(limit) {
            None => DEFAULT_LIMIT,
            Some(text) => text
                .parse::<u32>()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| Refusal::invalid(format!("pageSize is a number from 1 to {MAX_LIMIT}")))?,
        };
        pairs.sort();
        let binding = bind(uri.path(), &pairs, order_by.as_deref());
        let after = token.filter(|token| !token.is_empty()).map(|token| open(&token, binding)).transpose()?;
        Ok(Self { filters: pairs, limit, after, order_by, binding })
    }

    /// A filter's value; nothing where it is absent or empty.
    pub fn filter(&self, name: &str) -> Option<&str> {
        let (_, value) = self.filters.iter().find(|(known, _)| known == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    /// A filter parsed as one word or id.
    pub fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, Refusal> {
        self.filter(name).map(|text| parse(name, text)).transpose()
    }

    /// A filter of several words, any of which will do: `state=running,queued`.
    pub fn any_of<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<Vec<T>>, Refusal> {
        self.filter(name).map(|text| text.split(',').map(|word| parse(name, word.trim())).collect()).transpose()
    }

    /// Where the page begins, as the key that this list is ordered by.
    pub fn after<T: FromStr>(&self) -> Result<Option<T>, Refusal> {
        self.after.as_deref().map(|text| text.parse().map_err(|_| bad_token())).transpose()
    }

    /// `orderBy` as one of `known` fields and whether it is descending (`name`, `name desc`).
    pub fn order<'a>(&'a self, known: &[&str], default: (&'a str, bool)) -> Result<(&'a str, bool), Refusal> {
        let Some(text) = self.order_by.as_deref().filter(|text| !text.is_empty()) else { return Ok(default) };
        let (field, descending) = match text.split_once(' ') {
            None => (text, false),
            Some((field, "asc")) => (field, false),
            Some((field, "desc")) => (field, true),
            Some(_) => ("", false),
        };
        if known.contains(&field) {
            return Ok((field, descending));
        }
        Err(Refusal::invalid(format!("orderBy is one of {}, with ` desc` behind it for the reverse", known.join(", "))))
    }

    /// The token of the next page, if this one is full. `last` is the key of its last item.
    pub fn next(&self, items: usize, last: Option<String>) -> Option<String> {
        if items < self.limit as usize {
            return None;
        }
        let mut token = self.binding.to_vec();
        token.extend_from_slice(last?.as_bytes());
        Some(URL_SAFE_NO_PAD.encode(token))
    }
}

/// A list's answer: 304 where `If-None-Match` names its tag.
pub fn answer(headers: &HeaderMap, etag: &str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = if request::none_match(headers, etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json(StatusCode::OK, body)
    };
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The tag of a resource by its revision.
pub fn revision_tag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The tag of bytes: 128 bits of their SHA-256.
pub fn content_tag(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    format!("\"{}\"", digest::hex(&hash.finalize()[..16]))
}

fn parse<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error| Refusal::invalid(format!("{name}: {error}")))
}

fn bind(path: &str, filters: &[(String, String)], order_by: Option<&str>) -> [u8; 8] {
    let mut hash = Sha256::new();
    let parts = filters.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    for part in [path, order_by.unwrap_or("")].into_iter().chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut binding = [0; 8];
    binding.copy_from_slice(&digest[..8]);
    binding
}

fn open(token: &str, binding: [u8; 8]) -> Result<String, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad_token())?;
    let (bound, after) = bytes.split_first_chunk::<8>().ok_or_else(bad_token)?;
    if *bound != binding {
        return Err(bad_token());
    }
    let after = String::from_utf8(after.to_vec()).map_err(|_| bad_token())?;
    if after.contains('\0') { Err(bad_token()) } else { Ok(after) }
}

fn bad_token() -> Refusal {
    Refusal::invalid("pageToken is not one of this list with these filters and this order: begin again without it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: &[&str] = &["state", "cluster"];

    fn parse(text: &str) -> Result<ListQuery, Refusal> {
        ListQuery::parse(&text.parse().expect("a uri"), FILTERS)
    }

    #[test]
    fn a_token_goes_on_where_the_page_ended_with_the_same_filters_only() {
        let first = parse("/control/peers?state=active&cluster=c&pageSize=2").expect("a query");
        let token = first.next(2, Some("edge-7".to_owned())).expect("a full page");
        assert_eq!(first.next(1, Some("edge-7".to_owned())), None);
        let check = |text: &str, good: bool| {
            let got = parse(&text.replace("TOKEN", &token));
            assert_eq!(got.is_ok(), good, "{text}");
            if good {
                assert_eq!(got.expect("a query").after.as_deref(), Some("edge-7"));
            }
        };
        check("/control/peers?cluster=c&state=active&pageToken=TOKEN", true);
        check("/control/peers?cluster=c&state=active&pageToken=TOKEN&limit=7", true);
        check("/control/peers?cluster=c&pageToken=TOKEN", false);
        check("/control/peers?cluster=c&state=drained&pageToken=TOKEN", false);
        check("/control/peers?cluster=c&state=active&orderBy=name&pageToken=TOKEN", false);
        check("/control/clusters?cluster=c&state=active&pageToken=TOKEN", false);
        check("/control/peers?cluster=c&state=active&pageToken=nonsense", false);
        check("/control/peers?cluster=c&state=active&pageToken=AAAA", false);
    }

    #[test]
    fn limits_and_orders_are_checked() {
        for bad in ["pageSize=0", "pageSize=1001", "pageSize=x", "limit=1&pageSize=1", "color=red"] {
            assert!(parse(&format!("/x?{bad}")).is_err(), "{bad}");
        }
        assert_eq!(parse("/x").map(|query| query.limit).ok(), Some(100));
        let order = |text: &str| {
            let query = parse(&format!("/x?orderBy={text}")).expect("a query");
            query.order(&["id", "name"], ("id", false)).ok().map(|(field, down)| (field.to_owned(), down))
        };
        assert_eq!(order(""), Some(("id".to_owned(), false)));
        assert_eq!(order("name"), Some(("name".to_owned(), false)));
        assert_eq!(order("name%20desc"), Some(("name".to_owned(), true)));
        assert_eq!(order("name%20up"), None);
        assert_eq!(order("colour"), None);
    }
}

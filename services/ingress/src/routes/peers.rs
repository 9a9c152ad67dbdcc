//! `GET /control/peers`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Uri;
use omnirelay_contract::rest::{Page, Peer};
use omnirelay_store::reads::{self, peers::PeerFilter, peers::PeerOrder};
use omnirelay_workflow::ClusterId;
use omnirelay_workflow::resource::{Health, PeerState};

use super::Reader;
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{ListQuery, answer, content_tag};
use crate::selector;

const FILTERS: &[&str] = &["cluster", "role", "state", "health", "version", "name", "selector"];

pub async fn list(State(app): State<Arc<App>>, reader: Reader) -> Response {
    let query = reader.uri.query().unwrap_or("");
    let (generation, now) = (app.generation(), Instant::now());
    if let Some((etag, body)) = app.lists.get(query, generation, now) {
        return answer(&reader.headers, &etag, body);
    }
    match read(&app, &reader.uri).await {
        Ok((etag, body)) => {
            app.lists.put(query.to_owned(), generation, now, etag.clone(), body.clone());
            answer(&reader.headers, &etag, body)
        }
        Err(refusal) => refusal.at(reader.uri.path()).into_response(),
    }
}

async fn read(app: &App, uri: &Uri) -> Result<(String, Bytes), Refusal> {
    let query = ListQuery::parse(uri, FILTERS)?;
    let mut filter = PeerFilter {
        cluster: query.parsed::<ClusterId>("cluster")?.map(String::from),
        role: query.filter("role").map(str::to_owned),
        states: query.any_of::<PeerState>("state")?.map(|states| states.iter().map(ToString::to_string).collect()),
        health: query.parsed::<Health>("health")?.map(|health| health.to_string()),
        version: query.filter("version").map(str::to_owned),
        name: query.filter("name").map(str::to_owned),
        ..PeerFilter::default()
    };
    if let Some(text) = query.filter("selector") {
        selector::apply(text, &mut filter).map_err(|error| Refusal::invalid(format!("selector: {error}")))?;
    }
    let order = match query.order(&["id", "name"], ("id", false))? {
        ("name", false) => PeerOrder::Name,
        ("name", true) => PeerOrder::NameDescending,
        (_, false) => PeerOrder::Id,
        (_, true) => PeerOrder::IdDescending,
    };
    let position = reads::position(&app.pool).await?;
    let rows = reads::peers::page(&app.pool, &filter, order, query.after.as_deref(), query.limit).await?;
    let items = rows.iter().map(reads::peer_dto).collect::<Result<Vec<Peer>, _>>()?;
    let by_name = matches!(order, PeerOrder::Name | PeerOrder::NameDescending);
    let last = rows.last().map(|row| if by_name { row.name.clone() } else { row.id.clone() });
    let next_page_token = query.next(rows.len(), last);
    let etag = tag(&items, next_page_token.as_deref());
    let body = to_bytes(&Page { items, next_page_token, position })?;
    Ok((etag, body.into()))
}

/// Over what a reader of the list would act on. When each peer was last seen is not part of it: that changes with every
/// heartbeat, and a tag that always changes is none.
fn tag(items: &[Peer], next: Option<&str>) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(items.len() * 64);
    for peer in items {
        let _written = write!(
            text,
            "{}\0{}\0{}\0{}\0{}\0{:?}\0{}\0",
            peer.id, peer.revision, peer.state, peer.health, peer.version, peer.operation, peer.workloads
        );
    }
    content_tag(&[text.as_bytes(), next.unwrap_or("").as_bytes()])
}

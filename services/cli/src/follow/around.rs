//! What belongs to an operation beside itself: the children of a drain of many, and what the holders of the slots that a
//! queued one waits for are called. Read when the operation is, and kept small: of a thousand children only those that are
//! on their way, or have failed, are asked for.

use std::collections::BTreeMap;
use std::sync::Mutex;

use omnirelay_contract::rest::{Operation, Peer};
use omnirelay_contract::workflow::OperationId;
use serde_json::Value;

use super::bulk::is_bulk;
use super::view::ROWS;
use crate::client::{Client, ClientError, Request};

/// The states of children that have a line.
const SHOWN: &str = "running,unwinding,awaitingApproval,failed,stuck,refused";
/// More children than this are not read: the parent has their counts.
const CHILDREN: usize = 200;
/// Holders that are named.
const HOLDERS: usize = 3;
/// Peers in a last line before the rest is counted.
const NAMES: usize = 5;

/// A snapshot of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Around {
    pub children: Vec<Operation>,
    /// What targets (`peers/p-7`) and operations (by id) are called.
    pub names: BTreeMap<String, String>,
}

impl Around {
    /// What a child's peer is called: its name where it is known, else its id.
    pub fn name<'a>(&'a self, child: &'a Operation) -> &'a str {
        let id = child.target.split_once('/').map_or(child.target.as_str(), |(_, id)| id);
        self.names.get(&child.target).map_or(id, String::as_str)
    }
}

/// Reads it, and remembers names.
#[derive(Debug, Default)]
pub struct Lookout {
    names: Mutex<BTreeMap<String, String>>,
}

impl Lookout {
    pub async fn look(&self, client: &Client, operation: &Operation) -> Result<Around, ClientError> {
        let mut around = Around::default();
        if is_bulk(operation) && !operation.state.is_terminal() {
            let request = Request::get("/control/operations").query("parent", operation.id).query("state", SHOWN);
            around.children = client.list::<Operation>(&request, CHILDREN).await?.items;
            // Those with something to tell come first, as in the view.
            around.children.sort_by_key(|child| (!child.state.is_terminal(), child.blockers.is_empty(), child.id));
            for child in around.children.iter().take(ROWS) {
                self.target(client, &child.target).await;
            }
        }
        for holder in operation.queue.iter().flat_map(|queue| queue.holders.iter().take(HOLDERS)) {
            self.operation(client, *holder).await;
        }
        around.names.clone_from(&*self.known());
        Ok(around)
    }

    /// A name that cannot be read is not worth an error: the id stands in for it.
    async fn target(&self, client: &Client, target: &str) -> Option<String> {
        if let Some(name) = self.known().get(target) {
            return Some(name.clone());
        }
        let name = client.get::<Peer>(&format!("/control/{target}")).await.ok()?.name;
        let name = if name.is_empty() { target.split_once('/')?.1.to_owned() } else { name };
        self.known().insert(target.to_owned(), name.clone());
        Some(name)
    }

    async fn operation(&self, client: &Client, id: OperationId) {
        if self.known().contains_key(&id.to_string()) {
            return;
        }
        let Ok(operation) = client.get::<Operation>(&format!("/control/operations/{id}")).await else { return };
        let target = operation.target.as_str();
        let name =
            if target.starts_with("peers/") && !is_bulk(&operation) { self.target(client, target).await } else { None };
        let name = name.unwrap_or_else(|| target.split_once('/').map_or(target, |(_, id)| id).to_owned());
        self.known().insert(id.to_string(), format!("{} {name}", operation.verb.action()));
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The peers of an ended drain of many that failed: how many, and what the first of them are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failed {
    pub count: usize,
    pub names: Vec<String>,
}

/// Names the peers in the result of a drain of many. The last line is worth more than the names in it: an id stands in for what
/// cannot be read.
pub async fn failed(client: &Client, operation: &Operation) -> Failed {
    let lookout = Lookout::default();
    let peers = peers_in(operation, &["failed"]);
    let mut names = Vec::new();
    for peer in peers.iter().take(NAMES) {
        names.push(lookout.target(client, &format!("peers/{peer}")).await.unwrap_or_else(|| peer.clone()));
    }
    Failed { count: peers.len(), names }
}

/// The peers in these lists of the result of a drain of many, in which each is an id or has one.
pub fn peers_in(operation: &Operation, lists: &[&str]) -> Vec<String> {
    let Some(result) = &operation.result else { return Vec::new() };
    let items = lists.iter().filter_map(|list| result.get(*list)?.as_array()).flatten();
    let id = |item: &Value| item.as_str().or_else(|| item.get("peer")?.as_str()).map(str::to_owned);
    items.filter_map(id).collect()
}

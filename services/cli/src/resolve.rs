//! What people write for a peer or an operation, and which one they mean.
//!
//! A peer goes by its id or its free name. An operation goes by its id, by the tail of it (the last hex digits, as the
//! CLI prints them) or by its target, a peer or a cluster: the newest live one, else the newest. Whatever could be two things is an error
//! that lists them, never a guess.

use omnirelay_contract::rest::{Cluster, Operation, Peer};
use omnirelay_contract::workflow::{ClusterId, OperationId, PeerId};

use crate::client::{Client, ClientError, Request};
use crate::exit::Exit;
use crate::failure::Failure;

/// How many operations are looked through for a tail.
const LOOK_THROUGH: usize = 10_000;
/// Fewer digits than this are too easily somebody else's.
const SHORTEST_TAIL: usize = 4;

/// The tail of an id that the CLI prints: its last eight hex digits, which are random.
pub fn short(id: OperationId) -> String {
    let hex = id.simple().to_string();
    hex[hex.len() - 8..].to_owned()
}

/// The peer of this id, or else of this name.
pub async fn peer(client: &Client, text: &str) -> Result<Peer, Failure> {
    find_peer(client, text).await?.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("there is no peer {text:?}, neither by id nor by name"))
            .hint("omnirelay mesh peers list")
    })
}

/// The operations' target that a name means: a peer's id or name, else a cluster's id.
pub async fn target(client: &Client, text: &str) -> Result<String, Failure> {
    if let Some(peer) = find_peer(client, text).await? {
        return Ok(format!("peers/{}", peer.id));
    }
    if ClusterId::parse(text).is_ok() {
        match client.get::<Cluster>(&format!("/control/clusters/{text}")).await {
            Ok(cluster) => return Ok(format!("clusters/{}", cluster.id)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(Exit::NotFound, format!("there is neither a peer nor a cluster {text:?}"))
        .hint("omnirelay mesh peers list, omnirelay mesh clusters list"))
}

/// The operation that `text` means.
pub async fn operation(client: &Client, text: &str) -> Result<Operation, Failure> {
    if let Ok(id) = text.parse::<OperationId>() {
        return Ok(client.get(&format!("/control/operations/{id}")).await?);
    }
    let mut targets = Vec::new();
    let (kind, name) = text.split_once('/').map_or((None, text), |(kind, name)| (Some(kind), name));
    if matches!(kind, None | Some("peers")) {
        targets.extend(find_peer(client, name).await?.map(|peer| format!("peers/{}", peer.id)));
    }
    if matches!(kind, None | Some("clusters")) && ClusterId::parse(name).is_ok() {
        targets.push(format!("clusters/{name}"));
    }
    if matches!(text, "config" | "settings" | "config/settings") {
        targets.push("config/settings".to_owned());
    }
    let mut candidates = Vec::new();
    for target in &targets {
        candidates.extend(operations(client, Some(target)).await?);
    }
    if tail_of(text).is_some() {
        candidates.extend(operations(client, None).await?);
    }
    pick(&candidates, text, &targets).cloned()
}

/// The rules, without I/O. `targets` are the operations' targets that `text` may name. `candidates` may hold more than match,
/// in any order, and the same one twice.
pub fn pick<'a>(candidates: &'a [Operation], text: &str, targets: &[String]) -> Result<&'a Operation, Failure> {
    let mut named: Vec<&Operation> = match tail_of(text) {
        Some(tail) => candidates.iter().filter(|op| op.id.simple().to_string().ends_with(&tail)).collect(),
        None => Vec::new(),
    };
    for target in targets {
        let mine = || candidates.iter().filter(|op| op.target == *target);
        // Ids are UUIDv7: the greatest is the newest.
        let newest = mine().filter(|op| !op.state.is_terminal()).max_by_key(|op| op.id);
        named.extend(newest.or_else(|| mine().max_by_key(|op| op.id)));
    }
    named.sort_by_key(|op| std::cmp::Reverse(op.id));
    named.dedup_by_key(|op| op.id);
    match named.as_slice() {
        [] => Err(Failure::new(Exit::NotFound, format!("there is no operation {text:?}"))
            .hint("give an id, the last four or more hex digits of one, a peer or a cluster; see omnirelay ops list")),
        [one] => Ok(one),
        several => {
            let failure = Failure::error(format!("{text:?} could be several operations; say which"));
            let line = |op: &&Operation| format!("{}  {} {}  {}", op.id, op.verb, op.target, op.state);
            Err(several.iter().map(line).fold(failure, Failure::hint))
        }
    }
}

async fn find_peer(client: &Client, text: &str) -> Result<Option<Peer>, Failure> {
    if PeerId::parse(text).is_ok() {
        match client.get(&format!("/control/peers/{text}")).await {
            Ok(peer) => return Ok(Some(peer)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if text.is_empty() {
        return Ok(None);
    }
    let mut named: Vec<Peer> = client.list(&Request::get("/control/peers").query("name", text), 20).await?.items;
    if named.len() > 1 {
        let mut failure = Failure::error(format!("{text:?} is the name of several peers; give an id"));
        for peer in &named {
            failure = failure.hint(format!("{}  cluster {}  {}", peer.id, peer.cluster, peer.address));
        }
        return Err(failure);
    }
    Ok(named.pop())
}

async fn operations(client: &Client, target: Option<&str>) -> Result<Vec<Operation>, ClientError> {
    let mut request = Request::get("/control/operations");
    if let Some(target) = target {
        request = request.query("target", target);
    }
    Ok(client.list(&request, LOOK_THROUGH).await?.items)
}

/// The lower-case digits of what may be an id's tail.
fn tail_of(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
    let hex = digits.len() >= SHORTEST_TAIL && digits.len() <= 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::operation;
    use omnirelay_contract::workflow::operation::State;

    fn op(n: u8, tail: &str, target: &str, state: State) -> Operation {
        let mut operation = operation(state);
        operation.id = format!("0193d1f0-00{n:02x}-7000-8000-0000{tail}").parse().expect("id");
        operation.target = target.to_owned();
        operation
    }

    fn check(text: &str, target: Option<&str>, expected: &str) {
        use State::{Cancelled, Running, Succeeded};
        let candidates = [
            op(1, "aaaa9c41", "peers/web-07", Running),
            op(2, "bbbb9c41", "peers/web-07", Succeeded),
            op(3, "ccccbeef", "peers/web-08", Cancelled),
            op(4, "ddddcafe", "peers/web-08", Succeeded),
            op(4, "ddddcafe", "peers/web-08", Succeeded),
            op(5, "eeee0001", "peers/beef", Succeeded),
        ];
        let targets: Vec<String> = target.iter().map(ToString::to_string).collect();
        let found = match pick(&candidates, text, &targets) {
            Ok(operation) => short(operation.id),
            Err(failure) => format!("{} {}", failure.exit.code(), failure.hints.len()),
        };
        assert_eq!(found, expected, "{text} {target:?}");
    }

    #[test]
    fn an_operation_is_meant_by_tail_or_target() {
        check("ddddcafe", None, "ddddcafe");
        check("CAFE", None, "ddddcafe");
        check("8000-0000ccccbeef", None, "ccccbeef");
        check("web-07", Some("peers/web-07"), "aaaa9c41"); // live before newest
        check("web-08", Some("peers/web-08"), "ddddcafe"); // newest of the ended
        check("9c41", None, "1 2"); // two tails
        check("beef", Some("peers/beef"), "1 2"); // a tail and a peer
        check("eeee0001", Some("peers/beef"), "eeee0001"); // both mean the same one
        check("afe", None, "5 1"); // too short
        check("web-09", None, "5 1");
        check("web-09", Some("peers/web-09"), "5 1");
    }
}

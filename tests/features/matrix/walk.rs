//! Somebody who goes through every verb, and is watched.

use std::collections::BTreeMap;

use omnirelay_tests::{
    Call, Door, Event, Listener, Mesh, PATIENCE, Protocol, Registry, Reply, Scope, Stack, eventually_ok, records,
};
use serde_json::json;

use crate::{MESH_WIDE, stack};

/// Somebody who goes through the table at one door, in a cluster of their own, and is watched.
pub struct Walk {
    pub protocol: Protocol,
    pub subject: String,
    pub door: Door,
    /// Who decides about what the first one asks for.
    pub second: Door,
    pub mesh: Mesh,
    pub listener: Listener,
    /// Operations that were taken, with their last state.
    pub taken: BTreeMap<String, &'static str>,
    pub refusals: usize,
}

impl Walk {
    pub async fn begin(stack: &Stack, protocol: Protocol) -> Self {
        let mesh = stack.mesh();
        let subject = format!("walker-{}", protocol.name());
        let door = Door::open(protocol, stack.api_of(&subject, Scope::Admin)).await;
        let second = door.with_token(Some(&stack.token_of(&format!("{subject}-second"), Scope::Approve)));
        let listener = Listener::start(stack.nats_url()).await;
        Self { protocol, subject, door, second, mesh, listener, taken: BTreeMap::new(), refusals: 0 }
    }

    pub fn peer(&self, n: usize) -> &str {
        &self.mesh.peers[n]
    }

    pub async fn registry(&self) -> Registry {
        Registry::to_the_digit(&self.mesh.reader, &self.mesh.cluster).await
    }

    pub async fn revision(&self, path: &str) -> u64 {
        let value = self.mesh.reader.read(&format!("/control/{path}")).await;
        value["revision"].as_u64().unwrap_or_else(|| panic!("a revision in {value}"))
    }

    /// What was told of this walker's doings.
    pub fn events(&self) -> Vec<Event> {
        let all = self.listener.events();
        all.into_iter().filter(|event| event.data()["actor"] == self.subject.as_str()).collect()
    }

    /// A refusal: descriptive, on record, and without any other trace.
    pub async fn refused(&mut self, what: &str, call: &Call, code: &str) -> Reply {
        let door = self.door.clone();
        self.refused_at(&door, what, call, code).await
    }

    pub async fn refused_at(&mut self, door: &Door, what: &str, call: &Call, code: &str) -> Reply {
        let (before, told) = (self.registry().await, self.events().len());
        let reply = door.ask(call).await;
        let case = format!("{} {}: {what}", self.protocol.name(), call.verb);
        assert_eq!(reply.code, code, "{case}: {}", reply.body);
        let detail = reply.body["detail"].as_str().unwrap_or_default();
        assert!(detail.len() > 15, "{case}: it says what to do: {detail:?}");
        assert_eq!(self.registry().await.differences(&before), Vec::<String>::new(), "{case}");
        // Of the second one's refusals there are records too, but not of this walker.
        if door.api().token() == self.door.api().token() {
            let told_since = eventually_ok(format!("{case} is told"), PATIENCE, async || {
                // What an operation that was answered before tells may still be on its way here.
                let known = |event: &Event| {
                    event.data()["operation"].as_str().is_some_and(|operation| self.taken.contains_key(operation))
                };
                let since: Vec<Event> =
                    self.events().split_off(told).into_iter().filter(|event| !known(event)).collect();
                if since.is_empty() { Err("nothing yet") } else { Ok(since) }
            })
            .await;
            let kinds: Vec<&str> = told_since.iter().map(Event::what).collect();
            let wanted = if reply.status == 403 { "access.denied" } else { "access.refused" };
            assert_eq!(kinds, [wanted], "{case}");
            assert_eq!(told_since[0].data()["code"], code, "{case}");
            self.refusals += 1;
        }
        reply
    }

    /// What only the worker can refuse is an operation, and refused.
    pub async fn refused_by_the_worker(&mut self, what: &str, call: &Call, code: &str) {
        let before = self.registry().await;
        let reply = self.door.ask(&call.clone().waits()).await;
        assert_eq!(reply.code, code, "{} {what}: {}", call.verb, reply.body);
        assert_eq!(self.registry().await.differences(&before), Vec::<String>::new(), "{} {what}", call.verb);
        let refused = self.mesh.reader.list(&format!("/control/operations?actor={}&state=refused", self.subject)).await;
        for operation in refused {
            assert!(operation["error"]["code"].is_string(), "{operation}");
            self.taken.insert(operation["id"].as_str().expect("an id").to_owned(), "refused");
        }
    }

    /// Taken and done: whether it changed anything.
    pub async fn done(&mut self, what: &str, call: &Call, changed: bool) -> Reply {
        let reply = self.door.ask(&call.clone().waits()).await;
        self.check(what, call, reply, changed)
    }

    pub fn check(&mut self, what: &str, call: &Call, reply: Reply, changed: bool) -> Reply {
        let case = format!("{} {}: {what}", self.protocol.name(), call.verb);
        assert_eq!(reply.code, "-", "{case}: {}", reply.body);
        assert_eq!(reply.body["operation"]["state"], "succeeded", "{case}: {}", reply.body);
        assert_eq!(reply.changed(), changed, "{case}: {}", reply.body);
        self.taken.insert(reply.operation(), "succeeded");
        reply
    }

    /// A destructive verb: a plan first, a forged word is none, then with its confirmation it is done; again, it changes nothing
    /// and nothing is asked.
    pub async fn destructive(&mut self, call: &Call) -> Reply {
        let asked = self.refused("without a confirmation", call, "confirmation-required").await;
        let mut forged = call.clone();
        forged.body["confirmation"] = json!("v1.AAAA.BBBB");
        let fresh = self.refused("with a forged confirmation", &forged, "confirmation-required").await;
        let shown = self.door.ask(&call.clone().validates_only()).await;
        shown.taken();
        for plan in [&asked.body["plan"], &fresh.body["plan"]] {
            assert_eq!(plan["impact"], shown.body["impact"], "{} {}", self.protocol.name(), call.verb);
            if call.verb != "peers.drain.many" {
                assert_eq!(plan["digest"], shown.body["digest"], "{}", call.verb);
            }
        }
        let confirmed = asked.confirms(call);
        let reply = self.door.ask(&confirmed.clone().waits()).await;
        self.check("confirmed", call, reply, true)
    }

    /// What every verb says of an id that is none, one that names nothing, and a member that it does not know.
    pub async fn usual(&mut self, call: &Call, absent: &str) {
        let with = |id: &str| Call { id: id.to_owned(), ..call.clone() };
        self.refused("no id at all", &with("not.an.id"), "invalid-argument").await;
        self.refused("of nothing", &with(absent), "not-found").await;
        self.unknown_member(call).await;
    }

    pub async fn unknown_member(&mut self, call: &Call) {
        // A message has no members that it does not know.
        if self.protocol == Protocol::Rest {
            let mut odd = call.clone();
            odd.body["colour"] = json!("red");
            let reply = self.refused("an unknown member", &odd, "invalid-argument").await;
            assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains("colour")), "{}", reply.body);
        }
    }

    pub async fn stale(&mut self, call: &Call, revision: u64) {
        let reply = self.refused("a stale ETag", &call.clone().if_match(revision + 1000), "revision-mismatch").await;
        assert_eq!(reply.body["revision"], revision, "it tells the current one: {}", reply.body);
    }

    /// Everything that was taken is an operation of this walker, and nothing else is; every refusal is an event, once.
    pub async fn count(&self) {
        let operations = self.mesh.reader.list(&format!("/control/operations?actor={}", self.subject)).await;
        let told: BTreeMap<String, String> = operations
            .iter()
            .filter(|operation| operation["parent"].is_null())
            .map(|operation| {
                [&operation["id"], &operation["state"]].map(|it| it.as_str().unwrap_or("").to_owned()).into()
            })
            .collect();
        let taken: BTreeMap<String, String> =
            self.taken.iter().map(|(id, state)| (id.clone(), (*state).to_owned())).collect();
        assert_eq!(told, taken);
        let refusals = self.events().iter().filter(|event| event.what().starts_with("access.")).count();
        assert_eq!(refusals, self.refusals, "one event for each refusal");
        let filter = format!("actor={}&outcome=refused", self.subject);
        let of_the_worker = self.taken.values().filter(|state| **state == "refused").count();
        let denied = self.events().iter().filter(|event| event.what() == "access.denied").count();
        let expected = self.refusals + of_the_worker - denied;
        records(&self.mesh.reader, &filter, |all| all.len() == expected).await;
    }
}

#[tokio::test]
async fn each_verb_answers_the_same_through_both_doors_and_a_refusal_changes_nothing() {
    let stack = stack().await;
    for protocol in Protocol::BOTH {
        let _alone = MESH_WIDE.lock().await;
        let mut walk = Walk::begin(stack, protocol).await;
        walk.peers().await;
        walk.edits().await;
        walk.clusters().await;
        walk.settings().await;
        walk.controls().await;
        walk.count().await;
    }
}

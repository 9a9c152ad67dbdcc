//! Verb by verb: not found, a bad id, an unknown member, preconditions, the confirmation, done, and done already.

use omnirelay_tests::{Call, Protocol};
use serde_json::json;

use crate::NO_OPERATION;
use crate::walk::Walk;

impl Walk {
    pub async fn peers(&mut self) {
        let (first, second) = (self.peer(0).to_owned(), self.peer(1).to_owned());
        let cordon = Call::new("peers.cordon", &first, json!({"reason": "r", "changeTicket": "CHG-1"}));
        self.usual(&cordon, "nobody").await;
        self.stale(&cordon, self.revision(&format!("peers/{first}")).await).await;
        let long = Call::new("peers.cordon", &first, json!({"reason": "x".repeat(1_001)}));
        self.refused("a reason without end", &long, "invalid-argument").await;
        self.done("first", &cordon, true).await;
        self.done("again", &cordon, false).await;

        let uncordon = Call::new("peers.uncordon", &first, json!({}));
        self.usual(&uncordon, "nobody").await;
        self.done("first", &uncordon, true).await;
        self.done("again", &uncordon, false).await;
        self.mesh.cordon(&self.mesh.operator, &first).await;
        self.refused_by_the_worker("held by somebody else", &uncordon, "peer-held").await;
        self.done("all of them", &Call::new("peers.uncordon", &first, json!({"all": true})), true).await;

        let drain = Call::new("peers.drain", &first, json!({"maxConcurrent": 2, "reason": "r"}));
        self.usual(&drain, "nobody").await;
        self.stale(&drain, self.revision(&format!("peers/{first}")).await).await;
        for (what, wrong) in [("a deadline", json!({"deadline": "soon"})), ("no moves", json!({"maxConcurrent": 0}))] {
            self.refused(what, &Call::new("peers.drain", &first, wrong), "invalid-argument").await;
        }
        self.destructive(&drain).await;
        self.done("of a drained peer", &drain, false).await;

        let many = |body| Call::new("peers.drain.many", "", body);
        self.unknown_member(&many(json!({"peers": [second]}))).await;
        self.refused("of nobody named", &many(json!({})), "invalid-argument").await;
        self.refused("a selector", &many(json!({"selector": "=="})), "invalid-argument").await;
        self.refused("of nothing", &many(json!({"peers": ["nobody"]})), "not-found").await;
        self.destructive(&many(json!({"peers": [second], "maxConcurrent": 1}))).await;
        self.done("none matches", &many(json!({"selector": "zone=nowhere"})), false).await;
        for peer in [&first, &second] {
            self.done("after a drain", &Call::new("peers.uncordon", peer, json!({})), true).await;
        }
    }

    pub async fn edits(&mut self) {
        let peer = self.peer(2).to_owned();
        let revision = self.revision(&format!("peers/{peer}")).await;
        let body = json!({"labels": {"tier": "gold"}, "metadata": {"rack": {"row": 7}}, "changeTicket": "CHG-2"});
        let patch = Call::new("peers.patch", &peer, body);
        self.usual(&patch.clone().if_match(revision), "nobody").await;
        self.refused("without an ETag", &patch, "precondition-required").await;
        self.stale(&patch, revision).await;
        for (what, wrong) in [
            ("nothing named", json!({})),
            ("a label with a space", json!({"labels": {"a b": "c"}})),
            ("labels that are none", json!({"labels": "a"})),
            ("metadata that is a list", json!({"metadata": [1]})),
        ] {
            let wrong = Call::new("peers.patch", &peer, wrong).if_match(revision);
            self.refused(what, &wrong, "invalid-argument").await;
        }
        self.done("first", &patch.clone().if_match(revision), true).await;
        let now = self.mesh.reader.read(&format!("/control/peers/{peer}")).await;
        assert_eq!((&now["labels"]["tier"], &now["metadata"]["rack"]["row"]), (&json!("gold"), &json!(7)));
        assert_eq!(now["revision"], revision + 1);
        self.refused("the ETag of before", &patch.clone().if_match(revision), "revision-mismatch").await;
        self.done("again", &patch.if_match(revision + 1), false).await;

        let spare = format!("spare-{}", self.protocol.name());
        let known = self.mesh.cluster.clone();
        let body = json!({"region": "fra", "priority": 3, "maxUnavailable": "25%", "labels": {"env": "test"}});
        let cluster = Call::new("clusters.put", &spare, body);
        self.refused("no id", &Call { id: "not.an.id".to_owned(), ..cluster.clone() }, "invalid-argument").await;
        self.unknown_member(&cluster).await;
        let wrong = Call::new("clusters.put", &spare, json!({"maxUnavailable": "a few"}));
        self.refused("a budget", &wrong, "invalid-argument").await;
        let wrong = Call::new("clusters.put", &known, json!({"state": "active"}));
        self.refused("a state of one that is there", &wrong, "invalid-state").await;
        let existing = Call::new("clusters.put", &known, json!({})).creates();
        self.refused("only to be made", &existing, "revision-mismatch").await;
        self.done("made", &cluster.clone().creates(), true).await;
        self.done("again", &cluster, false).await;

        let new = format!("{spare}-peer");
        let body = json!({"name": new, "cluster": spare, "role": "edge", "labels": {"zone": "a"}, "capacity": 4});
        let put = Call::new("peers.put", &new, body);
        self.refused("no id", &Call { id: "not.an.id".to_owned(), ..put.clone() }, "invalid-argument").await;
        self.unknown_member(&put).await;
        self.refused("of no cluster", &Call::new("peers.put", &new, json!({})), "invalid-argument").await;
        let nowhere = Call::new("peers.put", &new, json!({"cluster": "nowhere"}));
        self.refused("of a cluster that is not", &nowhere, "not-found").await;
        let wrong = Call::new("peers.put", &peer, json!({"state": "drained"}));
        self.refused("a state that nobody gives", &wrong, "invalid-argument").await;
        let wrong = Call::new("peers.put", &peer, json!({"state": "cordoned"}));
        self.refused("a state of one that is there", &wrong, "invalid-state").await;
        let existing = Call::new("peers.put", &peer, json!({})).creates();
        self.refused("only to be made", &existing, "revision-mismatch").await;
        self.done("made", &put.clone().creates(), true).await;
        self.done("again", &put, false).await;
    }

    pub async fn clusters(&mut self) {
        let own = self.mesh.cluster.clone();
        let promote = Call::new("clusters.promote", &own, json!({"reason": "failover"}));
        self.usual(&promote, "nowhere").await;
        self.stale(&promote, self.revision(&format!("clusters/{own}")).await).await;
        let itself = Call::new("clusters.promote", &own, json!({"demote": [own]}));
        self.refused("against itself", &itself, "invalid-argument").await;
        self.destructive(&promote).await;
        self.done("again", &promote, false).await;

        let demote = Call::new("clusters.demote", &own, json!({"reason": "and back"}));
        self.usual(&demote, "nowhere").await;
        self.stale(&demote, self.revision(&format!("clusters/{own}")).await).await;
        self.destructive(&demote).await;
        self.done("again", &demote, false).await;
        let last = Call::new("clusters.demote", "cluster-1", json!({}));
        self.refused("the last active one", &last, "last-active-cluster").await;
    }

    pub async fn settings(&mut self) {
        let revision = self.revision("config").await;
        let value = if self.protocol == Protocol::Rest { 7 } else { 9 };
        let patch = Call::new("config.patch", "", json!({"settings": {"drain": {"maxConcurrent": value}}}));
        self.unknown_member(&patch.clone().if_match(revision)).await;
        self.refused("without an ETag", &patch, "precondition-required").await;
        self.stale(&patch, revision).await;
        let nothing = Call::new("config.patch", "", json!({})).if_match(revision);
        self.refused("of nothing", &nothing, "invalid-argument").await;
        for (wrong, key) in [
            (json!({"drian": {}}), "drian"),
            (json!({"drain": {"maxConcurrent": 0}}), "drain.maxConcurrent"),
            (json!({"approvals": {"rules": [{"name": "x", "verbs": ["peers.explode"]}]}}), "approvals.rules"),
        ] {
            let wrong = Call::new("config.patch", "", json!({"settings": wrong})).if_match(revision);
            let reply = self.refused(key, &wrong, "invalid-setting").await;
            assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains(key)), "{}", reply.body);
        }
        self.destructive(&patch.clone().if_match(revision)).await;
        assert_eq!(self.revision("config").await, revision + 1);
        self.done("again", &patch.if_match(revision + 1), false).await;

        let rollback = Call::new("config.rollback", "", json!({"revision": revision}));
        self.unknown_member(&rollback.clone().if_match(revision + 1)).await;
        self.refused("without an ETag", &rollback, "precondition-required").await;
        self.stale(&rollback, revision + 1).await;
        let nothing = Call::new("config.rollback", "", json!({})).if_match(revision + 1);
        self.refused("to nothing", &nothing, "invalid-argument").await;
        let nowhere = Call::new("config.rollback", "", json!({"revision": 999_999})).if_match(revision + 1);
        self.refused("to what never was", &nowhere, "not-found").await;
        self.destructive(&rollback.clone().if_match(revision + 1)).await;
        self.done("again", &rollback.if_match(revision + 2), false).await;
        let history = self.mesh.reader.list("/control/config/history").await;
        let revisions: Vec<_> = history.iter().filter_map(|one| one["revision"].as_u64()).collect();
        assert!(revisions.contains(&(revision + 2)), "{revisions:?}");
    }

    /// A drain that waits for an approval that it asked for itself.
    async fn gated(&mut self, peer: &str) -> (String, String) {
        let call = Call::new("peers.drain", peer, json!({"gate": "start", "reason": "staged"}));
        let asked = self.refused("staged", &call, "confirmation-required").await;
        assert_eq!(asked.body["plan"]["approval"]["gates"][0]["gate"], "start", "{}", asked.body);
        let taken = self.door.ask(&asked.confirms(&call)).await;
        let operation = taken.taken().operation();
        let open = self
            .mesh
            .reader
            .operation_that("waits for approval", &operation, |it| it["state"] == "awaitingApproval")
            .await;
        (operation, open["approval"]["digest"].as_str().expect("a digest").to_owned())
    }

    pub async fn controls(&mut self) {
        let peer = self.peer(0).to_owned();
        let before = self.registry().await;
        let (operation, digest) = self.gated(&peer).await;
        let control = |verb, body| Call::new(verb, &operation, body);
        for verb in ["operations.cancel", "operations.pause", "operations.resume", "operations.resolve"] {
            self.usual(&control(verb, json!({})), NO_OPERATION).await;
        }
        for verb in ["operations.approve", "operations.reject"] {
            self.usual(&control(verb, json!({"digest": digest})), NO_OPERATION).await;
            self.refused("of whatever it may be", &control(verb, json!({})), "invalid-argument").await;
            let second = self.second.clone();
            let other = control(verb, json!({"digest": "0".repeat(64)}));
            self.refused_at(&second, "of something else", &other, "digest-mismatch").await;
        }
        let own = control("operations.approve", json!({"digest": digest}));
        self.refused("one's own", &own, "self-approval").await;
        self.refused("what is not stuck", &control("operations.resolve", json!({})), "invalid-state").await;

        for (verb, changed) in [
            ("operations.pause", true),
            ("operations.pause", false),
            ("operations.resume", true),
            ("operations.resume", false),
        ] {
            let reply = self.door.ask(&control(verb, json!({"reason": "lunch"}))).await;
            assert_eq!((reply.taken().changed(), reply.operation()), (changed, operation.clone()), "{verb}");
        }
        let approved = self.second.ask(&own).await;
        assert!(approved.taken().changed(), "{}", approved.body);
        let ended = self.mesh.reader.ended(&operation).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        assert_eq!(ended["approval"]["approvals"][0]["actor"], format!("{}-second", self.subject));
        self.taken.insert(operation.clone(), "succeeded");
        let again = self.second.ask(&own).await;
        assert!(again.code == "already-decided" || (again.code == "-" && !again.changed()), "{}", again.body);
        self.refused("what has ended", &control("operations.cancel", json!({})), "too-late").await;
        for verb in ["operations.pause", "operations.resume"] {
            self.refused("what has ended", &control(verb, json!({})), "invalid-state").await;
        }
        self.done("after a drain", &Call::new("peers.uncordon", &peer, json!({})), true).await;

        let (operation, digest) = self.gated(self.peer(1).to_owned().as_str()).await;
        let reject = Call::new("operations.reject", &operation, json!({"digest": digest, "comment": "not today"}));
        let rejected = self.second.ask(&reject.waits()).await;
        assert_eq!(rejected.taken().body["operation"]["state"], "rejected", "{}", rejected.body);
        self.taken.insert(operation, "rejected");

        let (operation, _) = self.gated(self.peer(2).to_owned().as_str()).await;
        let cancel = Call::new("operations.cancel", &operation, json!({"reason": "changed my mind"}));
        let cancelled = self.door.ask(&cancel.clone().waits()).await;
        assert_eq!(cancelled.taken().body["operation"]["state"], "cancelled", "{}", cancelled.body);
        assert!(cancelled.changed());
        assert!(!self.door.ask(&cancel).await.taken().changed(), "cancelled already");
        self.taken.insert(operation, "cancelled");
        let after = self.registry().await.differences(&before);
        let untouched = |line: &String| !line.starts_with(&format!("peers/{peer}:")) && !line.starts_with("workloads/");
        assert_eq!(
            after.into_iter().filter(untouched).collect::<Vec<_>>(),
            Vec::<String>::new(),
            "only {peer} was drained"
        );
    }
}

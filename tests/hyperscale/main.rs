//! Dozens of clusters, a thousand simulated peers, two dozen people and bots who all act at once, with ETags and keys that
//! collide; mass drains and edits behind approvals, budgets, failovers, cancels at any moment. Afterwards everything adds up.
//!
//! `OMNIRELAY_HYPERSCALE=0.2` is a fifth of it, `OMNIRELAY_SEED` repeats what somebody chose to do (not how it fell out).
//! Nothing is asserted about time; how long a plan and its confirmation took is told at the end.

mod after;
mod books;
mod crowd;
mod person;
mod replay;
mod size;
mod typist;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use omnirelay_tests::{Role, Scope, Services, Stack, StackOptions, eventually_ok};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};

use crate::books::{Books, percentiles};
use crate::crowd::{bot, bulk_operator, captain, editor, janitor, labeller, live, operator, peer_of};
use crate::person::{AT_MOST, Person};
use crate::replay::Replay;
use crate::size::Size;
use crate::typist::typist;

#[tokio::test]
async fn a_crowd_at_once_leaves_a_mesh_in_which_everything_adds_up() {
    // The crowd shares one thread: the other cores are the product's.
    LocalSet::new().run_until(a_crowd_at_once()).await;
}

async fn a_crowd_at_once() {
    let size = Size::of_the_environment();
    println!("{size:?}");
    let stack = Stack::start(StackOptions {
        clusters: size.clusters,
        peers: size.peers,
        workloads: size.workloads,
        handover: "5ms..20ms",
        services: Services::All,
        ..StackOptions::default()
    })
    .await;
    let begun = Instant::now();
    let told = |what: &str| println!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    let crowd = Crowd { stack: &stack, books: Arc::new(Books::default()), size };
    crowd.sets_the_stage().await;
    told("the stage is set");
    crowd.acts().await;
    told("everybody has done what they wanted");

    let reader = stack.api(Role::Read);
    let clusters = reader.list("/control/clusters").await;
    let mut replay = Replay::new(&clusters, budgets(&clusters, size.peers));
    let head = settled_head(&reader).await;
    replay.read(&reader, head).await;
    told("the events are read");
    replay.verdict();
    let operations = reader.list("/control/operations").await;
    let books = std::mem::take(&mut *crowd.books.open());
    after::operations(&operations, &books, &replay);
    after::registry(&reader, &books, &replay, size.clusters * size.peers * size.workloads).await;
    told("operations and registry add up");
    let mutations = after::metrics(&reader, &books, &operations).await;
    let records = after::audit(&stack, &reader, head).await;
    told("metrics agree, the audit is whole");

    let mut states: BTreeMap<(String, String), usize> = BTreeMap::new();
    for operation in &operations {
        let word = |name: &str| operation[name].as_str().unwrap_or_default().to_owned();
        *states.entry((word("verb"), word("state"))).or_default() += 1;
    }
    for ((verb, state), count) in &states {
        println!("{verb:20} {state:12} {count}");
    }
    println!("answers: {:?}", books.tally);
    println!("plans {}, confirmations {}", percentiles(&books.plans), percentiles(&books.confirms));
    println!(
        "hyperscale seed {}: {} clusters, {} peers, {} people, {mutations} requests, {} operations, {head} events, {records} \
         records; {} replays, {} collisions, {} cancels kept, {} rejections; at most {} peers of a cluster out, at least {} \
         clusters active; {:.0} s",
        size.seed,
        size.clusters,
        size.clusters * size.peers,
        books.operations.len(),
        operations.len(),
        books.replays,
        books.collisions,
        books.cancelled.len(),
        books.rejected.len(),
        replay.most.values().max().copied().unwrap_or_default(),
        replay.least_active,
        begun.elapsed().as_secs_f64(),
    );
    enough_has_happened(&replay, &states, &size);
}

/// A test of a crowd that did nothing would pass everything above.
fn enough_has_happened(replay: &Replay, states: &BTreeMap<(String, String), usize>, size: &Size) {
    let count = |verb: &str, state: &str| states.get(&(verb.to_owned(), state.to_owned())).copied().unwrap_or_default();
    assert!(count("peers.drain", "succeeded") > size.waves * size.wave / 3, "{states:?}");
    assert!(count("peers.drain", "cancelled") > 0, "{states:?}");
    assert!(count("config.patch", "succeeded") > size.changes, "{states:?}");
    let mut kinds = vec!["approvals.requested", "approvals.approved"];
    // In a small crowd nobody may have been called off in the right moment, or had to wait.
    let failovers = count("clusters.promote", "succeeded") + count("clusters.demote", "succeeded");
    if size.operators * size.actions > 500 {
        assert!(failovers > size.clusters / 4, "more than the stage needed: {states:?}");
        kinds.extend(["operations.queued", "operations.unwinding", "workloads.restored"]);
    }
    for kind in kinds {
        assert!(replay.kinds.get(kind).is_some_and(|count| *count > 0), "{kind}: {:?}", replay.kinds);
    }
    assert!(replay.most.values().any(|most| *most > 1), "budgets were used: {:?}", replay.most);
}

/// The position of the last event, once nothing more comes.
async fn settled_head(api: &omnirelay_tests::Api) -> u64 {
    eventually_ok("the outbox is empty", AT_MOST, async || {
        let lags = api.read("/control/status").await["lags"].clone();
        if lags["outboxPending"] == 0 { Ok(lags["position"].as_u64().unwrap_or_default()) } else { Err(lags) }
    })
    .await
}

/// Cluster → peers that may be out of service at once.
fn budgets(clusters: &[Value], peers: usize) -> BTreeMap<String, usize> {
    let limit = |value: &Value| match value.as_str() {
        Some(percent) => percent.trim_end_matches('%').parse::<usize>().expect("a percentage") * peers / 100,
        None => value.as_u64().unwrap_or(u64::MAX) as usize,
    };
    let of =
        |cluster: &Value| (cluster["id"].as_str().unwrap_or_default().to_owned(), limit(&cluster["maxUnavailable"]));
    clusters.iter().map(of).collect()
}

struct Crowd<'a> {
    stack: &'a Stack,
    books: Arc<Books>,
    size: Size,
}

impl Crowd<'_> {
    fn person(&self, subject: &str, scope: Scope) -> Arc<Person> {
        Arc::new(Person::new(self.stack, &self.books, subject, scope, self.size.seed))
    }

    /// Budgets, a few active clusters, the label of the waves, and then the rules.
    async fn sets_the_stage(&self) {
        let founder = self.person("founder", Scope::Admin);
        // A machine that everybody shares is slow now and then; no peer is to look dead for that.
        self.edits(&founder, json!({"heartbeat": {"timeout": "30m"}, "promote": {"fenceTimeout": "2m"}})).await;
        let mut all = JoinSet::new();
        let active = (self.size.clusters / 4).max(2);
        for cluster in 1..=self.size.clusters {
            let founder = Arc::clone(&founder);
            all.spawn_local(async move {
                let budget = [json!(4), json!("10%"), json!(3), json!(2)][cluster % 4].clone();
                let path = format!("/control/clusters/cluster-{cluster}");
                let wish = founder.wish("clusters.put", Method::PUT, path.clone(), json!({"maxUnavailable": budget}));
                let end = founder.end_of(&founder.ask(&wish).await).await.expect("an operation");
                assert_eq!(end["state"], "succeeded", "{end}");
                if (2..=active).contains(&cluster) {
                    let path = format!("{path}:promote");
                    let wish =
                        founder.wish("clusters.promote", Method::POST, path, json!({"reason": "many are active"}));
                    let end = founder.end_of(&founder.confirmed(&wish).await).await.expect("an operation");
                    assert_eq!(end["state"], "succeeded", "{end}");
                }
            });
        }
        for n in 0..self.size.operators {
            let peers = (1..=self.size.waves)
                .flat_map(|cluster| (1..=self.size.wave).map(move |peer| peer_of(cluster, peer)))
                .skip(n)
                .step_by(self.size.operators)
                .collect();
            all.spawn_local(labeller(self.person(&format!("labeller-{n}"), Scope::Operate), peers));
        }
        finished(all).await;
        let rule = |name: &str, verbs: &[&str], gate: &str, required: u32, selector: Value| json!({"name": name, "verbs": verbs, "gate": gate, "required": required, "selector": selector, "expiresIn": "2h"});
        let rules = json!([
            rule("waves", &["peers.drain"], "start", 2, json!("wave")),
            rule("after-the-canary", &["peers.drain"], "rest", 1, json!("wave")),
            rule("edits", &["config.patch", "config.rollback"], "start", 1, Value::Null),
            rule("failovers", &["clusters.promote", "clusters.demote"], "cutover", 1, Value::Null),
        ]);
        self.edits(&founder, json!({"approvals": {"rules": rules}})).await;
    }

    async fn edits(&self, founder: &Person, settings: Value) {
        let revision = founder.api.read("/control/config").await["revision"].as_u64();
        let mut wish =
            founder.wish("config.patch", Method::PATCH, "/control/config".to_owned(), json!({"settings": settings}));
        wish.if_match = revision;
        let end = founder.end_of(&founder.confirmed(&wish).await).await.expect("an operation");
        assert_eq!(end["state"], "succeeded", "{end}");
    }

    /// Everybody at once; bots and janitors for as long as anything is alive.
    async fn acts(&self) {
        let size = self.size;
        let mut helpers = JoinSet::new();
        for n in 1..=4 {
            helpers.spawn_local(bot(self.person(&format!("bot-{n}"), Scope::Approve), n == 4));
        }
        for n in 1..=2 {
            helpers.spawn_local(janitor(self.person(&format!("janitor-{n}"), Scope::Operate)));
        }
        let mut people = JoinSet::new();
        for n in 1..=size.operators {
            people.spawn_local(operator(self.person(&format!("op-{n:02}"), Scope::Operate), size));
        }
        for n in 1..=size.typists {
            people.spawn_local(typist(
                self.person(&format!("typist-{n}"), Scope::Operate),
                self.stack.folder().to_owned(),
                size,
            ));
        }
        for n in 1..=4 {
            let waves = (1..=size.waves).filter(|wave| wave % 4 == n % 4).collect();
            people.spawn_local(bulk_operator(self.person(&format!("bulk-{n}"), Scope::Operate), waves));
        }
        for n in 1..=3 {
            people.spawn_local(editor(self.person(&format!("editor-{n}"), Scope::Admin), size));
            people.spawn_local(captain(self.person(&format!("captain-{n}"), Scope::Admin), size));
        }
        // A helper that ends has failed.
        let failed = async {
            match helpers.join_next().await {
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                ended => panic!("a helper ended: {ended:?}"),
            }
        };
        let reader = self.stack.api(Role::Read);
        let all = async {
            finished(people).await;
            eventually_ok("everything has ended", AT_MOST, async || {
                let live = live(&reader).await;
                if live.is_empty() { Ok(()) } else { Err(format!("{} are alive: {}", live.len(), live[0])) }
            })
            .await;
        };
        either(all, failed).await;
        // A request on its way is waited for: it is counted on both sides.
        self.books.close();
        finished(helpers).await;
    }
}

async fn either(all: impl Future<Output = ()>, failed: impl Future<Output = ()>) {
    tokio::select! {
        () = all => {}
        () = failed => {}
    }
}

async fn finished(mut people: JoinSet<()>) {
    while let Some(ended) = people.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

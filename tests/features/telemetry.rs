//! What the product tells of itself: counts that agree with what was done, one line of the log for each mutation, and traces that
//! cross the bus.

use std::collections::BTreeMap;
use std::process::Command;

use omnirelay_tests::{
    Api, Collector, PATIENCE, Process, Role, Services, Span, Stack, StackOptions, binary, eventually, eventually_ok,
};
use reqwest::Method;
use serde_json::{Value, json};

const CONFIG: &str = "/control/config";

fn options(env: &[(&str, &str)]) -> StackOptions {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    StackOptions { clusters: 1, peers: 4, workloads: 2, env, ..StackOptions::default() }
}

/// What was done, as the metric and the log should tell it.
#[derive(Default)]
struct Done {
    /// (verb, outcome) → how often.
    counted: BTreeMap<(String, String), u64>,
    logged: BTreeMap<(String, String), u64>,
}

impl Done {
    /// A request that was answered; in the log it has another outcome where its operation's end was waited for.
    fn answered(&mut self, verb: &str, counted: &str, logged: &str) {
        add(&mut self.counted, verb, counted);
        add(&mut self.logged, verb, logged);
    }

    fn refused(&mut self, verb: &str, code: &str) {
        self.answered(verb, code, code);
    }

    /// A quick one that was made and had ended when it was answered.
    fn quick(&mut self, verb: &str, end: &str) {
        self.answered(verb, "accepted", end);
        add(&mut self.counted, verb, end);
    }

    /// One whose end came after its answer: a line of its own.
    fn long(&mut self, verb: &str, end: &str) {
        self.answered(verb, "accepted", "accepted");
        add(&mut self.counted, verb, end);
        add(&mut self.logged, verb, end);
    }
}

fn add(counts: &mut BTreeMap<(String, String), u64>, verb: &str, outcome: &str) {
    *counts.entry((verb.to_owned(), outcome.to_owned())).or_default() += 1;
}

/// The samples of a metric: labels → value.
fn samples(text: &str, metric: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} "));
    lines
        .map(|(labels, value)| {
            let pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
            let labels = pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned())).collect();
            (labels, value.parse().expect("a number"))
        })
        .collect()
}

async fn metrics(api: &Api) -> String {
    api.get("/metrics").send().await.expect(200).body.as_str().expect("text").to_owned()
}

fn mutations(text: &str) -> BTreeMap<(String, String), u64> {
    samples(text, "omnirelay_mutations_total")
        .into_iter()
        .map(|(labels, value)| ((labels["verb"].clone(), labels["outcome"].clone()), value as u64))
        .collect()
}

/// Some of everything, told as it goes.
async fn scenario(stack: &Stack) -> Done {
    let mut done = Done::default();
    let mesh = stack.mesh();
    let [reader, operator, approver, admin] = Role::ALL.map(|role| stack.api(role));
    let [cordoned, drained, gated, spare] = [0, 1, 2, 3].map(|n| mesh.peers[n].as_str());

    operator.peer(cordoned, "cordon", &json!({})).key("first").send().await.expect(200);
    done.quick("peers.cordon", "succeeded");
    operator.peer(cordoned, "cordon", &json!({})).key("first").send().await.expect(200);
    done.answered("peers.cordon", "replayed", "succeeded");
    operator.peer(cordoned, "cordon", &json!({})).send().await.expect(200);
    done.quick("peers.cordon", "succeeded");
    operator.peer("nobody", "cordon", &json!({})).send().await.refused(404, "not-found");
    done.refused("peers.cordon", "not-found");
    reader.peer(cordoned, "cordon", &json!({})).send().await.refused(403, "insufficient-scope");
    done.refused("peers.cordon", "insufficient-scope");
    operator.peer(cordoned, "cordon", &json!({"colour": 1})).send().await.refused(400, "invalid-argument");
    done.refused("peers.cordon", "invalid-argument");
    Api::new(stack.url(), None).peer(cordoned, "cordon", &json!({})).send().await.refused(401, "unauthenticated");
    // Of somebody unknown there is nothing to log; the audit has a sum.
    add(&mut done.counted, "peers.cordon", "unauthenticated");
    admin.peer(cordoned, "uncordon", &json!({})).send().await.refused(409, "peer-held");
    // Found out by its first step, so there is an operation that was refused.
    done.quick("peers.uncordon", "refused");
    operator.peer(cordoned, "uncordon", &json!({})).header("prefer", "respond-async").send().await.expect(202);
    done.long("peers.uncordon", "succeeded");

    let path = format!("/control/peers/{gated}");
    let labels = json!({"labels": {"gated": "yes"}});
    operator.patch(&path, &labels).send().await.refused(428, "precondition-required");
    done.refused("peers.patch", "precondition-required");
    operator.patch(&path, &labels).header("if-match", "\"0\"").send().await.refused(412, "revision-mismatch");
    done.refused("peers.patch", "revision-mismatch");
    let (_, tag) = operator.tagged(&path).await;
    operator.patch(&path, &labels).header("if-match", &tag).send().await.expect(200);
    done.quick("peers.patch", "succeeded");

    let rule = json!({"name": "gated", "verbs": ["peers.drain"], "selector": "gated=yes", "expiresIn": "10m"});
    let (_, tag) = admin.tagged(CONFIG).await;
    let settings = json!({"settings": {"approvals": {"rules": [rule]}}});
    admin.confirmed(Method::PATCH, CONFIG, Some(&tag), &settings).await.expect(200);
    done.refused("config.patch", "confirmation-required");
    done.quick("config.patch", "succeeded");

    let plan = format!("/control/peers/{spare}:drain?validateOnly=true");
    operator.post(&plan, &json!({})).send().await.expect(200);
    done.answered("peers.drain", "planned", "planned");
    let drain = operator.drain(drained, &json!({"reason": "kernel"})).await;
    done.refused("peers.drain", "confirmation-required");
    assert_eq!(operator.ended(&drain).await["state"], "succeeded");
    done.long("peers.drain", "succeeded");
    operator.cancel(&drain).await.refused(409, "too-late");
    done.refused("operations.cancel", "too-late");
    operator.act(&drain, "pause", &json!({})).await.refused(409, "invalid-state");
    done.refused("operations.pause", "invalid-state");

    let held = admin.drain(gated, &json!({})).await;
    done.refused("peers.drain", "confirmation-required");
    let open = admin.operation_that("waits at its gate", &held, |it| it["state"] == "awaitingApproval").await;
    waiting(&reader, &held).await;
    let digest = json!({"digest": open["approval"]["digest"]});
    admin.act(&held, "approve", &digest).await.refused(403, "self-approval");
    done.refused("operations.approve", "self-approval");
    approver.act(&held, "approve", &json!({"digest": "other"})).await.refused(409, "digest-mismatch");
    done.refused("operations.approve", "digest-mismatch");
    approver.act(&held, "approve", &digest).await.expect(200);
    done.answered("operations.approve", "succeeded", "succeeded");
    assert_eq!(admin.ended(&held).await["state"], "succeeded");
    done.long("peers.drain", "succeeded");
    done
}

/// One operation stands at its gate, by the gauges.
async fn waiting(api: &Api, operation: &str) {
    eventually_ok(format!("{operation} is counted at its gate"), PATIENCE, async || {
        let text = metrics(api).await;
        let gate = text.lines().find(|line| line.starts_with("omnirelay_approvals_pending")).unwrap_or("nothing");
        let of = |labels: &BTreeMap<String, String>| {
            labels["verb"] == "peers.drain" && labels["state"] == "awaitingApproval"
        };
        let by_state = samples(&text, "omnirelay_operations").into_iter().find(|(labels, _)| of(labels));
        match (gate, by_state.map(|(_, count)| count)) {
            ("omnirelay_approvals_pending 1", Some(1.0)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Lines of the log that are about mutations. All of it is JSON.
fn log(stack: &Stack) -> Vec<Value> {
    let text = stack.dev().log();
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "mutation" || line["message"] == "operation ended").collect()
}

#[tokio::test]
async fn metrics_and_log_agree_with_what_was_done() {
    let stack = Stack::start(options(&[("OMNIRELAY_LOG_FORMAT", "json")])).await;
    let done = scenario(&stack).await;
    let reader = stack.api(Role::Read);
    eventually_ok("the counts agree", PATIENCE, async || {
        let told = mutations(&metrics(&reader).await);
        if told == done.counted { Ok(()) } else { Err(format!("{told:#?}\nnot\n{:#?}", done.counted)) }
    })
    .await;
    // Peers are counted once somebody has judged them, a whole time-out after the start.
    let text = eventually_ok("consumers and agents are counted", PATIENCE, async || {
        let text = metrics(&reader).await;
        let mut told = BTreeMap::new();
        for (labels, _) in samples(&text, "omnirelay_consumer_pending") {
            told.insert(labels["consumer"].clone(), 0.0);
        }
        for (labels, count) in samples(&text, "omnirelay_agents") {
            told.insert(labels["health"].clone(), count);
        }
        let wanted = [("requests", 0.0), ("reports", 0.0), ("audit", 0.0), ("healthy", 4.0), ("unreachable", 0.0)];
        if wanted.iter().all(|(name, count)| told.get(*name) == Some(count)) {
            Ok(text)
        } else {
            Err(format!("{told:?}"))
        }
    })
    .await;
    // Answers, refused ones too, have a latency; so has each end.
    for (stage, is_of) in [("answered", false), ("done", true)] {
        let told: f64 = samples(&text, "omnirelay_mutation_seconds_count")
            .into_iter()
            .filter(|(labels, _)| labels["stage"] == stage)
            .map(|(_, count)| count)
            .sum();
        let is_end = |outcome: &str| ["succeeded", "refused"].contains(&outcome);
        let counted = done.counted.iter().filter(|((verb, outcome), _)| {
            let ended = is_end(outcome) && !verb.starts_with("operations.");
            ended == is_of && outcome != "unauthenticated"
        });
        assert_eq!(told as u64, counted.map(|(_, count)| count).sum::<u64>(), "{stage}");
    }
    let sent = samples(&text, "omnirelay_effect_attempts_total");
    for kind in ["acquire", "release", "cordon", "list"] {
        let of = |(labels, count): &(BTreeMap<String, String>, f64)| {
            labels["kind"] == kind && labels["outcome"] == "accepted" && *count > 0.0
        };
        assert!(sent.iter().any(of), "no command {kind} was counted: {sent:?}");
    }
    for line in text.lines().filter(|line| line.starts_with("# TYPE omnirelay_")) {
        let name = line.split(' ').nth(2).expect("a name");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no HELP");
    }

    let mut logged = BTreeMap::new();
    for line in log(&stack) {
        assert!(line["target"].as_str().is_some_and(|target| target.contains('/')), "what it was done to: {line}");
        for member in ["actor", "action", "target", "outcome"] {
            assert!(line[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {line}");
        }
        assert!(line["latency_ms"].as_f64().is_some_and(|latency| latency >= 0.0), "{line}");
        add(&mut logged, line["action"].as_str().unwrap_or_default(), line["outcome"].as_str().unwrap_or_default());
    }
    assert_eq!(logged, done.logged);
    let whole = stack.dev().log();
    for role in Role::ALL {
        assert!(!whole.contains(stack.token(role)), "a token is in the log");
    }
    assert!(!whole.to_lowercase().contains("bearer "), "a header is in the log");
}

/// Requests are counted where they are answered, ends where they are decided.
#[tokio::test]
async fn a_worker_by_itself_serves_what_it_counts() {
    let stack = Stack::start(StackOptions { services: Services::None, ..options(&[]) }).await;
    let _ingress = stack.serve("ingress", "ingress");
    let mut worker = Command::new(binary());
    worker.args(["serve", "worker", "--config"]).arg(stack.state_dir().join("serve.toml"));
    worker.envs([("OMNIRELAY_TELEMETRY_METRICS", "127.0.0.1:0"), ("OMNIRELAY_LOG_FORMAT", "json")]);
    let worker = Process::start("worker", worker, stack.folder());
    stack.answers().await;
    stack.healthy().await;
    let address = eventually("the worker says where", PATIENCE, async || {
        let log = worker.log();
        let line = log.lines().find(|line| line.contains("metrics are served"))?;
        let line: Value = serde_json::from_str(line).ok()?;
        line["address"].as_str().map(str::to_owned)
    })
    .await;
    let mesh = stack.mesh();
    mesh.operator.peer(&mesh.peers[0], "cordon", &json!({})).send().await.expect(200);
    let of_worker = Api::new(&format!("http://{address}"), None);
    assert_eq!(of_worker.get("/livez").send().await.expect(200).body, "ok\n");
    let of = |outcome: &str| BTreeMap::from([(("peers.cordon".to_owned(), outcome.to_owned()), 1)]);
    eventually_ok("the worker counts the end", PATIENCE, async || {
        let told = mutations(&metrics(&of_worker).await);
        if told == of("succeeded") { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    assert_eq!(mutations(&metrics(&mesh.reader).await), of("accepted"));
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test]
async fn one_trace_goes_from_the_client_to_the_agents_command() {
    let collector = Collector::start().await;
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let stack = Stack::start(options(&env)).await;
    let mesh = stack.mesh();
    let (drained, other) = (mesh.peers[0].as_str(), mesh.peers[1].as_str());
    let (trace, client) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let traced = |flags: &str, body: &Value, verb: &str, peer: &str| {
        mesh.operator.peer(peer, verb, body).header("traceparent", &format!("00-{trace}-{client}-{flags}"))
    };

    // Not sampled by its caller: nothing of it is exported, however much is done. It has another trace, to be told apart.
    let quiet = "0af7651916cd43dd8448eb211c80319c";
    let silent = mesh.operator.peer(other, "cordon", &json!({}));
    silent.header("traceparent", &format!("00-{quiet}-{client}-00")).send().await.expect(200);

    let asked = traced("01", &json!({}), "drain", drained).send().await;
    let token = &asked.refused(428, "confirmation-required").body["plan"]["confirmation"]["token"];
    let accepted = traced("01", &json!({"confirmation": token}), "drain", drained).send().await;
    let drain = accepted.expect(202).operation();
    assert_eq!(mesh.operator.ended(&drain).await["state"], "succeeded");

    let spans = eventually_ok("the trace is whole", PATIENCE, async || {
        let spans = collector.trace(trace);
        let is_last =
            |span: &&Span| span.name == "step peers.drain" && span.attributes["omnirelay.state"] == "succeeded";
        let wanted = ["agent list", "agent acquire", "agent release", "agent cordon"];
        let whole =
            spans.iter().any(|span| is_last(&span)) && wanted.iter().all(|name| !named(&spans, name).is_empty());
        if whole { Ok(spans) } else { Err(format!("{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>())) }
    })
    .await;
    let requests = named(&spans, "peers.drain");
    assert_eq!(requests.len(), 2, "the one that was asked to confirm, and the one that was taken");
    assert!(requests.iter().all(|span| span.parent == client), "the client's span is the parent");
    let request = requests.iter().find(|span| span.attributes["omnirelay.outcome"] == "accepted").expect("taken");
    assert_eq!(request.attributes["omnirelay.operation"], drain);
    assert_eq!(request.attributes["omnirelay.actor"], "operator");
    assert_eq!(request.resource["service.name"], "omnirelay");

    for step in named(&spans, "step peers.drain") {
        assert_eq!(
            (step.parent.as_str(), step.attributes["omnirelay.operation"].as_str()),
            (request.id.as_str(), drain.as_str())
        );
    }
    for verb in ["acquire", "release", "cordon", "list"] {
        let commands = named(&spans, &format!("command {verb}"));
        assert!(commands.iter().all(|command| command.parent == request.id), "{verb} is beneath its operation");
        for ran in named(&spans, &format!("agent {verb}")) {
            let sent = commands.iter().find(|command| command.id == ran.parent);
            let sent = sent.unwrap_or_else(|| panic!("{ran:?} has no command that was sent: {commands:?}"));
            assert_eq!(sent.attributes["omnirelay.command"], ran.attributes["omnirelay.command"]);
        }
    }
    assert!(named(&spans, "agent acquire").iter().all(|ran| ran.nanos >= 5_000_000), "a handover takes 5 ms and more");

    let events = mesh.reader.list(&format!("/control/audit?operation={drain}")).await;
    assert!(events.iter().all(|record| record["traceId"] == trace), "the audit names the same trace");
    assert_eq!(collector.trace(quiet), [], "its caller does not sample it");
}

use std::collections::BTreeSet;
use std::path::Path;

use omnirelay_contract::grpc::v1;
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::{audit, event, rest};
use omnirelay_workflow::operation::{Control, Verb};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::document::document;
use super::examples::example;
use super::routes::{Kind, routes};
use super::schemas::schemas;

#[test]
fn the_committed_copy_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&path, super::text()).expect("written");
    }
    assert!(
        std::fs::read_to_string(&path).is_ok_and(|there| there == super::text()),
        "docs/openapi.json is not what the code says: REGENERATE=1 cargo test -p omnirelay-ingress --lib openapi"
    );
}

#[test]
fn examples_fit_their_schemas_and_have_every_member() {
    let components = document()["components"].clone();
    for (name, schema) in schemas() {
        let Some(example) = example(&name) else {
            assert_eq!(name, "JsonSchema", "{name} has no example");
            continue;
        };
        let whole = serde_json::json!({"$ref": format!("#/components/schemas/{name}"), "components": components});
        let validator = jsonschema::validator_for(&whole).expect("a schema");
        let wrong: Vec<String> = validator.iter_errors(&example).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        // A problem has the members of its code only.
        if name != "Problem" {
            assert_eq!(members(&example), members(&schema["properties"]), "{name}");
        }
    }
}

fn members(object: &Value) -> BTreeSet<&str> {
    object.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

/// The example, read and written by the type that it is an example of.
fn through<T: Serialize + DeserializeOwned>(name: &str) {
    let example = example(name).expect("an example");
    let read: T = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(&read).expect("JSON"), example, "{name}");
}

#[test]
fn examples_are_what_the_types_of_rest_read_and_write() {
    through::<rest::Peer>("Peer");
    through::<rest::Workload>("Workload");
    through::<rest::Cluster>("Cluster");
    through::<rest::Config>("Config");
    through::<rest::ConfigRevision>("ConfigRevision");
    through::<rest::Operation>("Operation");
    through::<rest::Mutated>("Mutated");
    through::<rest::Plan>("Plan");
    through::<rest::Inverse>("Inverse");
    through::<Problem>("Problem");
    through::<audit::AuditRecord>("AuditRecord");
    through::<event::Event>("Event");
}

/// As [`through`], but a message leaves out what is false, 0 or empty: the absence of those is the same.
fn as_message<T: Serialize + DeserializeOwned>(name: &str) {
    let example = example(name).expect("an example");
    let read: T = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let written = serde_json::to_value(&read).expect("JSON");
    assert_eq!(without_empty(written), without_empty(example), "{name}");
}

fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| (name, without_empty(value)));
            let empty = |value: &Value| *value == false || *value == 0 || *value == "" || value.is_null();
            Value::Object(members.filter(|(_, value)| !empty(value)).collect())
        }
        other => other,
    }
}

#[test]
fn examples_are_what_the_messages_of_grpc_read_and_write() {
    as_message::<v1::Peer>("Peer");
    as_message::<v1::Hold>("Hold");
    as_message::<v1::Workload>("Workload");
    as_message::<v1::Cluster>("Cluster");
    as_message::<v1::Config>("Config");
    as_message::<v1::ConfigRevision>("ConfigRevision");
    as_message::<v1::Operation>("Operation");
    as_message::<v1::Plan>("Plan");
    as_message::<v1::Problem>("Problem");
    as_message::<v1::AuditRecord>("AuditRecord");
    as_message::<v1::Event>("Event");
    as_message::<v1::CordonPeerRequest>("CordonBody");
    as_message::<v1::UncordonPeerRequest>("UncordonBody");
    as_message::<v1::DrainPeerRequest>("DrainBody");
    as_message::<v1::DrainPeersRequest>("BulkDrainBody");
    as_message::<v1::PatchPeerRequest>("PatchPeerBody");
    as_message::<v1::PutPeerRequest>("PutPeerBody");
    as_message::<v1::PutClusterRequest>("PutClusterBody");
    as_message::<v1::PromoteClusterRequest>("PromoteBody");
    as_message::<v1::DemoteClusterRequest>("DemoteBody");
    as_message::<v1::PatchConfigRequest>("PatchConfigBody");
    as_message::<v1::RollbackConfigRequest>("RollbackConfigBody");
    as_message::<v1::CancelOperationRequest>("CancelBody");
    as_message::<v1::PauseOperationRequest>("ControlBody");
    as_message::<v1::ResumeOperationRequest>("ControlBody");
    as_message::<v1::ResolveOperationRequest>("ControlBody");
    as_message::<v1::ApproveOperationRequest>("DecideBody");
    as_message::<v1::RejectOperationRequest>("DecideBody");
}

/// The schema of a body has just the members that its type knows: those that it names when it is given another.
fn body<T: DeserializeOwned>(name: &str) {
    let schema = schemas().remove(name).expect("a schema");
    serde_json::from_value::<T>(example(name).expect("an example")).unwrap_or_else(|error| panic!("{name}: {error}"));
    let error =
        serde_json::from_value::<T>(serde_json::json!({"no such member": 1})).err().expect("unknown").to_string();
    let (_, known) = error.split_once("expected").expect("the members that are known");
    let known: BTreeSet<&str> = known.split('`').skip(1).step_by(2).collect();
    assert_eq!(members(&schema["properties"]), known, "{name}");
}

#[test]
fn bodies_have_the_members_that_are_read() {
    body::<rest::CordonBody>("CordonBody");
    body::<rest::UncordonBody>("UncordonBody");
    body::<rest::DrainBody>("DrainBody");
    body::<rest::BulkDrainBody>("BulkDrainBody");
    body::<rest::PatchPeerBody>("PatchPeerBody");
    body::<rest::PutPeerBody>("PutPeerBody");
    body::<rest::PutClusterBody>("PutClusterBody");
    body::<rest::PromoteBody>("PromoteBody");
    body::<rest::DemoteBody>("DemoteBody");
    body::<rest::PatchConfigBody>("PatchConfigBody");
    body::<rest::RollbackConfigBody>("RollbackConfigBody");
    body::<rest::CancelBody>("CancelBody");
    body::<rest::ControlBody>("ControlBody");
    body::<rest::DecideBody>("DecideBody");
}

#[test]
fn every_verb_has_its_route_and_says_who_may() {
    let routes = routes();
    let verbs: BTreeSet<&str> = routes.iter().filter_map(|route| route.verb).collect();
    let known: BTreeSet<&str> =
        Verb::ALL.iter().map(|verb| verb.as_str()).chain(Control::ALL.iter().map(|control| control.as_str())).collect();
    assert_eq!(verbs, known);
    for verb in Verb::ALL {
        for route in routes.iter().filter(|route| route.verb == Some(verb.as_str())) {
            let Kind::Mutation(mutation) = &route.kind else { panic!("{} is a mutation", route.path) };
            assert_eq!(route.scope == Some(omnirelay_runtime::auth::Scope::Admin), verb.is_admin(), "{}", route.path);
            assert_eq!(mutation.confirmed, verb.is_destructive(), "{}", route.path);
            assert_eq!(mutation.wait == 0, verb.is_long(), "{}", route.path);
        }
    }
}

#[test]
fn every_code_is_an_answer_of_some_route() {
    let text = super::text();
    for code in Code::ALL {
        let said = text.contains(&format!("\"urn:omnirelay:problem:{code}\""));
        // A wrong method is no operation's answer.
        assert_eq!(said, *code != Code::MethodNotAllowed, "{code}");
    }
}

#[test]
fn the_rpcs_are_the_routes() {
    let proto = include_str!("../../../../shared/contract/proto/omnirelay/control/v1/control.proto");
    let rpcs: BTreeSet<&str> =
        proto.lines().filter_map(|line| line.strip_prefix("  rpc ")?.split('(').next()).collect();
    let routes = routes();
    let ids: BTreeSet<&str> =
        routes.iter().filter(|route| route.path.starts_with("/control/")).map(|route| route.id).collect();
    assert_eq!(rpcs, ids);
}

#[test]
fn what_the_router_has_is_in_the_table() {
    let source = include_str!("../routes/mod.rs");
    let known: BTreeSet<String> = routes()
        .iter()
        .map(|route| {
            // The actions are behind a colon of the segment.
            let path = route.path.replace("{id}/", "{any}/").replace("{seq}", "{any}");
            path.split("{id}")
                .next()
                .map_or(path.clone(), |head| if path == head { path.clone() } else { format!("{head}{{any}}") })
        })
        .collect();
    let mut seen = 0;
    for part in source.split(".route(").skip(1) {
        let path = part.split('"').nth(1).expect("a path");
        if path == "/" || path.starts_with("/ui") {
            continue;
        }
        let any = ["{id}", "{segment}", "{seq}"].iter().fold(path.to_owned(), |path, name| path.replace(name, "{any}"));
        assert!(known.contains(&any), "{path} is not in the table of routes: {known:?}");
        seen += 1;
    }
    assert!(seen > 15, "the routes are no longer where this test looks");
}

//! The document, put together from its tables.

use std::collections::BTreeMap;

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_workflow::operation::State;
use omnirelay_workflow::resource::{Health, PeerState};
use serde_json::{Map, Value, json};

use super::examples::example;
use super::routes::{Kind, Mutation, Route, Tag, routes};
use super::schemas::schemas;
use super::shape::{array, id, number, schema, text, time, uuid, words};

const DESCRIPTION: &str = "\
Every mutation answers `{operation, resource?, changed}`: 200 when it is done within the wait, else 202 with `Location`. \
Checks are made in this order: 401, 429, 403, 400, replay of a key, 404, 428 `precondition-required`, 412, 422, 409, 428 \
`confirmation-required`. A destructive request is first answered with a plan, and is sent again with the plan's token. \
The same API is there over gRPC on the same port, `omnirelay.control.v1.Control`.";

/// OpenAPI 3.1.
pub fn document() -> Value {
    let mut parts = Parts::default();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes() {
        let operation = parts.operation(&route);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation;
    }
    let mut schemas = schemas();
    for (name, schema) in &mut schemas {
        if let Some(mut example) = example(name) {
            if name == "BulkDrainBody"
                && let Some(members) = example.as_object_mut()
            {
                // One of the two; the example has every member that there is.
                members.remove("peers");
            }
            schema["examples"] = json!([example]);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OmniRelay control API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [
            {"name": "peers"}, {"name": "clusters"}, {"name": "operations"}, {"name": "approvals"},
            {"name": "config"}, {"name": "audit"}, {"name": "mesh"}, {"name": "process"},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {
                "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                "description": "Scopes: mesh.read is in mesh.observe, that in mesh.operate and in mesh.approve, those in mesh.admin.",
            }},
            "parameters": parts.parameters,
            "headers": headers(),
            "responses": parts.problems,
            "schemas": schemas,
        },
    })
}

/// What paths refer to, made as they need it.
#[derive(Default)]
struct Parts {
    parameters: BTreeMap<String, Value>,
    problems: BTreeMap<String, Value>,
}

impl Parts {
    fn operation(&mut self, route: &Route) -> Value {
        let tag = match route.path.trim_start_matches("/control/").split(['/', ':']).next() {
            Some(tag @ ("peers" | "clusters" | "operations" | "approvals" | "config" | "audit")) => tag,
            Some(_) if route.path.starts_with("/control/") => "mesh",
            _ => "process",
        };
        let mut operation = json!({"operationId": route.id, "summary": route.summary, "tags": [tag]});
        match route.scope {
            Some(scope) => {
                operation["x-scope"] = scope.to_string().into();
                operation["description"] = format!("Needs the scope `{scope}`.").into();
            }
            None => operation["security"] = json!([]),
        }
        if let Some(verb) = route.verb {
            operation["x-verb"] = verb.into();
        }
        let parameters = self.parameters(route);
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Kind::Mutation(mutation) = &route.kind {
            operation["requestBody"] = body(route, mutation);
        }
        operation["responses"] = self.responses(route);
        operation
    }

    fn parameters(&mut self, route: &Route) -> Vec<Value> {
        let mut names: Vec<(&str, &str)> = Vec::new();
        if route.path.contains("{seq}") {
            names.push(("path", "seq"));
        } else if route.path.contains("/operations/{id}") {
            names.push(("path", "operationId"));
        } else if route.path.contains("{id}") {
            names.push(("path", "id"));
        }
        names.extend(route.query.iter().map(|name| ("query", *name)));
        match &route.kind {
            Kind::One(_) | Kind::List(_) => names.push(("header", "If-None-Match")),
            Kind::Stream => names.push(("header", "Last-Event-ID")),
            Kind::Mutation(mutation) => {
                names.push(("query", "validateOnly"));
                names.push(("header", if mutation.tag == Tag::Required { "If-Match" } else { "If-Match-optional" }));
                if mutation.creates {
                    names.push(("header", "If-None-Match-create"));
                }
                names.extend([("header", "Idempotency-Key"), ("header", "Prefer"), ("header", "traceparent")]);
            }
            Kind::Plain("application/json", Some(304)) => names.push(("header", "If-None-Match")),
            Kind::Untagged(_) | Kind::UntaggedList(_) | Kind::Plain(..) => {}
        }
        let reference = |(place, name): (&str, &str)| {
            self.parameters.entry(name.to_owned()).or_insert_with(|| parameter(place, name));
            json!({"$ref": format!("#/components/parameters/{name}")})
        };
        names.into_iter().map(reference).collect()
    }

    fn responses(&mut self, route: &Route) -> Value {
        let mut all = json!({});
        match &route.kind {
            Kind::One(of) => {
                all["200"] = content("As it is now.", "application/json", schema(of), &["ETag"]);
                all["304"] = not_modified();
            }
            Kind::Untagged(of) => all["200"] = content("As it is.", "application/json", schema(of), &[]),
            Kind::List(of) => {
                all["200"] = content("A page.", "application/json", page(of), &["ETag"]);
                all["304"] = not_modified();
            }
            Kind::UntaggedList(of) => all["200"] = content("A page.", "application/json", page(of), &[]),
            Kind::Mutation(mutation) => self.mutated(&mut all, mutation),
            Kind::Stream => {
                let events = json!({"type": "string", "description": STREAM});
                all["200"] = content("The events.", "text/event-stream", events, &[]);
            }
            Kind::Plain(media_type, other) => {
                let schema = if *media_type == "text/plain" { text() } else { json!({"type": "object"}) };
                let headers: &[&str] = if *other == Some(304) { &["ETag"] } else { &[] };
                all["200"] = content(route.summary, media_type, schema.clone(), headers);
                match other {
                    Some(304) => all["304"] = not_modified(),
                    Some(status) => all[status.to_string()] = content("They should not.", media_type, schema, &[]),
                    None => {}
                }
            }
        }
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in codes(route) {
            by_status.entry(code.http_status()).or_default().push(code);
        }
        for (status, codes) in by_status {
            all[status.to_string()] = self.problem(&codes);
        }
        all
    }

    fn mutated(&mut self, all: &mut Value, mutation: &Mutation) {
        let headers: &[&str] = if mutation.makes { &["Idempotency-Key", "Idempotency-Replayed"] } else { &[] };
        let ended = json!({"anyOf": [schema("Mutated"), schema("Plan")]});
        let what = "It has ended within the wait (`Mutated`: also cancelled, failed or stuck), or what `validateOnly` asked for.";
        all["200"] = content(what, "application/json", ended, headers);
        if mutation.creates {
            all["201"] = content("It was made.", "application/json", schema("Mutated"), headers);
        }
        let mut headers = headers.to_vec();
        headers.push("Location");
        all["202"] = content("It was taken and goes on.", "application/json", schema("Mutated"), &headers);
    }

    /// The response that says one of these; made once for all routes that may give just these.
    fn problem(&mut self, codes: &[Code]) -> Value {
        let name: String = codes.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(".");
        self.problems.entry(name.clone()).or_insert_with(|| {
            let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
            let examples: Map<String, Value> =
                codes.iter().map(|code| (code.as_str().to_owned(), json!({"value": problem_example(*code)}))).collect();
            let titles: Vec<&str> = codes.iter().map(|code| code.title()).collect();
            let waits =
                codes.iter().any(|code| matches!(code, Code::RateLimited | Code::Unavailable | Code::BacklogFull));
            let mut response = json!({
                "description": titles.join("; "),
                "content": {"application/problem+json": {
                    "schema": {"allOf": [schema("Problem"), {"properties": {"code": {"enum": words}}}]},
                    "examples": examples,
                }},
            });
            if waits {
                response["headers"] = json!({"Retry-After": {"$ref": "#/components/headers/Retry-After"}});
            }
            response
        });
        json!({"$ref": format!("#/components/responses/{name}")})
    }
}

const STREAM: &str = "\
Frames of `id` (the position), `event` (the type) and `data` (an `Event`); a comment every 15 seconds of silence. Without \
`Last-Event-ID` from now on, with `operation` from its first event. Behind retention one `gap` event, `snapshot` events, then \
the tail. A slow reader is cut off with an `error` event.";

/// The problems that a route may answer with, in the order of the enum.
fn codes(route: &Route) -> Vec<Code> {
    use Code::{
        BacklogFull, ConfirmationRequired, IdempotencyKeyReused, InsufficientScope, Internal, InvalidArgument,
        NotFound, PayloadTooLarge, PreconditionRequired, RateLimited, RevisionMismatch, TicketRequired,
        Unauthenticated, Unavailable, UnsupportedMediaType,
    };
    if route.scope.is_none() {
        return Vec::new();
    }
    let mut all = vec![Unauthenticated, RateLimited, InsufficientScope, InvalidArgument, Internal, Unavailable];
    all.extend(route.codes);
    if let Kind::Mutation(mutation) = &route.kind {
        all.extend([PayloadTooLarge, UnsupportedMediaType, RevisionMismatch]);
        if route.path.contains("{id}") {
            all.push(NotFound);
        }
        if mutation.makes {
            all.extend([IdempotencyKeyReused, TicketRequired, BacklogFull]);
        }
        if mutation.tag == Tag::Required {
            all.push(PreconditionRequired);
        }
        if mutation.confirmed {
            all.push(ConfirmationRequired);
        }
    }
    Code::ALL.iter().copied().filter(|code| all.contains(code)).collect()
}

fn problem_example(code: Code) -> Value {
    let mut problem = Problem::new(code, format!("{}: the detail says what to do.", code.title()));
    match code {
        Code::ConfirmationRequired => problem = problem.with("plan", example("Plan")),
        Code::TooLate => problem = problem.with("inverse", example("Inverse")),
        Code::RevisionMismatch => problem = problem.with("revision", 18),
        Code::PeerHeld => problem = problem.with("owners", ["bo"]),
        _ => {}
    }
    serde_json::to_value(problem).unwrap_or_default()
}

fn body(route: &Route, mutation: &Mutation) -> Value {
    let media = json!({"schema": schema(mutation.body)});
    let mut content = json!({"application/json": media});
    if route.method == "PATCH" {
        content["application/merge-patch+json"] = media;
    }
    let mut body = json!({"content": content});
    if matches!(mutation.body, "DecideBody" | "BulkDrainBody" | "PatchConfigBody" | "RollbackConfigBody") {
        body["required"] = true.into();
    }
    if mutation.confirmed {
        body["description"] = "Without `confirmation` the answer is 428 with a plan.".into();
    }
    body
}

#[expect(clippy::needless_pass_by_value, reason = "schemas are made where they are named")]
fn content(description: &str, media_type: &str, schema: Value, headers: &[&str]) -> Value {
    let mut response = json!({"description": description, "content": {media_type: {"schema": schema}}});
    for name in headers {
        response["headers"][*name] = json!({"$ref": format!("#/components/headers/{name}")});
    }
    response
}

fn not_modified() -> Value {
    json!({
        "description": "It is what `If-None-Match` names.",
        "headers": {"ETag": {"$ref": "#/components/headers/ETag"}},
    })
}

fn page(of: &str) -> Value {
    json!({
        "type": "object",
        "required": ["items", "nextPageToken", "position"],
        "properties": {
            "items": {"type": "array", "items": schema(of)},
            "nextPageToken": {"type": ["string", "null"]},
            "position": {"type": "integer", "minimum": 0, "description": "Where a stream of events goes on without a gap."},
        },
    })
}

fn headers() -> Value {
    let header = |schema: Value, description: &str| json!({"schema": schema, "description": description});
    json!({
        "ETag": header(text(), "Of a resource its revision in quotes, of a list a hash."),
        "Location": header(text(), "`/control/operations/{id}`"),
        "Retry-After": header(number(), "Seconds."),
        "Idempotency-Key": header(text(), "The request's own, or the one that was made for it."),
        "Idempotency-Replayed": header(json!({"const": "true"}), "This key was known: it is the operation of then."),
    })
}

/// A parameter by its name among the components.
fn parameter(place: &str, name: &str) -> Value {
    let (schema, description) = match name {
        "id" => (id(), ""),
        "operationId" => (uuid(), ""),
        "seq" => (number(), "Its number in the chain."),
        "cluster" => (id(), ""),
        "state" => (array(words(PeerState::ALL, PeerState::as_str)), "Any of these, separated by commas."),
        "operationState" => (array(words(State::ALL, State::as_str)), "Any of these, separated by commas."),
        "health" => (words(Health::ALL, Health::as_str), ""),
        "selector" => (text(), "Labels: `a=b`, `a!=b`, `a`, `!a`, separated by commas; all must hold."),
        "operation" | "parent" => (uuid(), "Of this operation."),
        "since" | "until" => (time(), ""),
        "target" => (text(), "`peers/edge-7`"),
        "resource" => (text(), "`peers/edge-7`, or the id alone."),
        "kind" => (text(), "`peers`"),
        "pageSize" | "limit" => (
            json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
            "One of `pageSize` and `limit`, which are the same.",
        ),
        "pageToken" => (text(), "`nextPageToken` of the page before, with the same filters."),
        "orderBy" => (text(), "`name`, `name desc`"),
        "validateOnly" => (json!({"type": "boolean", "default": false}), "Answer with the plan and change nothing."),
        "If-Match" => (text(), "The resource's ETag. Required."),
        "If-Match-optional" => (text(), "The resource's ETag."),
        "If-None-Match" => (text(), "An ETag: 304 while it is the current one."),
        "If-None-Match-create" => (json!({"const": "*"}), "Create only."),
        "Idempotency-Key" => (
            json!({"type": "string", "minLength": 1, "maxLength": 255}),
            "The same request with the same key is the same operation, for 24 hours at least.",
        ),
        "Prefer" => (
            json!({"type": "string", "examples": ["wait=30", "respond-async"]}),
            "How long to wait for the end; at most 60 seconds.",
        ),
        "traceparent" => (text(), "W3C trace context."),
        "Last-Event-ID" => (number(), "The position of the last event that was seen."),
        _ => (text(), ""),
    };
    let wire = match name {
        "operationId" => "id",
        "operationState" => "state",
        "If-Match-optional" => "If-Match",
        "If-None-Match-create" => "If-None-Match",
        _ => name,
    };
    let mut parameter = json!({"name": wire, "in": place, "schema": schema});
    if !description.is_empty() {
        parameter["description"] = description.into();
    }
    if place == "path" || name == "If-Match" {
        parameter["required"] = true.into();
    }
    if matches!(name, "state" | "operationState") {
        parameter["style"] = "form".into();
        parameter["explode"] = false.into();
    }
    parameter
}

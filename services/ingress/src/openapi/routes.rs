//! The table of routes: method, path, scope, verb, and what each takes and answers.

use omnirelay_contract::problem::Code;
use omnirelay_runtime::auth::Scope;

/// A method of a path.
#[derive(Debug)]
pub struct Route {
    pub method: &'static str,
    /// `/control/peers/{id}:drain`
    pub path: &'static str,
    /// The operation's id in the document, which is also the name of the rpc.
    pub id: &'static str,
    pub summary: &'static str,
    /// Nobody has to say who they are where there is none.
    pub scope: Option<Scope>,
    /// As the audit has it.
    pub verb: Option<&'static str>,
    /// Parameters of the query.
    pub query: &'static [&'static str],
    pub kind: Kind,
    /// Problems that are this route's own.
    pub codes: &'static [Code],
}

/// What a route takes and answers.
#[derive(Debug)]
pub enum Kind {
    /// One resource, with a tag.
    One(&'static str),
    /// One, without a tag.
    Untagged(&'static str),
    /// A page of a list, with a tag.
    List(&'static str),
    /// A page of a list, without a tag.
    UntaggedList(&'static str),
    Mutation(Mutation),
    Stream,
    /// Text for machines: its media type and status beside 200.
    Plain(&'static str, Option<u16>),
}

#[derive(Debug)]
pub struct Mutation {
    /// The schema of its body.
    pub body: &'static str,
    pub tag: Tag,
    /// 202 where it is not done within the wait, with seconds of the wait where the request says nothing.
    pub wait: u32,
    /// It makes an operation: then the key of a request is kept, and a gate may stand before it.
    pub makes: bool,
    pub confirmed: bool,
    pub creates: bool,
}

/// What `If-Match` is to a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Allowed,
    Required,
}

const PAGE: &[&str] = &["pageSize", "limit", "pageToken", "orderBy"];

fn get(path: &'static str, id: &'static str, summary: &'static str, kind: Kind) -> Route {
    let codes: &[Code] = if path.contains('{') { &[Code::NotFound] } else { &[] };
    Route { method: "GET", path, id, summary, scope: Some(Scope::Read), verb: None, query: &[], kind, codes }
}

fn list(path: &'static str, id: &'static str, summary: &'static str, of: &'static str) -> Route {
    Route { query: PAGE, ..get(path, id, summary, Kind::List(of)) }
}

fn open(path: &'static str, id: &'static str, summary: &'static str, kind: Kind) -> Route {
    Route { scope: None, ..get(path, id, summary, kind) }
}

/// A mutation that makes an operation.
fn change(
    (method, path): (&'static str, &'static str),
    id: &'static str,
    verb: &'static str,
    body: &'static str,
    summary: &'static str,
    codes: &'static [Code],
) -> Route {
    let mutation =
        Mutation { body, tag: Tag::Allowed, wait: 10, makes: true, confirmed: false, creates: method == "PUT" };
    let scope = Some(Scope::Operate);
    Route { method, path, id, summary, scope, verb: Some(verb), query: &[], kind: Kind::Mutation(mutation), codes }
}

/// What is done to an operation itself.
fn control(
    path: &'static str,
    id: &'static str,
    verb: &'static str,
    body: &'static str,
    summary: &'static str,
    codes: &'static [Code],
) -> Route {
    let mut route = change(("POST", path), id, verb, body, summary, codes);
    if let Kind::Mutation(mutation) = &mut route.kind {
        mutation.makes = false;
    }
    route
}

impl Route {
    fn by(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    fn with(mut self, set: impl FnOnce(&mut Mutation)) -> Self {
        if let Kind::Mutation(mutation) = &mut self.kind {
            set(mutation);
        }
        self
    }

    /// Wants its plan confirmed.
    fn confirmed(self) -> Self {
        self.with(|mutation| mutation.confirmed = true)
    }

    /// Is not waited for unless the request asks.
    fn long(self) -> Self {
        self.with(|mutation| mutation.wait = 0)
    }

    fn tagged(self) -> Self {
        self.with(|mutation| mutation.tag = Tag::Required)
    }
}

/// All of them, in the order of the document.
pub fn routes() -> Vec<Route> {
    use Code::{
        AlreadyDecided, DigestMismatch, InvalidSetting, InvalidState, LastActiveCluster, NoCapacity, NotFound,
        OperationInProgress, PeerHeld, SelfApproval, TooLate,
    };
    let mut all = vec![
        Route {
            query: &[
                "cluster",
                "role",
                "state",
                "health",
                "version",
                "name",
                "selector",
                "pageSize",
                "limit",
                "pageToken",
                "orderBy",
            ],
            ..list("/control/peers", "ListPeers", "Peers", "Peer")
        },
        get("/control/peers/{id}", "GetPeer", "A peer", Kind::One("Peer")),
        Route {
            codes: &[NotFound],
            ..list("/control/peers/{id}/workloads", "ListWorkloads", "The workloads of a peer", "Workload")
        },
        list("/control/clusters", "ListClusters", "Clusters", "Cluster"),
        get("/control/clusters/{id}", "GetCluster", "A cluster", Kind::One("Cluster")),
        Route {
            query: &[
                "verb",
                "operationState",
                "target",
                "actor",
                "parent",
                "pageSize",
                "limit",
                "pageToken",
                "orderBy",
            ],
            ..list("/control/operations", "ListOperations", "Operations, newest first", "Operation")
        },
        get("/control/operations/{id}", "GetOperation", "An operation", Kind::One("Operation")),
        Route {
            query: &[
                "operation",
                "actor",
                "target",
                "verb",
                "outcome",
                "since",
                "until",
                "pageSize",
                "limit",
                "pageToken",
                "orderBy",
            ],
            kind: Kind::UntaggedList("AuditRecord"),
            ..list("/control/audit", "ListAuditRecords", "The audit log, newest first", "AuditRecord")
        },
        get("/control/audit/{seq}", "GetAuditRecord", "A record of the audit log", Kind::Untagged("AuditRecord")),
        list("/control/approvals", "ListApprovals", "Operations with an open gate, oldest first", "Operation"),
        get("/control/config", "GetConfig", "The settings", Kind::One("Config")),
        get("/control/config/schema", "GetConfigSchema", "The JSON Schema of the settings", Kind::One("JsonSchema")),
        list("/control/config/history", "ListConfigHistory", "Earlier settings, newest first", "ConfigRevision"),
        get(
            "/control/versions",
            "ListVersions",
            "Which versions of the agent run, and on how many peers",
            Kind::One("Versions"),
        ),
        get("/control/status", "GetStatus", "Headroom, lags, and what needs attention", Kind::One("Status")),
        Route {
            query: &["operation", "resource", "kind"],
            codes: &[NotFound],
            ..get("/control/events", "WatchEvents", "Events as they happen, as server-sent events", Kind::Stream)
                .by(Scope::Observe)
        },
    ];
    all.extend([
        change(
            ("POST", "/control/peers/{id}:cordon"),
            "CordonPeer",
            "peers.cordon",
            "CordonBody",
            "Keep new workloads off a peer: adds a hold",
            &[OperationInProgress],
        ),
        change(
            ("POST", "/control/peers/{id}:uncordon"),
            "UncordonPeer",
            "peers.uncordon",
            "UncordonBody",
            "Remove one's own manual holds of a peer",
            &[PeerHeld, OperationInProgress],
        ),
        change(
            ("POST", "/control/peers/{id}:drain"),
            "DrainPeer",
            "peers.drain",
            "DrainBody",
            "Move all workloads off a peer",
            &[OperationInProgress],
        )
        .confirmed()
        .long(),
        change(
            ("POST", "/control/peers:drain"),
            "DrainPeers",
            "peers.drain",
            "BulkDrainBody",
            "Drain many peers: a parent operation with children over a frozen list",
            &[],
        )
        .confirmed()
        .long(),
        change(
            ("PATCH", "/control/peers/{id}"),
            "PatchPeer",
            "peers.patch",
            "PatchPeerBody",
            "Change labels and metadata of a peer by a merge patch",
            &[OperationInProgress, InvalidState],
        )
        .tagged(),
        change(
            ("PUT", "/control/peers/{id}"),
            "PutPeer",
            "peers.put",
            "PutPeerBody",
            "Make a peer, or make it what the body says",
            &[OperationInProgress, InvalidState],
        )
        .by(Scope::Admin),
        change(
            ("PUT", "/control/clusters/{id}"),
            "PutCluster",
            "clusters.put",
            "PutClusterBody",
            "Make a cluster, or make it what the body says",
            &[OperationInProgress, InvalidState],
        )
        .by(Scope::Admin),
        change(
            ("POST", "/control/clusters/{id}:promote"),
            "PromoteCluster",
            "clusters.promote",
            "PromoteBody",
            "Make a cluster active, others passive in the same step",
            &[OperationInProgress, InvalidState, NoCapacity, LastActiveCluster],
        )
        .by(Scope::Admin)
        .confirmed()
        .long(),
        change(
            ("POST", "/control/clusters/{id}:demote"),
            "DemoteCluster",
            "clusters.demote",
            "DemoteBody",
            "Make a cluster passive",
            &[OperationInProgress, InvalidState, LastActiveCluster],
        )
        .by(Scope::Admin)
        .confirmed()
        .long(),
        change(
            ("PATCH", "/control/config"),
            "PatchConfig",
            "config.patch",
            "PatchConfigBody",
            "Change settings by a merge patch",
            &[InvalidSetting, OperationInProgress, InvalidState],
        )
        .by(Scope::Admin)
        .confirmed()
        .tagged(),
        change(
            ("POST", "/control/config:rollback"),
            "RollbackConfig",
            "config.rollback",
            "RollbackConfigBody",
            "Take the settings of an earlier revision",
            &[NotFound, InvalidSetting, OperationInProgress, InvalidState],
        )
        .by(Scope::Admin)
        .confirmed()
        .tagged(),
        control(
            "/control/operations/{id}:cancel",
            "CancelOperation",
            "operations.cancel",
            "CancelBody",
            "Stop an operation and put back what it did",
            &[TooLate],
        )
        .long(),
        control(
            "/control/operations/{id}:pause",
            "PauseOperation",
            "operations.pause",
            "ControlBody",
            "Begin nothing new in an operation",
            &[InvalidState],
        ),
        control(
            "/control/operations/{id}:resume",
            "ResumeOperation",
            "operations.resume",
            "ControlBody",
            "Go on with a paused operation",
            &[InvalidState],
        ),
        control(
            "/control/operations/{id}:approve",
            "ApproveOperation",
            "operations.approve",
            "DecideBody",
            "Say yes at an open gate",
            &[SelfApproval, AlreadyDecided, DigestMismatch],
        )
        .by(Scope::Approve),
        control(
            "/control/operations/{id}:reject",
            "RejectOperation",
            "operations.reject",
            "DecideBody",
            "Say no at an open gate: ends the operation",
            &[AlreadyDecided, DigestMismatch],
        )
        .by(Scope::Approve),
        control(
            "/control/operations/{id}:resolve",
            "ResolveOperation",
            "operations.resolve",
            "ControlBody",
            "End a stuck operation as failed and free its target",
            &[InvalidState],
        )
        .by(Scope::Admin),
        open("/livez", "livez", "The process runs", Kind::Plain("text/plain", None)),
        open("/readyz", "readyz", "Requests should come here", Kind::Plain("application/json", Some(503))),
        open("/metrics", "metrics", "Prometheus' text format", Kind::Plain("text/plain", None)),
        open("/openapi.json", "openapi", "This document", Kind::Plain("application/json", Some(304))),
    ]);
    all
}

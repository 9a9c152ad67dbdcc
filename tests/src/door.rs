//! The two ways in: the same request, sent as REST or as gRPC, and what came back in one form.
//!
//! The gRPC side is the generated client, with messages made from the JSON that REST would send: they have the same members.

use omnirelay_contract::grpc::status::{ErrorInfo, Status as Details};
use omnirelay_contract::grpc::v1::control_client::ControlClient;
use omnirelay_contract::grpc::v1::{self, Mutation};
use omnirelay_contract::problem::Code;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::api::Api;

/// How a mutation is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Rest,
    Grpc,
}

impl Protocol {
    pub const BOTH: [Protocol; 2] = [Protocol::Rest, Protocol::Grpc];

    /// In lower case, as a part of a name.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Rest => "rest",
            Protocol::Grpc => "grpc",
        }
    }
}

/// A mutation, whichever way it goes.
#[derive(Debug, Clone)]
pub struct Call {
    /// `peers.drain`, `operations.cancel`; `peers.drain.many` is the bulk drain.
    pub verb: &'static str,
    /// The id in the path; empty where there is none.
    pub id: String,
    pub body: Value,
    pub if_match: Option<String>,
    /// `If-None-Match: *`.
    pub creates: bool,
    pub key: Option<String>,
    pub prefer: Option<String>,
    pub validate_only: bool,
}

/// What came back, in the words of REST.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status; over gRPC that of the code, 200 for what was taken.
    pub status: u16,
    /// `-`, or the problem's code.
    pub code: String,
    /// `{operation, resource, changed}`, a plan, or the problem.
    pub body: Value,
    pub replayed: bool,
}

/// Somebody's client, one way or the other.
#[derive(Clone)]
pub enum Door {
    Rest(Api),
    Grpc(Api, ControlClient<Channel>),
}

impl Call {
    pub fn new(verb: &'static str, id: &str, body: Value) -> Self {
        Self {
            verb,
            id: id.to_owned(),
            body,
            if_match: None,
            creates: false,
            key: None,
            prefer: None,
            validate_only: false,
        }
    }

    pub fn if_match(mut self, revision: impl std::fmt::Display) -> Self {
        self.if_match = Some(format!("\"{revision}\""));
        self
    }

    pub fn creates(mut self) -> Self {
        self.creates = true;
        self
    }

    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Until the end, for as long as is waited at all.
    pub fn waits(mut self) -> Self {
        self.prefer = Some("wait=60".to_owned());
        self
    }

    pub fn validates_only(mut self) -> Self {
        self.validate_only = true;
        self
    }

    fn rest(&self) -> (Method, String) {
        let (resource, action) = self.verb.split_once('.').expect("resource.action");
        let id = &self.id;
        let (method, path) = match (resource, action) {
            ("peers", "drain.many") => (Method::POST, "/control/peers:drain".to_owned()),
            ("config", "patch") => (Method::PATCH, "/control/config".to_owned()),
            ("config", "rollback") => (Method::POST, "/control/config:rollback".to_owned()),
            (_, "patch") => (Method::PATCH, format!("/control/{resource}/{id}")),
            (_, "put") => (Method::PUT, format!("/control/{resource}/{id}")),
            _ => (Method::POST, format!("/control/{resource}/{id}:{action}")),
        };
        let query = if self.validate_only { "?validateOnly=true" } else { "" };
        (method, format!("{path}{query}"))
    }

    /// The message that it is, with its metadata.
    fn message<M: DeserializeOwned>(&self, token: Option<&str>) -> Request<M> {
        let mut members = self.body.clone();
        if !self.id.is_empty() {
            members["id"] = json!(self.id);
        }
        if self.validate_only {
            members["validateOnly"] = json!(true);
        }
        let mut request = Request::new(serde_json::from_value(members).expect("a message of these members"));
        let metadata = [
            ("authorization", token.map(|token| format!("Bearer {token}"))),
            ("if-match", self.if_match.clone()),
            ("if-none-match", self.creates.then(|| "*".to_owned())),
            ("idempotency-key", self.key.clone()),
            ("prefer", self.prefer.clone()),
        ];
        for (name, value) in metadata {
            if let Some(value) = value {
                request.metadata_mut().insert(name, value.parse().expect("metadata"));
            }
        }
        request
    }
}

impl Door {
    pub async fn open(protocol: Protocol, api: Api) -> Self {
        match protocol {
            Protocol::Rest => Door::Rest(api),
            Protocol::Grpc => {
                let endpoint = Endpoint::from_shared(api.base().to_owned()).expect("an address");
                let channel = endpoint.connect().await.expect("a connection");
                let client = ControlClient::new(channel).max_decoding_message_size(64 << 20);
                Door::Grpc(api, client)
            }
        }
    }

    /// The same door for somebody else, or nobody.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        match self {
            Door::Rest(api) => Door::Rest(api.with_token(token)),
            Door::Grpc(api, client) => Door::Grpc(api.with_token(token), client.clone()),
        }
    }

    /// The client behind it, for reads.
    pub fn api(&self) -> &Api {
        match self {
            Door::Rest(api) | Door::Grpc(api, _) => api,
        }
    }

    pub async fn ask(&self, call: &Call) -> Reply {
        match self {
            Door::Rest(api) => by_rest(api, call).await,
            Door::Grpc(api, client) => by_grpc(client.clone(), api.token(), call).await,
        }
    }

    /// With the confirmation of its plan, where one is asked for: the answer to the confirmed request.
    pub async fn confirmed(&self, call: &Call) -> Reply {
        let asked = self.ask(call).await;
        if asked.code != "confirmation-required" { asked } else { self.ask(&asked.confirms(call)).await }
    }
}

impl Reply {
    /// The same call with the confirmation of the plan in this reply.
    #[track_caller]
    pub fn confirms(&self, call: &Call) -> Call {
        let token = &self.body["plan"]["confirmation"]["token"];
        assert!(token.is_string(), "a plan with a token in {}", self.body);
        let mut confirmed = call.clone();
        confirmed.body["confirmation"] = token.clone();
        confirmed
    }

    #[track_caller]
    pub fn taken(&self) -> &Self {
        assert_eq!(self.code, "-", "{} {}", self.status, self.body);
        self
    }

    #[track_caller]
    pub fn refused(&self, code: &str) -> &Self {
        assert_eq!(self.code, code, "{} {}", self.status, self.body);
        self
    }

    pub fn changed(&self) -> bool {
        self.body["changed"] == true
    }

    /// The id of the operation in it.
    #[track_caller]
    pub fn operation(&self) -> String {
        self.body["operation"]["id"].as_str().unwrap_or_else(|| panic!("an operation in {}", self.body)).to_owned()
    }
}

async fn by_rest(api: &Api, call: &Call) -> Reply {
    let (method, path) = call.rest();
    let mut ask = api.ask(method, &path).raw("application/json", call.body.to_string());
    for (name, value) in [("if-match", &call.if_match), ("idempotency-key", &call.key), ("prefer", &call.prefer)] {
        if let Some(value) = value {
            ask = ask.header(name, value);
        }
    }
    if call.creates {
        ask = ask.header("if-none-match", "*");
    }
    let answer = ask.send().await;
    if answer.status >= 400 {
        answer.refused(answer.status, answer.code());
    }
    Reply {
        status: answer.status,
        code: answer.code().to_owned(),
        replayed: answer.header("idempotency-replayed") == "true",
        body: answer.body,
    }
}

async fn by_grpc(mut client: ControlClient<Channel>, token: Option<&str>, call: &Call) -> Reply {
    macro_rules! rpc {
        ($($verb:literal => $rpc:ident($message:ident),)+) => {
            match call.verb {
                $($verb => client.$rpc(call.message::<v1::$message>(token)).await,)+
                other => panic!("no rpc is known for {other}"),
            }
        };
    }
    let answer: Result<Response<Mutation>, Status> = rpc! {
        "peers.cordon" => cordon_peer(CordonPeerRequest),
        "peers.uncordon" => uncordon_peer(UncordonPeerRequest),
        "peers.drain" => drain_peer(DrainPeerRequest),
        "peers.drain.many" => drain_peers(DrainPeersRequest),
        "peers.patch" => patch_peer(PatchPeerRequest),
        "peers.put" => put_peer(PutPeerRequest),
        "clusters.put" => put_cluster(PutClusterRequest),
        "clusters.promote" => promote_cluster(PromoteClusterRequest),
        "clusters.demote" => demote_cluster(DemoteClusterRequest),
        "config.patch" => patch_config(PatchConfigRequest),
        "config.rollback" => rollback_config(RollbackConfigRequest),
        "operations.cancel" => cancel_operation(CancelOperationRequest),
        "operations.pause" => pause_operation(PauseOperationRequest),
        "operations.resume" => resume_operation(ResumeOperationRequest),
        "operations.approve" => approve_operation(ApproveOperationRequest),
        "operations.reject" => reject_operation(RejectOperationRequest),
        "operations.resolve" => resolve_operation(ResolveOperationRequest),
    };
    match answer {
        Ok(response) => {
            let replayed = response.metadata().get("idempotency-replayed").is_some_and(|value| value == "true");
            let mutation = response.into_inner();
            let mut body = json!({"operation": mutation.operation, "changed": mutation.changed});
            if let Some(plan) = &mutation.plan {
                body = serde_json::to_value(plan).expect("a plan");
            }
            Reply { status: 200, code: "-".to_owned(), body, replayed }
        }
        Err(status) => problem(&status),
    }
}

/// The problem of a refusal, which has to be complete and agree with the gRPC status.
#[track_caller]
fn problem(status: &Status) -> Reply {
    let details = Details::of(status).unwrap_or_else(|| panic!("no details in {status:?}"));
    let info: ErrorInfo = details.detail().expect("an ErrorInfo");
    let problem: v1::Problem = details.detail().expect("a Problem");
    let body = serde_json::to_value(&problem).expect("a problem");
    let code = Code::parse(&info.reason).unwrap_or_else(|| panic!("{} is no code", info.reason));
    assert_eq!((status.code(), info.domain.as_str()), (code.grpc_code(), "omnirelay"), "{status:?}");
    assert_eq!(body["code"], info.reason, "{body}");
    assert!(!status.message().is_empty(), "{status:?}");
    Reply { status: code.http_status(), code: info.reason, body, replayed: false }
}

//! The Kubernetes API, as far as the driver needs it. A failure is told in the API's own words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::KubernetesConfig;
use crate::driver::probe;

/// The longest that the API may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The longest message that is passed on, in characters.
const MAX_WORDS: usize = 300;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("the Kubernetes API {0}")]
    Unreachable(String),
    #[error("{0}")]
    Token(String),
    #[error("the Kubernetes API answers {code}: {words}")]
    Status { code: u16, words: String },
    #[error("the Kubernetes API answers what is not understood: {0}")]
    Odd(String),
}

impl ApiError {
    /// Whether the same request may well succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            ApiError::Unreachable(_) => true,
            ApiError::Status { code, .. } => *code == 429 || *code >= 500,
            ApiError::Token(_) | ApiError::Odd(_) => false,
        }
    }
}

pub struct Api {
    client: Client,
    base: Url,
    token_file: Option<PathBuf>,
}

/// A `Status` object: what the API says when it refuses.
#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    message: String,
}

impl Api {
    pub fn open(config: &KubernetesConfig) -> anyhow::Result<Self> {
        let account = |file: &str| Some(Path::new(ACCOUNT).join(file));
        let (server, token_file, ca_file) = match &config.server {
            Some(server) => (server.clone(), config.token_file.clone(), config.ca_file.clone()),
            None => (
                own_cluster(|name| std::env::var(name).ok())?,
                config.token_file.clone().or_else(|| account("token")),
                config.ca_file.clone().or_else(|| account("ca.crt")),
            ),
        };
        let base = base(&server).map_err(|why| anyhow::anyhow!("kubernetes.server: {why}"))?;
        probe::tls_provider();
        let mut client = Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("omnirelay-agent/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = ca_file {
            let named = || format!("kubernetes.ca_file {}", file.display());
            let pem = std::fs::read(&file).with_context(named)?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).with_context(named)?;
            anyhow::ensure!(!certificates.is_empty(), "{}: no certificate in it", named());
            client = client.tls_certs_only(certificates);
        }
        Ok(Self { client: client.build()?, base, token_file })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, ApiError> {
        let query: Vec<_> = query.iter().filter(|(_, value)| !value.is_empty()).collect();
        let answer = self.send(self.request(Method::GET, path)?.query(&query)).await?;
        let body = answer.bytes().await.map_err(unreachable)?;
        serde_json::from_slice(&body).map_err(|error| ApiError::Odd(format!("{path}: {error}")))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<(), ApiError> {
        self.send(self.request(Method::POST, path)?.json(body)).await.map(drop)
    }

    /// A merge patch (RFC 7396).
    pub async fn patch(&self, path: &str, body: &Value) -> Result<(), ApiError> {
        // The type first: `json` sets one where there is none.
        let request = self.request(Method::PATCH, path)?.header("content-type", "application/merge-patch+json");
        self.send(request.json(body)).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, ApiError> {
        // Behind the base's own path, which a proxy (Rancher) may have.
        let url = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|error| ApiError::Odd(format!("{path}: {error}")))?;
        Ok(self.client.request(method, url))
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Response, ApiError> {
        if let Some(file) = &self.token_file {
            let token = tokio::fs::read_to_string(file).await;
            let token = token.map_err(|error| ApiError::Token(format!("token_file {}: {error}", file.display())))?;
            request = request.bearer_auth(token.trim());
        }
        let answer = request.send().await.map_err(unreachable)?;
        let code = answer.status().as_u16();
        if answer.status().is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.unwrap_or_default();
        Err(ApiError::Status { code, words: words(&body) })
    }
}

/// The server's address, checked: a token must not go over a network in the clear.
pub fn base(server: &str) -> Result<Url, String> {
    let url = Url::parse(server).map_err(|error| format!("{server:?}: {error}"))?;
    let loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        "http" => Err(format!("{server:?}: https is needed, http only to this machine (kubectl proxy)")),
        _ => Err(format!("{server:?} is not https://host:port")),
    }
}

/// The cluster that the agent runs in, by the variables that Kubernetes gives to its pods.
fn own_cluster(var: impl Fn(&str) -> Option<String>) -> anyhow::Result<String> {
    let host = var("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty());
    let host = host.context("kubernetes.server is needed: the agent does not run in a cluster of Kubernetes")?;
    let port = var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(format!("https://{host}:{port}"))
}

/// The message with its causes: the cause says which budget it is.
fn words(body: &[u8]) -> String {
    let status: Status = serde_json::from_slice(body).unwrap_or_default();
    let causes = status.details.causes.into_iter().map(|cause| cause.message);
    let all: Vec<String> = std::iter::once(status.message).chain(causes).filter(|words| !words.is_empty()).collect();
    let text = if all.is_empty() { "no reason is given".to_owned() } else { all.join(" ") };
    text.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

fn unreachable(error: reqwest::Error) -> ApiError {
    let what = if error.is_timeout() {
        "does not answer".to_owned()
    } else if error.is_connect() {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        format!("cannot be reached: {cause}")
    } else {
        format!("broke off: {}", error.without_url())
    };
    ApiError::Unreachable(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_told_in_its_own_words() {
        let budget = br#"{"kind":"Status","message":"Cannot evict pod as it would violate the pod's disruption budget.",
            "details":{"causes":[{"reason":"DisruptionBudget","message":"The disruption budget web needs 2 healthy pods"}]}}"#;
        let told = "Cannot evict pod as it would violate the pod's disruption budget. The disruption budget web needs 2 healthy pods";
        assert_eq!(words(budget), told);
        assert_eq!(words(b"<html>"), "no reason is given");
    }

    #[test]
    fn a_token_goes_over_https_or_not_at_all() {
        for good in
            ["https://10.0.0.1:6443", "http://127.0.0.1:8001", "https://rancher/k8s/clusters/c-1", "http://[::1]:1"]
        {
            assert!(base(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://10.0.0.1:6443", "https is needed"),
            ("ftp://h", "is not https://host:port"),
            ("10.0.0.1:6443", "10.0.0.1:6443"),
        ] {
            let error = base(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_pod_finds_its_own_cluster() {
        let of =
            |host: &'static str| own_cluster(move |name| (name == "KUBERNETES_SERVICE_HOST").then(|| host.to_owned()));
        assert_eq!(of("10.96.0.1").unwrap(), "https://10.96.0.1:443");
        assert_eq!(of("fd00::1").unwrap(), "https://[fd00::1]:443");
        assert!(of("").unwrap_err().to_string().contains("kubernetes.server is needed"));
    }
}

//! Spans of mutations, of steps and of commands, exported by OTLP where an endpoint is configured.
//!
//! A span's identity is the `traceparent` that travels: in the header of HTTP, in the operation's row, in the headers of NATS. A span
//! is therefore made here from two of them, its own and its parent's, when it has ended, and handed to the SDK's batch processor;
//! no layer beneath `tracing` chooses ids that the row would not know. Without an endpoint, or in a trace that its caller does not
//! sample, nothing is built, not even the text of an attribute.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use omnirelay_workflow::word_enum;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use tokio::runtime::Handle;

use crate::config::Telemetry;
use crate::trace::TraceParent;

/// How long the collector may take for a batch, and the end of the process for the last one.
const TIMEOUT: Duration = Duration::from_secs(5);

static EXPORT: OnceLock<Export> = OnceLock::new();

#[derive(Debug)]
struct Export {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    ratio: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum SpansError {
    #[error("the endpoint for traces (telemetry.otlp_endpoint, OTEL_EXPORTER_OTLP_ENDPOINT) is not usable: {0}")]
    Endpoint(#[from] ExporterBuildError),
    #[error("no HTTP client for traces: {0}")]
    Client(#[from] reqwest::Error),
    #[error("traces are exported already")]
    Twice,
}

word_enum!(
    /// A span's part in its trace.
    Kind {
        /// A request that was answered.
        Server = "server",
        /// Work on what came by the bus or by the record.
        Consumer = "consumer",
        /// A command that was sent and answered.
        Client = "client",
    }
);

/// What a span tells beside its times.
#[derive(Debug)]
pub struct Told {
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub attributes: Vec<(&'static str, String)>,
    /// What went wrong, in a word.
    pub failed: Option<Cow<'static, str>>,
}

/// Starts the export, where there is an endpoint. To be called within a tokio runtime, once.
pub fn start(config: &Telemetry, role: &str) -> Result<Exporting, SpansError> {
    let Some(endpoint) = config.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
        return Ok(Exporting(()));
    };
    // The specification's variable is a base; the signal's path is ours to add.
    let base = endpoint.trim_end_matches('/');
    let endpoint = if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") };
    let client = Client {
        http: reqwest::Client::builder().timeout(TIMEOUT).build()?,
        runtime: Handle::current(),
        failing: AtomicBool::new(false),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(endpoint.as_str())
        .with_timeout(TIMEOUT)
        .build()?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    let resource = Resource::builder()
        .with_service_name("omnirelay")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("omnirelay.role", role.to_owned()))
        .build();
    processor.set_resource(&resource);
    let scope = InstrumentationScope::builder("omnirelay").build();
    EXPORT.set(Export { processor, scope, ratio: config.trace_ratio }).map_err(|_| SpansError::Twice)?;
    tracing::info!(endpoint, ratio = config.trace_ratio, "traces are exported");
    Ok(Exporting(()))
}

/// The export of this process, as long as it runs.
#[derive(Debug)]
#[must_use = "the last spans are sent by `finish`"]
pub struct Exporting(());

impl Exporting {
    /// Sends what is left.
    pub async fn finish(self) {
        let last = tokio::task::spawn_blocking(|| match EXPORT.get() {
            Some(export) => export.processor.shutdown_with_timeout(TIMEOUT),
            None => Ok(()),
        });
        if let Ok(Err(error)) = last.await {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Whether a trace that begins here is sampled. Without an export it is, for whoever exports behind us.
pub(crate) fn samples(trace: u128) -> bool {
    // By the id, so that whoever decides by the same ratio decides the same (OpenTelemetry's TraceIdRatioBased).
    EXPORT.get().is_none_or(|export| (trace as u64 >> 1) as f64 <= export.ratio * (u64::MAX >> 1) as f64)
}

/// The context of a span beneath `parent`, where it is going to be exported.
pub fn beneath(parent: &str) -> Option<TraceParent> {
    EXPORT.get()?;
    let parent: TraceParent = parent.parse().ok()?;
    parent.is_sampled().then(|| parent.beneath())
}

/// A span that ends now and took `lasted`. `tell` is called only where it is exported.
pub fn ended(own: TraceParent, parent: Option<TraceParent>, lasted: Duration, tell: impl FnOnce() -> Told) {
    let Some(export) = EXPORT.get() else { return };
    if !own.is_sampled() {
        return;
    }
    let end_time = SystemTime::now();
    let told = tell();
    export.processor.on_end(SpanData {
        span_context: SpanContext::new(
            TraceId::from(own.trace()),
            SpanId::from(own.span()),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span())),
        parent_span_is_remote: parent.is_some(),
        span_kind: match told.kind {
            Kind::Server => SpanKind::Server,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Client => SpanKind::Client,
        },
        name: told.name,
        start_time: end_time.checked_sub(lasted).unwrap_or(end_time),
        end_time,
        attributes: told.attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: told.failed.map_or(Status::Unset, |description| Status::Error { description }),
        instrumentation_scope: export.scope.clone(),
    });
}

/// Our own HTTP client for the exporter, whose thread is not the runtime's.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
    /// So that a collector that is away is told of once.
    failing: AtomicBool,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let response = http.execute(request).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let mut answer = Response::new(response.bytes().await?);
            *answer.status_mut() = status;
            *answer.headers_mut() = headers;
            Ok::<_, reqwest::Error>(answer)
        });
        let answer: Result<Response<Bytes>, HttpError> = match sent.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        };
        let failed = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        match failed {
            None => self.failing.store(false, Ordering::Relaxed),
            Some(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(error, "the collector does not take traces; spans are lost until it does");
                }
            }
        }
        answer
    }
}

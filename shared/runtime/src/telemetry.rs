//! Logs and metrics of a process.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use omnirelay_workflow::word_enum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub use metrics_exporter_prometheus::PrometheusHandle;

word_enum!(
    LogFormat {
        /// One object a line, for machines.
        Json = "json",
        /// Text for people.
        Pretty = "pretty",
    }
);

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter {filter:?} is not usable: {source}")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("a logger is installed already: {0}")]
    Logger(#[from] TryInitError),
    #[error("metrics cannot be recorded: {0}")]
    Metrics(#[from] BuildError),
}

/// Logs to stderr. `filter` has the form of `RUST_LOG`: `info`, `omnirelay_worker=debug,info`.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let env_filter =
        EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(env_filter).with_writer(std::io::stderr);
    match format {
        // A mutation's `target` is what it is done to; a second member of that name, the module, would hide it from most readers.
        LogFormat::Json => builder.json().flatten_event(true).with_target(false).finish().try_init()?,
        LogFormat::Pretty => builder.with_target(false).finish().try_init()?,
    }
    Ok(())
}

/// Buckets of every `…_seconds` histogram: from 250 µs, for mutations of a millisecond, to 30 s.
const SECONDS: &[f64] =
    &[0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Buckets of batch sizes.
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// The process's metrics, installed by the first call; every later one (a second service in one process, the next test)
/// gets the same.
pub fn metrics() -> Result<PrometheusHandle, TelemetryError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    static INSTALLING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), SIZES)?
        .install_recorder()?;
    describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// What `/metrics` says of each: the list of `contract.md`, "Metrics".
fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        "omnirelay_mutations_total",
        "Mutations: each request by its answer (`accepted`, `replayed`, `planned`, `unchanged`, a control's outcome, or the \
         code of its refusal), and each operation's end by its state."
    );
    describe_histogram!(
        "omnirelay_mutation_seconds",
        Unit::Seconds,
        "From a request to its commit (intake, of a batch), to its answer (answered), to its operation's end (done)."
    );
    describe_gauge!("omnirelay_operations", "Operations that have not ended, and stuck ones.");
    describe_histogram!(
        "omnirelay_workflow_step_seconds",
        Unit::Seconds,
        "A batch of inputs, from its lock to its commit."
    );
    describe_histogram!("omnirelay_batch_size", "How many went together: requests, operations, events.");
    describe_gauge!("omnirelay_outbox_lag_seconds", Unit::Seconds, "Age of the oldest event without a position.");
    describe_gauge!("omnirelay_outbox_pending", "Events without a position.");
    describe_gauge!("omnirelay_consumer_pending", "Messages that a consumer has yet to get or to acknowledge.");
    describe_gauge!(
        "omnirelay_audit_lag_seconds",
        Unit::Seconds,
        "Age of the oldest event that the audit has not recorded."
    );
    describe_gauge!("omnirelay_sse_clients", "Clients that follow events, by SSE or gRPC.");
    describe_gauge!("omnirelay_approvals_pending", "Operations that wait for approval.");
    describe_counter!(
        "omnirelay_effect_attempts_total",
        "Commands sent to agents, by verb and what came of the sending."
    );
    describe_gauge!("omnirelay_agents", "Peers by the health of their agents, told by the worker that judges.");
    describe_counter!("omnirelay_heartbeats_refused_total", "Heartbeats that could not be read or were too many.");
}

#[cfg(test)]
mod tests {
    #[test]
    fn metrics_are_installed_once_for_all() {
        let first = super::metrics().expect("installed");
        let second = super::metrics().expect("the same");
        metrics::counter!("omnirelay_test_total").increment(1);
        assert!(first.render().contains("omnirelay_test_total 1"));
        assert_eq!(first.render(), second.render());
    }
}

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
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
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
    Ok(HANDLE.get_or_init(|| handle).clone())
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

//! What the server counts, as Prometheus reads it.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// The media type of [`Metrics::encode`]'s text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was asked for. `Wait` is a `GET` that waits for a change: it takes long on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(clippy::upper_case_acronyms, reason = "these are the label values, as HTTP spells them")]
pub(super) enum Method {
    GET,
    PUT,
    DELETE,
    WAIT,
    LIST,
    OTHER,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: Method,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: Method,
}

/// All figures of one server.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<MethodLabels, Histogram>,
    pub(super) entries: Gauge,
    pub(super) entries_bytes: Gauge,
    pub(super) owners: Gauge,
    pub(super) expired_entries: Counter,
    pub(super) commit_seconds: Histogram,
    pub(super) connections: Gauge,
    pub(super) refused_connections: Counter,
    pub(super) failed_handshakes: Counter,
    pub(super) received_bytes: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) store_failing: Gauge,
    pub(super) waiters: Gauge,
}

/// From 50 µs to 26 s: an answer from memory, a commit on a slow disk.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 20))
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("nvferry_metadata");
        let requests = Family::default();
        let request_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let (entries, entries_bytes, owners) = (Gauge::default(), Gauge::default(), Gauge::default());
        let (connections, waiters) = (Gauge::default(), Gauge::default());
        let (expired_entries, refused_connections) = (Counter::default(), Counter::default());
        let (failed_handshakes, received_bytes, sent_bytes) =
            (Counter::default(), Counter::default(), Counter::default());
        let store_failing = Gauge::default();
        let commit_seconds = seconds();
        registry.register("requests", "Requests answered", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to its answer",
            Unit::Seconds,
            request_seconds.clone(),
        );
        registry.register("entries", "Entries held", entries.clone());
        registry.register_with_unit("entries", "Keys and values held", Unit::Bytes, entries_bytes.clone());
        registry.register("owners", "Owners of entries", owners.clone());
        registry.register(
            "expired_entries",
            "Entries removed because their owner stopped renewing",
            expired_entries.clone(),
        );
        registry.register_with_unit(
            "commit_duration",
            "Time to make a batch of changes durable",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        registry.register("connections", "Open connections", connections.clone());
        registry.register(
            "refused_connections",
            "Connections refused because too many were open",
            refused_connections.clone(),
        );
        registry.register(
            "failed_handshakes",
            "TLS connections that were not made, or not in time",
            failed_handshakes.clone(),
        );
        registry.register_with_unit(
            "received_values",
            "Values received with requests",
            Unit::Bytes,
            received_bytes.clone(),
        );
        registry.register_with_unit("sent_values", "Bodies of answers", Unit::Bytes, sent_bytes.clone());
        registry.register("store_failing", "1 while the store's file cannot be written", store_failing.clone());
        registry.register("waiters", "Readers that wait for a change", waiters.clone());
        Self {
            registry,
            requests,
            request_seconds,
            entries,
            entries_bytes,
            owners,
            expired_entries,
            commit_seconds,
            connections,
            refused_connections,
            failed_handshakes,
            received_bytes,
            sent_bytes,
            store_failing,
            waiters,
        }
    }

    /// Counts an answered request.
    pub(super) fn request(&self, method: Method, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { method, status }).inc();
        self.request_seconds.get_or_create(&MethodLabels { method }).observe(took.as_secs_f64());
    }

    /// All figures as text.
    pub(super) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Adds one to a gauge until it is dropped.
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

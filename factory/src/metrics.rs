//! What is counted, in the text that Prometheus reads. `docs/uplink.md` has the list.

use std::time::Duration;

use outstation_wire::segment::Class;
use outstation_wire::uplink::RefusedCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// All counters of a replica.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Segments stored, by class.
    pub segments: Family<ClassLabel, Counter>,
    /// Their bytes.
    pub segment_bytes: Family<ClassLabel, Counter>,
    /// Segments that were there already when they were offered.
    pub repeats: Counter,
    /// Segments stored with damage inside.
    pub damaged: Counter,
    /// Bytes that earlier tries had brought.
    pub resumed_bytes: Counter,
    /// Bytes that arrived in segments.
    pub received_bytes: Counter,
    /// Answers that are no, by code.
    pub refusals: Family<CodeLabel, Counter>,
    /// Seconds of a request to the store, by kind.
    pub store_seconds: Family<StoreLabel, Histogram, fn() -> Histogram>,
    /// Requests to the store that failed, by kind.
    pub store_failures: Family<StoreLabel, Counter>,
    /// Boxes connected.
    pub connections: Gauge,
    /// Bytes that segments on their way may take in memory.
    pub memory_bytes: Gauge,
    /// The most that these ever were.
    pub memory_bytes_peak: Gauge,
    /// Boxes that joined.
    pub enrolments: Counter,
    /// Epochs that were put into quarantine.
    pub clones: Counter,
    /// Ranges of released files that began, by the way they go.
    pub fetches: Family<WayLabel, Counter>,
    /// Their bytes.
    pub fetched_bytes: Family<WayLabel, Counter>,
    /// Boxes of each ring, by how far they are with what is released.
    pub release_boxes: Family<PhaseLabel, Gauge>,
}

/// Of a way to a box.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WayLabel {
    /// `uplink` or `http`.
    pub way: &'static str,
}

/// Of a ring and a phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PhaseLabel {
    /// The ring.
    pub ring: String,
    /// How far.
    pub phase: String,
}

/// Of a class.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClassLabel {
    class: &'static str,
}

/// Of a kind of no.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    code: &'static str,
}

/// Of a kind of request to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabel {
    request: &'static str,
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("outstation_factory");
        macro_rules! registered {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        Self {
            segments: registered!("segments", "Segments stored, by class", Family::default()),
            segment_bytes: registered!(
                "segment_bytes",
                "Bytes of segments stored, by class",
                Family::default()
            ),
            repeats: registered!(
                "segments_repeated",
                "Segments that were stored already",
                Counter::default()
            ),
            damaged: registered!(
                "segments_damaged",
                "Segments stored with damage inside",
                Counter::default()
            ),
            resumed_bytes: registered!(
                "resumed_bytes",
                "Bytes that earlier tries had brought",
                Counter::default()
            ),
            received_bytes: registered!(
                "received_bytes",
                "Bytes of segments that arrived",
                Counter::default()
            ),
            refusals: registered!(
                "refusals",
                "Answers that are no, by code",
                Family::default()
            ),
            store_seconds: registered!(
                "store_seconds",
                "Time of requests to the store, by kind",
                Family::new_with_constructor(seconds)
            ),
            store_failures: registered!(
                "store_failures",
                "Requests to the store that failed",
                Family::default()
            ),
            connections: registered!("connections", "Boxes connected", Gauge::default()),
            memory_bytes: registered!(
                "memory_bytes",
                "Bytes of segments on their way",
                Gauge::default()
            ),
            memory_bytes_peak: registered!(
                "memory_bytes_peak",
                "The most that these ever were",
                Gauge::default()
            ),
            enrolments: registered!("enrolments", "Boxes that joined", Counter::default()),
            clones: registered!(
                "clones",
                "Epochs that two machines write",
                Counter::default()
            ),
            fetches: registered!(
                "fetches",
                "Ranges of released files, by way",
                Family::default()
            ),
            fetched_bytes: registered!(
                "fetched_bytes",
                "Bytes of released files, by way",
                Family::default()
            ),
            release_boxes: registered!(
                "release_boxes",
                "Boxes of each ring, by how far they are with what is released",
                Family::default()
            ),
            registry,
        }
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("a string takes it");
        text
    }

    /// A segment was stored.
    pub fn stored(&self, class: Class, bytes: u64) {
        let label = ClassLabel {
            class: class.name(),
        };
        self.segments.get_or_create(&label).inc();
        self.segment_bytes.get_or_create(&label).inc_by(bytes);
    }

    /// An answer was no.
    pub fn refused(&self, code: i32) {
        let code = match RefusedCode::try_from(code).unwrap_or(RefusedCode::Unknown) {
            RefusedCode::Unknown => "unknown",
            RefusedCode::Unavailable => "unavailable",
            RefusedCode::Malformed => "malformed",
            RefusedCode::Digest => "digest",
            RefusedCode::Conflict => "conflict",
            RefusedCode::Code => "code",
            RefusedCode::Revoked => "revoked",
            RefusedCode::Busy => "busy",
            RefusedCode::Missing => "missing",
        };
        self.refusals.get_or_create(&CodeLabel { code }).inc();
    }

    /// Runs a request to the store, with its time and outcome.
    pub async fn timed<T, E>(
        &self,
        request: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let label = StoreLabel { request };
        let started = tokio::time::Instant::now();
        let result = work.await;
        let took: Duration = started.elapsed();
        self.store_seconds
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        if result.is_err() {
            self.store_failures.get_or_create(&label).inc();
        }
        result
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

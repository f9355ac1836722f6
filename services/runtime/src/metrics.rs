//! Every metric of a process by name, and the recorder behind `/metrics`.
//!
//! Names and help texts are defined here only. The two names of the store are repeated in
//! `dataset`, which may not call this crate; a test compares them. Dashboards and alerts use these
//! names. Naming: prometheus.io, "Metric and label naming".

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only increases; its name ends in `_total`.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts values by size: `_bucket`, `_sum` and `_count` in the output.
    Histogram,
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name in Prometheus.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The help text, which names its labels.
    pub help: &'static str,
}

/// Running runs.
pub const RUNS: &str = "capstan_runs";
/// Tasks of running runs, label `state`: waiting, leased, committed, quarantined.
pub const TASKS: &str = "capstan_tasks";
/// Workers that wait for a task.
pub const WORKERS_WAITING: &str = "capstan_workers_waiting";
/// Leases granted, label `stage`; the leases of a gang's ranks count as one.
pub const LEASES_GRANTED: &str = "capstan_leases_granted_total";
/// Leases that expired without a heartbeat.
pub const LEASES_EXPIRED: &str = "capstan_leases_expired_total";
/// Tasks that are retried after a failed attempt, label `stage`.
pub const RETRIES: &str = "capstan_task_retries_total";
/// Tasks that were quarantined, label `stage`.
pub const QUARANTINES: &str = "capstan_task_quarantines_total";
/// Workers that were ejected because they failed shards that other workers completed.
pub const EJECTIONS: &str = "capstan_worker_ejections_total";
/// Workers that are ejected now.
pub const WORKERS_EJECTED: &str = "capstan_workers_ejected";
/// Tasks that were leased a second time because they took far longer than others of their stage.
pub const TWINS: &str = "capstan_twin_leases_total";
/// Requests that the coordinator rejected because a certificate, role or token was missing or
/// wrong, label `code`.
pub const REFUSALS: &str = "capstan_requests_refused_total";
/// Attempts that ended at this worker, labels `stage` and `outcome`: committed, adopted (another
/// attempt's record existed), failed, released (the worker stops), lost (the lease was lost).
pub const ATTEMPTS: &str = "capstan_attempts_total";
/// Wall time of an attempt's work, label `stage`.
pub const ATTEMPT_SECONDS: &str = "capstan_attempt_seconds";
/// Finished units of work, labels `stage` and `unit`: pages, pictures, texts, steps ... Their
/// `rate()` is the throughput, for example pictures per second.
pub const WORK_UNITS: &str = "capstan_work_units_total";
/// Bytes read from the store, without reads from caches.
pub const STORE_READ_BYTES: &str = "capstan_store_read_bytes_total";
/// Bytes written to the store.
pub const STORE_WRITTEN_BYTES: &str = "capstan_store_written_bytes_total";
/// Pages that were requested.
pub const PAGES: &str = "capstan_pages_total";
/// Pictures that were fetched or imported, and kept.
pub const IMAGES: &str = "capstan_images_total";
/// Pages and pictures that were rejected, label `code`.
pub const REJECTS: &str = "capstan_rejects_total";
/// Captions that were generated.
pub const CAPTIONS: &str = "capstan_captions_total";
/// Texts that a filter scored.
pub const VERDICTS: &str = "capstan_verdicts_total";
/// Loss of the last step, labels `stage` and `part`: `loss` for the sum, `itc`, `itm`, `lm`.
pub const LOSS: &str = "capstan_training_loss";
/// Finished training steps, label `stage`.
pub const STEPS: &str = "capstan_training_steps_total";
/// Samples that this rank trained on, label `stage`.
pub const SAMPLES: &str = "capstan_training_samples_total";
/// Wall time of a step, label `stage`.
pub const STEP_SECONDS: &str = "capstan_training_step_seconds";
/// Wall time that a step spent in the ring, label `stage`.
pub const ALL_REDUCE_SECONDS: &str = "capstan_training_all_reduce_seconds";

/// All metrics.
pub const ALL: &[Metric] = &[
    gauge(RUNS, "Running runs"),
    gauge(TASKS, "Tasks of running runs by state"),
    gauge(WORKERS_WAITING, "Workers that wait for a task"),
    counter(LEASES_GRANTED, "Leases granted by stage"),
    counter(LEASES_EXPIRED, "Leases that expired without a heartbeat"),
    counter(
        RETRIES,
        "Tasks that are retried after a failed attempt, by stage",
    ),
    counter(QUARANTINES, "Tasks that were quarantined, by stage"),
    counter(
        EJECTIONS,
        "Workers that were ejected because they failed shards that others completed",
    ),
    gauge(WORKERS_EJECTED, "Workers that are ejected now"),
    counter(TWINS, "Tasks that were leased a second time as stragglers"),
    counter(
        REFUSALS,
        "Requests rejected for a missing or wrong certificate, role or token",
    ),
    counter(
        ATTEMPTS,
        "Attempts that ended at this worker by stage and outcome",
    ),
    histogram(
        ATTEMPT_SECONDS,
        "Wall time of an attempt's work in seconds, by stage",
    ),
    counter(WORK_UNITS, "Finished units of work by stage and unit"),
    counter(STORE_READ_BYTES, "Bytes read from the store"),
    counter(STORE_WRITTEN_BYTES, "Bytes written to the store"),
    counter(PAGES, "Pages that were requested"),
    counter(IMAGES, "Pictures that were fetched or imported"),
    counter(REJECTS, "Pages and pictures that were rejected, by code"),
    counter(CAPTIONS, "Captions that were generated"),
    counter(VERDICTS, "Texts that a filter scored"),
    gauge(LOSS, "Loss of the last training step by stage and part"),
    counter(STEPS, "Finished training steps by stage"),
    counter(SAMPLES, "Samples that this rank trained on, by stage"),
    histogram(
        STEP_SECONDS,
        "Wall time of a training step in seconds, by stage",
    ),
    histogram(
        ALL_REDUCE_SECONDS,
        "Wall time that a training step spent in the ring in seconds, by stage",
    ),
];

/// Upper bounds of the buckets of every histogram in seconds: 1 ms to 1 h.
const BUCKETS: [f64; 14] = [
    0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 1_200.0, 3_600.0,
];

const fn counter(name: &'static str, help: &'static str) -> Metric {
    let kind = Kind::Counter;
    Metric { name, kind, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    let kind = Kind::Gauge;
    Metric { name, kind, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    let kind = Kind::Histogram;
    Metric { name, kind, help }
}

/// The recorded metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Recorded(PrometheusHandle);

impl Recorded {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Counts the recorded values of histograms into their buckets. Call it every few seconds:
    /// otherwise the memory of metrics that are not scraped grows.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Installs the recorder of this process. Later calls return the same recorder. Before the first
/// call, recording keeps nothing and costs almost nothing.
pub fn install() -> Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
                .expect("the list of buckets is not empty")
                .build_recorder();
            let recorded = Recorded(recorder.handle());
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::error!("another metrics recorder is installed: /metrics stays empty");
            }
            describe();
            recorded
        })
        .clone()
}

fn describe() {
    for Metric { name, kind, help } in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name is used twice");
        for Metric { name, kind, help } in ALL {
            let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
            assert!(
                name.starts_with("capstan_") && name.bytes().all(plain),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(
                name.ends_with("_seconds"),
                *kind == Kind::Histogram,
                "{name}"
            );
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: {help}");
        }
    }

    #[test]
    fn recorded_metrics_are_rendered_with_their_help() {
        let recorded = install();
        metrics::counter!(LEASES_GRANTED, "stage" => "captions").increment(3);
        metrics::gauge!(LOSS, "stage" => "blip", "part" => "itc").set(1.5);
        metrics::histogram!(STEP_SECONDS, "stage" => "blip").record(0.3);
        install().upkeep();
        let text = recorded.render();
        for line in [
            "# HELP capstan_leases_granted_total Leases granted by stage",
            "# TYPE capstan_leases_granted_total counter",
            "capstan_leases_granted_total{stage=\"captions\"} 3",
            "capstan_training_loss{stage=\"blip\",part=\"itc\"} 1.5",
            "capstan_training_step_seconds_bucket{stage=\"blip\",le=\"0.25\"} 0",
            "capstan_training_step_seconds_bucket{stage=\"blip\",le=\"0.5\"} 1",
            "capstan_training_step_seconds_count{stage=\"blip\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no {line} in {text}"
            );
        }
    }
}

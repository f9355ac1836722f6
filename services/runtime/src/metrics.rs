//! Every metric that a process gives, by name, and the recorder behind `/metrics`.
//!
//! Names and their help text stand here and nowhere else (the store's two beside it, since
//! `dataset` may not call this room; a test holds them against these). Dashboards and alerts are
//! written against this file. Naming: prometheus.io, "Metric and label naming".

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size: `_bucket`, `_sum` and `_count` in the output.
    Histogram,
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// As Prometheus has it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says, with its labels.
    pub help: &'static str,
}

/// Runs that go on.
pub const RUNS: &str = "capstan_runs";
/// Tasks of running runs, label `state`: waiting, leased, committed, quarantined.
pub const TASKS: &str = "capstan_tasks";
/// Workers that wait for work.
pub const WORKERS_WAITING: &str = "capstan_workers_waiting";
/// Leases handed out, label `stage`; those of a gang's ranks count as one.
pub const LEASES_GRANTED: &str = "capstan_leases_granted_total";
/// Leases that no heartbeat renewed.
pub const LEASES_EXPIRED: &str = "capstan_leases_expired_total";
/// Tasks that go back to be tried again after an attempt failed, label `stage`.
pub const RETRIES: &str = "capstan_task_retries_total";
/// Tasks given up, label `stage`.
pub const QUARANTINES: &str = "capstan_task_quarantines_total";
/// Workers that were ejected: they fail shards that others do.
pub const EJECTIONS: &str = "capstan_worker_ejections_total";
/// Workers that are ejected now.
pub const WORKERS_EJECTED: &str = "capstan_workers_ejected";
/// Tasks that were leased a second time since they took far longer than their like.
pub const TWINS: &str = "capstan_twin_leases_total";
/// Requests that the coordinator refused for want of a certificate, role or token, label `code`.
pub const REFUSALS: &str = "capstan_requests_refused_total";
/// Attempts that ended at this worker, labels `stage` and `outcome`: committed, adopted (another's
/// record stood), failed, released (the worker stops), lost (the lease is another's).
pub const ATTEMPTS: &str = "capstan_attempts_total";
/// How long the work of an attempt took, label `stage`.
pub const ATTEMPT_SECONDS: &str = "capstan_attempt_seconds";
/// Units of work as they are done, labels `stage` and `unit`: pages, pictures, texts, steps ...
/// Pictures per second: `rate()` of those.
pub const WORK_UNITS: &str = "capstan_work_units_total";
/// Bytes read from the store, of caches none.
pub const STORE_READ_BYTES: &str = "capstan_store_read_bytes_total";
/// Bytes that the store took.
pub const STORE_WRITTEN_BYTES: &str = "capstan_store_written_bytes_total";
/// Pages that were asked for.
pub const PAGES: &str = "capstan_pages_total";
/// Pictures that were fetched or imported, and kept.
pub const IMAGES: &str = "capstan_images_total";
/// Pages and pictures that were rejected, label `code`.
pub const REJECTS: &str = "capstan_rejects_total";
/// Captions that were made.
pub const CAPTIONS: &str = "capstan_captions_total";
/// Texts that were judged.
pub const VERDICTS: &str = "capstan_verdicts_total";
/// Loss of the last step, labels `stage` and `part`: `loss` for the sum, `itc`, `itm`, `lm`.
pub const LOSS: &str = "capstan_training_loss";
/// Steps done, label `stage`.
pub const STEPS: &str = "capstan_training_steps_total";
/// Samples that this rank has seen, label `stage`.
pub const SAMPLES: &str = "capstan_training_samples_total";
/// Wall time of a step, label `stage`.
pub const STEP_SECONDS: &str = "capstan_training_step_seconds";
/// Wall time of a step that went into the ring, label `stage`.
pub const ALL_REDUCE_SECONDS: &str = "capstan_training_all_reduce_seconds";

/// All of them.
pub const ALL: &[Metric] = &[
    gauge(RUNS, "Runs that go on"),
    gauge(TASKS, "Tasks of running runs by state"),
    gauge(WORKERS_WAITING, "Workers that wait for work"),
    counter(LEASES_GRANTED, "Leases handed out by stage"),
    counter(LEASES_EXPIRED, "Leases that no heartbeat renewed"),
    counter(RETRIES, "Tasks that are tried again, by stage"),
    counter(QUARANTINES, "Tasks given up, by stage"),
    counter(
        EJECTIONS,
        "Workers that were ejected: they fail shards that others do",
    ),
    gauge(WORKERS_EJECTED, "Workers that are ejected now"),
    counter(TWINS, "Tasks that were leased a second time as stragglers"),
    counter(
        REFUSALS,
        "Requests refused for want of a certificate, role or token",
    ),
    counter(
        ATTEMPTS,
        "Attempts that ended at this worker by stage and outcome",
    ),
    histogram(
        ATTEMPT_SECONDS,
        "Seconds that the work of an attempt took, by stage",
    ),
    counter(
        WORK_UNITS,
        "Units of work as they are done, by stage and unit",
    ),
    counter(STORE_READ_BYTES, "Bytes read from the store"),
    counter(STORE_WRITTEN_BYTES, "Bytes written to the store"),
    counter(PAGES, "Pages that were asked for"),
    counter(IMAGES, "Pictures that were fetched or imported"),
    counter(REJECTS, "Pages and pictures that were rejected, by code"),
    counter(CAPTIONS, "Captions that were made"),
    counter(VERDICTS, "Texts that were judged"),
    gauge(LOSS, "Loss of the last training step by stage and part"),
    counter(STEPS, "Training steps done by stage"),
    counter(
        SAMPLES,
        "Training samples that this rank has seen, by stage",
    ),
    histogram(STEP_SECONDS, "Seconds of a training step by stage"),
    histogram(
        ALL_REDUCE_SECONDS,
        "Seconds of a training step in the ring, by stage",
    ),
];

/// Upper ends of the buckets of every histogram, in seconds: 1 ms to 1 h.
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

/// What was recorded, for whoever serves it. Cheap to clone.
#[derive(Clone)]
pub struct Recorded(PrometheusHandle);

impl Recorded {
    /// All of it in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Makes room: what histograms were given is counted into their buckets. To be called every
    /// few seconds, or what nobody asks for grows.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Installs the recorder of this process; later calls give the same one. Until it is called,
/// recording costs next to nothing and keeps nothing.
pub fn install() -> Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
                .expect("there are buckets")
                .build_recorder();
            let recorded = Recorded(recorder.handle());
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::error!("another recorder is installed: /metrics stays empty");
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
    fn names_are_as_prometheus_wants_them() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name stands twice");
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
    fn what_is_recorded_is_rendered_with_its_help() {
        let recorded = install();
        metrics::counter!(LEASES_GRANTED, "stage" => "captions").increment(3);
        metrics::gauge!(LOSS, "stage" => "blip", "part" => "itc").set(1.5);
        metrics::histogram!(STEP_SECONDS, "stage" => "blip").record(0.3);
        install().upkeep();
        let text = recorded.render();
        for line in [
            "# HELP capstan_leases_granted_total Leases handed out by stage",
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

//! Checks `deploy/dashboards` against the program's metrics.

use std::collections::BTreeSet;

use capstan_runtime::metrics::{self, Kind, Metric};
use serde_json::Value;

use super::objects::{list, text};
use super::{assert_none, files};

/// Functions that apply only to counters and to the parts of histograms.
const OF_COUNTERS: [&str; 2] = ["rate(", "increase("];

/// Queries with metrics or labels that the program does not export, or of the wrong kind.
pub fn check(board: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in list(&board["panels"]) {
        let title = text(&panel["title"]);
        if !ids.insert(panel["id"].as_u64()) {
            findings.push(format!("{title}: another panel has the same id"));
        }
        for target in list(&panel["targets"]) {
            let asked = text(&target["expr"]);
            if asked.matches('(').count() != asked.matches(')').count() {
                findings.push(format!("{title}: unbalanced brackets in `{asked}`"));
            }
            let found = names(asked)
                .into_iter()
                .filter_map(|(at, name)| wrong(asked, at, name));
            findings.extend(found.map(|finding| format!("{title}: {finding}")));
        }
    }
    findings
}

/// Every metric in a query, with its position.
fn names(query: &str) -> Vec<(usize, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let name = |(at, _)| {
        let rest: &str = &query[at..];
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        (at, &rest[..end])
    };
    query.match_indices("capstan_").map(name).collect()
}

/// The metric that a name in a query belongs to. A histogram is queried by its parts.
fn metric(name: &str) -> Option<&'static Metric> {
    let parts = ["_bucket", "_sum", "_count"];
    metrics::ALL.iter().find(|metric| match metric.kind {
        Kind::Histogram => {
            let part = name.strip_prefix(metric.name);
            part.is_some_and(|part| parts.contains(&part))
        }
        Kind::Counter | Kind::Gauge => metric.name == name,
    })
}

fn wrong(query: &str, at: usize, name: &str) -> Option<String> {
    let Some(metric) = metric(name) else {
        return Some(format!("the program exports no {name}"));
    };
    let before = &query[..at];
    let is_rated = OF_COUNTERS
        .iter()
        .any(|function| before.ends_with(function));
    match (metric.kind, is_rated) {
        (Kind::Gauge, true) => Some(format!("{name} is a gauge: query its value, not its rate")),
        (Kind::Counter | Kind::Histogram, false) => {
            Some(format!("{name} is a counter: query its rate"))
        }
        _ => grouped_by(before)
            .find(|label| !has_label(metric, label))
            .map(|label| format!("{name} has no label `{label}`")),
    }
}

/// Labels of the last `by (...)` before a metric.
fn grouped_by(before: &str) -> impl Iterator<Item = &str> {
    let list = before.rsplit_once(" by (").map(|(_, rest)| rest);
    let list = list
        .and_then(|rest| rest.split_once(')'))
        .map(|(list, _)| list);
    list.into_iter().flat_map(|list| list.split(", "))
}

/// Whether a metric's documentation names a label. Buckets have `le` in addition.
fn has_label(metric: &Metric, label: &str) -> bool {
    if metric.kind == Kind::Histogram && label == "le" {
        return true;
    }
    let source = files::read("services/runtime/src/metrics.rs");
    let named = format!("= \"{}\";", metric.name);
    let (before, _) = source.split_once(&named).expect("every name is a constant");
    let mut doc = before
        .lines()
        .rev()
        .skip(1)
        .take_while(|line| line.starts_with("///"));
    doc.any(|line| line.contains(&format!("`{label}`")))
}

fn board() -> Value {
    serde_json::from_str(&files::read("deploy/dashboards/capstan.json")).unwrap()
}

#[test]
fn the_program_exports_every_metric_of_the_dashboard() {
    assert_none(&check(&board()));
}

/// The metrics that an operator needs.
#[test]
fn the_dashboard_shows_the_metrics_that_an_operator_needs() {
    let board = board();
    let targets = list(&board["panels"])
        .iter()
        .flat_map(|panel| list(&panel["targets"]));
    let asked: Vec<_> = targets.map(|target| text(&target["expr"])).collect();
    let shown: BTreeSet<&str> = asked
        .iter()
        .flat_map(|query| names(query))
        .filter_map(|(_, name)| Some(metric(name)?.name))
        .collect();
    for name in [
        metrics::TASKS,
        metrics::LEASES_GRANTED,
        metrics::RETRIES,
        metrics::QUARANTINES,
        metrics::STORE_READ_BYTES,
        metrics::STORE_WRITTEN_BYTES,
        metrics::IMAGES,
        metrics::LOSS,
        metrics::STEP_SECONDS,
        metrics::ALL_REDUCE_SECONDS,
    ] {
        assert!(shown.contains(name), "{name} is on no panel");
    }
}

#[test]
fn wrong_functions_brackets_and_labels_are_found() {
    let board = |query: &str| {
        let panel = serde_json::json!({ "title": "x", "targets": [{ "expr": query }] });
        check(&serde_json::json!({ "panels": [panel] }))
    };
    super::assert_one(&board("rate(capstan_tasks[5m])"), "is a gauge");
    super::assert_one(&board("sum(capstan_images_total)"), "is a counter");
    super::assert_one(
        &board("rate(capstan_training_step_seconds[5m])"),
        "exports no",
    );
    super::assert_one(&board("sum(capstan_tasks"), "unbalanced brackets");
    super::assert_one(
        &board("sum by (colour) (capstan_tasks)"),
        "has no label `colour`",
    );
    assert_none(&board("sum by (state) (capstan_tasks)"));
}

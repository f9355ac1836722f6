//! Metrics of a worker. `runtime::metrics` holds their names and help texts.

use capstan_plan::commit::Outputs;
use capstan_runtime::metrics::{
    ATTEMPT_SECONDS, ATTEMPTS, CAPTIONS, IMAGES, PAGES, REJECTS, VERDICTS, WORK_UNITS,
};
use metrics::{Counter, counter, histogram};

use crate::report::Outcome;

/// Counts of an output: the name in commit records, and the metric.
const COUNTED: [(&str, &str); 4] = [
    ("pages", PAGES),
    ("fetched", IMAGES),
    ("synthetic", CAPTIONS),
    ("judged", VERDICTS),
];

/// Counts finished units of work.
pub(crate) fn units(stage: &str, unit: &str) -> Counter {
    counter!(WORK_UNITS, "stage" => stage.to_owned(), "unit" => unit.to_owned())
}

/// Counts an attempt that ended.
pub(crate) fn ended(stage: &str, answer: &Outcome) {
    let outcome = match answer {
        Outcome::Complete(completion) if completion.mine => "committed",
        Outcome::Complete(_) => "adopted",
        Outcome::Fail(_) => "failed",
        Outcome::Release => "released",
        Outcome::Lost => "lost",
    };
    counter!(ATTEMPTS, "stage" => stage.to_owned(), "outcome" => outcome).increment(1);
}

/// Counts the output of an attempt whose commit record is this worker's. Another worker counts
/// the output of its own record.
pub(crate) fn committed(stage: &str, outputs: &Outputs, wall_seconds: f64) {
    histogram!(ATTEMPT_SECONDS, "stage" => stage.to_owned()).record(wall_seconds);
    for (name, metric) in COUNTED {
        if let Some(count) = outputs.counts.get(name) {
            counter!(metric).increment(*count);
        }
    }
    for (code, count) in &outputs.rejects {
        counter!(REJECTS, "code" => code.as_str()).increment(*count);
    }
}

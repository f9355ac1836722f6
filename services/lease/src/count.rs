//! What a worker counts. Names and help stand in `runtime::metrics`.

use capstan_plan::commit::Outputs;
use capstan_runtime::metrics::{
    ATTEMPT_SECONDS, ATTEMPTS, CAPTIONS, IMAGES, PAGES, REJECTS, VERDICTS, WORK_UNITS,
};
use metrics::{Counter, counter, histogram};

use crate::answer::Answer;

/// Counts of an output, by the name that they have in commit records.
const COUNTED: [(&str, &str); 4] = [
    ("pages", PAGES),
    ("fetched", IMAGES),
    ("synthetic", CAPTIONS),
    ("judged", VERDICTS),
];

/// Units of work as they are done.
pub(crate) fn units(stage: &str, unit: &str) -> Counter {
    counter!(WORK_UNITS, "stage" => stage.to_owned(), "unit" => unit.to_owned())
}

/// An attempt that ended.
pub(crate) fn ended(stage: &str, answer: &Answer) {
    let outcome = match answer {
        Answer::Complete { mine: true } => "committed",
        Answer::Complete { mine: false } => "adopted",
        Answer::Fail(_) => "failed",
        Answer::Release => "released",
        Answer::Nothing => "lost",
    };
    counter!(ATTEMPTS, "stage" => stage.to_owned(), "outcome" => outcome).increment(1);
}

/// What an attempt of this worker committed. What another's record holds, the other counts.
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

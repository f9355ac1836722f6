//! The kind of a failure, by which the scheduler decides what to do next, and the text that reports
//! an error with its sources.

use std::error::Error;

use serde::{Deserialize, Serialize};

/// How the scheduler must treat a failed task. Crosses gRPC as an enum, never as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// May go away by itself: a store that answers 503, a peer that is gone. Retried with backoff.
    Transient,
    /// The input of the task is wrong and will stay so (a pipeline that asks for
    /// what is not there, a foreign model folder). Quarantined at once.
    BadInput,
    /// The data of this shard breaks the program. Quarantined at once.
    PoisonShard,
    /// This worker cannot do it (disk full, device gone); another one may. Retried elsewhere.
    WorkerFault,
    /// The run cannot go on at all.
    Fatal,
}

impl FailureKind {
    /// Whether another attempt can help.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Transient | Self::WorkerFault)
    }
}

/// The text of `error` and of its sources on one line, outermost first, joined with `: `.
///
/// `Display` of an error prints its own text only. Code that reports an error (a log field, a
/// gRPC status, a task's failure, the command line) calls this function once.
///
/// A source is left out if the text before it already ends with the source's text, as in
/// libraries whose `Display` includes the source. An `#[error(transparent)]` variant adds nothing.
pub fn chain(error: &dyn Error) -> String {
    let mut line = one_line(error);
    let mut last = 0;
    let mut next = error.source();
    while let Some(source) = next {
        let text = one_line(source);
        if !text.is_empty() && !line[last..].ends_with(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            last = line.len();
            line.push_str(&text);
        }
        next = source.source();
    }
    line
}

/// The text of an error without line breaks and repeated spaces.
fn one_line(error: &dyn Error) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<dyn Error>>,
    }

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(Layer);

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, sources) = texts.split_first().expect("an error has a text");
        let source = match sources {
            [] => None,
            sources => Some(Box::new(layers(sources)) as Box<dyn Error>),
        };
        Layer { text, source }
    }

    #[test]
    fn a_chain_names_every_source_once() {
        let cases: [(&[&'static str], &str); 7] = [
            (&["a"], "a"),
            (&["a", "b", "c"], "a: b: c"),
            // The outer text includes the source's.
            (&["a: b", "b"], "a: b"),
            (&["a: b: c", "b: c", "c"], "a: b: c"),
            (&["a: b", "b", "c"], "a: b: c"),
            // The same text further out, or elsewhere in the text, is another fact.
            (&["b", "a", "b"], "b: a: b"),
            (&["store b failed", "b"], "store b failed: b"),
        ];
        for (texts, expected) in cases {
            assert_eq!(chain(&layers(texts)), expected, "{texts:?}");
        }
    }

    #[test]
    fn a_transparent_variant_adds_nothing() {
        let error = Transparent(layers(&["a", "b"]));
        assert_eq!(chain(&error), "a: b");
    }

    #[test]
    fn a_chain_is_one_line() {
        let error = layers(&["a\n  b", "", "c\td\n"]);
        assert_eq!(chain(&error), "a b: c d");
    }
}

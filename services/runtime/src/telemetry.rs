//! Logging through `tracing` to stderr: text on a terminal, JSON otherwise.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Telemetry};

/// Why logging could not be initialised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter cannot be parsed.
    #[error("[telemetry] filter cannot be parsed")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Logging is already initialised.
    #[error("logging is already initialised")]
    AlreadySet(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Initialises logging for this process.
///
/// # Errors
/// [`Error`]: the filter cannot be parsed, or logging is already initialised.
pub fn init(settings: &Telemetry) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let is_terminal = std::io::stderr().is_terminal();
    let done = if is_json(settings.format, is_terminal) {
        json(filter, std::io::stderr).try_init()
    } else {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(is_terminal)
            .finish()
            .try_init()
    };
    done.map_err(|error| Error::AlreadySet(Box::new(error)))
}

/// A subscriber that writes one JSON object per line: the fields of the event at the top level,
/// those of its spans (`run, stage, shard, attempt, trace_id`) under `span` and `spans`.
pub fn json<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .json()
        .flatten_event(true)
        .finish()
}

fn is_json(format: LogFormat, is_terminal: bool) -> bool {
    match format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_json_if_stderr_is_no_terminal_or_the_format_says_so() {
        assert!(is_json(LogFormat::Auto, false));
        assert!(!is_json(LogFormat::Auto, true));
        assert!(!is_json(LogFormat::Text, false));
        assert!(is_json(LogFormat::Json, true));
    }
}

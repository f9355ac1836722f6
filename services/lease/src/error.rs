//! Why a worker cannot go on asking for work.

use std::time::Duration;

/// Ends the whole worker, not one task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator did not answer for as long as the worker may wait.
    #[error("coordinator at {address} did not answer for {} s: {reason}", waited.as_secs())]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// For how long.
        waited: Duration,
        /// What the last try said.
        reason: String,
    },
    /// The address is none.
    #[error("coordinator address `{address}` is not a URL such as http://127.0.0.1:7070")]
    Address {
        /// As configured.
        address: String,
        /// What the parser, or TLS, reports.
        #[source]
        source: tonic::transport::Error,
    },
    /// This worker and the coordinator do not trust one another's certificates.
    #[error("coordinator at {address}: {reason}")]
    Certificate {
        /// Where it was looked for.
        address: String,
        /// Whose certificate was refused, and why.
        reason: String,
    },
    /// The coordinator refuses this worker.
    #[error("coordinator refused the worker: {0}")]
    Refused(String),
    /// The program broke outside of any task; those fail for themselves.
    #[error("the worker broke: {0}")]
    Panicked(String),
    /// The store cannot be used, or did not answer for as long as the worker may wait.
    #[error(transparent)]
    Store(#[from] capstan_dataset::Error),
    /// The heartbeat thread could not be started.
    #[error("heartbeat thread could not be started")]
    Thread(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn no_variant_prints_its_source() {
        let not_a_url = tonic::transport::Endpoint::from_shared("http://[");
        let errors = [
            Error::Address {
                address: "http://[".to_owned(),
                source: not_a_url.expect_err("no URL"),
            },
            Error::Thread(std::io::Error::other("no threads left")),
        ];
        for error in errors {
            let source = error
                .source()
                .expect("the variant has a source")
                .to_string();
            assert!(!error.to_string().contains(&source), "{error}");
        }
    }
}

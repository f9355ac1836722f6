//! Errors that end a worker.

use std::time::Duration;

/// An error that ends the worker, not only one task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator did not answer within the worker's patience.
    #[error("coordinator at {address} did not answer for {} s: {reason}", waited.as_secs())]
    Unreachable {
        /// The address of the coordinator.
        address: String,
        /// How long the worker waited.
        waited: Duration,
        /// The message of the last attempt.
        reason: String,
    },
    /// The address is not a URL.
    #[error("coordinator address `{address}` is not a URL such as http://127.0.0.1:7070")]
    Address {
        /// As configured.
        address: String,
        /// What the parser, or TLS, reports.
        #[source]
        source: tonic::transport::Error,
    },
    /// The worker or the coordinator rejected the other's certificate.
    #[error("coordinator at {address}: {reason}")]
    Certificate {
        /// The address of the coordinator.
        address: String,
        /// Whose certificate was rejected, and why.
        reason: String,
    },
    /// The coordinator rejected this worker.
    #[error("coordinator rejected the worker: {0}")]
    Refused(String),
    /// Another live process used the name of this worker for longer than the worker's patience.
    #[error("the coordinator rejected the worker for {} s: {reason}", waited.as_secs())]
    NameTaken {
        /// How long the worker retried.
        waited: Duration,
        /// The message of the coordinator, with the name.
        reason: String,
    },
    /// The program panicked outside of a task. A panic in a task fails that task only.
    #[error("the worker panicked: {0}")]
    Panicked(String),
    /// The store cannot be used, or did not answer within the worker's patience.
    #[error(transparent)]
    Store(#[from] capstan_dataset::Error),
    /// The heartbeat thread could not be started.
    #[error("cannot start the heartbeat thread")]
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

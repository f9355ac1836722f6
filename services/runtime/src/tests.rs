//! The errors of this crate print their own text; the code that reports one prints the sources.

use std::error::Error as StdError;

use tracing_subscriber::EnvFilter;

use crate::{ConfigError, certificates, telemetry, tls};

#[test]
fn no_variant_prints_its_source() {
    let io = || std::io::Error::other("disk full");
    let errors: [&dyn StdError; 8] = [
        &ConfigError::Unreadable {
            path: "capstan.toml".into(),
            source: io(),
        },
        &tls::Error::Unreadable {
            path: "worker.pem".into(),
            source: io(),
        },
        &tls::Error::Unusable {
            path: "worker.pem".into(),
            source: rustls::Error::General("bad encoding".to_owned()),
        },
        &certificates::Error::NoAuthority {
            path: "ca.pem".into(),
            source: io(),
        },
        &certificates::Error::Write {
            path: "ca.pem".into(),
            source: io(),
        },
        &certificates::Error::Make(rcgen::Error::KeyGenerationUnavailable),
        &telemetry::Error::Filter(EnvFilter::try_new("a=b=c").expect_err("no filter")),
        &telemetry::Error::AlreadySet("a global subscriber is set".into()),
    ];
    for error in errors {
        let source = error
            .source()
            .expect("the variant has a source")
            .to_string();
        assert!(!error.to_string().contains(&source), "{error}");
    }
}

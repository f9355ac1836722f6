//! The health port of a process, where one is configured.

use std::net::SocketAddr;

use capstan_runtime::health::{self, Readiness};
use capstan_runtime::{Config, metrics};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::commands::bind;
use crate::error::{Exit, ExpectedError, OrExit};

/// The bound port, or none.
pub struct Health(Option<TcpListener>);

impl Health {
    /// Binds `[telemetry] health_listen`.
    ///
    /// # Errors
    /// Unavailable, where the port is taken.
    pub async fn bind(config: &Config) -> Result<Self, ExpectedError> {
        let Some(address) = config.telemetry.health_address() else {
            return Ok(Self(None));
        };
        // Installed before the first metric is recorded: earlier ones are lost.
        metrics::install();
        let listener = bind(address, "[telemetry] health_listen").await?;
        Ok(Self(Some(listener)))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Unavailable, if the system does not report the address.
    pub fn address(&self) -> Result<Option<SocketAddr>, ExpectedError> {
        let address = self.0.as_ref().map(TcpListener::local_addr);
        address.transpose().or_exit(Exit::Unavailable)
    }

    /// Answers probes until the process exits, also while it stops.
    pub fn serve(self, roles: Vec<(&'static str, Readiness)>) {
        if let Some(listener) = self.0 {
            tokio::spawn(health::serve(listener, roles, CancellationToken::new()));
        }
    }
}

//! How a worker presents itself, and how long it waits for others.

use std::time::Duration;

use capstan_plan::id::WorkerId;
use capstan_plan::task::Role;
use capstan_runtime::health::Readiness;
use capstan_runtime::tls::Identity;
use tonic::transport::Endpoint;

use crate::error::Error;

/// Limit for setting up a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two signs of life on a connection, and the limit for an answer to one: a peer that
/// fell off the network without a word is noticed within their sum, not when the kernel gives up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How a worker presents itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL of the coordinator.
    pub coordinator: String,
    /// Name of the worker, unique among live ones.
    pub worker: WorkerId,
    /// What it takes.
    pub roles: Vec<Role>,
    /// Tasks at a time.
    pub slots: usize,
    /// What it computes on.
    pub device: String,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Longest that one question for work waits.
    pub poll: Duration,
    /// How long the coordinator or the store may stay away before the worker gives up.
    pub patience: Duration,
    /// How long the worker may finish or save what it holds when it is asked to stop.
    pub grace: Duration,
    /// Who it is, where the coordinator demands certificates; a trainer shows it to other ranks
    /// too.
    pub identity: Option<Identity>,
    /// Marked whenever the coordinator answers.
    pub readiness: Readiness,
}

impl Options {
    /// Where the coordinator is reached; nothing is contacted.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn endpoint(&self) -> Result<Endpoint, Error> {
        let wrong = |source| Error::Address {
            address: self.coordinator.clone(),
            source,
        };
        let mut endpoint = Endpoint::from_shared(self.coordinator.clone()).map_err(wrong)?;
        if let Some(identity) = &self.identity {
            endpoint = endpoint.tls_config(identity.client()).map_err(wrong)?;
        }
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true))
    }

    /// Whether it is a rank of training gangs.
    pub(crate) fn is_trainer(&self) -> bool {
        self.roles == [Role::Train]
    }
}

//! The identity of a worker, and how long it waits for other processes.

use std::time::Duration;

use capstan_plan::id::WorkerId;
use capstan_plan::task::Role;
use capstan_runtime::health::Readiness;
use capstan_runtime::keepalive;
use capstan_runtime::tls::Identity;
use tonic::transport::Endpoint;

use crate::error::Error;

/// Limit for setting up a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The identity and the limits of a worker.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL of the coordinator.
    pub coordinator: String,
    /// Name of the worker, unique among live ones.
    pub worker: WorkerId,
    /// Roles of the tasks that it leases.
    pub roles: Vec<Role>,
    /// Tasks that it executes at the same time.
    pub slots: usize,
    /// The kind of device that it computes on, as recipes name it: `cpu-avx512`.
    pub device: String,
    /// Time between two heartbeats, where an assignment names none.
    pub heartbeat: Duration,
    /// The longest time that one lease request waits for a task. It is cut to half of the lease
    /// period that assignments name.
    pub poll: Duration,
    /// How long the coordinator or the store may be unavailable before the worker exits. A task that
    /// contacts no foreign hosts goes on for as long after its lease has ended.
    pub patience: Duration,
    /// How long a worker that is stopping may finish or save its tasks.
    pub grace: Duration,
    /// Its certificate and key, if the coordinator requires certificates. A trainer presents it
    /// to other ranks too.
    pub identity: Option<Identity>,
    /// Marked at every answer of the coordinator.
    pub readiness: Readiness,
}

impl Options {
    /// The endpoint of the coordinator. This call opens no connection.
    ///
    /// # Errors
    /// [`Error::Address`] if the address is not a URL or TLS cannot be configured.
    pub fn endpoint(&self) -> Result<Endpoint, Error> {
        let wrong = |source| Error::Address {
            address: self.coordinator.clone(),
            source,
        };
        let mut endpoint = Endpoint::from_shared(self.coordinator.clone()).map_err(wrong)?;
        if let Some(identity) = &self.identity {
            endpoint = endpoint.tls_config(identity.client()).map_err(wrong)?;
        }
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        Ok(keepalive::client(endpoint))
    }

    /// Whether the worker is a trainer, that is, a rank of training gangs.
    pub(crate) fn is_trainer(&self) -> bool {
        self.roles == [Role::Train]
    }
}

//! The whole system in one process: a coordinator, workers and trainers, each on its own socket.
//! `capstan up` runs it until a signal, `capstan demo` until the run ends.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use capstan_crawl::NetConfig;
use capstan_dataset::Store;
use capstan_lease::Turns;
use capstan_model::DeviceSpec;
use capstan_runtime::Config;
use capstan_runtime::health::{CONTACT, Readiness};
use capstan_runtime::tls::Identity;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Exit, ExpectedError, OrExit};
use crate::roles::{self, Member};

/// The parts of a system.
pub struct Setup<'a> {
    /// Settings of every role. `[coordinator] address` and `[trainer] listen` are not read: on this
    /// machine each rank takes a free port of loopback.
    pub config: &'a Config,
    /// Number of workers.
    pub workers: usize,
    /// Number of trainers: the maximum number of ranks of a gang.
    pub trainers: usize,
    /// Device of the models.
    pub device: DeviceSpec,
    /// How long the database may fail before everything stops; `None` waits until it can be written.
    pub outage_limit: Option<Duration>,
    /// What the coordinator requires of its callers.
    pub access: capstan_coordinator::Access,
    /// Identity of the workers, if certificates are configured.
    pub worker: Option<Identity>,
    /// Identity of the trainers, if certificates are configured.
    pub trainer: Option<Identity>,
}

/// The running roles.
pub struct System {
    roles: JoinSet<Result<(), ExpectedError>>,
    shutdown: CancellationToken,
    address: String,
    readiness: Vec<(&'static str, Readiness)>,
}

impl System {
    /// Starts every role; the coordinator listens on `listener`.
    ///
    /// - `shutdown`: stops every role; a role that fails cancels it.
    ///
    /// # Errors
    /// Unavailable: the store or the database cannot be used, or another coordinator holds it.
    pub async fn start(
        setup: Setup<'_>,
        store: &Store,
        listener: TcpListener,
        net: &NetConfig,
        shutdown: CancellationToken,
    ) -> Result<Self, ExpectedError> {
        let bound = listener.local_addr().or_exit(Exit::Unavailable)?;
        let scheme = if setup.config.safety.has_certificates() {
            "https"
        } else {
            "http"
        };
        let mut system = Self {
            roles: JoinSet::new(),
            shutdown,
            address: format!("{scheme}://{}", reachable(bound)),
            readiness: Vec::new(),
        };
        system.coordinate(&setup, listener, store).await?;
        let turns = Turns::new(roles::cores().max(setup.workers * worker_threads(&setup)));
        for ordinal in 0..setup.workers {
            system.work(&setup, ordinal, store, net, turns.clone());
        }
        for ordinal in 0..setup.trainers {
            system.train(&setup, ordinal, store, turns.clone());
        }
        Ok(system)
    }

    async fn coordinate(
        &mut self,
        setup: &Setup<'_>,
        listener: TcpListener,
        store: &Store,
    ) -> Result<(), ExpectedError> {
        let options = capstan_coordinator::Options {
            access: setup.access.clone(),
            readiness: self.ready("coordinator", Readiness::lasting()),
        };
        let shutdown = self.shutdown.child_token();
        let handle = roles::coordinator(setup.config, store, &shutdown).await?;
        if let Some(limit) = setup.outage_limit {
            handle.limit_outage(limit);
        }
        let exit = match setup.outage_limit {
            Some(_) => Exit::RunFailed,
            None => Exit::Unavailable,
        };
        let serve = capstan_coordinator::serve(handle, options, listener, shutdown);
        self.spawn(async move { serve.await.or_exit(exit) });
        Ok(())
    }

    fn work(
        &mut self,
        setup: &Setup<'_>,
        ordinal: usize,
        store: &Store,
        net: &NetConfig,
        turns: Turns,
    ) {
        let threads = worker_threads(setup);
        let address = self.address.clone();
        let member = Member {
            address: &address,
            name: format!("worker-{ordinal}").into(),
            device: setup.device,
            identity: setup.worker.clone(),
            readiness: self.ready("worker", Readiness::within(CONTACT)),
        };
        let options = roles::worker(setup.config, member, net, threads, turns);
        let run = capstan_worker::run(options, store.clone(), self.shutdown.child_token());
        self.spawn(async move { roles::ended(run.await) });
    }

    fn train(&mut self, setup: &Setup<'_>, ordinal: usize, store: &Store, turns: Turns) {
        let address = self.address.clone();
        let member = Member {
            address: &address,
            name: format!("trainer-{ordinal}").into(),
            device: setup.device,
            identity: setup.trainer.clone(),
            readiness: self.ready("trainer", Readiness::within(CONTACT)),
        };
        let mut options = roles::trainer(setup.config, member, None, turns);
        options.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let run = capstan_trainer::run(options, store.clone(), self.shutdown.child_token());
        self.spawn(async move { roles::ended(run.await) });
    }

    /// Registers the readiness of a role.
    fn ready(&mut self, role: &'static str, readiness: Readiness) -> Readiness {
        self.readiness.push((role, readiness.clone()));
        readiness
    }

    /// The readiness of each role.
    pub fn readiness(&self) -> Vec<(&'static str, Readiness)> {
        self.readiness.clone()
    }

    /// Runs one more role. A role that fails stops all of them.
    pub fn spawn(
        &mut self,
        role: impl Future<Output = Result<(), ExpectedError>> + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.roles.spawn(async move {
            let ended = role.await;
            if ended.is_err() {
                shutdown.cancel();
            }
            ended
        });
    }

    /// URL of the coordinator.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits until every role has stopped, after `shutdown`.
    ///
    /// # Errors
    /// The error of the first role that failed.
    pub async fn stopped(mut self) -> Result<(), ExpectedError> {
        let mut outcome = Ok(());
        while let Some(role) = self.roles.join_next().await {
            let role = role.or_exit(Exit::RunFailed).and_then(|ended| ended);
            outcome = outcome.and(role);
        }
        outcome
    }

    /// Stops every role and waits for them.
    ///
    /// # Errors
    /// The error of the first role that failed.
    pub async fn stop(self) -> Result<(), ExpectedError> {
        self.shutdown.cancel();
        self.stopped().await
    }
}

/// The address at which this machine reaches a listener: loopback if it listens on every interface.
fn reachable(mut bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        bound.set_ip(match bound {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    bound
}

/// Number of compute threads of a worker, if several workers share this machine.
fn worker_threads(setup: &Setup<'_>) -> usize {
    match setup.config.worker.threads {
        0 => (roles::cores() / setup.workers.max(1)).max(1),
        threads => threads,
    }
}

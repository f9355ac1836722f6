//! The whole system in one process: a coordinator, workers and trainers, each on its own socket.
//! `capstan up` keeps it, `capstan demo` takes it down with the run.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use capstan_crawl::NetConfig;
use capstan_dataset::Store;
use capstan_model::DeviceSpec;
use capstan_runtime::Config;
use capstan_worker::Turns;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Exit, ExpectedError, OrExit};
use crate::roles;

/// How many of each role.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Workers.
    pub workers: usize,
    /// Trainers: ranks of a gang at most.
    pub trainers: usize,
}

/// The roles under way.
pub struct System {
    roles: JoinSet<Result<(), ExpectedError>>,
    shutdown: CancellationToken,
    address: String,
}

impl System {
    /// Starts every role; the coordinator's socket is the one given.
    ///
    /// - `config`: of every role. `[coordinator] address` is not read, nor where ranks listen:
    ///   on this machine each takes a free port of loopback.
    /// - `shutdown`: cancelled, every role stops; a role that fails cancels it.
    ///
    /// # Errors
    /// Unavailable, where the socket has no address.
    pub fn start(
        config: &Config,
        sizes: Sizes,
        store: &Store,
        listener: TcpListener,
        net: &NetConfig,
        device: DeviceSpec,
        shutdown: CancellationToken,
    ) -> Result<Self, ExpectedError> {
        let bound = listener.local_addr().or_exit(Exit::Unavailable)?;
        let address = format!("http://{}", reachable(bound));
        let mut system = Self {
            roles: JoinSet::new(),
            shutdown,
            address,
        };
        let coordinate = capstan_coordinator::run(
            config.coordinator.clone(),
            listener,
            store.clone(),
            system.shutdown.child_token(),
        );
        system.spawn(async move { coordinate.await.or_exit(Exit::Unavailable) });
        let turns = Turns::new(roles::cores().max(sizes.workers));
        let threads = match config.worker.threads {
            0 => (roles::cores() / sizes.workers.max(1)).max(1),
            threads => threads,
        };
        for ordinal in 0..sizes.workers {
            let name = format!("worker-{ordinal}").into();
            let address = &system.address;
            let turns = turns.clone();
            let options = roles::worker(config, address, name, device, net, threads, turns);
            let work =
                capstan_worker::run(options, store.clone(), system.shutdown.child_token());
            system.spawn(async move { roles::ended(work.await) });
        }
        for ordinal in 0..sizes.trainers {
            let name = format!("trainer-{ordinal}").into();
            let mut options = roles::trainer(config, &system.address, name, device, None, &turns);
            options.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let train =
                capstan_trainer::run(options, store.clone(), system.shutdown.child_token());
            system.spawn(async move { roles::ended(train.await) });
        }
        Ok(system)
    }

    /// Runs one more role beside the others. Whichever fails stops them all.
    pub fn spawn(&mut self, role: impl Future<Output = Result<(), ExpectedError>> + Send + 'static) {
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

    /// Waits until every role has stopped; that is after `shutdown`.
    ///
    /// # Errors
    /// The first role that had failed.
    pub async fn stopped(mut self) -> Result<(), ExpectedError> {
        let mut outcome = Ok(());
        while let Some(role) = self.roles.join_next().await {
            let role = role.or_exit(Exit::RunFailed).and_then(|ended| ended);
            outcome = outcome.and(role);
        }
        outcome
    }

    /// Stops every role and waits for it.
    ///
    /// # Errors
    /// The first role that had failed.
    pub async fn stop(self) -> Result<(), ExpectedError> {
        self.shutdown.cancel();
        self.stopped().await
    }
}

/// Where this machine reaches a listener: loopback where it listens on every interface.
fn reachable(mut bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        bound.set_ip(match bound {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    bound
}

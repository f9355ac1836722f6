//! The whole system in one process: a coordinator, workers and trainers, each on its own socket.
//! `capstan up` keeps it, `capstan demo` takes it down with the run.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use capstan_crawl::NetConfig;
use capstan_dataset::Store;
use capstan_model::DeviceSpec;
use capstan_runtime::Config;
use capstan_runtime::health::{CONTACT, Readiness};
use capstan_runtime::tls::Identity;
use capstan_worker::Turns;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Exit, ExpectedError, OrExit};
use crate::roles::{self, Member};

/// What a system is made of.
pub struct Setup<'a> {
    /// Settings of every role. `[coordinator] address` is not read, nor where ranks listen: on this
    /// machine each takes a free port of loopback.
    pub config: &'a Config,
    /// Workers.
    pub workers: usize,
    /// Trainers: ranks of a gang at most.
    pub trainers: usize,
    /// What models compute on.
    pub device: DeviceSpec,
    /// What the coordinator demands of its callers.
    pub access: capstan_coordinator::Access,
    /// Who workers are, where certificates are configured.
    pub worker: Option<Identity>,
    /// Who trainers are, likewise.
    pub trainer: Option<Identity>,
}

/// The roles under way.
pub struct System {
    roles: JoinSet<Result<(), ExpectedError>>,
    shutdown: CancellationToken,
    address: String,
    readiness: Vec<(&'static str, Readiness)>,
}

impl System {
    /// Starts every role; the coordinator's socket is the one given.
    ///
    /// - `shutdown`: cancelled, every role stops; a role that fails cancels it.
    ///
    /// # Errors
    /// Unavailable: the store or the database cannot be used, or another coordinator has it.
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
        // Whoever asks for more turns than there are would wait for ever, and so would those behind
        // it; a gang's ranks wait for one another while they hold theirs.
        let threads = worker_threads(&setup);
        let all = roles::cores()
            .max(setup.workers * threads)
            .max(setup.trainers);
        let turns = Turns::new(all);
        for ordinal in 0..setup.workers {
            system.work(&setup, ordinal, store, net, turns.clone());
        }
        for ordinal in 0..setup.trainers {
            let share = all / setup.trainers;
            system.train(&setup, ordinal, store, (&turns, share));
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
        let serve = capstan_coordinator::serve(handle, options, listener, shutdown);
        self.spawn(async move { serve.await.or_exit(Exit::Unavailable) });
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

    /// - `turns`: and how many of them a rank may ask for.
    fn train(
        &mut self,
        setup: &Setup<'_>,
        ordinal: usize,
        store: &Store,
        (turns, share): (&Turns, usize),
    ) {
        let address = self.address.clone();
        let member = Member {
            address: &address,
            name: format!("trainer-{ordinal}").into(),
            device: setup.device,
            identity: setup.trainer.clone(),
            readiness: self.ready("trainer", Readiness::within(CONTACT)),
        };
        let mut options = roles::trainer(setup.config, member, None, turns);
        options.most_turns = share;
        options.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let run = capstan_trainer::run(options, store.clone(), self.shutdown.child_token());
        self.spawn(async move { roles::ended(run.await) });
    }

    /// Notes whose readiness counts for the whole.
    fn ready(&mut self, role: &'static str, readiness: Readiness) -> Readiness {
        self.readiness.push((role, readiness.clone()));
        readiness
    }

    /// Whether each role can do its work.
    pub fn readiness(&self) -> Vec<(&'static str, Readiness)> {
        self.readiness.clone()
    }

    /// Runs one more role beside the others. Whichever fails stops them all.
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

/// Threads that a worker's models compute on, where several share this machine.
fn worker_threads(setup: &Setup<'_>) -> usize {
    match setup.config.worker.threads {
        0 => (roles::cores() / setup.workers.max(1)).max(1),
        threads => threads,
    }
}

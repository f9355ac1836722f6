//! The whole system in one process: coordinator, two workers, two trainers and the demo web, each
//! on its own loopback socket.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_crawl::NetConfig;
use capstan_dataset::{Store, versions};
use capstan_demoweb::Site;
use capstan_model::DeviceSpec;
use capstan_plan::Pipeline;
use capstan_plan::commit::Part;
use capstan_plan::id::{RunId, StageName, WorkerId};
use capstan_plan::stage::Kind;
use capstan_plan::task::Role;
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_proto::v1::event::What;
use capstan_runtime::Config;
use capstan_worker::Turns;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::board::Board;
use super::folder::Folder;
use crate::error::{Exit, ExpectedError, OrExit};

/// Workers of the demo, and ranks of its gangs at most.
const WORKERS: usize = 2;
/// How long a role waits for the coordinator, and ranks for one another.
const PATIENCE: Duration = Duration::from_secs(60);

/// The roles under way.
pub struct System {
    roles: JoinSet<Result<(), ExpectedError>>,
    shutdown: CancellationToken,
    channel: Channel,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The run.
    pub run: RunId,
    /// Tasks that were leased: none where nothing was left to do.
    pub leased: u64,
    /// Seconds that it took now.
    pub wall_seconds: f64,
    /// The remaining time shown when 60 s had passed.
    pub remaining_shown_at_60s: Option<f64>,
    /// Seconds from the first task to the last commit of each stage.
    pub stage_seconds: BTreeMap<StageName, f64>,
    /// What each stage gave, as the coordinator says it.
    outputs: BTreeMap<StageName, serde_json::Value>,
}

impl System {
    /// Starts every role; each has bound its socket when this returns.
    ///
    /// # Errors
    /// Unavailable, where a socket cannot be bound.
    pub async fn start(
        folder: &Folder,
        store: &Store,
        site: Arc<Site>,
        device: &DeviceSpec,
    ) -> Result<Self, ExpectedError> {
        let shutdown = CancellationToken::new();
        let mut roles = JoinSet::new();
        let net = serve_web(&mut roles, site, &shutdown).await?;
        let listener = bind().await?;
        let address = format!(
            "http://{}",
            listener.local_addr().or_exit(Exit::Unavailable)?
        );
        let config = config(folder, &address);
        let coordinate = capstan_coordinator::run(
            config.coordinator.clone(),
            listener,
            store.clone(),
            shutdown.child_token(),
        );
        roles.spawn(async move { coordinate.await.or_exit(Exit::RunFailed) });
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Turns::new(threads.max(WORKERS));
        for ordinal in 0..WORKERS {
            let worker_lease = lease(&config, &address, "worker", ordinal);
            let worker = worker_options(folder, worker_lease, &net, *device, turns.clone());
            let work = capstan_worker::run(worker, store.clone(), shutdown.child_token());
            roles.spawn(async move { work.await.or_exit(Exit::Unavailable) });
            let trainer_lease = lease(&config, &address, "trainer", ordinal);
            let trainer = trainer_options(folder, trainer_lease, *device, &turns);
            let train = capstan_trainer::run(trainer, store.clone(), shutdown.child_token());
            roles.spawn(async move { train.await.or_exit(Exit::Unavailable) });
        }
        let channel = tonic::transport::Endpoint::from_shared(address)
            .or_exit(Exit::Unavailable)?
            .connect_lazy();
        Ok(Self {
            roles,
            shutdown,
            channel,
        })
    }

    /// Submits the pipeline, watches it to its end, and draws bars meanwhile.
    ///
    /// # Errors
    /// Run failed, with the stage, the shards and what they said.
    pub async fn run_pipeline(
        &self,
        pipeline: &Pipeline,
        seed: u64,
    ) -> Result<Ended, ExpectedError> {
        let began = Instant::now();
        let mut client = CoordinatorClient::new(self.channel.clone());
        let json = serde_json::to_string(pipeline).or_exit(Exit::RunFailed)?;
        let request = v1::SubmitRunRequest {
            pipeline: Some(v1::submit_run_request::Pipeline::Json(json)),
            file_name: "pipeline".to_owned(),
            seed: Some(seed),
            run: format!("{}-{seed}", pipeline.name),
        };
        let run = client
            .submit_run(request)
            .await
            .map_err(refused)?
            .into_inner()
            .run;
        let mut board = Board::new(pipeline);
        let ended = self.watch(&mut client, &run, &mut board).await;
        board.finish();
        let ended = ended?;
        let status = client
            .get_run(v1::GetRunRequest { run: run.clone() })
            .await
            .map_err(refused)?
            .into_inner()
            .status
            .unwrap_or_default();
        let seconds = |stage: &v1::StageStatus| {
            (stage.ended_unix_ms - stage.started_unix_ms).max(0) as f64 / 1e3
        };
        let name = |stage: &v1::StageStatus| StageName::from(stage.stage.as_str());
        Ok(Ended {
            run: RunId(run),
            leased: ended.leased,
            wall_seconds: began.elapsed().as_secs_f64(),
            remaining_shown_at_60s: board.remaining_shown_at_60s(),
            stage_seconds: status
                .stages
                .iter()
                .map(|s| (name(s), seconds(s)))
                .collect(),
            outputs: status
                .stages
                .iter()
                .map(|s| {
                    (
                        name(s),
                        serde_json::from_str(&s.output_json).unwrap_or_default(),
                    )
                })
                .collect(),
        })
    }

    async fn watch(
        &self,
        client: &mut CoordinatorClient<Channel>,
        run: &str,
        board: &mut Board,
    ) -> Result<v1::RunEnded, ExpectedError> {
        let request = v1::WatchRequest {
            run: run.to_owned(),
        };
        let mut events = client.watch(request).await.map_err(refused)?.into_inner();
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = ticks.tick() => board.tick(),
                event = events.message() => match event.map_err(refused)? {
                    Some(event) => {
                        board.apply(&event);
                        if let Some(What::RunEnded(ended)) = event.what {
                            return finished(ended);
                        }
                    }
                    None => {
                        let line = "the coordinator ended the watch before the run ended";
                        return Err(ExpectedError::new(Exit::Unavailable, line));
                    }
                },
                signal = tokio::signal::ctrl_c() => {
                    signal.or_exit(Exit::RunFailed)?;
                    let line = "interrupted; the same command goes on where it stopped";
                    return Err(ExpectedError::new(Exit::RunFailed, line));
                }
            }
        }
    }

    /// Stops every role and waits for it.
    ///
    /// # Errors
    /// The first role that had failed.
    pub async fn stop(mut self) -> Result<(), ExpectedError> {
        self.shutdown.cancel();
        let mut outcome = Ok(());
        while let Some(role) = self.roles.join_next().await {
            let role = role.or_exit(Exit::RunFailed).and_then(|ended| ended);
            outcome = outcome.and(role);
        }
        outcome
    }
}

impl Ended {
    /// The shards of the last filter stage's dataset, or of the last dataset that a crawl led to
    /// where nothing filters.
    ///
    /// # Errors
    /// Run failed, where the version cannot be read.
    pub async fn filtered_parts(
        &self,
        store: &Store,
        pipeline: &Pipeline,
    ) -> Result<Vec<Part>, ExpectedError> {
        let rank = |kind: &Kind| match kind {
            Kind::Crawl(_) => Some(0),
            Kind::Curate(_) => Some(1),
            Kind::Balance(_) => Some(2),
            Kind::Caption(_) => Some(3),
            Kind::Filter(_) => Some(4),
            _ => None,
        };
        let order = pipeline.order();
        let last = order
            .iter()
            .filter_map(|name| pipeline.stage(name))
            .filter_map(|stage| rank(&stage.kind).map(|rank| (rank, &stage.name)))
            .max_by_key(|(rank, _)| *rank);
        let Some((_, stage)) = last else {
            return Ok(Vec::new());
        };
        let Some(version) = self.outputs.get(stage).and_then(|o| o["dataset"].as_str()) else {
            return Ok(Vec::new());
        };
        let version = versions::resolve(store, version)
            .await
            .or_exit(Exit::RunFailed)?;
        versions::parts(store, &version)
            .await
            .or_exit(Exit::RunFailed)
    }
}

fn finished(ended: v1::RunEnded) -> Result<v1::RunEnded, ExpectedError> {
    match ended.state() {
        v1::RunState::Done => Ok(ended),
        v1::RunState::Cancelled => {
            Err(ExpectedError::new(Exit::RunFailed, "the run was cancelled"))
        }
        _ => Err(ExpectedError::new(Exit::RunFailed, ended.reason)),
    }
}

fn refused(status: tonic::Status) -> ExpectedError {
    let exit = match status.code() {
        tonic::Code::InvalidArgument => Exit::Configuration,
        tonic::Code::AlreadyExists => Exit::Usage,
        _ => Exit::Unavailable,
    };
    ExpectedError::new(exit, status.message())
}

async fn bind() -> Result<TcpListener, ExpectedError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .or_exit(Exit::Unavailable)
}

/// Serves the demo web, a listener per host; gives the crawler's map of names.
async fn serve_web(
    roles: &mut JoinSet<Result<(), ExpectedError>>,
    site: Arc<Site>,
    shutdown: &CancellationToken,
) -> Result<NetConfig, ExpectedError> {
    let mut hosts = BTreeMap::new();
    let mut listeners = Vec::new();
    for host in site.hosts() {
        let listener = bind().await?;
        hosts.insert(host, listener.local_addr().or_exit(Exit::Unavailable)?);
        listeners.push(listener);
    }
    let shutdown = shutdown.child_token();
    roles.spawn(async move {
        capstan_demoweb::serve(site, listeners, shutdown)
            .await
            .or_exit(Exit::RunFailed)
    });
    Ok(NetConfig {
        hosts,
        ..NetConfig::default()
    })
}

/// The configuration of the demo's own coordinator.
fn config(folder: &Folder, address: &str) -> Config {
    let mut config = Config::default();
    config.store.url = folder.store().display().to_string();
    config.coordinator.address = address.to_owned();
    config.coordinator.database = format!("sqlite:{}", folder.database().display());
    config.coordinator.heartbeat_seconds = 1;
    config
}

fn lease(config: &Config, address: &str, role: &str, ordinal: usize) -> capstan_lease::Options {
    let roles = if role == "trainer" {
        vec![Role::Train]
    } else {
        vec![
            Role::Crawl,
            Role::Curate,
            Role::Caption,
            Role::Filter,
            Role::Evaluate,
        ]
    };
    capstan_lease::Options {
        coordinator: address.to_owned(),
        worker: WorkerId(format!("{role}-{ordinal}")),
        roles,
        slots: 1,
        device: "cpu".to_owned(),
        heartbeat: Duration::from_secs(config.coordinator.heartbeat_seconds),
        poll: Duration::from_secs(config.coordinator.poll_seconds),
        patience: PATIENCE,
    }
}

fn worker_options(
    folder: &Folder,
    lease: capstan_lease::Options,
    net: &NetConfig,
    device: DeviceSpec,
    turns: Turns,
) -> capstan_worker::Options {
    capstan_worker::Options {
        lease,
        net: net.clone(),
        import_root: folder.annotations(),
        cache: folder.cache(),
        device,
        threads: 1,
        turns,
    }
}

fn trainer_options(
    folder: &Folder,
    lease: capstan_lease::Options,
    device: DeviceSpec,
    turns: &Turns,
) -> capstan_trainer::Options {
    capstan_trainer::Options {
        lease,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        advertise: None,
        ring_timeout: PATIENCE,
        cache: folder.cache(),
        metrics: folder.root().join("metrics"),
        picture_bytes: 1 << 30,
        device,
        turns: turns.semaphore(),
    }
}

//! The run of the demo: every role on its own loopback socket, over the demo web.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use capstan_crawl::NetConfig;
use capstan_dataset::Store;
use capstan_demoweb::Site;
use capstan_plan::Pipeline;
use capstan_plan::clock::Stopwatch;
use capstan_plan::id::{RunId, StageName};
use capstan_proto::v1;
use capstan_runtime::Config;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use super::inputs::Inputs;
use crate::client::{Access, Coordinator};
use crate::error::{Exit, ExpectedError, OrExit};
use crate::report::Watched;
use crate::system::{Setup, System};
use crate::watch::{Board, Followed, follow};

/// Workers of the demo.
const WORKERS: usize = 2;
/// Trainers of the demo: ranks of its gangs.
const TRAINERS: usize = 2;
/// How long the database may fail before the demo ends. A full disk stays full while it waits.
const OUTAGE_LIMIT: Duration = Duration::from_secs(10);

/// A run that ended.
pub struct Ended {
    /// The run.
    pub run: RunId,
    /// Tasks that were leased; 0 if nothing was left to do.
    pub leased: u64,
    /// The times of this invocation.
    pub watched: Watched,
}

/// Runs the pipeline to its end and stops every role.
///
/// - `leave`: cancelled by a signal; the run stops and can be resumed.
///
/// # Errors
/// Run failed, with the stage, the shards and their errors; unavailable, if a socket cannot be
/// bound.
pub async fn to_its_end(
    folder: &Folder,
    store: &Store,
    site: Arc<Site>,
    inputs: &Inputs,
    leave: CancellationToken,
) -> Result<Ended, ExpectedError> {
    let hosts = bind_web(&site).await?;
    let net = net(&hosts)?;
    let listener = bind().await?;
    let config = config(folder);
    if !folder.database().exists() {
        // New or lost: rebuilt from the store of the folder, so that the run resumes.
        capstan_coordinator::rebuild(&config.coordinator, store)
            .await
            .or_exit(Exit::Unavailable)?;
    }
    let setup = Setup {
        config: &config,
        workers: WORKERS,
        trainers: TRAINERS,
        device: inputs.device,
        outage_limit: Some(OUTAGE_LIMIT),
        access: capstan_coordinator::Access::default(),
        worker: None,
        trainer: None,
    };
    let mut system = System::start(setup, store, listener, &net, leave.clone()).await?;
    let listeners = hosts.into_iter().map(|(_, listener)| listener).collect();
    let serve = capstan_demoweb::serve(site, listeners, leave.child_token());
    system.spawn(async move { serve.await.or_exit(Exit::RunFailed) });
    let coordinator = Coordinator::lazy(system.address(), &Access::default())?;
    let ended = run(&coordinator, &inputs.pipeline, &leave).await;
    let stopped = system.stop().await;
    // If a role failed, its error is the reason why the watch ended.
    match ended {
        Ok(Some(ended)) => stopped.map(|()| ended),
        Ok(None) => Err(stopped.err().unwrap_or_else(|| {
            let line = "interrupted; the same command resumes the run";
            ExpectedError::new(Exit::RunFailed, line)
        })),
        Err(error) => Err(error),
    }
}

/// Submits the pipeline and watches it on a board; `None` if `leave` was cancelled.
async fn run(
    coordinator: &Coordinator,
    pipeline: &Pipeline,
    leave: &CancellationToken,
) -> Result<Option<Ended>, ExpectedError> {
    let began = Stopwatch::start();
    let json = serde_json::to_string(pipeline).or_exit(Exit::RunFailed)?;
    let request = v1::SubmitRunRequest {
        pipeline: Some(v1::submit_run_request::Pipeline::Json(json)),
        file_name: "pipeline".to_owned(),
        seed: Some(pipeline.seed),
        run: format!("{}-{}", pipeline.name, pipeline.seed),
    };
    let run = coordinator.submit(request).await?.run;
    let mut board = Board::new(pipeline);
    let followed = follow(coordinator, &run, &mut board, leave).await;
    board.finish();
    let ended = match followed? {
        Followed::Left => return Ok(None),
        Followed::Ended(ended) => crate::watch::finished(ended)?,
    };
    let status = coordinator.run(&run).await?.status.unwrap_or_default();
    Ok(Some(Ended {
        run: RunId::from(run),
        leased: ended.leased,
        watched: Watched {
            wall_seconds: began.seconds(),
            remaining_shown_at_60s: board.remaining_shown_at_60s(),
            stage_seconds: stage_seconds(&status),
        },
    }))
}

/// Seconds from the first task to the last commit of each stage.
fn stage_seconds(status: &v1::RunStatus) -> BTreeMap<StageName, f64> {
    let stages = status.stages.iter();
    stages
        .map(|stage| {
            let took_ms = (stage.ended_unix_ms - stage.started_unix_ms).max(0);
            (StageName::from(stage.stage.as_str()), took_ms as f64 / 1e3)
        })
        .collect()
}

async fn bind() -> Result<TcpListener, ExpectedError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .or_exit(Exit::Unavailable)
}

/// A listener for each host of the demo web.
async fn bind_web(site: &Site) -> Result<Vec<(String, TcpListener)>, ExpectedError> {
    let mut listeners = Vec::new();
    for host in site.hosts() {
        listeners.push((host, bind().await?));
    }
    Ok(listeners)
}

/// The network configuration of the crawler: the hosts of the demo web.
fn net(hosts: &[(String, TcpListener)]) -> Result<NetConfig, ExpectedError> {
    let address = |listener: &TcpListener| listener.local_addr().or_exit(Exit::Unavailable);
    let hosts: Result<BTreeMap<String, SocketAddr>, ExpectedError> = hosts
        .iter()
        .map(|(host, listener)| Ok((host.clone(), address(listener)?)))
        .collect();
    Ok(NetConfig {
        hosts: hosts?,
        ..NetConfig::default()
    })
}

/// The configuration of the demo: every path is in its folder.
fn config(folder: &Folder) -> Config {
    let mut config = Config::default();
    config.store.url = folder.store().display().to_string();
    config.coordinator.database = format!("sqlite:{}", folder.database().display());
    config.coordinator.heartbeat_seconds = 1;
    config.import.roots = vec![folder.annotations()];
    config.worker.cache_folder = folder.cache();
    config.worker.threads = 1;
    config.worker.patience_seconds = 60;
    config.trainer.cache_folder = folder.cache();
    config.trainer.metrics_folder = folder.root().join("metrics");
    config.trainer.patience_seconds = 60;
    config
}

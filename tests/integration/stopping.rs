//! Workers and trainers that are asked to stop, over gRPC with a real coordinator. Tasks that can finish
//! within the grace period finish. Other leases are released at once and do not count as attempts. A
//! training resumes from the step at which it was stopped.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_dataset::conformance::rows;
use capstan_dataset::{Store, checkpoints, commits, files};
use capstan_lease::{Assignment, Control, Done, Executor, Failure, Turns};
use capstan_plan::FailureKind;
use capstan_plan::commit::Outputs;
use capstan_plan::id::{ModelDigest, RunId, StageName};
use capstan_plan::task::Role;
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_runtime::config;
use capstan_runtime::health::Readiness;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Limit for each wait; much shorter than a lease period.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

const IMPORT: &str = r#"
name = "stopping"
[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
"#;

/// A gang of two that writes checkpoints only when a rank stops.
pub(crate) const TRAINING: &str = r#"
name = "stopping"
seed = 3
[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
storing = { min_side_px = 16 }
[[stage]]
name = "words"
kind = "tokenizer"
data = [{ from = "human" }]
[[stage]]
name = "clip"
kind = "train"
tokenizer = "words"
data = [{ from = "human" }]
objectives = ["itc"]
steps = 1500
global_batch = 8
checkpoint_steps = 0
learning_rate = 0.001
world_size = 2
architecture = { family = "clip", image_size = 32, patch_size = 8, width = 32, heads = 2, vision_layers = 2, text_layers = 2, projection = 16, max_text_tokens = 12 }
"#;

/// A coordinator, and the store and folder that its workers share.
pub(crate) struct Cluster {
    pub(crate) store: Store,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    pub(crate) folder: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, Store::memory())
    }

    fn on(listener: TcpListener, store: Store) -> Self {
        let settings = config::Coordinator {
            database: "sqlite::memory:".to_owned(),
            lease_seconds: 600,
            heartbeat_seconds: 1,
            ..config::Coordinator::default()
        };
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let options = capstan_coordinator::Options::default();
        let run = capstan_coordinator::run(
            settings,
            options,
            listener,
            store.clone(),
            shutdown.child_token(),
        );
        Self {
            store,
            address,
            shutdown,
            serving: tokio::spawn(async move { run.await.unwrap() }),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn client(&self) -> CoordinatorClient<Channel> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address));
        CoordinatorClient::new(endpoint.unwrap().connect_lazy())
    }

    pub(crate) async fn submit(&self, toml: &str) {
        let request = v1::SubmitRunRequest {
            pipeline: Some(v1::submit_run_request::Pipeline::Toml(toml.to_owned())),
            file_name: "stopping.toml".to_owned(),
            seed: Some(1),
            run: "run".to_owned(),
        };
        self.client().submit_run(request).await.unwrap();
    }

    /// Waits until the run ends.
    pub(crate) async fn ended(&self) -> v1::RunEnded {
        let request = v1::WatchRequest {
            run: "run".to_owned(),
        };
        let mut events = self.client().watch(request).await.unwrap().into_inner();
        let end = async {
            loop {
                let event = events
                    .message()
                    .await
                    .unwrap()
                    .expect("the watch ended before the run");
                if let Some(v1::event::What::RunEnded(ended)) = event.what {
                    return ended;
                }
            }
        };
        tokio::time::timeout(PATIENCE, end).await.unwrap()
    }

    fn lease(&self, worker: &str, roles: Vec<Role>, grace: Duration) -> capstan_lease::Options {
        capstan_lease::Options {
            coordinator: format!("http://{}", self.address),
            worker: worker.into(),
            roles,
            slots: 1,
            device: "cpu".to_owned(),
            heartbeat: Duration::from_millis(200),
            poll: Duration::from_secs(5),
            patience: PATIENCE,
            grace,
            identity: None,
            readiness: Readiness::lasting(),
        }
    }

    /// A worker whose tasks finish when the test opens a gate.
    fn slow(&self, name: &str, grace: Duration, on_cancel: OnCancel) -> Slow {
        let (begun, receiver) = mpsc::unbounded_channel();
        let open = Arc::new(Notify::new());
        let executor = Arc::new(Gated {
            store: self.store.clone(),
            begun,
            open: open.clone(),
            on_cancel,
        });
        let options = self.lease(name, vec![Role::Crawl], grace);
        let stop = CancellationToken::new();
        let serve = capstan_lease::serve(options, self.store.clone(), executor, stop.clone());
        Slow {
            begun: receiver,
            open,
            stop,
            serving: tokio::spawn(serve),
        }
    }

    pub(crate) fn worker(&self) -> Running {
        let options = capstan_worker::Options {
            lease: self.lease("worker", vec![Role::Crawl, Role::Curate], Duration::ZERO),
            net: capstan_crawl::NetConfig::default(),
            import_roots: vec![self.folder.path().to_owned()],
            cache: self.folder.path().join("cache-worker"),
            device: capstan_model::DeviceSpec::Cpu,
            threads: 1,
            turns: Turns::unbounded(),
        };
        let stop = CancellationToken::new();
        let run = capstan_worker::run(options, self.store.clone(), stop.clone());
        Running {
            stop,
            serving: tokio::spawn(run),
        }
    }

    pub(crate) fn trainer(&self, name: &str) -> Running {
        self.trainer_with(name, Turns::unbounded())
    }

    fn trainer_with(&self, name: &str, turns: Turns) -> Running {
        let options = capstan_trainer::Options {
            lease: self.lease(name, vec![Role::Train], PATIENCE),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            ring_timeout: PATIENCE,
            cache: self.folder.path().join(format!("cache-{name}")),
            metrics: self.folder.path().join(format!("metrics-{name}")),
            picture_bytes: 1 << 28,
            device: capstan_model::DeviceSpec::Cpu,
            turns,
        };
        let stop = CancellationToken::new();
        let run = capstan_trainer::run(options, self.store.clone(), stop.clone());
        Running {
            stop,
            serving: tokio::spawn(run),
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
    }
}

/// A running role.
pub(crate) struct Running {
    stop: CancellationToken,
    serving: JoinHandle<Result<(), capstan_lease::Error>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.serving).await;
        ended.unwrap().unwrap().unwrap();
    }
}

/// What a task does when it is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnCancel {
    Ends,
    Ignores,
}

/// An executor that waits for a gate, then writes pairs.
struct Gated {
    store: Store,
    begun: mpsc::UnboundedSender<(Assignment, Control)>,
    open: Arc<Notify>,
    on_cancel: OnCancel,
}

#[async_trait::async_trait]
impl Executor for Gated {
    async fn execute(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<Option<Done>, Failure> {
        let ends = self.on_cancel == OnCancel::Ends;
        self.begun.send((assignment, control.clone())).unwrap();
        tokio::select! {
            () = self.open.notified() => {}
            () = control.cancel.cancelled(), if ends => {
                let message = "cancelled".to_owned();
                return Err(Failure { kind: FailureKind::Transient, message });
            }
        }
        let files = files::write_pairs(&self.store, 10, rows::pairs("slow", 3))
            .await
            .unwrap();
        let outputs = Outputs {
            files,
            ..Outputs::default()
        };
        Ok(Some(Done {
            outputs,
            ..Done::default()
        }))
    }
}

/// A worker of gated tasks.
struct Slow {
    begun: mpsc::UnboundedReceiver<(Assignment, Control)>,
    open: Arc<Notify>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), capstan_lease::Error>>,
}

impl Slow {
    async fn begun(&mut self) -> (Assignment, Control) {
        let begun = tokio::time::timeout(PATIENCE, self.begun.recv()).await;
        begun.unwrap().expect("the worker stopped")
    }

    async fn stopped(self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.serving).await;
        ended.unwrap().unwrap().unwrap();
        began.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_finishes_within_the_grace_period_is_committed() {
    let cluster = Cluster::start().await;
    cluster.submit(IMPORT).await;
    let mut worker = cluster.slow("one", PATIENCE, OnCancel::Ends);
    let (_, control) = worker.begun().await;
    worker.stop.cancel();
    tokio::time::timeout(PATIENCE, control.stop.cancelled())
        .await
        .unwrap();
    assert!(!control.cancel.is_cancelled());
    worker.open.notify_one();
    worker.stopped().await;
    let ended = cluster.ended().await;
    assert_eq!(
        (ended.state(), ended.leased),
        (v1::RunState::Done, 1),
        "{ended:?}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_lease_is_released_at_once_and_counts_no_attempt() {
    let cluster = Cluster::start().await;
    cluster.submit(IMPORT).await;
    for on_cancel in [OnCancel::Ends, OnCancel::Ignores, OnCancel::Ends] {
        let mut worker = cluster.slow("one", Duration::ZERO, on_cancel);
        let (assignment, _) = worker.begun().await;
        assert_eq!(assignment.attempt_number, 1, "released, not failed");
        let took = worker.stopped().await;
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
    let mut other = cluster.slow("two", PATIENCE, OnCancel::Ends);
    let (assignment, _) = other.begun().await;
    assert_eq!(assignment.attempt_number, 1);
    other.open.notify_one();
    assert_eq!(cluster.ended().await.state(), v1::RunState::Done);
    other.stopped().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_computes_and_commits_nothing_more() {
    let cluster = Cluster::start().await;
    cluster.submit(IMPORT).await;
    let mut worker = cluster.slow("one", PATIENCE, OnCancel::Ends);
    let (_, control) = worker.begun().await;
    let request = v1::CancelRunRequest {
        run: "run".to_owned(),
    };
    cluster.client().cancel_run(request).await.unwrap();
    tokio::time::timeout(PATIENCE, control.cancel.cancelled())
        .await
        .unwrap();
    assert!(!control.stop.is_cancelled());
    assert_eq!(cluster.ended().await.state(), v1::RunState::Cancelled);
    // The worker takes a task of the next run.
    cluster.submit(IMPORT).await;
    let (assignment, _) = worker.begun().await;
    let task = assignment.task;
    let commit = commits::read(&cluster.store, &task.run, &task.stage, &task.shard).await;
    assert_eq!(commit.unwrap(), None);
    worker.open.notify_one();
    assert_eq!(cluster.ended().await.state(), v1::RunState::Done);
    worker.stopped().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_a_late_coordinator_until_its_patience_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Nothing listens there any more.
    drop(listener);
    let store = Store::memory();
    let away = Cluster {
        store: store.clone(),
        address,
        shutdown: CancellationToken::new(),
        serving: tokio::spawn(async {}),
        folder: tempfile::tempdir().unwrap(),
    };
    let mut worker = away.slow("one", PATIENCE, OnCancel::Ends);
    let hasty = capstan_lease::Options {
        patience: Duration::from_millis(300),
        ..away.lease("two", vec![Role::Crawl], PATIENCE)
    };
    let executor = Arc::new(Gated {
        store: store.clone(),
        begun: mpsc::unbounded_channel().0,
        open: Arc::new(Notify::new()),
        on_cancel: OnCancel::Ends,
    });
    let gave_up =
        capstan_lease::serve(hasty, store.clone(), executor, CancellationToken::new()).await;
    let error = gave_up.unwrap_err();
    assert!(
        matches!(error, capstan_lease::Error::Unreachable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let cluster = Cluster::on(TcpListener::bind(address).await.unwrap(), store);
    cluster.submit(IMPORT).await;
    worker.begun().await;
    worker.open.notify_one();
    assert_eq!(cluster.ended().await.state(), v1::RunState::Done);
    worker.stopped().await;
    cluster.stop().await;
}

/// Writes pictures and captions in COCO format.
pub(crate) fn annotate(folder: &Path) {
    let images = folder.join("human/images");
    std::fs::create_dir_all(&images).unwrap();
    let (mut pictures, mut annotations) = (Vec::new(), Vec::new());
    for id in 0..24u32 {
        let name = format!("{id}.png");
        let picture = image::RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([(x * 8) as u8, (id * 10) as u8, (y * (id % 7)) as u8])
        });
        picture.save(images.join(&name)).unwrap();
        pictures.push(serde_json::json!({"id": id, "file_name": name}));
        let (shade, place) = (["dark", "pale", "red"][id as usize % 3], id / 3);
        annotations.push(serde_json::json!({
            "id": id, "image_id": id, "caption": format!("a {shade} bar of row {place}"),
        }));
    }
    let coco = serde_json::json!({"images": pictures, "annotations": annotations});
    std::fs::write(folder.join("human/captions.json"), coco.to_string()).unwrap();
}

pub(crate) async fn model_of(store: &Store) -> ModelDigest {
    let (run, stage) = (RunId::from("run"), StageName::from("clip"));
    let commits = commits::of_stage(store, &run, &stage).await.unwrap();
    assert_eq!(commits.len(), 1);
    commits[0].outputs.model.unwrap()
}

pub(crate) async fn newest_step(store: &Store) -> Option<u64> {
    let (run, stage) = (RunId::from("run"), StageName::from("clip"));
    let newest = checkpoints::latest(store, &run, &stage).await.unwrap();
    newest.map(|checkpoint| checkpoint.step)
}

/// Waits for the checkpoint of the first stop: rank 0 may notice the stop only when its ring breaks.
pub(crate) async fn first_checkpoint(store: &Store) -> u64 {
    let began = Instant::now();
    loop {
        if let Some(step) = newest_step(store).await {
            return step;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "no checkpoint after the first stop"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the gang has done this many steps.
pub(crate) async fn steps_done(cluster: &Cluster, steps: u64) {
    let began = Instant::now();
    loop {
        let request = v1::GetRunRequest {
            run: "run".to_owned(),
        };
        let answer = cluster.client().get_run(request).await.unwrap();
        let status = answer.into_inner().status.unwrap();
        let training = status.stages.iter().find(|stage| stage.stage == "clip");
        let progress = training.and_then(|stage| stage.progress.first());
        if progress.is_some_and(|progress| progress.done >= steps) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no progress: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the gang waits for its turns, or for its ranks.
async fn gang_waits(cluster: &Cluster) {
    let began = Instant::now();
    loop {
        let request = v1::GetRunRequest {
            run: "run".to_owned(),
        };
        let answer = cluster.client().get_run(request).await.unwrap();
        let status = answer.into_inner().status.unwrap();
        let training = status.stages.iter().find(|stage| stage.stage == "clip");
        if training.is_some_and(|stage| stage.progress.iter().any(|progress| progress.waiting)) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "it does not wait: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_shares_one_turn_with_the_shards_of_a_worker() {
    let cluster = Cluster::start().await;
    annotate(cluster.folder.path());
    let turns = Turns::new(1);
    let shard = turns.take(1).await;
    let trainers = ["a", "b"].map(|name| cluster.trainer_with(name, turns.clone()));
    let worker = cluster.worker();
    cluster
        .submit(&TRAINING.replace("steps = 1500", "steps = 3"))
        .await;
    gang_waits(&cluster).await;
    // The next shard asks before the turn is free, as in a queue of shards.
    let next = tokio::spawn(async move { drop(turns.take(1).await) });
    drop(shard);
    let ended = cluster.ended().await;
    assert_eq!(ended.state(), v1::RunState::Done, "{}", ended.reason);
    assert_eq!(ended.leased, 3, "one attempt at each task");
    tokio::time::timeout(PATIENCE, next).await.unwrap().unwrap();
    for role in trainers {
        role.stop().await;
    }
    worker.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_that_is_stopped_twice_trains_the_same_model() {
    let calm = Cluster::start().await;
    annotate(calm.folder.path());
    let roles = [calm.worker(), calm.trainer("a"), calm.trainer("b")];
    calm.submit(TRAINING).await;
    let ended = calm.ended().await;
    assert_eq!(ended.state(), v1::RunState::Done, "{}", ended.reason);
    let undisturbed = model_of(&calm.store).await;
    assert_eq!(
        newest_step(&calm.store).await,
        None,
        "a checkpoint without a stop"
    );
    for role in roles {
        role.stop().await;
    }
    calm.stop().await;

    let cluster = Cluster::start().await;
    annotate(cluster.folder.path());
    let worker = cluster.worker();
    let (first, second) = (cluster.trainer("a"), cluster.trainer("b"));
    cluster.submit(TRAINING).await;
    // Whichever of the two ranks stops, rank 0 writes a checkpoint.
    steps_done(&cluster, 5).await;
    first.stop().await;
    let third = cluster.trainer("c");
    let kept = first_checkpoint(&cluster.store).await;
    assert!((5..1500).contains(&kept), "{kept}");
    // Steps beyond the checkpoint: the gang of the second attempt is running.
    steps_done(&cluster, kept + 1).await;
    second.stop().await;
    let fourth = cluster.trainer("d");
    let ended = cluster.ended().await;
    assert_eq!(ended.state(), v1::RunState::Done, "{}", ended.reason);
    let later = newest_step(&cluster.store).await;
    assert!(
        later.is_none_or(|later| later > kept),
        "{later:?} after {kept}"
    );
    assert_eq!(model_of(&cluster.store).await, undisturbed);
    for role in [worker, third, fourth] {
        role.stop().await;
    }
    cluster.stop().await;
}

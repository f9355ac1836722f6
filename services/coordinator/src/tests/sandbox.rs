//! A coordinator on a free port, a clock that tests advance, and workers that use gRPC and commit to
//! the store. Their outputs are small, but complete for each task.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use capstan_dataset::{Store, commits, files, models, runs, versions};
use capstan_plan::clock::Clock;
use capstan_plan::commit::{Commit, File, FileKind, Outputs, Part};
use capstan_plan::id::{LeaseEpoch, PairId};
use capstan_plan::row::{Captions, Curation, ImageLink, PageLink, Pair, Reject, Verdicts};
use capstan_plan::stage::{BalanceWork, CaptionWork, CrawlWork, CurateWork, FilterWork};
use capstan_plan::task::{Task, Work};
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_proto::v1::ring_client::RingClient;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::state::{Database, Sqlite};
use crate::{Error, Handle, Options, config, serve};

/// Time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every kind of stage, with two waves of pages and a gang of two.
pub const PIPELINE: &str = r#"
name = "small"
seed = 3
[[stage]]
name = "crawl"
kind = "crawl"
dataset = "web"
seeds = ["http://a.test/"]
snapshot = "x"
[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
[[stage]]
name = "curated"
kind = "curate"
from = "crawl"
queries = ["ball"]
[[stage]]
name = "balanced"
kind = "balance"
from = "curated"
[[stage]]
name = "words"
kind = "tokenizer"
data = [{ from = "balanced" }, { from = "human" }]
[[stage]]
name = "blip"
kind = "train"
tokenizer = "words"
data = [{ from = "balanced" }]
objectives = ["itc", "itm", "lm"]
steps = 1
global_batch = 2
learning_rate = 0.1
architecture = { family = "blip", image_size = 32, patch_size = 16, width = 8, heads = 1, vision_layers = 1, text_layers = 1, projection = 4, max_text_tokens = 8 }
[[stage]]
name = "captions"
kind = "caption"
from = "balanced"
model = "blip"
decoding = { choose = { strategy = "greedy" } }
[[stage]]
name = "kept"
kind = "filter"
from = "captions"
model = "blip"
threshold = 0.7
[[stage]]
name = "figures"
kind = "evaluate"
model = "blip"
retrieval = { from = "human" }
"#;

/// Number of tasks of [`PIPELINE`] with the outputs of `outputs`.
pub const TASKS: u64 = {
    let (frontiers, pages, image_frontier, images) = (3, 2 + 1, 1, 2);
    let crawl = frontiers + pages + image_frontier + images;
    let shards = 2;
    crawl + 1 + shards + 1 + 1 + 1 + shards + shards + 1
};

/// One import, for tests about a single task.
pub const ONE_TASK: &str = r#"
name = "one"
[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
"#;

/// An import whose one shard is curated.
pub const CURATED: &str = r#"
name = "curated"
[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
[[stage]]
name = "kept"
kind = "curate"
from = "human"
queries = ["ball"]
"#;

/// A training with its inputs: an import and a vocabulary.
pub const GANG: &str = r#"
name = "gang"
[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
[[stage]]
name = "words"
kind = "tokenizer"
data = [{ from = "human" }]
[[stage]]
name = "blip"
kind = "train"
tokenizer = "words"
data = [{ from = "human" }]
objectives = ["lm"]
steps = 1
global_batch = 2
learning_rate = 0.1
architecture = { family = "blip", image_size = 32, patch_size = 16, width = 8, heads = 1, vision_layers = 1, text_layers = 1, projection = 4, max_text_tokens = 8 }
"#;

/// A clock that stops until a test advances it.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Mutex<Duration>,
}

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        *self.now.lock().unwrap() += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap() + Duration::from_secs(1_000)
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + *self.now.lock().unwrap()
    }
}

/// Settings with short waits for tests.
pub fn settings(database: &str) -> config::Coordinator {
    config::Coordinator {
        database: database.to_owned(),
        backoff_ms: 1_000,
        heartbeat_seconds: 1,
        ring_join_seconds: 20,
        ..config::Coordinator::default()
    }
}

/// A coordinator that can be stopped, and started again over the same store and database.
pub struct Sandbox {
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub handle: Handle,
    pub address: String,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), Error>>,
    database: String,
}

impl Sandbox {
    pub async fn start(store: Store, database: &str) -> Self {
        let clock = Arc::new(ManualClock::default());
        Self::start_with(store, database, clock, Options::default()).await
    }

    /// Over an in-memory store and database.
    pub async fn memory() -> Self {
        Self::start(Store::memory(), "sqlite::memory:").await
    }

    /// Over an in-memory store and database, with these options.
    pub async fn guarded(options: Options) -> Self {
        let clock = Arc::new(ManualClock::default());
        Self::start_with(Store::memory(), "sqlite::memory:", clock, options).await
    }

    async fn start_with(
        store: Store,
        database: &str,
        clock: Arc<ManualClock>,
        options: Options,
    ) -> Self {
        let opened = Arc::new(Sqlite::open(database).await.unwrap());
        Self::start_over(store, (database, opened), clock, options).await
    }

    /// Over a database that is open.
    pub async fn start_over(
        store: Store,
        (url, database): (&str, Arc<dyn Database>),
        clock: Arc<ManualClock>,
        options: Options,
    ) -> Self {
        let settings = settings(url);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = match options.access.tls() {
            Some(_) => "https",
            None => "http",
        };
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let handle = Handle::start_over(
            settings,
            store.clone(),
            database,
            clock.clone(),
            shutdown.clone(),
        );
        let handle = handle.await.unwrap();
        let server = tokio::spawn(serve(handle.clone(), options, listener, shutdown.clone()));
        Self {
            store,
            clock,
            handle,
            address,
            shutdown,
            server,
            database: url.to_owned(),
        }
    }

    pub async fn stop(self) -> (Store, Arc<ManualClock>, String) {
        self.shutdown.cancel();
        self.server.await.unwrap().unwrap();
        (self.store, self.clock, self.database)
    }

    /// Waits until the coordinator stops without a request, and returns the reason.
    pub async fn stopped(self) -> Result<(), Error> {
        let stopped = tokio::time::timeout(PATIENCE, self.server).await;
        stopped.expect("the coordinator stops in time").unwrap()
    }

    /// Advances the clock in steps that are short enough not to look like a pause.
    pub async fn pass(&self, time: Duration) {
        const STEP: Duration = Duration::from_secs(5);
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP);
            self.clock.advance(step);
            self.looks().await;
            left -= step;
        }
    }

    /// Waits until the coordinator has read the clock.
    pub async fn looks(&self) {
        let (started, now) = (Instant::now(), self.clock.now());
        while self.handle.inner.lock().checked_at() < now {
            self.handle.inner.pump.notify_one();
            assert!(started.elapsed() < PATIENCE, "the clock was not read");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stops it and starts another over the same store and database.
    pub async fn restart(self) -> Self {
        let (store, clock, database) = self.stop().await;
        Self::start_with(store, &database, clock, Options::default()).await
    }

    pub async fn client(&self) -> CoordinatorClient<Channel> {
        CoordinatorClient::connect(self.address.clone())
            .await
            .unwrap()
    }

    pub async fn submit(&self, pipeline: &str, run: &str) -> Result<v1::SubmitRunResponse, Status> {
        let request = v1::SubmitRunRequest {
            pipeline: Some(v1::submit_run_request::Pipeline::Toml(pipeline.to_owned())),
            file_name: "small.toml".to_owned(),
            seed: None,
            run: run.to_owned(),
        };
        Ok(self.client().await.submit_run(request).await?.into_inner())
    }

    pub async fn retry(
        &self,
        run: &str,
        stage: &str,
        shard: &str,
    ) -> Result<v1::RetryRunResponse, Status> {
        let request = v1::RetryRunRequest {
            run: run.to_owned(),
            stage: stage.to_owned(),
            shard: shard.to_owned(),
        };
        Ok(self.client().await.retry_run(request).await?.into_inner())
    }

    pub async fn plan(&self, pipeline: &str, run: &str) -> Result<v1::PlanRunResponse, Status> {
        let request = v1::SubmitRunRequest {
            pipeline: Some(v1::submit_run_request::Pipeline::Toml(pipeline.to_owned())),
            file_name: "small.toml".to_owned(),
            seed: None,
            run: run.to_owned(),
        };
        Ok(self.client().await.plan_run(request).await?.into_inner())
    }

    pub async fn worker(&self, name: &str) -> Worker {
        use v1::Role::{Caption, Crawl, Curate, Evaluate, Filter};
        self.worker_of(name, &[Crawl, Curate, Caption, Filter, Evaluate])
            .await
    }

    pub async fn trainer(&self, name: &str) -> Worker {
        self.worker_of(name, &[v1::Role::Train]).await
    }

    async fn worker_of(&self, name: &str, roles: &[v1::Role]) -> Worker {
        Worker {
            name: name.to_owned(),
            session: name.as_bytes().to_vec(),
            recipe_published: false,
            roles: roles.iter().map(|role| *role as i32).collect(),
            client: self.client().await,
            ring: RingClient::connect(self.address.clone()).await.unwrap(),
            store: self.store.clone(),
        }
    }

    /// Runs workers and trainers until the run has ended. Returns its last event.
    pub async fn play_out(&self, run: &str) -> v1::RunEnded {
        let mut crew = tokio::task::JoinSet::new();
        for worker in [self.worker("w1").await, self.worker("w2").await] {
            crew.spawn(worker.work_on());
        }
        for trainer in [self.trainer("t1").await, self.trainer("t2").await] {
            crew.spawn(trainer.work_on());
        }
        let events = self.events(run).await;
        crew.abort_all();
        match events.last().unwrap().what.clone().unwrap() {
            v1::event::What::RunEnded(ended) => ended,
            other => panic!("the last event is {other:?}"),
        }
    }

    /// Events of a run from now on.
    pub async fn watch(&self, run: &str) -> tonic::Streaming<v1::Event> {
        let request = v1::WatchRequest {
            run: run.to_owned(),
        };
        self.client()
            .await
            .watch(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// All events until the run has ended.
    pub async fn events(&self, run: &str) -> Vec<v1::Event> {
        rest(self.watch(run).await).await
    }

    pub async fn status(&self, run: &str) -> v1::RunStatus {
        let request = v1::GetRunRequest {
            run: run.to_owned(),
        };
        let answer = self.client().await.get_run(request).await.unwrap();
        answer.into_inner().status.unwrap()
    }

    /// Waits until the store has the end of the run, which watchers receive first.
    pub async fn until_recorded(&self, run: &str) {
        let (started, id) = (Instant::now(), run.into());
        while !is_done(runs::standing(&self.store, &id).await.unwrap()) {
            assert!(
                started.elapsed() < PATIENCE,
                "the store has no end of {run}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the run satisfies `is_reached`.
    pub async fn until(&self, run: &str, is_reached: impl Fn(&v1::RunStatus) -> bool) {
        let started = Instant::now();
        loop {
            let status = self.status(run).await;
            if is_reached(&status) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never reached: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn is_done(standing: Option<runs::Standing>) -> bool {
    standing.is_some_and(|standing| standing.state == runs::RunState::Done)
}

/// The remaining events of a stream.
pub async fn rest(mut stream: tonic::Streaming<v1::Event>) -> Vec<v1::Event> {
    let mut events = Vec::new();
    let read = async {
        while let Some(event) = stream.message().await.unwrap() {
            events.push(event);
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the run ends in time");
    events
}

/// A worker or trainer.
#[derive(Clone)]
pub struct Worker {
    pub name: String,
    /// The session. Equal for every worker of the name, unless a test changes it.
    pub session: Vec<u8>,
    /// Whether it reports that recipes point at its commits.
    pub recipe_published: bool,
    roles: Vec<i32>,
    pub client: CoordinatorClient<Channel>,
    pub ring: RingClient<Channel>,
    store: Store,
}

impl Worker {
    /// Requests a task once, and waits for at most `wait_ms`.
    pub async fn poll(&mut self, wait_ms: u64) -> Option<v1::Assignment> {
        self.ask(wait_ms).await.unwrap()
    }

    pub async fn ask(&mut self, wait_ms: u64) -> Result<Option<v1::Assignment>, Status> {
        let request = self.lease_request(wait_ms);
        let answer = self.client.lease(request).await?.into_inner();
        assert!(answer.assignments.len() <= 1, "more than one slot");
        Ok(answer.assignments.into_iter().next())
    }

    fn lease_request(&self, wait_ms: u64) -> v1::LeaseRequest {
        v1::LeaseRequest {
            worker: self.name.clone(),
            roles: self.roles.clone(),
            slots: 1,
            device: "cpu".to_owned(),
            cached: Vec::new(),
            wait_ms,
            session: self.session.clone(),
            cached_tag: 0,
        }
    }

    /// Requests a task until there is one.
    pub async fn lease(&mut self) -> v1::Assignment {
        let started = Instant::now();
        loop {
            if let Some(assignment) = self.poll(1_000).await {
                return assignment;
            }
            assert!(started.elapsed() < PATIENCE, "no task for {}", self.name);
        }
    }

    pub async fn heartbeat(&mut self, assignment: &v1::Assignment) -> v1::LeaseStatus {
        let lease = assignment.lease.clone();
        let progress = v1::LeaseProgress {
            lease,
            done: 1,
            total: 4,
            unit: "pictures".to_owned(),
            waiting: false,
        };
        let request = v1::HeartbeatRequest {
            worker: self.name.clone(),
            leases: vec![progress],
            session: self.session.clone(),
        };
        let statuses = self
            .client
            .heartbeat(request)
            .await
            .unwrap()
            .into_inner()
            .statuses;
        v1::LeaseStatus::try_from(statuses[0]).unwrap()
    }

    pub async fn complete(&mut self, assignment: &v1::Assignment) -> Result<bool, Status> {
        let request = v1::CompleteRequest {
            worker: self.name.clone(),
            lease: assignment.lease.clone(),
            mine: true,
            next: None,
            recipe_published: self.recipe_published,
        };
        Ok(self.client.complete(request).await?.into_inner().mine)
    }

    /// Completes a lease, and leases the next task in the same call.
    pub async fn complete_and_lease(
        &mut self,
        assignment: &v1::Assignment,
    ) -> Result<Option<v1::Assignment>, Status> {
        let request = v1::CompleteRequest {
            worker: self.name.clone(),
            lease: assignment.lease.clone(),
            mine: true,
            next: Some(self.lease_request(0)),
            recipe_published: self.recipe_published,
        };
        let next = self.client.complete(request).await?.into_inner().next;
        Ok(next.unwrap().assignments.into_iter().next())
    }

    pub async fn leave(&mut self) -> Result<(), Status> {
        let request = v1::LeaveRequest {
            worker: self.name.clone(),
            session: self.session.clone(),
        };
        self.client.leave(request).await.map(|_| ())
    }

    pub async fn release(&mut self, assignment: &v1::Assignment) -> Result<(), Status> {
        let request = v1::ReleaseRequest {
            worker: self.name.clone(),
            lease: assignment.lease.clone(),
        };
        self.client.release(request).await.map(|_| ())
    }

    pub async fn fail(
        &mut self,
        assignment: &v1::Assignment,
        kind: v1::FailureKind,
    ) -> Result<v1::TaskState, Status> {
        let request = v1::FailRequest {
            worker: self.name.clone(),
            lease: assignment.lease.clone(),
            kind: kind as i32,
            message: "no such\nfolder".to_owned(),
        };
        let state = self.client.fail(request).await?.into_inner().state;
        Ok(v1::TaskState::try_from(state).unwrap())
    }

    pub async fn join(&mut self, assignment: &v1::Assignment) -> Result<v1::RingPlan, Status> {
        let request = v1::JoinRingRequest {
            worker: self.name.clone(),
            lease: assignment.lease.clone(),
            address: format!("{}:1", self.name),
            last_applied_step: None,
        };
        Ok(self.ring.join_ring(request).await?.into_inner())
    }

    /// Executes an assignment and commits it, without a report to the coordinator.
    pub async fn commit(&self, assignment: &v1::Assignment) -> commits::Committed {
        let task: Task = serde_json::from_str(&assignment.task_json).unwrap();
        let lease = assignment.lease.clone().unwrap();
        let epoch = lease.lease_epoch.unwrap();
        let commit = Commit {
            run: task.run.clone(),
            stage: task.stage.clone(),
            shard: task.shard.clone(),
            attempt: lease.attempt.into(),
            worker: self.name.clone().into(),
            lease_epoch: LeaseEpoch {
                generation: epoch.generation,
                counter: epoch.counter,
            },
            recipe: task.recipe,
            inputs: Vec::new(),
            outputs: outputs(&self.store, &task).await,
            wall_seconds: 0.1,
            cpu_seconds: 0.1,
            adopted: false,
        };
        commits::commit(&self.store, &commit).await.unwrap()
    }

    /// Executes and reports an assignment. Ranks of a gang join their ring first.
    pub async fn work(&mut self, assignment: &v1::Assignment) {
        if assignment.world_size > 1 {
            let plan = self.join(assignment).await.unwrap();
            assert_eq!(plan.peers[plan.rank as usize], format!("{}:1", self.name));
        }
        if assignment.lease.as_ref().unwrap().rank == 0 {
            self.commit(assignment).await;
            assert!(
                self.complete(assignment).await.unwrap(),
                "the commit is its own"
            );
        } else {
            // Rank 0 may have committed first.
            let _ = self.complete(assignment).await;
        }
    }

    async fn work_on(mut self) {
        loop {
            if let Some(assignment) = self.poll(500).await {
                self.work(&assignment).await;
            }
        }
    }
}

/// The outputs of a task.
pub async fn outputs(store: &Store, task: &Task) -> Outputs {
    let shard = task.shard.as_str();
    let mut outputs = Outputs::default();
    outputs.counts.insert("found".to_owned(), 2);
    let page = |name: String| PageLink {
        url: format!("http://a.test/{name}"),
        depth: 0,
    };
    match &task.work {
        Work::Crawl(CrawlWork::Frontier { wave, .. }) => {
            for ordinal in 0..[2usize, 1].get(*wave as usize).copied().unwrap_or(0) {
                let rows = vec![page(format!("{wave}-{ordinal}"))];
                outputs
                    .files
                    .push(files::write(store, FileKind::Pages, rows).await.unwrap());
            }
        }
        Work::Crawl(CrawlWork::Pages { .. }) => {
            let links = files::write(store, FileKind::PageLinks, vec![page(shard.to_owned())]);
            let images = files::write(store, FileKind::ImageLinks, vec![image(shard)]);
            let rejects = files::write(store, FileKind::Rejects, Vec::<Reject>::new());
            for file in [links.await, images.await, rejects.await] {
                outputs.files.push(file.unwrap());
            }
        }
        Work::Crawl(CrawlWork::ImageFrontier { .. }) => {
            for ordinal in 0..2 {
                let rows = vec![image(&format!("{ordinal}"))];
                outputs
                    .files
                    .push(files::write(store, FileKind::Images, rows).await.unwrap());
            }
        }
        Work::Crawl(CrawlWork::Images { .. }) | Work::Import(_) => {
            let pairs = [pair(shard, 0), pair(shard, 1)];
            outputs.files = files::write_pairs(store, 10, pairs).await.unwrap();
        }
        Work::Curate(CurateWork { part, .. }) => outputs.files.push(curation(store, part).await),
        Work::Balance(BalanceWork { shards }) => {
            for part in versions::parts_of(store, shards).await.unwrap() {
                outputs.files.push(curation(store, &part).await);
            }
        }
        Work::Caption(CaptionWork { part, model, .. }) => {
            let row = |pair_id| Captions {
                pair_id,
                texts: Vec::new(),
                model: *model,
            };
            outputs.files.push(overlay(store, part, row).await);
        }
        Work::Filter(FilterWork { part, model, .. }) => {
            let row = |pair_id| Verdicts {
                pair_id,
                verdicts: Vec::new(),
                model: *model,
            };
            outputs.files.push(overlay(store, part, row).await);
        }
        Work::Model(_) | Work::Tokenizer(_) | Work::Train(_) => {
            let folder = tempfile::tempdir().unwrap();
            write_model(folder.path(), task.stage.as_str());
            outputs.model = Some(models::put(store, folder.path()).await.unwrap());
        }
        Work::Evaluate(_) => outputs.evaluation = Some(Default::default()),
    }
    outputs
}

fn write_model(folder: &Path, name: &str) {
    std::fs::write(
        folder.join("config.json"),
        format!("{{\"name\":\"{name}\"}}"),
    )
    .unwrap();
}

async fn curation(store: &Store, part: &Part) -> File {
    let row = |pair_id| Curation {
        pair_id,
        keep: true,
        reason: None,
        texts: Vec::new(),
        queries: Vec::new(),
    };
    overlay(store, part, row).await
}

async fn overlay<T: capstan_dataset::record::Record>(
    store: &Store,
    part: &Part,
    row: impl Fn(PairId) -> T,
) -> File {
    let mut pairs = files::Pairs::open(store, part, files::Pixels::Skip)
        .await
        .unwrap();
    let mut rows = Vec::new();
    while let Some(group) = pairs.next().await.unwrap() {
        rows.extend(group.into_iter().map(|pair| row(pair.pair_id)));
    }
    files::write_overlay(store, &part.base, rows).await.unwrap()
}

fn image(name: &str) -> ImageLink {
    ImageLink {
        image_url: format!("http://a.test/{name}.png"),
        raw_url: format!("{name}.png"),
        page_url: "http://a.test/".to_owned(),
        texts: Vec::new(),
        opt_out: Vec::new(),
        licence: None,
        attribution: None,
    }
}

/// A pair whose time differs with every call: the files differ, the rows do not.
fn pair(shard: &str, row: u32) -> Pair {
    let url = format!("http://a.test/{shard}-{row}.png");
    let fetched = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Pair {
        pair_id: PairId::new(&url, "http://a.test/"),
        image: vec![1, 2, 3],
        width: 1,
        height: 1,
        original_width: 1,
        original_height: 1,
        sha256: [0; 32],
        phash: 0,
        image_url: url,
        page_url: "http://a.test/".to_owned(),
        archive_ref: None,
        fetched_at_ms: i64::try_from(fetched.as_micros()).unwrap(),
        opt_out: Vec::new(),
        policy_version: 1,
        licence: None,
        attribution: None,
        texts: Vec::new(),
    }
}

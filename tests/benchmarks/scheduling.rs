//! Cost of scheduling: 64 simulated workers lease and commit 100,000 empty tasks over gRPC. The
//! coordinator runs on SQLite in a process of its own.
//!
//! ```text
//! cargo build --release && cargo run --release -p capstan-tests --bin scheduling -- [TASKS]
//! ```
//! Prints tasks per second, the coordinator's CPU and memory, the time per call, and the bound of this
//! machine: the same workers make two empty calls and create one object per task. The cost above the
//! bound is the coordinator's own.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use capstan_dataset::{Store, commits};
use capstan_plan::commit::{Commit, Outputs};
use capstan_plan::id::{AttemptId, LeaseEpoch, WorkerId};
use capstan_plan::task::Task;
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_proto::v1::event::What;
use capstan_tests::median;
use tonic::transport::{Channel, Endpoint};

const TASKS: u64 = 100_000;
const WORKERS: usize = 64;
/// Stages that share the tasks: one stage may have 99,999.
const STAGES: u64 = 2;
/// Limit for each wait.
const PATIENCE: Duration = Duration::from_secs(600);

type Client = CoordinatorClient<Channel>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let tasks = std::env::args().nth(1).map_or(Ok(TASKS), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    let coordinator = Coordinator::start(folder.path()).await?;
    let store = Store::open(&folder.path().join("store").display().to_string())?;
    let bound = bound(&coordinator, &store, tasks / 10).await?;
    let idle = coordinator.usage()?;
    let began = Instant::now();
    let mut watcher = coordinator.client().await?;
    let run = submit(&mut watcher, tasks).await?;
    let planned = began.elapsed();
    let shared = Arc::new(Shared::new(tasks));
    let mut workers = tokio::task::JoinSet::new();
    let leasing = Instant::now();
    for ordinal in 0..WORKERS {
        let (client, store) = (coordinator.client().await?, store.clone());
        workers.spawn(worker(ordinal, client, store, shared.clone()));
    }
    let mut spent = Spent::default();
    while let Some(worker) = workers.join_next().await {
        spent.add(worker??);
    }
    let elapsed = leasing.elapsed();
    let after = coordinator.usage()?;
    ended(&mut watcher, &run).await?;
    let rate = tasks as f64 / elapsed.as_secs_f64();
    let cpu = after.cpu_seconds - idle.cpu_seconds;
    let memory = after.resident_bytes.saturating_sub(idle.resident_bytes) as f64;
    println!("{tasks} tasks, {WORKERS} workers, planned in {planned:.1?}");
    println!("tasks per second          {rate:.0}");
    println!(
        "bound of this machine     {bound:.0}, reached {:.0} %",
        100.0 * rate / bound
    );
    println!(
        "coordinator's CPU         {:.1} us a task",
        cpu * 1e6 / tasks as f64
    );
    println!("memory per million tasks  {:.0} MB", memory / tasks as f64);
    println!("lease, median (p99)       {}", spent.lease.line());
    println!("commit to the store       {}", spent.commit.line());
    println!("complete                  {}", spent.complete.line());
    Ok(())
}

/// State that the workers share.
struct Shared {
    tasks: u64,
    committed: AtomicU64,
}

impl Shared {
    fn new(tasks: u64) -> Self {
        let committed = AtomicU64::new(0);
        Self { tasks, committed }
    }

    fn is_done(&self) -> bool {
        self.committed.load(Ordering::Relaxed) >= self.tasks
    }
}

/// Times of one kind of call, in microseconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn note(&mut self, began: Instant) {
        self.0.push(began.elapsed().as_secs_f64() * 1e6);
    }

    fn line(&mut self) -> String {
        let middle = median(&mut self.0);
        let p99 = self.0.get(self.0.len() * 99 / 100).copied();
        format!("{middle:.0} us ({:.0} us)", p99.unwrap_or(f64::NAN))
    }
}

/// Times of a worker's calls.
#[derive(Default)]
struct Spent {
    lease: Times,
    commit: Times,
    complete: Times,
}

impl Spent {
    fn add(&mut self, other: Self) {
        self.lease.0.extend(other.lease.0);
        self.commit.0.extend(other.commit.0);
        self.complete.0.extend(other.complete.0);
    }
}

/// Leases, commits and completes until every task is committed.
async fn worker(
    ordinal: usize,
    mut client: Client,
    store: Store,
    shared: Arc<Shared>,
) -> anyhow::Result<Spent> {
    let name = format!("worker-{ordinal}");
    let mut spent = Spent::default();
    while !shared.is_done() {
        let request = v1::LeaseRequest {
            worker: name.clone(),
            roles: vec![v1::Role::Crawl as i32],
            slots: 1,
            device: "cpu".to_owned(),
            cached: Vec::new(),
            wait_ms: 200,
            session: Vec::new(),
        };
        let began = Instant::now();
        let leased = client.lease(request).await?.into_inner().assignments;
        if !leased.is_empty() {
            spent.lease.note(began);
        }
        for assignment in leased {
            let lease = assignment.lease.context("an assignment has a lease")?;
            let task: Task = serde_json::from_str(&assignment.task_json)?;
            let began = Instant::now();
            commits::commit(&store, &empty(&name, &lease, &task)).await?;
            spent.commit.note(began);
            let began = Instant::now();
            let request = v1::CompleteRequest {
                worker: name.clone(),
                lease: Some(lease),
                mine: true,
            };
            client.complete(request).await?;
            spent.complete.note(began);
            shared.committed.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(spent)
}

/// The commit record of an empty task.
fn empty(worker: &str, lease: &v1::LeaseRef, task: &Task) -> Commit {
    let epoch = lease.lease_epoch.unwrap_or_default();
    Commit {
        run: task.run.clone(),
        stage: task.stage.clone(),
        shard: task.shard.clone(),
        attempt: AttemptId(lease.attempt.clone()),
        worker: WorkerId::from(worker),
        lease_epoch: LeaseEpoch {
            generation: epoch.generation,
            counter: epoch.counter,
        },
        recipe: task.recipe,
        inputs: Vec::new(),
        outputs: Outputs::default(),
        wall_seconds: 0.0,
        cpu_seconds: 0.0,
        adopted: false,
    }
}

/// Tasks per second if the coordinator does nothing: two calls and one new object per task.
async fn bound(coordinator: &Coordinator, store: &Store, tasks: u64) -> anyhow::Result<f64> {
    let left = Arc::new(AtomicU64::new(tasks));
    let mut workers = tokio::task::JoinSet::new();
    let began = Instant::now();
    for ordinal in 0..WORKERS {
        let mut client = coordinator.client().await?;
        let (left, store) = (left.clone(), store.clone());
        workers.spawn(async move {
            while let Some(task) = take(&left) {
                for _ in 0..2 {
                    let request = v1::HeartbeatRequest {
                        worker: format!("worker-{ordinal}"),
                        leases: Vec::new(),
                        session: Vec::new(),
                    };
                    client.heartbeat(request).await?;
                }
                let object = vec![b'x'; 600];
                store.create(&format!("bound/{task}.json"), object).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(tasks as f64 / began.elapsed().as_secs_f64())
}

fn take(left: &AtomicU64) -> Option<u64> {
    let one_less = |left: u64| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
        .ok()
}

/// Submits stages of empty tasks.
async fn submit(client: &mut Client, tasks: u64) -> anyhow::Result<String> {
    let mut toml = "name = \"scheduling\"\n".to_owned();
    for stage in 0..STAGES {
        let shards = tasks / STAGES + u64::from(stage < tasks % STAGES);
        toml += &format!(
            "[[stage]]\nname = \"stage-{stage}\"\nkind = \"import\"\ndataset = \"empty-{stage}\"\n\
             format = \"folder\"\nsource = \"nothing\"\nshards = {shards}\n"
        );
    }
    let request = v1::SubmitRunRequest {
        pipeline: Some(v1::submit_run_request::Pipeline::Toml(toml)),
        ..v1::SubmitRunRequest::default()
    };
    Ok(client.submit_run(request).await?.into_inner().run)
}

/// Waits until the run is done.
async fn ended(client: &mut Client, run: &str) -> anyhow::Result<()> {
    let request = v1::WatchRequest {
        run: run.to_owned(),
    };
    let mut events = client.watch(request).await?.into_inner();
    while let Some(event) = tokio::time::timeout(PATIENCE, events.message()).await?? {
        if let Some(What::RunEnded(ended)) = event.what {
            ensure!(ended.state() == v1::RunState::Done, "{}", ended.reason);
            return Ok(());
        }
    }
    anyhow::bail!("the coordinator ended the watch")
}

/// A coordinator in a process of its own.
struct Coordinator {
    process: Child,
    address: String,
}

/// CPU time and memory of a process.
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
}

impl Coordinator {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("capstan");
        ensure!(
            binary.exists(),
            "{} is missing: cargo build --release",
            binary.display()
        );
        let ready: PathBuf = folder.join("ready.json");
        let process = Command::new(binary)
            .args(["coordinator", "--listen", "127.0.0.1:0", "--store"])
            .arg(folder.join("store"))
            .arg("--database")
            .arg(format!("sqlite:{}", folder.join("state.db").display()))
            .arg("--ready-file")
            .arg(&ready)
            .env("CAPSTAN__TELEMETRY__FILTER", "warn")
            .stdin(Stdio::null())
            .spawn()?;
        let began = Instant::now();
        while !ready.exists() {
            ensure!(began.elapsed() < PATIENCE, "the coordinator does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let announced: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready)?)?;
        let address = announced["listen"]
            .as_str()
            .context("no address")?
            .to_owned();
        Ok(Self { process, address })
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        Ok(CoordinatorClient::new(
            endpoint.tcp_nodelay(true).connect().await?,
        ))
    }

    /// Reads `/proc`: utime and stime of proc_pid_stat(5), in ticks of 10 ms; VmRSS of
    /// proc_pid_status(5).
    fn usage(&self) -> anyhow::Result<Usage> {
        let proc = PathBuf::from(format!("/proc/{}", self.process.id()));
        let stat = std::fs::read_to_string(proc.join("stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("no stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let status = std::fs::read_to_string(proc.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.split_whitespace().next());
        let kilobytes: u64 = resident.context("no VmRSS")?.parse()?;
        Ok(Usage {
            cpu_seconds: ticks / 100.0,
            resident_bytes: kilobytes * 1024,
        })
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//! Cost of scheduling: simulated workers lease and commit the shards of one stage over gRPC, then a
//! global stage reads all of them. The coordinator runs on SQLite in a process of its own.
//!
//! ```text
//! cargo build --release && cargo run --release -p capstan-tests --bin scheduling -- \
//!     [--shards 1000000] [--workers 256]
//! ```
//! Commits and shards are real, files are named only. The store lies in the folder for temporary files
//! (`TMPDIR`); a million shards are two million objects.
//!
//! Load and bound alternate in short slices, so that what else the machine does meets both: in a slice
//! of the bound the same workers make one empty call per task, create two objects and read two, as a
//! task does (its completion leases the next one, its commit and the pointer of its recipe are written,
//! and the coordinator reads the commit, and before the task a pointer that is not there, for adoption).
//! The cost above the bound is the coordinator's own.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use capstan_dataset::{Store, commits, lists, recipes, versions};
use capstan_plan::commit::{Commit, File, FileKind, Outputs};
use capstan_plan::id::{AttemptId, Digest, LeaseEpoch, WorkerId};
use capstan_plan::stage::BalanceWork;
use capstan_plan::task::{Task, Work};
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_proto::v1::event::What;
use capstan_tests::median;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tonic::transport::{Channel, Endpoint};

/// Limit for each wait.
const PATIENCE: Duration = Duration::from_secs(600);
/// Slices of load, each with one of the bound beside it.
const SLICES: u64 = 40;
/// Size of a commit record of two files, and of the pointer of a recipe.
const COMMIT_BYTES: usize = 1_400;
const POINTER_BYTES: usize = 80;
/// Base files that each worker says are cached.
const CACHED: u64 = 1_000;

type Client = CoordinatorClient<Channel>;

/// Cost of scheduling.
#[derive(Parser)]
struct Args {
    /// Shards of the stage.
    #[arg(long, default_value_t = 100_000)]
    shards: u64,
    /// Workers, each with a connection of its own.
    #[arg(long, default_value_t = 64)]
    workers: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let mut coordinator = Coordinator::start(folder.path()).await?;
    let store = Store::open(&folder.path().join("store").display().to_string())?;
    let idle = coordinator.usage()?;
    let mut operator = coordinator.client().await?;
    let began = Instant::now();
    let run = submit(&mut operator, args.shards).await?;
    let mut workers = workers(&coordinator, &store, args.workers).await?;
    let first = workers[0].lease(Duration::from_secs(60)).await?;
    println!("first task leased after      {:.2?}", began.elapsed());
    workers[0].finish(first).await?;

    let mut measured = Measured::default();
    let bar = bar(args.shards);
    let restart_at = args.shards / 100 * 99;
    let mut done = 1;
    while done < restart_at {
        let quota = (args.shards / SLICES).min(restart_at - done);
        let cpu = coordinator.usage()?.cpu_seconds;
        let rate = slice(&mut workers, quota, Slice::Load).await?;
        measured
            .cpu
            .push((coordinator.usage()?.cpu_seconds - cpu) * 1e6 / quota as f64);
        let bound = slice(&mut workers, quota / 4 + 1, Slice::Bound).await?;
        measured.rates.push(rate);
        measured.bounds.push(bound);
        measured.shares.push(100.0 * rate / bound);
        done += quota;
        bar.set_position(done);
    }
    bar.finish_and_clear();
    let peak = coordinator.usage()?.peak_bytes;
    println!("{} shards, {} workers", args.shards, args.workers);
    println!(
        "tasks per second             {}",
        spread(&mut measured.rates)
    );
    println!(
        "bound of this machine        {}",
        spread(&mut measured.bounds)
    );
    println!(
        "share of the bound, %        {}",
        spread(&mut measured.shares)
    );
    println!("coordinator's CPU, us a task {}", spread(&mut measured.cpu));
    println!(
        "memory, before and at most   {} MB, {} MB",
        idle.peak_bytes >> 20,
        peak >> 20
    );
    let mut spent = Spent::default();
    workers
        .iter_mut()
        .for_each(|worker| spent.add(&mut worker.spent));
    println!("lease, median (p99)          {}", spent.lease.line());
    println!("commit to the store          {}", spent.commit.line());
    println!("complete                     {}", spent.complete.line());

    drop(workers);
    let began = Instant::now();
    coordinator.restart(folder.path()).await?;
    let mut workers = self::workers(&coordinator, &store, args.workers).await?;
    let next = workers[0].lease(PATIENCE).await?;
    println!(
        "leases again after a kill    {:.2?} ({done} shards committed)",
        began.elapsed()
    );
    workers[0].finish(next).await?;

    let mut operator = coordinator.client().await?;
    let began = Instant::now();
    let request = v1::CancelRunRequest { run: run.clone() };
    operator.cancel_run(request).await?;
    println!("cancel answered after        {:.2?}", began.elapsed());
    let began = Instant::now();
    let request = v1::RetryRunRequest {
        run: run.clone(),
        ..v1::RetryRunRequest::default()
    };
    operator.retry_run(request).await?;
    println!("retry answered after         {:.2?}", began.elapsed());
    let next = workers[0].lease(PATIENCE).await?;
    println!("leases again after a retry   {:.2?}", began.elapsed());
    workers[0].finish(next).await?;

    slice(&mut workers, args.shards - done - 2, Slice::Load).await?;
    let began = Instant::now();
    let global = workers[0].lease(PATIENCE).await?;
    println!("global task leased after     {:.2?}", began.elapsed());
    println!(
        "its lease has                {} bytes",
        global.task_json.len()
    );
    workers[0].finish(global).await?;
    ended(&mut operator, &run).await?;
    println!("run done after another       {:.2?}", began.elapsed());
    println!(
        "memory at most               {} MB",
        coordinator.usage()?.peak_bytes >> 20
    );
    Ok(())
}

/// What each slice measured.
#[derive(Default)]
struct Measured {
    rates: Vec<f64>,
    bounds: Vec<f64>,
    shares: Vec<f64>,
    cpu: Vec<f64>,
}

/// The median, and the quartiles around it.
fn spread(values: &mut [f64]) -> String {
    let middle = median(values);
    let at = |share: usize| values.get(values.len() * share / 4).copied();
    let quartile = |share| at(share).unwrap_or(f64::NAN);
    format!("{middle:.0} ({:.0} to {:.0})", quartile(1), quartile(3))
}

fn bar(shards: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} shards, {eta} left");
    ProgressBar::new(shards).with_style(style.expect("a valid template"))
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
    fn add(&mut self, other: &mut Self) {
        self.lease.0.append(&mut other.lease.0);
        self.commit.0.append(&mut other.commit.0);
        self.complete.0.append(&mut other.complete.0);
    }
}

/// What the workers of a slice do.
#[derive(Clone, Copy)]
enum Slice {
    /// Lease, commit, complete.
    Load,
    /// An empty call and the objects of a task.
    Bound,
}

/// Lets every worker take from `tasks` until none is left. Gives tasks per second.
async fn slice(workers: &mut Vec<Worker>, tasks: u64, what: Slice) -> anyhow::Result<f64> {
    let left = Arc::new(AtomicU64::new(tasks));
    let mut running = tokio::task::JoinSet::new();
    let began = Instant::now();
    for mut worker in workers.drain(..) {
        let left = left.clone();
        running.spawn(async move {
            match what {
                Slice::Load => worker.work(&left).await?,
                Slice::Bound => {
                    while take(&left) {
                        worker.idle().await?;
                    }
                }
            }
            anyhow::Ok(worker)
        });
    }
    while let Some(worker) = running.join_next().await {
        workers.push(worker??);
    }
    Ok(tasks as f64 / began.elapsed().as_secs_f64())
}

fn take(left: &AtomicU64) -> bool {
    let one_less = |left: u64| left.checked_sub(1);
    let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    taken.is_ok()
}

struct Worker {
    name: String,
    client: Client,
    store: Store,
    ordinal: usize,
    /// What the next request sends of its list.
    cached: Vec<String>,
    objects: u64,
    spent: Spent,
}

async fn workers(
    coordinator: &Coordinator,
    store: &Store,
    count: usize,
) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::with_capacity(count);
    for ordinal in 0..count {
        workers.push(Worker {
            ordinal,
            name: format!("worker-{ordinal}"),
            client: coordinator.client().await?,
            store: store.clone(),
            cached: list(ordinal),
            objects: 0,
            spent: Spent::default(),
        });
    }
    Ok(workers)
}

/// The base files that a worker says are cached.
fn list(ordinal: usize) -> Vec<String> {
    let digest = |place: u64| Digest::of(format!("{ordinal} {place}").as_bytes());
    (0..CACHED).map(|place| digest(place).to_string()).collect()
}

impl Worker {
    /// Asks until a task is there.
    async fn lease(&mut self, patience: Duration) -> anyhow::Result<v1::Assignment> {
        let asked = Instant::now();
        while asked.elapsed() < patience {
            let request = self.request();
            let began = Instant::now();
            let answer = self.client.lease(request).await?.into_inner();
            if let Some(assignment) = self.leased(answer) {
                self.spent.lease.note(began);
                return Ok(assignment);
            }
        }
        anyhow::bail!("no task within {patience:?}")
    }

    fn request(&mut self) -> v1::LeaseRequest {
        v1::LeaseRequest {
            worker: self.name.clone(),
            roles: vec![v1::Role::Crawl as i32, v1::Role::Curate as i32],
            slots: 1,
            device: "cpu".to_owned(),
            // As workers do: the list is sent once, and again where the coordinator asks for it.
            cached: std::mem::take(&mut self.cached),
            wait_ms: 5_000,
            session: Vec::new(),
            cached_tag: 1 + self.ordinal as u64,
        }
    }

    fn leased(&mut self, answer: v1::LeaseResponse) -> Option<v1::Assignment> {
        if answer.send_cached {
            self.cached = list(self.ordinal);
        }
        answer.assignments.into_iter().next()
    }

    /// Works as workers do until `left` is used up.
    async fn work(&mut self, left: &AtomicU64) -> anyhow::Result<()> {
        if !take(left) {
            return Ok(());
        }
        let mut next = None;
        loop {
            let assignment = match next.take() {
                Some(assignment) => assignment,
                None => self.lease(PATIENCE).await?,
            };
            if !take(left) {
                return self.finish(assignment).await;
            }
            next = self.finish_and_lease(assignment).await?;
        }
    }

    /// Commits and completes a task.
    async fn finish(&mut self, assignment: v1::Assignment) -> anyhow::Result<()> {
        self.complete(assignment, None).await.map(|_| ())
    }

    /// Commits and completes a task, and leases the next one with the same call.
    async fn finish_and_lease(
        &mut self,
        assignment: v1::Assignment,
    ) -> anyhow::Result<Option<v1::Assignment>> {
        let next = self.request();
        self.complete(assignment, Some(next)).await
    }

    async fn complete(
        &mut self,
        assignment: v1::Assignment,
        next: Option<v1::LeaseRequest>,
    ) -> anyhow::Result<Option<v1::Assignment>> {
        let lease = assignment.lease.context("an assignment has a lease")?;
        let task: Task = serde_json::from_str(&assignment.task_json)?;
        let commit = commit(&self.store, &self.name, &lease, &task).await?;
        let began = Instant::now();
        commits::commit(&self.store, &commit).await?;
        recipes::publish(&self.store, &commit).await?;
        self.spent.commit.note(began);
        let began = Instant::now();
        let request = v1::CompleteRequest {
            worker: self.name.clone(),
            lease: Some(lease),
            mine: true,
            next,
            recipe_published: true,
        };
        let answer = self.client.complete(request).await?.into_inner();
        self.spent.complete.note(began);
        Ok(answer.next.and_then(|next| self.leased(next)))
    }

    /// The call and the objects of a task, without scheduling: a pointer is looked up and not found, a
    /// commit and a pointer are created, the coordinator is called, and the commit is read as it would.
    async fn idle(&mut self) -> anyhow::Result<()> {
        self.objects += 1;
        let path = format!("bound/{}-{}.json", self.name, self.objects);
        let pointer = format!("{path}.pointer");
        ensure!(
            self.store.get(&pointer).await.is_err(),
            "{pointer} is there"
        );
        self.store.create(&path, vec![b'x'; COMMIT_BYTES]).await?;
        self.store
            .create(&pointer, vec![b'x'; POINTER_BYTES])
            .await?;
        let request = v1::HeartbeatRequest {
            worker: self.name.clone(),
            leases: Vec::new(),
            session: Vec::new(),
        };
        self.client.heartbeat(request).await?;
        self.store.get(&path).await?;
        Ok(())
    }
}

/// The commit record of a task, with the files that it would name.
async fn commit(
    store: &Store,
    worker: &str,
    lease: &v1::LeaseRef,
    task: &Task,
) -> anyhow::Result<Commit> {
    let epoch = lease.lease_epoch.unwrap_or_default();
    Ok(Commit {
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
        outputs: outputs(store, task).await?,
        wall_seconds: 0.0,
        cpu_seconds: 0.0,
        adopted: false,
    })
}

async fn outputs(store: &Store, task: &Task) -> anyhow::Result<Outputs> {
    let mut outputs = Outputs::default();
    match &task.work {
        Work::Balance(BalanceWork { shards }) => {
            for part in versions::parts_of(store, shards).await? {
                let base = Some(part.base.digest);
                outputs.files.push(file(FileKind::Curation, "all", base));
            }
        }
        _ => {
            let base = file(FileKind::Base, task.shard.as_str(), None);
            let pixels = file(FileKind::Pixels, task.shard.as_str(), Some(base.digest));
            outputs.files = vec![base, pixels];
            outputs.counts.insert("fetched".to_owned(), 1_000);
        }
    }
    Ok(lists::bounded(store, outputs).await?)
}

fn file(kind: FileKind, shard: &str, base: Option<Digest>) -> File {
    let digest = Digest::of(format!("{kind:?} {shard} {base:?}").as_bytes());
    File {
        kind,
        digest,
        rows_digest: digest,
        rows: 1_000,
        size_bytes: 1 << 20,
        base,
    }
}

/// Submits a stage of `shards` shards and one that reads all of them.
async fn submit(client: &mut Client, shards: u64) -> anyhow::Result<String> {
    let toml = format!(
        "name = \"scheduling\"\n\
         [[stage]]\nname = \"pairs\"\nkind = \"import\"\ndataset = \"pairs\"\n\
         format = \"folder\"\nsource = \"nothing\"\nshards = {shards}\n\
         [[stage]]\nname = \"balanced\"\nkind = \"balance\"\nfrom = \"pairs\"\n"
    );
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
    peak_bytes: u64,
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

    /// Kills the coordinator and starts it again.
    async fn restart(&mut self, folder: &Path) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        std::fs::remove_file(folder.join("ready.json"))?;
        *self = Self::start(folder).await?;
        Ok(())
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        Ok(CoordinatorClient::new(
            endpoint.tcp_nodelay(true).connect().await?,
        ))
    }

    /// Reads `/proc`: utime and stime of proc_pid_stat(5), in ticks of 10 ms; VmHWM of
    /// proc_pid_status(5).
    fn usage(&self) -> anyhow::Result<Usage> {
        let proc = PathBuf::from(format!("/proc/{}", self.process.id()));
        let stat = std::fs::read_to_string(proc.join("stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("no stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let status = std::fs::read_to_string(proc.join("status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.split_whitespace().next());
        let kilobytes: u64 = peak.context("no VmHWM")?.parse()?;
        Ok(Usage {
            cpu_seconds: ticks / 100.0,
            peak_bytes: kilobytes * 1024,
        })
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

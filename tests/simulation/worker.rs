//! Simulated workers and trainers: they ask, beat, commit, answer, and now and then do none of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use capstan_coordinator::machine::{Claim, Key, Offer};
use capstan_coordinator::view::UnitProgress;
use capstan_coordinator::{Completion, Session};
use capstan_dataset::{Store, commits, recipes, versions};
use capstan_plan::FailureKind;
use capstan_plan::commit::{Commit, File, FileKind, Outputs, Part};
use capstan_plan::id::{Digest, LeaseEpoch, ModelDigest, WorkerId};
use capstan_plan::stage::{BalanceWork, CaptionWork, CurateWork};
use capstan_plan::task::{Role, Task, Work};
use capstan_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::checks::Checks;
use crate::random::Random;
use crate::world::World;

/// How long a lease request waits.
const POLL: Duration = Duration::from_secs(5);
/// How long a worker goes on for a coordinator or a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(180);

/// A worker as chaos sees it.
#[derive(Clone)]
pub struct Life {
    pub name: String,
    pub roles: BTreeSet<Role>,
    /// Whether the network loses all that it says.
    pub cut: Arc<AtomicBool>,
    /// Cancelled when its process dies, whatever it is doing.
    pub killed: CancellationToken,
    /// Whether its device fails at every training.
    pub is_broken: bool,
    /// Whether it may fail, or die in the middle of a task.
    pub is_mortal: bool,
}

/// A worker at work.
struct Worker {
    world: World,
    checks: Arc<Checks>,
    life: Life,
    random: Random,
    /// How often its process was started.
    starts: u64,
    /// What was leased with the last completion, and when that was sent.
    next: Option<(v1::Assignment, Duration)>,
}

/// An assignment in the worker's hands.
struct Held {
    claim: Claim,
    task: Task,
    assignment: v1::Assignment,
    /// When the last request was sent that the coordinator answered well.
    heard: Duration,
    /// Whether the recipe points at the commit.
    is_published: bool,
}

/// Lives until it is killed.
pub async fn live(world: World, checks: Arc<Checks>, life: Life) {
    let mut worker = Worker {
        random: world.random(&life.name),
        world,
        checks,
        life: life.clone(),
        starts: 1,
        next: None,
    };
    life.killed.run_until_cancelled(worker.work()).await;
    worker.world.note(format!("{} is gone", life.name));
}

impl Worker {
    async fn work(&mut self) {
        loop {
            let (asked, offer, session) = (self.world.now(), self.offer(), self.session());
            let call = async move |handle: capstan_coordinator::Handle| {
                handle.lease(offer, session, POLL).await
            };
            let cut = self.life.cut.clone();
            match self.world.request(&mut self.random, &cut, call).await {
                Ok(given) => {
                    for assignment in given {
                        self.take(assignment, asked).await;
                        while let Some((assignment, asked)) = self.next.take() {
                            self.take(assignment, asked).await;
                        }
                    }
                }
                Err(_) => tokio::time::sleep(self.random.millis(100, 3_000)).await,
            }
        }
    }

    fn id(&self) -> WorkerId {
        self.life.name.as_str().into()
    }

    fn offer(&self) -> Offer {
        Offer {
            worker: self.id(),
            roles: self.life.roles.clone(),
            device: "cpu-avx512".into(),
            slots: 1,
            cached: Arc::default(),
        }
    }

    /// The session of the present process.
    fn session(&self) -> Session {
        Session::new(format!("{} {}", self.life.name, self.starts).as_bytes())
    }

    async fn take(&mut self, assignment: v1::Assignment, asked: Duration) {
        let lease = assignment.lease.clone().unwrap();
        let claim = Claim {
            key: Key {
                run: lease.run.into(),
                stage: lease.stage.into(),
                shard: lease.shard.into(),
            },
            lease_epoch: lease.lease_epoch.unwrap().into(),
            rank: lease.rank as usize,
            worker: self.id(),
        };
        let attempt = assignment.attempt_number;
        self.world.note(format!(
            "{} takes {} rank {} attempt {attempt}",
            self.life.name, claim.key, claim.rank
        ));
        self.checks.granted(&self.world, &claim.key, asked);
        let held = Held {
            task: serde_json::from_str(&assignment.task_json).unwrap(),
            claim,
            assignment,
            heard: asked,
            is_published: false,
        };
        self.attempt(held).await;
    }

    async fn attempt(&mut self, mut held: Held) {
        if held.assignment.world_size > 1 && !self.join(&held).await {
            return self.fail(&held, FailureKind::Transient).await;
        }
        if self.life.is_broken && self.life.roles.contains(&Role::Train) {
            return self.fail(&held, FailureKind::WorkerFault).await;
        }
        let length = match self.random.chance(0.2) {
            true => self.random.millis(40_000, 200_000),
            false => self.random.millis(1_000, 40_000),
        };
        if !self.compute(&mut held, length).await {
            return;
        }
        match self.random.unit() {
            _ if !self.life.is_mortal => {}
            draw if draw < 0.04 => return self.fail(&held, FailureKind::Transient).await,
            // It dies with the work done and not committed, or committed and not told.
            draw if draw < 0.06 => return self.come_back().await,
            draw if draw < 0.08 && held.claim.rank == 0 => {
                self.commit(&mut held).await;
                return self.come_back().await;
            }
            _ => {}
        }
        if held.claim.rank == 0 && !self.commit(&mut held).await {
            return self.fail(&held, FailureKind::Transient).await;
        }
        self.complete(&held).await;
    }

    /// The process died; a supervisor starts it again, and it knows nothing of before.
    async fn come_back(&mut self) {
        self.world.note(format!("{} dies", self.life.name));
        self.starts += 1;
        tokio::time::sleep(self.random.millis(1_000, 90_000)).await;
    }

    async fn join(&mut self, held: &Held) -> bool {
        let (claim, address) = (held.claim.clone(), format!("{}:1", self.life.name));
        let call = async move |handle: capstan_coordinator::Handle| {
            handle.join_ring(claim, address, None).await
        };
        let cut = self.life.cut.clone();
        self.world
            .request(&mut self.random, &cut, call)
            .await
            .is_ok()
    }

    /// Computes for `length`, with a heartbeat each period. False where the lease was lost.
    async fn compute(&mut self, held: &mut Held, length: Duration) -> bool {
        let period = Duration::from_millis(held.assignment.heartbeat_ms);
        let mut left = length;
        while left > period {
            tokio::time::sleep(period).await;
            left -= period;
            let (claim, sent) = (held.claim.clone(), self.world.now());
            let session = self.session();
            let progress = UnitProgress {
                done: 1,
                total: 2,
                unit: "rows".to_owned(),
                waiting: false,
            };
            let call = async move |handle: capstan_coordinator::Handle| {
                handle
                    .heartbeat(session, vec![(Some(claim), progress)])
                    .await
            };
            let cut = self.life.cut.clone();
            let answer = self.world.request(&mut self.random, &cut, call).await;
            match answer.as_deref() {
                Ok([v1::LeaseStatus::Keep]) => held.heard = sent,
                Ok([v1::LeaseStatus::Stale]) => {
                    let lease = Duration::from_millis(held.assignment.lease_ms);
                    let is_gang = held.assignment.world_size > 1;
                    let checks = self.checks.clone();
                    checks
                        .lost(&self.world, &held.claim, (held.heard, lease), is_gang)
                        .await;
                    return false;
                }
                Ok(_) => return false,
                // The commit decides.
                Err(_) => {}
            }
        }
        tokio::time::sleep(left).await;
        true
    }

    /// Commits; false where the store did not take it in time.
    async fn commit(&mut self, held: &mut Held) -> bool {
        let LeaseEpoch {
            generation,
            counter,
        } = held.claim.lease_epoch;
        let attempt = held.assignment.lease.as_ref().unwrap().attempt.clone();
        let commit = Commit {
            run: held.task.run.clone(),
            stage: held.task.stage.clone(),
            shard: held.task.shard.clone(),
            attempt: attempt.into(),
            worker: self.id(),
            lease_epoch: LeaseEpoch {
                generation,
                counter,
            },
            recipe: held.task.recipe,
            inputs: Vec::new(),
            outputs: outputs(&self.world.store(), &held.task).await,
            wall_seconds: 1.0,
            cpu_seconds: 1.0,
            adopted: false,
        };
        let (store, began) = (self.world.store(), self.world.now());
        while self.world.now() - began < PATIENCE {
            if let Ok(committed) = commits::commit(&store, &commit).await {
                if committed == commits::Committed::Mine {
                    held.is_published = recipes::publish(&store, &commit).await.is_ok();
                }
                self.world
                    .note(format!("{} commits {}", self.life.name, held.claim.key));
                return true;
            }
            tokio::time::sleep(self.random.millis(500, 5_000)).await;
        }
        false
    }

    async fn complete(&mut self, held: &Held) {
        let began = self.world.now();
        while self.world.now() - began < PATIENCE {
            let (asked, claim) = (self.world.now(), held.claim.clone());
            let completion = Completion {
                claim,
                recipe_published: held.is_published,
                next: (!self.random.chance(0.1)).then(|| (self.offer(), self.session())),
            };
            let call =
                async move |handle: capstan_coordinator::Handle| handle.complete(completion).await;
            let cut = self.life.cut.clone();
            match self.world.request(&mut self.random, &cut, call).await {
                Ok((_, leased)) => {
                    if held.claim.rank == 0 {
                        self.checks.told_complete(&self.world, &held.claim.key);
                    }
                    let next = leased.into_iter().next();
                    self.next = next.map(|assignment| (assignment, asked));
                    return;
                }
                Err(error) if !error.contains("stale") => {
                    tokio::time::sleep(self.random.millis(500, 5_000)).await;
                }
                _ => return,
            }
        }
    }

    async fn fail(&mut self, held: &Held, kind: FailureKind) {
        self.world.note(format!(
            "{} fails {}: {kind:?}",
            self.life.name, held.claim.key
        ));
        for _ in 0..5 {
            let claim = held.claim.clone();
            let call = async move |handle: capstan_coordinator::Handle| {
                handle.fail(claim, kind, "simulated").await
            };
            let cut = self.life.cut.clone();
            let answer = self.world.request(&mut self.random, &cut, call).await;
            if answer.is_ok_and(|_| true) {
                return;
            }
            tokio::time::sleep(self.random.millis(500, 5_000)).await;
        }
    }
}

/// What a task asks for, by name alone: the coordinator reads commits and lists, not files.
async fn outputs(store: &Store, task: &Task) -> Outputs {
    let mut outputs = Outputs::default();
    match &task.work {
        Work::Import(_) => {
            let base = file(task, FileKind::Base, None);
            let pixels = file(task, FileKind::Pixels, Some(base.digest));
            outputs.files = vec![base, pixels];
        }
        Work::Curate(CurateWork { part, .. }) => {
            outputs.files.push(overlay(task, FileKind::Curation, part));
        }
        Work::Balance(BalanceWork { shards }) => {
            let parts = loop {
                match versions::parts_of(store, shards).await {
                    Ok(parts) => break parts,
                    // The store does not answer now.
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            };
            let overlays = parts
                .iter()
                .map(|part| overlay(task, FileKind::Curation, part));
            outputs.files = overlays.collect();
        }
        Work::Caption(CaptionWork { part, .. }) => {
            outputs.files.push(overlay(task, FileKind::Captions, part));
        }
        _ => outputs.model = Some(ModelDigest(Digest::of(task.stage.as_str().as_bytes()))),
    }
    outputs
}

fn overlay(task: &Task, kind: FileKind, part: &Part) -> File {
    file(task, kind, Some(part.base.digest))
}

fn file(task: &Task, kind: FileKind, base: Option<Digest>) -> File {
    let name = format!("{}/{}/{kind:?}/{base:?}", task.stage, task.shard);
    File {
        kind,
        digest: Digest::of(name.as_bytes()),
        rows_digest: Digest::of(name.as_bytes()),
        rows: 2,
        size_bytes: 100,
        base,
    }
}

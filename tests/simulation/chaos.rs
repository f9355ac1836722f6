//! What befalls a coordinator and its workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capstan_coordinator::Error;
use capstan_plan::Pipeline;
use capstan_plan::id::RunId;
use capstan_plan::task::Role;
use capstan_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::CALM;
use crate::checks::Checks;
use crate::random::Random;
use crate::worker::{self, Life};
use crate::world::World;

/// Slices, shards, global tasks and a gang.
const PIPELINE: &str = r#"
name = "simulated"
seed = 3
[[stage]]
name = "pairs"
kind = "import"
dataset = "web"
format = "folder"
source = "pairs"
shards = 10
[[stage]]
name = "curated"
kind = "curate"
from = "pairs"
queries = ["ball"]
[[stage]]
name = "balanced"
kind = "balance"
from = "curated"
[[stage]]
name = "words"
kind = "tokenizer"
data = [{ from = "balanced" }]
[[stage]]
name = "blip"
kind = "train"
tokenizer = "words"
data = [{ from = "balanced" }]
objectives = ["lm"]
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
"#;

const RUN: &str = "r";
/// Longest time in which a coordinator that is told to stop may do so.
const STOP: Duration = Duration::from_secs(60);

struct Chaos<'a> {
    world: &'a World,
    checks: Arc<Checks>,
    random: Random,
    crew: Vec<Life>,
    born: usize,
}

/// One history from its beginning to its end.
pub async fn history(world: &World) {
    let mut chaos = Chaos {
        world,
        checks: Arc::default(),
        random: world.random("chaos"),
        crew: Vec::new(),
        born: 0,
    };
    chaos.start().await;
    for ordinal in 0..3 {
        chaos.bear(false, false, true);
        let is_broken = ordinal == 0 && chaos.random.chance(0.5);
        chaos.bear(true, is_broken, true);
    }
    chaos.submit().await;
    tokio::spawn(watch(world.clone(), chaos.checks.clone()));
    for _ in 0..6 + chaos.random.index(12) {
        let pause = chaos.random.millis(1_000, 45_000);
        tokio::time::sleep(pause).await;
        chaos.strike().await;
    }
    chaos.calm().await;
}

/// Looks at what is written, now and then.
async fn watch(world: World, checks: Arc<Checks>) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        checks.look(&world, &RUN.into()).await;
    }
}

impl Chaos<'_> {
    /// Starts a coordinator, however long that takes.
    async fn start(&self) {
        while let Err(error) = self.world.start().await {
            self.world.note(format!("no coordinator: {error}"));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// One more worker or trainer.
    fn bear(&mut self, is_trainer: bool, is_broken: bool, is_mortal: bool) {
        let workers = [
            Role::Crawl,
            Role::Curate,
            Role::Caption,
            Role::Filter,
            Role::Evaluate,
        ];
        let (kind, roles) = match is_trainer {
            true => ("t", [Role::Train].into()),
            false => ("w", workers.into()),
        };
        let life = Life {
            name: format!("{kind}{}", self.born),
            roles,
            cut: Arc::default(),
            killed: CancellationToken::new(),
            is_broken,
            is_mortal,
        };
        self.born += 1;
        tokio::spawn(worker::live(
            self.world.clone(),
            self.checks.clone(),
            life.clone(),
        ));
        self.crew.push(life);
    }

    /// Submits the run, or submits it again.
    async fn submit(&mut self) {
        loop {
            self.checks.upheaval(self.world);
            let pipeline = Pipeline::from_toml(PIPELINE, "simulated.toml").unwrap();
            let call = async move |handle: capstan_coordinator::Handle| {
                handle.submit(pipeline, None, Some(RUN.into())).await
            };
            let submitted = self
                .world
                .request(&mut self.random, &AtomicBool::new(false), call)
                .await;
            self.checks.upheaval(self.world);
            match submitted {
                Ok(_) => return self.world.note("submitted"),
                Err(error) => self.world.note(format!("not submitted: {error}")),
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    async fn strike(&mut self) {
        match self.random.index(13) {
            0 | 1 => self.freeze().await,
            2 => self.crash().await,
            3 => self.restart().await,
            4 => {
                self.outage("database", |world| &world.faults().database, 240_000)
                    .await
            }
            5 | 6 => {
                self.outage("store", |world| &world.faults().store, 300_000)
                    .await
            }
            7 => self.cut().await,
            8 => self.kill().await,
            9 => self.cancel().await,
            10 => self.supersede().await,
            11 => self.flicker().await,
            _ => self.lose().await,
        }
    }

    /// The process stands still, as under SIGSTOP or while its machine is paused.
    async fn freeze(&mut self) {
        let length = self.random.millis(3_000, 200_000);
        self.world
            .note(format!("frozen for {:.0} s", length.as_secs_f64()));
        self.world.freeze();
        tokio::time::sleep(length).await;
        self.world.thaw();
        self.world.note("thawed");
    }

    /// The process dies in the middle of whatever it does.
    async fn crash(&mut self) {
        let Some(process) = self.world.take_process() else {
            return;
        };
        process.dead.store(true, Ordering::Relaxed);
        process.shutdown.cancel();
        self.world.note("the coordinator dies");
        tokio::time::sleep(self.random.millis(100, 60_000)).await;
        self.start().await;
    }

    /// The process is told to stop, and started again.
    async fn restart(&mut self) {
        let Some(process) = self.world.take_process() else {
            return;
        };
        let is_store_out = self.random.chance(0.5);
        if is_store_out {
            self.world.faults().store.store(true, Ordering::Relaxed);
            tokio::time::sleep(self.random.millis(0, 40_000)).await;
        }
        self.world.note("the coordinator is told to stop");
        process.shutdown.cancel();
        match tokio::time::timeout(STOP, process.handle.stopped()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.world.violation(format!("a stop ends with {error}")),
            Err(_) => self
                .world
                .violation("a coordinator does not stop in time".to_owned()),
        }
        process.dead.store(true, Ordering::Relaxed);
        self.world.faults().store.store(false, Ordering::Relaxed);
        self.start().await;
    }

    async fn outage(&mut self, what: &str, of: fn(&World) -> &AtomicBool, longest: u64) {
        let length = self.random.millis(1_000, longest);
        self.world
            .note(format!("no {what} for {:.0} s", length.as_secs_f64()));
        of(self.world).store(true, Ordering::Relaxed);
        tokio::time::sleep(length).await;
        of(self.world).store(false, Ordering::Relaxed);
        self.world.note(format!("the {what} is back"));
    }

    /// The store answers some requests and most not, for so long that nothing long succeeds.
    async fn flicker(&mut self) {
        let share = 300 + self.random.index(450) as u64;
        self.world
            .note(format!("the store answers {} of 1000", 1_000 - share));
        self.world
            .faults()
            .store_lossy
            .store(share, Ordering::Relaxed);
        tokio::time::sleep(self.random.millis(10_000, 1_000_000)).await;
        self.world.faults().store_lossy.store(0, Ordering::Relaxed);
        self.world.note("the store answers all");
    }

    /// A worker is cut off for a while.
    async fn cut(&mut self) {
        let chosen = self.random.index(self.crew.len());
        let life = self.crew[chosen].clone();
        self.world.note(format!("{} is cut off", life.name));
        life.cut.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.random.millis(1_000, 120_000)).await;
        life.cut.store(false, Ordering::Relaxed);
        self.world.note(format!("{} is back", life.name));
    }

    /// A worker dies; another one comes.
    async fn kill(&mut self) {
        let chosen = self.random.index(self.crew.len());
        let life = self.crew.remove(chosen);
        life.killed.cancel();
        tokio::time::sleep(self.random.millis(0, 20_000)).await;
        self.bear(life.roles.contains(&Role::Train), false, true);
    }

    /// A person cancels the run and submits it again.
    async fn cancel(&mut self) {
        self.checks.upheaval(self.world);
        let call = async move |handle: capstan_coordinator::Handle| {
            let run: RunId = RUN.into();
            handle.cancel(&run).await
        };
        let network = AtomicBool::new(false);
        let cancelled = self.world.request(&mut self.random, &network, call).await;
        self.checks.upheaval(self.world);
        self.world.note(format!("cancelled: {cancelled:?}"));
        tokio::time::sleep(self.random.millis(0, 30_000)).await;
        self.submit().await;
    }

    /// Another coordinator starts while this one runs: this one steps down.
    async fn supersede(&mut self) {
        let Some(old) = self.world.process() else {
            return;
        };
        self.world.note("a second coordinator starts");
        self.start().await;
        let ends = async {
            old.shutdown.cancelled().await;
            old.handle.stopped().await
        };
        match tokio::time::timeout(STOP * 2, ends).await {
            Ok(Err(Error::Superseded { .. })) => {}
            ended => self
                .world
                .violation(format!("a superseded coordinator ends with {ended:?}")),
        }
        old.dead.store(true, Ordering::Relaxed);
    }

    /// The network loses requests and answers for a while.
    async fn lose(&mut self) {
        let share = 50 + self.random.index(400) as u64;
        self.world
            .note(format!("{share} of 1000 requests are lost"));
        self.world.faults().lossy.store(share, Ordering::Relaxed);
        tokio::time::sleep(self.random.millis(10_000, 120_000)).await;
        self.world.faults().lossy.store(0, Ordering::Relaxed);
    }

    /// All is well again: the run ends, and everything is as it should be.
    async fn calm(&mut self) {
        self.world.note("calm");
        for life in self.crew.iter().filter(|life| life.is_broken) {
            life.killed.cancel();
        }
        for _ in 0..2 {
            self.bear(false, false, false);
            self.bear(true, false, false);
        }
        let run: RunId = RUN.into();
        let began = self.world.now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Some(process) = self.world.process() else {
                continue;
            };
            let view = process.handle.run(&run).await;
            match view {
                Ok(view) if view.state != v1::RunState::Running => {
                    // The last beat writes what is shown.
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    self.checks.look(self.world, &run).await;
                    return self.checks.end(self.world, &run, &view).await;
                }
                _ if self.world.now() - began > CALM => {
                    return self
                        .world
                        .violation(format!("the run never ends: {view:?}"));
                }
                _ => {}
            }
        }
    }
}

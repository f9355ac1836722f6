//! The database of a simulated coordinator: it outlives processes, fails and stalls.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use capstan_coordinator::machine::Key;
use capstan_coordinator::state::{
    Database, Error, InMemory, Known, Op, Restored, Shards, ViewChange,
};
use capstan_coordinator::view::RunView;
use capstan_plan::commit::Summary;
use capstan_plan::id::{RunId, ShardId, StageName};

use crate::world::World;

/// The tables of a world as one process reaches them.
#[derive(Debug)]
pub struct Faulty {
    world: World,
    tables: InMemory,
    dead: Arc<AtomicBool>,
}

impl Faulty {
    pub fn new(world: &World, dead: Arc<AtomicBool>) -> Self {
        Self {
            world: world.clone(),
            tables: world.tables().clone(),
            dead,
        }
    }

    /// Before each statement: a frozen process makes none, a dead one never does.
    async fn reach(&self) {
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.world.thawed().await;
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// An answer is on its way for longer than a write takes, so it may be older than what the reader
    /// has learned otherwise meanwhile.
    async fn answer<T>(&self, read: Result<T, Error>) -> Result<T, Error> {
        tokio::time::sleep(Duration::from_millis(15)).await;
        self.reach().await;
        read
    }
}

#[async_trait]
impl Database for Faulty {
    async fn known(&self) -> Result<Known, Error> {
        self.reach().await;
        self.tables.known().await
    }

    async fn know(&self, known: &Known) -> Result<(), Error> {
        self.reach().await;
        self.tables.know(known).await
    }

    async fn load(&self) -> Result<Vec<Restored>, Error> {
        self.reach().await;
        self.tables.load().await
    }

    async fn append(
        &self,
        generation: u64,
        ops: &[Op],
        views: &[ViewChange],
        now: i64,
    ) -> Result<(), Error> {
        self.reach().await;
        if self.world.faults().database.load(Ordering::Relaxed) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(Error::Statement(sqlx::Error::Io(full)));
        }
        self.tables.append(generation, ops, views, now).await?;
        // The process may die between the write and its answer.
        self.reach().await;
        Ok(())
    }

    async fn runs(&self, limit: u32) -> Result<Vec<RunView>, Error> {
        self.reach().await;
        self.tables.runs(limit).await
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunView>, Error> {
        self.reach().await;
        self.tables.run(run).await
    }

    async fn task_jsons(&self, keys: &[&Key]) -> Result<HashMap<Key, String>, Error> {
        self.reach().await;
        self.tables.task_jsons(keys).await
    }

    async fn is_listed(&self, run: &RunId, stage: &StageName) -> Result<bool, Error> {
        self.reach().await;
        self.tables.is_listed(run, stage).await
    }

    async fn count_committed(&self, shards: Shards<'_>) -> Result<u64, Error> {
        self.reach().await;
        self.answer(self.tables.count_committed(shards).await).await
    }

    async fn committed(&self, shards: Shards<'_>) -> Result<BTreeSet<ShardId>, Error> {
        self.reach().await;
        self.answer(self.tables.committed(shards).await).await
    }

    async fn commits(&self, shards: Shards<'_>) -> Result<BTreeMap<ShardId, Summary>, Error> {
        self.reach().await;
        self.answer(self.tables.commits(shards).await).await
    }

    async fn ended_before(&self, unix_ms: i64, limit: u32) -> Result<Vec<RunId>, Error> {
        self.reach().await;
        self.tables.ended_before(unix_ms, limit).await
    }

    async fn close(&self) {}
}

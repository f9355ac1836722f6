//! The beat: looks at the clock, grants, writes, and then tells whoever waits.
//!
//! One beat is one transaction. Requests that come while it writes are gathered for the next one,
//! so the more they are, the more of them one transaction serves (group commit: DeWitt et al.,
//! SIGMOD 1984).
//!
//! A batch that the database rejects is kept and retried until it succeeds. Meanwhile leases are renewed,
//! reports of workers are collected, and no new work is accepted or leased.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::commits;
use capstan_plan::failure;
use capstan_proto::v1;
use capstan_runtime::fault;
use futures::StreamExt;

use super::Inner;
use super::core::{Batch, Gate, Waiting};
use crate::convert::lease_message;
use crate::error::Error;
use crate::machine::{Claim, Grant, Key, Notice};
use crate::{metrics, trace};

/// Between two looks at the clock where nothing else happens.
const TICK: Duration = Duration::from_millis(200);

/// Longest pause between two attempts to write a batch.
const WRITE_PAUSE: Duration = Duration::from_secs(5);

/// Attempts to write the last batch of a coordinator that was told to stop.
const LAST_WRITES: u32 = 3;

/// Expired leases whose commits are asked for at the same time.
const IN_FLIGHT: usize = 16;

/// What one beat found under the lock.
struct Found {
    batch: Batch,
    grants: Vec<Grant>,
    /// Workers that are served, by the index that grants name.
    served: BTreeMap<usize, Waiting>,
    expired: Vec<Key>,
}

impl Inner {
    /// Beats until the coordinator goes down; the last beat writes what is left.
    pub(super) async fn beats(self: Arc<Self>) {
        loop {
            let is_last = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => true,
                () = self.pump.notified() => false,
                () = tokio::time::sleep(TICK) => false,
            };
            if is_last {
                self.close();
            }
            let expired = self.beat().await;
            if is_last {
                return;
            }
            if !expired.is_empty() {
                self.tasks.spawn(self.clone().look_for_commits(expired));
            }
        }
    }

    /// From now on nothing is answered: what is changed after the last beat would be lost.
    fn close(&self) {
        let mut core = self.lock();
        if matches!(core.gate, Gate::Open | Gate::Shut) {
            core.gate = Gate::Closing;
        }
        core.waiting.clear();
    }

    async fn beat(&self) -> Vec<Key> {
        let Found {
            batch,
            grants,
            served,
            expired,
        } = self.find();
        if let Err(error) = self.write(&batch).await {
            for waiter in batch.waiters {
                // Whoever asked may have gone away.
                let _ = waiter.send(Err(error.clone()));
            }
            return expired;
        }
        self.deliver(&grants, served).await;
        let mut core = self.lock();
        core.finish_writing();
        core.send(batch.events);
        core.forget_ended();
        drop(core);
        for waiter in batch.waiters {
            let _ = waiter.send(Ok(()));
        }
        expired
    }

    /// Writes a batch. Retries while the database fails.
    ///
    /// # Errors
    /// The coordinator stops: it is superseded, the database is damaged, or it was asked to stop while
    /// the database fails. The next start reads the commits of the batch from the store.
    async fn write(&self, batch: &Batch) -> Result<(), Arc<crate::state::Error>> {
        let now = self.clock.unix_ms();
        let mut failures = 0;
        loop {
            let database = &self.database;
            let written = database.append(self.generation, &batch.ops, &batch.views, now);
            let error = match written.await {
                Ok(()) => {
                    self.go_on_writing();
                    return Ok(());
                }
                Err(error) => Arc::new(error),
            };
            failures += 1;
            tracing::error!(
                database = self.settings.database,
                error = failure::chain(&*error),
                failures,
                "the database cannot be written: no work begins until it can"
            );
            if let crate::state::Error::Superseded { ours, newer } = *error {
                self.step_down(ours, newer);
                return Err(error);
            }
            if !error.is_transient() {
                self.break_down(Error::Database(error.clone()));
                return Err(error);
            }
            self.halt(error.clone());
            let pause = self.policy.backoff_after(failures).min(WRITE_PAUSE);
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => {
                    if failures >= LAST_WRITES {
                        return Err(error);
                    }
                    tokio::time::sleep(TICK).await;
                }
            }
        }
    }

    fn halt(&self, error: Arc<crate::state::Error>) {
        self.lock().halted = Some(error);
        self.works.send_replace(false);
    }

    fn go_on_writing(&self) {
        if self.lock().halted.take().is_some() {
            tracing::info!("the database can be written again: work begins again");
            self.works.send_replace(true);
        }
    }

    /// Everything of a beat that needs the lock.
    fn find(&self) -> Found {
        let now = self.clock.now();
        let mut core = self.lock();
        let core = &mut *core;
        core.look(now, self.policy.lease);
        let (mut grants, mut served) = (Vec::new(), BTreeMap::new());
        let mut expired = Vec::new();
        if core.gate.check().is_ok() {
            expired = core.machine.tick(now);
        }
        if core.gate == Gate::Open {
            core.waiting.retain(|waiting| !waiting.answer.is_closed());
            grants = core.machine.assign(&core.waiting, now);
            served = take_served(&mut core.waiting, &grants);
            for grant in &grants {
                let waiting = &served[&grant.offer];
                let claim = claim_of(grant, waiting);
                core.sessions
                    .hold(&core.machine, waiting.session, &claim, now);
            }
        }
        core.absorb(self.clock.unix_ms());
        for notice in core.machine.take_notices() {
            metrics::noticed(&notice);
            show(&notice);
        }
        let batch = core.take_batch();
        metrics::expired(expired.len());
        metrics::show(core, now);
        Found {
            batch,
            grants,
            served,
            expired,
        }
    }

    async fn deliver(&self, grants: &[Grant], served: BTreeMap<usize, Waiting>) {
        if grants.is_empty() {
            return;
        }
        fault::point("coordinator.after_lease");
        let keys: Vec<&Key> = grants.iter().map(|grant| &*grant.key).collect();
        let mut by_offer: BTreeMap<usize, Vec<v1::Assignment>> = BTreeMap::new();
        let mut back: Vec<&Grant> = Vec::new();
        match self.database.task_jsons(&keys).await {
            Ok(jsons) => {
                for grant in grants {
                    match jsons.get(&*grant.key) {
                        Some(json) => by_offer
                            .entry(grant.offer)
                            .or_default()
                            .push(self.assignment(grant, &served, json.clone())),
                        None => back.push(grant),
                    }
                }
            }
            Err(error) => {
                tracing::error!(error = failure::chain(&error), "tasks cannot be read");
                back.extend(grants);
            }
        }
        for (offer, waiting) in served {
            let given = by_offer.remove(&offer).unwrap_or_default();
            if waiting.answer.send(given).is_err() {
                back.extend(grants.iter().filter(|grant| grant.offer == offer));
            }
        }
        if back.is_empty() {
            return;
        }
        let mut core = self.lock();
        for grant in back {
            core.machine.undelivered(&grant.key, grant.lease_epoch);
        }
        drop(core);
        // Written by the next beat; until then the attempts stand as leased, which is no harm.
        self.pump.notify_one();
    }

    fn assignment(
        &self,
        grant: &Grant,
        served: &BTreeMap<usize, Waiting>,
        task_json: String,
    ) -> v1::Assignment {
        let worker = &served[&grant.offer].offer.worker;
        let token = self.tokens.of(grant.lease_epoch, grant.rank, worker);
        let lease = lease_message(grant, token);
        trace::begun(&lease).in_scope(|| {
            tracing::info!(
                task = %grant.key, attempt = %grant.attempt, rank = grant.rank, %worker, "leased"
            );
        });
        v1::Assignment {
            lease: Some(lease),
            task_json,
            world_size: u32::try_from(grant.world_size).unwrap_or(u32::MAX),
            lease_ms: self.settings.lease_seconds * 1_000,
            heartbeat_ms: self.settings.heartbeat_seconds * 1_000,
            attempt_number: grant.attempt_number,
        }
    }

    /// A worker may have died between its commit and its answer: the commit record decides. Ends
    /// with the coordinator; the next start looks again.
    async fn look_for_commits(self: Arc<Self>, expired: Vec<Key>) {
        let looks = futures::stream::iter(expired).for_each_concurrent(IN_FLIGHT, |key| {
            let inner = self.clone();
            async move {
                tracing::warn!(task = %key, "lease expired");
                inner.find_commit(&key).await;
            }
        });
        self.shutdown.run_until_cancelled(looks).await;
    }

    /// Asks the store for the commit of a task. One that stands counts, whoever made it.
    pub(crate) async fn find_commit(&self, key: &Key) {
        match commits::read(&self.store, &key.run, &key.stage, &key.shard).await {
            Ok(None) => {}
            Ok(Some(commit)) => {
                let now = self.clock.now();
                // A coordinator that goes down asks again at its next start.
                let _ = self.change(|core| core.committed(key, commit, now)).await;
            }
            // The next attempt will find out.
            Err(error) => {
                tracing::warn!(error = failure::chain(&error), task = %key, "commit cannot be read")
            }
        }
    }
}

/// Takes the workers that are granted something out of those that wait.
fn take_served(waiting: &mut Vec<Waiting>, grants: &[Grant]) -> BTreeMap<usize, Waiting> {
    if grants.is_empty() {
        return BTreeMap::new();
    }
    let offers: std::collections::BTreeSet<usize> =
        grants.iter().map(|grant| grant.offer).collect();
    let mut served = BTreeMap::new();
    let mut rest = Vec::with_capacity(waiting.len());
    for (index, worker) in std::mem::take(waiting).into_iter().enumerate() {
        if offers.contains(&index) {
            served.insert(index, worker);
        } else {
            rest.push(worker);
        }
    }
    *waiting = rest;
    served
}

/// The claim of the worker that is granted something.
fn claim_of(grant: &Grant, waiting: &Waiting) -> Claim {
    Claim {
        key: (*grant.key).clone(),
        lease_epoch: grant.lease_epoch,
        rank: grant.rank,
        worker: waiting.offer.worker.clone(),
    }
}

fn show(notice: &Notice) {
    match notice {
        Notice::Ejected(ejected) => {
            tracing::warn!(
                worker = %ejected.worker, shards = ejected.shards, seconds = ejected.period.as_secs(),
                "worker fails shards that others do: it gets no leases for a while"
            );
        }
        Notice::Twin { key, first, twin } => {
            let first = first.as_ref().map(ToString::to_string);
            tracing::info!(
                task = %key, first = first.unwrap_or_default(), %twin,
                "task takes far longer than its like: leased a second time"
            );
        }
    }
}

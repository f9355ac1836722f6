//! The beat: reads the clock, grants leases, writes the batch, and answers the requests in it.
//!
//! One beat is one transaction. Requests that arrive during a write form the next batch, so one
//! transaction serves more requests under more load (group commit: DeWitt et al., SIGMOD 1984).
//!
//! A batch that the database rejects is kept and retried until it succeeds. Meanwhile leases are
//! renewed, reports of workers are collected, and no new work is accepted or leased.

use std::collections::{BTreeMap, HashMap};
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

/// Longest pause between two beats.
const TICK: Duration = Duration::from_millis(200);

/// Longest pause between two attempts to write a batch.
const WRITE_PAUSE: Duration = Duration::from_secs(5);

/// Number of attempts to write the last batch during shutdown.
const LAST_WRITES: u32 = 3;

/// Maximum number of expired leases whose commits are looked up concurrently.
const IN_FLIGHT: usize = 16;

/// The result of a beat's work under the lock.
struct Found {
    batch: Batch,
    grants: Vec<Grant>,
    /// The JSON of the task of each grant, where it is in memory.
    texts: Vec<Option<Arc<str>>>,
    /// The workers that get a grant, by the index of their offer.
    served: BTreeMap<usize, Waiting>,
    expired: Vec<Key>,
}

impl Inner {
    /// Runs beats until the coordinator shuts down. The last beat writes the remaining changes.
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
            let Ok(expired) = self.beat().await else {
                return self.discard();
            };
            if is_last {
                return;
            }
            if !expired.is_empty() {
                self.tasks.spawn(self.clone().look_for_commits(expired));
            }
        }
    }

    /// Rejects every further request: a change after the last beat would be lost.
    fn close(&self) {
        let mut core = self.lock();
        if matches!(core.gate, Gate::Open | Gate::Shut) {
            core.gate = Gate::Closing;
        }
        core.waiting.clear();
    }

    /// Drops the changes since a batch that could not be written. Views among them count what the lost
    /// batch changed, so nothing may be written after it.
    fn discard(&self) {
        self.close();
        drop(self.lock().take_batch());
    }

    /// Runs one beat, and returns the tasks whose lease expired.
    ///
    /// # Errors
    /// Those of [`Inner::write`].
    async fn beat(&self) -> Result<Vec<Key>, Arc<crate::state::Error>> {
        let Found {
            batch,
            grants,
            texts,
            served,
            expired,
        } = self.find();
        if let Err(error) = self.write(&batch).await {
            for waiter in batch.waiters {
                // The caller may have stopped waiting.
                let _ = waiter.send(Err(error.clone()));
            }
            return Err(error);
        }
        self.deliver(&grants, texts, served).await;
        let mut core = self.lock();
        core.finish_writing();
        core.send(batch.events);
        core.forget_ended();
        drop(core);
        for waiter in batch.waiters {
            let _ = waiter.send(Ok(()));
        }
        Ok(expired)
    }

    /// Writes a batch. Retries while the database fails.
    ///
    /// # Errors
    /// The coordinator stops: it is superseded, the database is damaged, it failed for longer than the
    /// limit, or a shutdown was requested while it fails. The next start reads the commits of the batch from the store.
    async fn write(&self, batch: &Batch) -> Result<(), Arc<crate::state::Error>> {
        let now = self.clock.unix_ms();
        let (mut failures, mut last_failures) = (0, 0);
        let began = self.clock.now();
        loop {
            let database = &self.database;
            let written = database.append(self.generation, &batch.ops, &batch.views, now);
            let error = match written.await {
                Ok(()) => {
                    self.resume();
                    return Ok(());
                }
                Err(error) => Arc::new(error),
            };
            failures += 1;
            tracing::error!(
                database = self.settings.database,
                error = failure::chain(&*error),
                failures,
                "the database cannot be written: no work is accepted or leased until it can"
            );
            if let crate::state::Error::Superseded { ours, newer } = *error {
                self.step_down(ours, newer);
                return Err(error);
            }
            if !error.is_transient() || self.is_outage_over(began) {
                self.break_down(Error::Database(error.clone()));
                return Err(error);
            }
            self.halt(error.clone());
            let pause = self.policy.backoff_after(failures).min(WRITE_PAUSE);
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => {
                    last_failures += 1;
                    if last_failures > LAST_WRITES {
                        return Err(error);
                    }
                    tokio::time::sleep(TICK).await;
                }
            }
        }
    }

    /// Whether the database has failed for longer than the limit.
    fn is_outage_over(&self, began: Duration) -> bool {
        let lasts = self.clock.now().saturating_sub(began);
        self.outage_limit.get().is_some_and(|limit| lasts > *limit)
    }

    fn halt(&self, error: Arc<crate::state::Error>) {
        self.lock().halted = Some(error);
        self.works.send_replace(false);
    }

    fn resume(&self) {
        if self.lock().halted.take().is_some() {
            tracing::info!("the database can be written again: work resumes");
            self.works.send_replace(true);
        }
    }

    /// The part of a beat that needs the lock.
    fn find(&self) -> Found {
        let now = self.clock.now();
        let mut core = self.lock();
        let core = &mut *core;
        core.check_for_pause(now, self.policy.lease);
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
        let text = |grant: &Grant| core.texts.get(&grant.key);
        let texts = grants.iter().map(text).collect();
        core.apply_changes(self.clock.unix_ms());
        for notice in core.machine.take_notices() {
            metrics::count_notice(&notice);
            log(&notice);
        }
        let batch = core.take_batch();
        metrics::expired(expired.len());
        metrics::show(core, now);
        Found {
            batch,
            grants,
            texts,
            served,
            expired,
        }
    }

    async fn deliver(
        &self,
        grants: &[Grant],
        texts: Vec<Option<Arc<str>>>,
        served: BTreeMap<usize, Waiting>,
    ) {
        if grants.is_empty() {
            return;
        }
        fault::point("coordinator.after_lease");
        let stored = self.stored_texts(grants, &texts).await;
        let mut by_offer: BTreeMap<usize, Vec<v1::Assignment>> = BTreeMap::new();
        let mut undelivered: Vec<&Grant> = Vec::new();
        for (grant, text) in grants.iter().zip(texts) {
            let json = text.map(|text| text.to_string());
            match json.or_else(|| stored.get(&*grant.key).cloned()) {
                Some(json) => by_offer
                    .entry(grant.offer)
                    .or_default()
                    .push(self.assignment(grant, &served, json)),
                None => undelivered.push(grant),
            }
        }
        for (offer, waiting) in served {
            let given = by_offer.remove(&offer).unwrap_or_default();
            if waiting.answer.send(given).is_err() {
                undelivered.extend(grants.iter().filter(|grant| grant.offer == offer));
            }
        }
        if undelivered.is_empty() {
            return;
        }
        let mut core = self.lock();
        for grant in undelivered {
            core.machine.undelivered(&grant.key, grant.lease_epoch);
        }
        drop(core);
        // The next beat writes the change. Until then the attempts appear as leased, which is harmless.
        self.pump.notify_one();
    }

    /// The JSON of the tasks whose text is not in memory. Tasks that cannot be read are omitted.
    async fn stored_texts(
        &self,
        grants: &[Grant],
        texts: &[Option<Arc<str>>],
    ) -> HashMap<Key, String> {
        let missing = grants.iter().zip(texts).filter(|(_, text)| text.is_none());
        let missing: Vec<&Key> = missing.map(|(grant, _)| &*grant.key).collect();
        if missing.is_empty() {
            return HashMap::new();
        }
        let read = self.database.task_jsons(&missing).await;
        read.unwrap_or_else(|error| {
            tracing::error!(error = failure::chain(&error), "tasks cannot be read");
            HashMap::new()
        })
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

    /// Looks up the commits of expired leases. A worker may have died between its commit and its
    /// report, and the commit record is authoritative. Ends at shutdown; the next start repeats it.
    async fn look_for_commits(self: Arc<Self>, expired: Vec<Key>) {
        let lookups = futures::stream::iter(expired).for_each_concurrent(IN_FLIGHT, |key| {
            let inner = self.clone();
            async move {
                tracing::warn!(task = %key, "lease expired");
                inner.find_commit(&key).await;
            }
        });
        self.shutdown.run_until_cancelled(lookups).await;
    }

    /// Looks up the commit of a task in the store. A commit of any attempt counts.
    pub(crate) async fn find_commit(&self, key: &Key) {
        match commits::read(&self.store, &key.run, &key.stage, &key.shard).await {
            Ok(None) => {}
            Ok(Some(commit)) => {
                let now = self.clock.now();
                // During shutdown the change fails; the next start reads the commit again.
                let _ = self
                    .change(|core| core.committed(key, commit, false, now))
                    .await;
            }
            // The next attempt finds the commit.
            Err(error) => {
                tracing::warn!(error = failure::chain(&error), task = %key, "commit cannot be read")
            }
        }
    }
}

/// Removes the workers that get a grant from the waiting ones, and returns them.
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

/// The claim of the worker that gets a grant.
fn claim_of(grant: &Grant, waiting: &Waiting) -> Claim {
    Claim {
        key: (*grant.key).clone(),
        lease_epoch: grant.lease_epoch,
        rank: grant.rank,
        worker: waiting.offer.worker.clone(),
    }
}

fn log(notice: &Notice) {
    match notice {
        Notice::Ejected(ejected) => {
            tracing::warn!(
                worker = %ejected.worker, shards = ejected.shards, seconds = ejected.period.as_secs(),
                "worker fails shards that other workers complete: it gets no leases for a period"
            );
        }
        Notice::Twin { key, first, twin } => {
            let first = first.as_ref().map(ToString::to_string);
            tracing::info!(
                task = %key, first = first.unwrap_or_default(), %twin,
                "task takes far longer than others of its stage: leased a second time"
            );
        }
    }
}

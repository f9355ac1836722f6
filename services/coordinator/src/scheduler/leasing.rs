//! Leases: handed out by the pump, renewed, completed, failed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::commits;
use capstan_plan::FailureKind;
use capstan_proto::v1;
use tokio::sync::oneshot;

use super::core::{Core, Waiting};
use super::{Handle, Inner, TICK};
use crate::convert::{lease_message, task_state};
use crate::error::Error;
use crate::machine::{Claim, Grant, Key, Offer, Stale, attempt_id};
use crate::view::Progress;

/// Workers that wait at most; more are answered with nothing at once.
const WAITING: usize = 10_000;

/// A worker's place among those that wait. Work that was handed to a worker which went away in
/// the same moment goes back.
struct Place {
    inner: Arc<Inner>,
    answer: oneshot::Receiver<Vec<v1::Assignment>>,
}

impl Place {
    /// Leaves; gives what was handed over at the last moment.
    fn leave(&mut self) -> Vec<v1::Assignment> {
        self.answer.close();
        self.answer.try_recv().unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let leases: Vec<_> = self
            .leave()
            .into_iter()
            .filter_map(|given| given.lease)
            .collect();
        if leases.is_empty() {
            return;
        }
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            let mut core = inner.core.lock().await;
            for claim in leases
                .into_iter()
                .filter_map(|l| crate::convert::claim("", Some(l)))
            {
                core.machine.undelivered(&claim.key, claim.lease_epoch);
            }
            // A failure to write was logged and has ended the runs.
            let _ = inner.flush(&mut core).await;
            inner.pump.notify_one();
        });
    }
}

impl Handle {
    /// Waits for work for at most `wait`; gives none where there was none.
    ///
    /// # Errors
    /// [`Error::Closing`] once the coordinator is going down.
    pub async fn lease(&self, offer: Offer, wait: Duration) -> Result<Vec<v1::Assignment>, Error> {
        let (sender, answer) = oneshot::channel();
        {
            let mut core = self.inner.core.lock().await;
            core.waiting.retain(|waiting| !waiting.answer.is_closed());
            if core.waiting.len() >= WAITING {
                return Ok(Vec::new());
            }
            core.waiting.push(Waiting {
                offer,
                answer: sender,
            });
        }
        let mut place = Place {
            inner: self.inner.clone(),
            answer,
        };
        self.inner.pump.notify_one();
        tokio::select! {
            given = &mut place.answer => Ok(given.unwrap_or_default()),
            () = tokio::time::sleep(wait) => Ok(place.leave()),
            () = self.inner.shutdown.cancelled() => Err(Error::Closing),
        }
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// [`Error::Database`]: nothing was written.
    pub async fn heartbeat(
        &self,
        claims: Vec<(Option<Claim>, Progress)>,
    ) -> Result<Vec<v1::Verdict>, Error> {
        let now = self.inner.clock.now();
        let mut core = self.inner.core.lock().await;
        let mut verdicts = Vec::with_capacity(claims.len());
        for (claim, progress) in claims {
            verdicts.push(match claim {
                Some(claim) => self.beat(&mut core, &claim, progress, now),
                None => v1::Verdict::Stale,
            });
        }
        self.inner.flush(&mut core).await?;
        Ok(verdicts)
    }

    fn beat(
        &self,
        core: &mut Core,
        claim: &Claim,
        progress: Progress,
        now: Duration,
    ) -> v1::Verdict {
        match core.machine.heartbeat(claim, now) {
            Ok(()) => {
                if claim.rank == 0 && !progress.unit.is_empty() {
                    let Key { run, stage, shard } = &claim.key;
                    core.progress((run, stage, shard), progress, self.inner.clock.unix_ms());
                }
                v1::Verdict::Keep
            }
            Err(Stale::Cancelled) => v1::Verdict::Cancelled,
            // The tasks of an ended run are forgotten.
            Err(Stale::NotHeld) => match core.runs.get(&claim.key.run) {
                Some(active) if active.stop.is_cancelled() => v1::Verdict::Cancelled,
                _ => v1::Verdict::Stale,
            },
        }
    }

    /// The work of a lease is committed, or a rank that does not commit has done its part.
    /// True where the commit record that stands is this attempt's.
    ///
    /// # Errors
    /// [`Error::Stale`]: the lease is not the caller's any more; a commit record counts all the
    /// same. [`Error::NoCommit`]: there is none, the attempt has failed.
    pub async fn complete(&self, claim: Claim) -> Result<bool, Error> {
        if claim.rank > 0 {
            let mut core = self.inner.core.lock().await;
            let answer = core.machine.rank_finished(&claim);
            self.inner.flush(&mut core).await?;
            return answer
                .map(|()| false)
                .map_err(|_| Error::Stale { key: claim.key });
        }
        let Key { run, stage, shard } = &claim.key;
        let commit = commits::read(&self.inner.store, run, stage, shard).await?;
        let mut core = self.inner.core.lock().await;
        let is_held = core.machine.check(&claim).is_ok();
        let answer = match commit {
            Some(commit) => {
                core.machine.committed(&claim.key);
                let mine = commit.attempt == attempt_id(claim.lease_epoch);
                if is_held {
                    Ok(mine)
                } else {
                    Err(Error::Stale {
                        key: claim.key.clone(),
                    })
                }
            }
            None if is_held => {
                let now = self.inner.clock.now();
                let message = "completed without a commit record";
                // It is held, so the failure counts.
                let _ = core
                    .machine
                    .fail(&claim, FailureKind::Transient, message, now);
                Err(Error::NoCommit {
                    key: claim.key.clone(),
                })
            }
            None => Err(Error::Stale {
                key: claim.key.clone(),
            }),
        };
        self.inner.flush(&mut core).await?;
        self.inner.pump.notify_one();
        answer
    }

    /// A worker that stops gives a lease back; the task waits for another at once.
    ///
    /// # Errors
    /// [`Error::Stale`]: the lease is not the caller's any more.
    pub async fn release(&self, claim: Claim) -> Result<(), Error> {
        let mut core = self.inner.core.lock().await;
        let answer = core.machine.release(&claim);
        self.inner.flush(&mut core).await?;
        self.inner.pump.notify_one();
        answer.map_err(|_| Error::Stale { key: claim.key })
    }

    /// An attempt failed. Gives where the task stands now.
    ///
    /// # Errors
    /// [`Error::Stale`]: the lease is not the caller's any more, the failure does not count.
    pub async fn fail(
        &self,
        claim: Claim,
        kind: FailureKind,
        message: &str,
    ) -> Result<v1::TaskState, Error> {
        let now = self.inner.clock.now();
        let mut core = self.inner.core.lock().await;
        let answer = core.machine.fail(&claim, kind, message, now);
        let state = core
            .machine
            .task(&claim.key)
            .map(|task| task_state(&task.state));
        self.inner.flush(&mut core).await?;
        self.inner.pump.notify_one();
        match (answer, state) {
            (Ok(()), Some(state)) => {
                tracing::warn!(task = %claim.key, ?kind, message, "attempt failed");
                Ok(state)
            }
            _ => Err(Error::Stale { key: claim.key }),
        }
    }
}

impl Inner {
    /// Looks at the clock and hands out leases, until the coordinator goes down.
    pub(super) async fn pump(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.pump.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            let expired = self.hand_out().await;
            if !expired.is_empty() {
                self.tasks.spawn(self.clone().look_for_commits(expired));
            }
        }
    }

    /// Ends what is over and hands out what is ready. Gives tasks whose lease expired.
    async fn hand_out(&self) -> Vec<Key> {
        let now = self.clock.now();
        let mut core = self.core.lock().await;
        let core = &mut *core;
        let expired = core.machine.tick(now);
        core.waiting.retain(|waiting| !waiting.answer.is_closed());
        let offers: Vec<&Offer> = core.waiting.iter().map(|waiting| &waiting.offer).collect();
        let grants = core.machine.assign(&offers, now);
        // What cannot be written was logged and has ended the runs: nothing is handed out.
        if self.flush(core).await.is_ok() && !grants.is_empty() {
            self.deliver(core, grants).await;
        }
        expired
    }

    async fn deliver(&self, core: &mut Core, grants: Vec<Grant>) {
        let mut by_offer: BTreeMap<usize, Vec<v1::Assignment>> = BTreeMap::new();
        let mut back: Vec<Grant> = Vec::new();
        for grant in &grants {
            match self.database.task_json(&grant.key).await {
                Ok(json) => {
                    by_offer
                        .entry(grant.offer)
                        .or_default()
                        .push(self.assignment(grant, json));
                }
                Err(error) => {
                    tracing::error!(%error, task = %grant.key, "a task cannot be read");
                    back.push(grant.clone());
                }
            }
        }
        // From the last, so that indices of earlier ones stay.
        for (offer, assignments) in by_offer.into_iter().rev() {
            let waiting = core.waiting.remove(offer);
            if waiting.answer.send(assignments).is_err() {
                back.extend(grants.iter().filter(|grant| grant.offer == offer).cloned());
            }
        }
        for grant in &back {
            core.machine.undelivered(&grant.key, grant.lease_epoch);
        }
        if !back.is_empty() {
            // A failure to write was logged and has ended the runs.
            let _ = self.flush(core).await;
        }
    }

    fn assignment(&self, grant: &Grant, task_json: String) -> v1::Assignment {
        tracing::info!(
            task = %grant.key, attempt = %grant.attempt, rank = grant.rank, "leased"
        );
        v1::Assignment {
            lease: Some(lease_message(grant)),
            task_json,
            world_size: u32::try_from(grant.world_size).unwrap_or(u32::MAX),
            lease_ms: self.settings.lease_seconds * 1_000,
            heartbeat_ms: self.settings.heartbeat_seconds * 1_000,
            attempt_number: grant.attempt_number,
        }
    }

    /// A worker may have died between its commit and its answer: the commit record decides.
    async fn look_for_commits(self: Arc<Self>, expired: Vec<Key>) {
        for key in expired {
            tracing::warn!(task = %key, "lease expired");
            match commits::read(&self.store, &key.run, &key.stage, &key.shard).await {
                Ok(None) => {}
                Ok(Some(_)) => {
                    let mut core = self.core.lock().await;
                    core.machine.committed(&key);
                    // A failure to write was logged and has ended the runs.
                    let _ = self.flush(&mut core).await;
                }
                // The next attempt will find out.
                Err(error) => tracing::warn!(%error, task = %key, "commit cannot be read"),
            }
        }
    }
}

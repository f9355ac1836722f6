//! The lifecycle of leases for workers: request, renewal, completion, failure, release.

use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::commits;
use capstan_plan::FailureKind;
use capstan_plan::id::WorkerId;
use capstan_proto::v1;
use capstan_runtime::fault;
use tokio::sync::oneshot;

use super::core::{Core, Waiting};
use super::sessions::{SILENT_HEARTBEATS, Session};
use super::{Handle, Inner};
use crate::convert::task_state;
use crate::error::Error;
use crate::machine::{Claim, Key, Offer, Stale, attempt_id};
use crate::view::UnitProgress;

/// Maximum number of waiting requests. Further ones are rejected, and workers retry after a pause.
const WAITING: usize = 10_000;

/// A waiting request of a worker. Dropping it releases tasks that were granted at the same moment.
struct WaitingRequest {
    inner: Arc<Inner>,
    answer: oneshot::Receiver<Vec<v1::Assignment>>,
}

impl WaitingRequest {
    /// Stops waiting. Returns tasks that were granted at the last moment.
    fn leave(&mut self) -> Vec<v1::Assignment> {
        self.answer.close();
        self.answer.try_recv().unwrap_or_default()
    }
}

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        let leases = self.leave().into_iter().filter_map(|given| given.lease);
        let claims: Vec<Claim> = leases
            .filter_map(|lease| crate::convert::claim("", Some(lease)))
            .collect();
        if claims.is_empty() {
            return;
        }
        if let Ok(mut core) = self.inner.core() {
            for claim in &claims {
                core.machine.undelivered(&claim.key, claim.lease_epoch);
            }
        }
        // The next beat writes the change and leases the tasks to others.
        self.inner.pump.notify_one();
    }
}

/// A task that is complete.
pub struct Completion {
    /// The lease.
    pub claim: Claim,
    /// Whether the recipe of the task points at the commit. Otherwise the coordinator publishes it.
    pub recipe_published: bool,
    /// The request for the worker's next tasks.
    pub next: Option<(Offer, Session)>,
}

impl Handle {
    /// Leases tasks, waiting for at most `wait`. Returns none if no task was ready.
    ///
    /// - `session`: the process that sent the request. It gets the worker's name.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`]; [`Error::Busy`]: too many requests wait;
    /// [`Error::NameTaken`]: another process uses the worker's name.
    pub async fn lease(
        &self,
        offer: Offer,
        session: Session,
        wait: Duration,
    ) -> Result<Vec<v1::Assignment>, Error> {
        let mut request = {
            let mut core = self.inner.core()?;
            self.add_request(&mut core, offer, session)?
        };
        self.inner.pump.notify_one();
        tokio::select! {
            biased;
            given = &mut request.answer => match given {
                Ok(given) => Ok(given),
                // The request was dropped, for the reason in the gate.
                Err(_) => self.inner.core().map(|_| Vec::new()),
            },
            () = tokio::time::sleep(wait) => Ok(request.leave()),
        }
    }

    /// Adds a request to the waiting ones.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NameTaken`].
    fn add_request(
        &self,
        core: &mut Core,
        offer: Offer,
        session: Session,
    ) -> Result<WaitingRequest, Error> {
        if core.waiting.len() >= WAITING {
            core.waiting.retain(|waiting| !waiting.answer.is_closed());
        }
        if core.waiting.len() >= WAITING {
            return Err(Error::Busy {
                what: "workers that wait for tasks",
                most: WAITING,
            });
        }
        let now = self.inner.clock.now();
        let heartbeat = Duration::from_secs(self.inner.settings.heartbeat_seconds);
        core.enter(&offer.worker, session, now, heartbeat * SILENT_HEARTBEATS)?;
        let (sender, answer) = oneshot::channel();
        core.waiting.push(Waiting {
            offer,
            session,
            answer: sender,
        });
        Ok(WaitingRequest {
            inner: self.inner.clone(),
            answer,
        })
    }

    /// Renews leases.
    ///
    /// - `session`: the process that holds them.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`].
    pub async fn heartbeat(
        &self,
        session: Session,
        claims: Vec<(Option<Claim>, UnitProgress)>,
    ) -> Result<Vec<v1::LeaseStatus>, Error> {
        let now = self.inner.clock.now();
        let unix_ms = self.inner.clock.unix_ms();
        // Renewals stay in memory: after a restart, every lease is valid for one lease period.
        let mut core = self.inner.core()?;
        let statuses = claims.into_iter().map(|(claim, progress)| match claim {
            Some(claim) => {
                let status = renew(&mut core, &claim, progress, now, unix_ms);
                if status == v1::LeaseStatus::Keep {
                    let core = &mut *core;
                    core.sessions.hold(&core.machine, session, &claim, now);
                }
                status
            }
            None => v1::LeaseStatus::Stale,
        });
        Ok(statuses.collect())
    }

    /// Frees the name of a process that stops, and releases the leases that it still holds. The process
    /// releases the leases that it knows. A lease remains if its response was on the way when the
    /// process stopped waiting.
    ///
    /// # Errors
    /// [`Error::OtherSession`]: another process has the name. [`Error::Closing`],
    /// [`Error::Superseded`], [`Error::Database`].
    pub async fn leave(&self, worker: WorkerId, session: Session) -> Result<(), Error> {
        let leave = |core: &mut Core| core.leave(&worker, session);
        let released = self.inner.change(leave).await??;
        tracing::info!(%worker, released, "worker left");
        Ok(())
    }

    /// Reports that the task of a lease is committed (rank 0), or that a rank has finished (other
    /// ranks). Returns whether the commit record is this attempt's.
    ///
    /// With `next`, it leases the worker's next tasks too, as [`Handle::lease`] without a wait: one
    /// transaction writes both. If the next request is rejected, no task is leased, and
    /// [`Handle::lease`] returns the reason.
    ///
    /// # Errors
    /// [`Error::Stale`]: the lease is no longer the caller's; a commit record counts nevertheless.
    /// [`Error::NoCommit`]: there is no commit record; the attempt has failed.
    pub async fn complete(
        &self,
        completion: Completion,
    ) -> Result<(bool, Vec<v1::Assignment>), Error> {
        let Completion {
            claim,
            recipe_published,
            next,
        } = completion;
        let add_request = |core: &mut Core| {
            let (offer, session) = next?;
            self.add_request(core, offer, session).ok()
        };
        let stale = || Error::Stale {
            key: claim.key.clone(),
        };
        if claim.rank > 0 {
            let finish = |core: &mut Core| {
                let finished = core.machine.rank_finished(&claim);
                finished.map(|()| add_request(core))
            };
            let request = self.inner.change(finish).await?.map_err(|_| stale())?;
            return Ok((false, leased(request)));
        }
        let Key { run, stage, shard } = &claim.key;
        let commit = commits::read(&self.inner.store, run, stage, shard).await?;
        fault::point("coordinator.before_complete");
        let now = self.inner.clock.now();
        let decide = |core: &mut Core| {
            let is_held = core.machine.check(&claim).is_ok();
            match commit {
                Some(commit) => {
                    let mine = commit.attempt == attempt_id(claim.lease_epoch);
                    core.committed(&claim.key, commit, recipe_published && mine, now);
                    match is_held {
                        true => Ok((mine, add_request(core))),
                        false => Err(stale()),
                    }
                }
                None if is_held => {
                    let message = "completed without a commit record";
                    // The lease is held, so `fail` cannot return an error.
                    let kind = FailureKind::Transient;
                    let _ = core.machine.fail(&claim, kind, message, now);
                    Err(Error::NoCommit {
                        key: claim.key.clone(),
                    })
                }
                None => Err(stale()),
            }
        };
        let (mine, request) = self.inner.change(decide).await??;
        Ok((mine, leased(request)))
    }

    /// Releases the lease of a worker that stops. The task is ready for another worker immediately.
    ///
    /// # Errors
    /// [`Error::Stale`]: the lease is no longer the caller's.
    pub async fn release(&self, claim: Claim) -> Result<(), Error> {
        let release = |core: &mut Core| core.machine.release(&claim);
        let answer = self.inner.change(release).await?;
        answer.map_err(|_| Error::Stale {
            key: claim.key.clone(),
        })
    }

    /// Records a failed attempt. Returns the new state of the task.
    ///
    /// # Errors
    /// [`Error::Stale`]: the lease is no longer the caller's; the failure does not count.
    pub async fn fail(
        &self,
        claim: Claim,
        kind: FailureKind,
        message: &str,
    ) -> Result<v1::TaskState, Error> {
        let now = self.inner.clock.now();
        let fail = |core: &mut Core| {
            let answer = core.machine.fail(&claim, kind, message, now);
            let task = core.machine.task(&claim.key);
            answer.map(|()| task.map(|task| task_state(&task.state)))
        };
        match self.inner.change(fail).await? {
            Ok(Some(state)) => {
                tracing::warn!(task = %claim.key, ?kind, message, "attempt failed");
                Ok(state)
            }
            _ => Err(Error::Stale { key: claim.key }),
        }
    }
}

/// The tasks that were leased to a request, once the change that added it is written: the beat that
/// wrote it has served the request if a task was ready.
fn leased(request: Option<WaitingRequest>) -> Vec<v1::Assignment> {
    request
        .map(|mut request| request.leave())
        .unwrap_or_default()
}

fn renew(
    core: &mut Core,
    claim: &Claim,
    progress: UnitProgress,
    now: Duration,
    unix_ms: i64,
) -> v1::LeaseStatus {
    match core.machine.heartbeat(claim, now) {
        Ok(()) => {
            let is_known = progress.waiting || !progress.unit.is_empty();
            if claim.rank == 0 && is_known {
                let Key { run, stage, shard } = &claim.key;
                core.update_progress((run, stage, shard), progress, unix_ms);
            }
            v1::LeaseStatus::Keep
        }
        Err(Stale::Cancelled) => v1::LeaseStatus::Cancelled,
        // The tasks of an ended run are removed.
        Err(Stale::NotHeld) => match core.runs.get(&claim.key.run) {
            Some(active) if active.stop.is_cancelled() => v1::LeaseStatus::Cancelled,
            _ => v1::LeaseStatus::Stale,
        },
    }
}

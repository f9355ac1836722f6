//! Leases as workers see them: waited for, renewed, completed, failed, given back.

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

/// Workers that wait at most; more are refused, so that they ask again after a pause.
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
        // Written and handed to others by the next beat.
        self.inner.pump.notify_one();
    }
}

impl Handle {
    /// Waits for work for at most `wait`; gives none where there was none.
    ///
    /// - `session`: the process that asks. It gets the worker's name.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`]; [`Error::Busy`] where too many wait;
    /// [`Error::NameTaken`]: another process uses the worker's name.
    pub async fn lease(
        &self,
        offer: Offer,
        session: Session,
        wait: Duration,
    ) -> Result<Vec<v1::Assignment>, Error> {
        let mut place = {
            let mut core = self.inner.core()?;
            self.place(&mut core, offer, session)?
        };
        self.inner.pump.notify_one();
        tokio::select! {
            biased;
            given = &mut place.answer => match given {
                Ok(given) => Ok(given),
                // Nobody answers any more, for the reason that the gate gives.
                Err(_) => self.inner.core().map(|_| Vec::new()),
            },
            () = tokio::time::sleep(wait) => Ok(place.leave()),
        }
    }

    /// Gives a worker a place among those that wait.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NameTaken`].
    fn place(&self, core: &mut Core, offer: Offer, session: Session) -> Result<Place, Error> {
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
        Ok(Place {
            inner: self.inner.clone(),
            answer,
        })
    }

    /// Renews leases.
    ///
    /// - `session`: the process that holds them.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`]; [`Error::Database`]: nothing was written.
    pub async fn heartbeat(
        &self,
        session: Session,
        claims: Vec<(Option<Claim>, UnitProgress)>,
    ) -> Result<Vec<v1::LeaseStatus>, Error> {
        let now = self.inner.clock.now();
        let unix_ms = self.inner.clock.unix_ms();
        // Renewals are kept in memory: whoever starts anew gives every lease a full period.
        let mut core = self.inner.core()?;
        let statuses = claims.into_iter().map(|(claim, progress)| match claim {
            Some(claim) => {
                let status = beat(&mut core, &claim, progress, now, unix_ms);
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

    /// A process of a worker stops: its name is free, and what it still holds goes back. That is a
    /// lease whose answer was on its way when the process gave up its request: it never learned of
    /// the lease, so it cannot release it by itself.
    ///
    /// # Errors
    /// [`Error::OtherSession`]: another process has the name. [`Error::Closing`],
    /// [`Error::Superseded`], [`Error::Database`].
    pub async fn leave(&self, worker: WorkerId, session: Session) -> Result<(), Error> {
        let leave = |core: &mut Core| core.leave(&worker, session);
        let released = self.inner.change(leave).await??;
        tracing::info!(%worker, released, "a worker left");
        Ok(())
    }

    /// The work of a lease is committed, or a rank that does not commit has done its part.
    /// True where the commit record that stands is this attempt's.
    ///
    /// # Errors
    /// [`Error::Stale`]: the lease is not the caller's any more; a commit record counts all the
    /// same. [`Error::NoCommit`]: there is none, the attempt has failed.
    pub async fn complete(&self, claim: Claim) -> Result<bool, Error> {
        let (mine, ()) = self.complete_then(claim, |_| ()).await?;
        Ok(mine)
    }

    /// Completes a lease and leases the worker's next tasks, as [`Handle::complete`] and
    /// [`Handle::lease`] without a wait do. One transaction writes both.
    ///
    /// A worker that cannot have a place gets no task, and learns why by [`Handle::lease`].
    ///
    /// # Errors
    /// Those of [`Handle::complete`]; nothing is leased then.
    pub async fn complete_and_lease(
        &self,
        claim: Claim,
        offer: Offer,
        session: Session,
    ) -> Result<(bool, Vec<v1::Assignment>), Error> {
        let place = |core: &mut Core| self.place(core, offer, session).ok();
        let (mine, place) = self.complete_then(claim, place).await?;
        // The beat that wrote the completion has served the place, if there was a task.
        let given = place.map(|mut place| place.leave());
        Ok((mine, given.unwrap_or_default()))
    }

    /// Completes a lease; `then` happens in the same step where it succeeds.
    async fn complete_then<T>(
        &self,
        claim: Claim,
        then: impl FnOnce(&mut Core) -> T,
    ) -> Result<(bool, T), Error> {
        let stale = || Error::Stale {
            key: claim.key.clone(),
        };
        if claim.rank > 0 {
            let finish = |core: &mut Core| {
                let finished = core.machine.rank_finished(&claim);
                finished.map(|()| (false, then(core)))
            };
            let answer = self.inner.change(finish).await?;
            return answer.map_err(|_| stale());
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
                    core.committed(&claim.key, commit, now);
                    match is_held {
                        true => Ok((mine, then(core))),
                        false => Err(stale()),
                    }
                }
                None if is_held => {
                    let message = "completed without a commit record";
                    // It is held, so the failure counts.
                    let kind = FailureKind::Transient;
                    let _ = core.machine.fail(&claim, kind, message, now);
                    Err(Error::NoCommit {
                        key: claim.key.clone(),
                    })
                }
                None => Err(stale()),
            }
        };
        self.inner.change(decide).await?
    }

    /// A worker that stops gives a lease back; the task waits for another at once.
    ///
    /// # Errors
    /// [`Error::Stale`]: the lease is not the caller's any more.
    pub async fn release(&self, claim: Claim) -> Result<(), Error> {
        let release = |core: &mut Core| core.machine.release(&claim);
        let answer = self.inner.change(release).await?;
        answer.map_err(|_| Error::Stale {
            key: claim.key.clone(),
        })
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

fn beat(
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
                core.progress((run, stage, shard), progress, unix_ms);
            }
            v1::LeaseStatus::Keep
        }
        Err(Stale::Cancelled) => v1::LeaseStatus::Cancelled,
        // The tasks of an ended run are forgotten.
        Err(Stale::NotHeld) => match core.runs.get(&claim.key.run) {
            Some(active) if active.stop.is_cancelled() => v1::LeaseStatus::Cancelled,
            _ => v1::LeaseStatus::Stale,
        },
    }
}

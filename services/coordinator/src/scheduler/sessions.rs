//! Sessions: which process has which worker's name.
//!
//! Leases, gangs and ejection go by the names of workers, so two processes must not use one name at
//! a time. Each process makes a random session at its start and sends it with every request for
//! tasks and every heartbeat. The first session that comes under a name has it for as long as it is
//! alive: a request of it waits, or it was heard of lately and holds a lease. Otherwise the next
//! session takes the name over, so a process that was killed and started again has its name back
//! after that time at most. Leases of the earlier session stay valid, since each is proven by its
//! own token.
//!
//! This is memory only: after a restart of the coordinator, names are bound again by the next
//! requests.

use std::collections::{BTreeMap, HashMap, HashSet};

use capstan_plan::id::{LeaseEpoch, WorkerId};

use super::core::Core;
use crate::error::Error;
use crate::machine::{Claim, Machine, Now};

/// Heartbeat periods after which a session that is not heard of has lost its name.
pub(super) const SILENT_HEARTBEATS: u32 = 3;

/// Names that are kept at least before those without a live session are removed.
const KEPT_NAMES: usize = 1_024;
/// Leases of a session that are kept at least before those that are over are removed.
const KEPT_LEASES: usize = 16;

/// One process of a worker. It proves that two requests come from the same process.
///
/// Hashed, so that it has a bounded size and is compared in constant time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session(blake3::Hash);

impl Session {
    /// - `bytes`: as the process sent them. A worker of an older version sends none; all processes
    ///   without a session count as one.
    pub fn new(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes))
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

/// The names that are bound.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    bound: HashMap<WorkerId, Bound>,
    /// Number of names at which those without a live session are removed.
    prune_at: usize,
}

/// The session that has a name.
#[derive(Debug)]
struct Bound {
    session: Session,
    heard: Now,
    /// Leases that were granted to it, or renewed by it. Some may be over.
    leases: BTreeMap<LeaseEpoch, Claim>,
    /// Number of leases at which those that are over are removed.
    prune_at: usize,
}

impl Bound {
    fn new(session: Session, now: Now) -> Self {
        Self {
            session,
            heard: now,
            leases: BTreeMap::new(),
            prune_at: KEPT_LEASES,
        }
    }

    fn hold(&mut self, machine: &Machine, claim: Claim, now: Now) {
        self.heard = now;
        self.leases.entry(claim.lease_epoch).or_insert(claim);
        if self.leases.len() >= self.prune_at {
            self.leases.retain(|_, claim| machine.works_on(claim));
            self.prune_at = KEPT_LEASES.max(self.leases.len() * 2);
        }
    }

    fn holds_any(&self, machine: &Machine) -> bool {
        self.leases.values().any(|claim| machine.works_on(claim))
    }
}

impl Sessions {
    /// Every session counts as heard of for `gap` longer.
    pub(super) fn postpone(&mut self, gap: Now) {
        for bound in self.bound.values_mut() {
            bound.heard += gap;
        }
    }

    /// A session holds a lease: it was granted, or a heartbeat renewed it. Where no session has the
    /// name, this one gets it; another session keeps it.
    pub(super) fn hold(&mut self, machine: &Machine, session: Session, claim: &Claim, now: Now) {
        let bound = self.bound.entry(claim.worker.clone());
        let bound = bound.or_insert_with(|| Bound::new(session, now));
        if bound.session == session {
            bound.hold(machine, claim.clone(), now);
        }
    }

    /// Number of names that are bound.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.bound.len()
    }
}

impl Core {
    /// A session asks for tasks under a name. It gets the name unless another session that has it
    /// is alive.
    ///
    /// - `silence`: how long a session that holds leases stays alive without being heard of.
    ///
    /// # Errors
    /// [`Error::NameTaken`].
    pub(super) fn enter(
        &mut self,
        worker: &WorkerId,
        session: Session,
        now: Now,
        silence: Now,
    ) -> Result<(), Error> {
        match self.sessions.bound.get_mut(worker) {
            Some(bound) if bound.session == session => {
                bound.heard = now;
                return Ok(());
            }
            Some(bound) => {
                let was_heard = now.saturating_sub(bound.heard) <= silence;
                let bound = &*bound;
                let waits = self.waiting.iter().any(|waiting| {
                    waiting.session == bound.session
                        && &waiting.offer.worker == worker
                        && !waiting.answer.is_closed()
                });
                if waits || (was_heard && bound.holds_any(&self.machine)) {
                    let worker = worker.clone();
                    return Err(Error::NameTaken { worker });
                }
                tracing::info!(%worker, "another process has the worker's name now");
            }
            None => {}
        }
        self.prune_sessions();
        let bound = Bound::new(session, now);
        self.sessions.bound.insert(worker.clone(), bound);
        Ok(())
    }

    /// A process stops: its name is free, its requests no longer wait, and every lease that it
    /// still holds goes back uncounted; of a gang the whole lease. Gives the number of leases.
    ///
    /// # Errors
    /// [`Error::OtherSession`]: another process has the name; nothing was changed.
    pub(super) fn leave(&mut self, worker: &WorkerId, session: Session) -> Result<usize, Error> {
        let bound = match self.sessions.bound.remove(worker) {
            None => return Ok(0),
            Some(bound) if bound.session != session => {
                self.sessions.bound.insert(worker.clone(), bound);
                let worker = worker.clone();
                return Err(Error::OtherSession { worker });
            }
            Some(bound) => bound,
        };
        let is_own = |session: Session, by: &WorkerId| session == bound.session && by == worker;
        self.waiting
            .retain(|waiting| !is_own(waiting.session, &waiting.offer.worker));
        let mut released = 0;
        for claim in bound.leases.values() {
            if self.machine.works_on(claim) && self.machine.release(claim).is_ok() {
                released += 1;
            }
        }
        Ok(released)
    }

    /// Removes names that no live session has, once there are twice as many names as were left the
    /// last time.
    fn prune_sessions(&mut self) {
        if self.sessions.bound.len() < self.sessions.prune_at.max(KEPT_NAMES) {
            return;
        }
        let waiting = self
            .waiting
            .iter()
            .filter(|waiting| !waiting.answer.is_closed());
        let waiting: HashSet<&WorkerId> = waiting.map(|waiting| &waiting.offer.worker).collect();
        let machine = &self.machine;
        self.sessions
            .bound
            .retain(|worker, bound| waiting.contains(worker) || bound.holds_any(machine));
        self.sessions.prune_at = self.sessions.bound.len() * 2;
    }
}

//! The rendezvous of gangs: every rank waits until all have joined, then learns its ring.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use capstan_plan::id::LeaseEpoch;
use capstan_proto::v1;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::machine::Claim;
use crate::scheduler::Handle;
use crate::token;

/// Gangs that are gathering.
pub(crate) struct Rendezvous {
    wait: Duration,
    gatherings: Mutex<HashMap<LeaseEpoch, Gathering>>,
}

/// A gang that is not complete; leases are unique, so their epoch names it.
struct Gathering {
    world_size: usize,
    joined: BTreeMap<usize, Joined>,
}

/// A rank that waits.
struct Joined {
    address: String,
    last_applied_step: Option<u64>,
    answer: oneshot::Sender<v1::RingPlan>,
}

impl Rendezvous {
    pub(crate) fn new(wait: Duration) -> Self {
        Self {
            wait,
            gatherings: Mutex::new(HashMap::new()),
        }
    }

    /// Adds a rank; a rank that asks again replaces itself. Gives the gang where it is complete.
    fn join(
        &self,
        lease_epoch: LeaseEpoch,
        world_size: usize,
        rank: usize,
        joined: Joined,
    ) -> Option<BTreeMap<usize, Joined>> {
        let mut gatherings = self.lock();
        // Of a lease that was given up nobody waits any more.
        gatherings.retain(|_, gang| gang.joined.values().any(|rank| !rank.answer.is_closed()));
        let gathering = gatherings.entry(lease_epoch).or_insert_with(|| Gathering {
            world_size,
            joined: BTreeMap::new(),
        });
        gathering.joined.insert(rank, joined);
        if gathering.joined.len() < gathering.world_size {
            return None;
        }
        gatherings
            .remove(&lease_epoch)
            .map(|gathering| gathering.joined)
    }

    fn joined(&self, lease_epoch: LeaseEpoch) -> usize {
        let gatherings = self.lock();
        let gathering = gatherings.get(&lease_epoch);
        gathering.map_or(0, |gathering| gathering.joined.len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseEpoch, Gathering>> {
        // Nothing between lock and unlock leaves the map half changed.
        self.gatherings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Waits until every rank of the gang has joined, then tells this one its ring.
    ///
    /// # Errors
    /// [`Error::Stale`]; [`Error::Ring`] where not all ranks came in time; [`Error::Closing`].
    pub async fn join_ring(
        &self,
        claim: Claim,
        address: String,
        last_applied_step: Option<u64>,
    ) -> Result<v1::RingPlan, Error> {
        let stale = || Error::Stale {
            key: claim.key.clone(),
        };
        let world_size = {
            let core = self.inner.core()?;
            let lease = core.machine.check(&claim).map_err(|_| stale())?;
            lease.ranks.len()
        };
        let (answer, mut plan) = oneshot::channel();
        let joined = Joined {
            address,
            last_applied_step,
            answer,
        };
        let ring = &self.inner.ring;
        if let Some(gang) = ring.join(claim.lease_epoch, world_size, claim.rank, joined) {
            let ring_epoch = self.inner.core()?.machine.next_epoch();
            tell(gang, ring_epoch);
        }
        tokio::select! {
            biased;
            plan = &mut plan => plan.map_err(|_| stale()),
            () = self.inner.shutdown.cancelled() => Err(Error::Closing),
            () = tokio::time::sleep(ring.wait) => Err(Error::Ring {
                joined: ring.joined(claim.lease_epoch),
                key: claim.key.clone(),
                world_size,
                seconds: ring.wait.as_secs(),
            }),
        }
    }
}

/// Tells every rank of a complete gang its ring. One that went away is missed by its peers.
fn tell(gang: BTreeMap<usize, Joined>, ring_epoch: LeaseEpoch) {
    let peers: Vec<String> = gang.values().map(|joined| joined.address.clone()).collect();
    let last_applied_step = gang
        .values()
        .filter_map(|joined| joined.last_applied_step)
        .max();
    let secret = token::random().0;
    for (rank, joined) in gang {
        let plan = v1::RingPlan {
            ring_epoch: Some(ring_epoch.into()),
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            world_size: u32::try_from(peers.len()).unwrap_or(u32::MAX),
            peers: peers.clone(),
            secret: secret.to_vec(),
            last_applied_step,
        };
        let _ = joined.answer.send(plan);
    }
}

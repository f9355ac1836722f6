//! The rendezvous of gangs: every rank waits until all have joined, then receives its ring plan.

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

/// Incomplete gangs.
pub(crate) struct Rendezvous {
    wait: Duration,
    gatherings: Mutex<HashMap<LeaseEpoch, Gathering>>,
}

/// An incomplete gang. The lease epoch identifies it.
struct Gathering {
    world_size: usize,
    joined: BTreeMap<usize, Joined>,
}

/// A rank that has joined and waits.
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

    /// Adds a rank, replacing an earlier request of it. Returns the gang if it is complete.
    fn join(
        &self,
        lease_epoch: LeaseEpoch,
        world_size: usize,
        rank: usize,
        joined: Joined,
    ) -> Option<BTreeMap<usize, Joined>> {
        let mut gatherings = self.lock();
        // Gangs whose ranks have all stopped waiting are dropped.
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
        // Each operation leaves the map consistent, even if it panics.
        self.gatherings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Waits until every rank of the gang has joined. Returns the ring plan of this rank.
    ///
    /// # Errors
    /// [`Error::Stale`]; [`Error::Ring`]: not all ranks joined in time; [`Error::Closing`].
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
            send_plans(gang, ring_epoch);
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

/// Sends every rank of a complete gang its plan. The peers detect a rank that no longer waits.
fn send_plans(gang: BTreeMap<usize, Joined>, ring_epoch: LeaseEpoch) {
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

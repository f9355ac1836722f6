//! Conversions between messages and the types of the task machine.

use capstan_proto::v1;

use crate::machine::{Claim, Grant, Key, State};

pub(crate) fn lease_message(grant: &Grant, token: Vec<u8>) -> v1::LeaseRef {
    v1::LeaseRef {
        run: grant.key.run.to_string(),
        stage: grant.key.stage.to_string(),
        shard: grant.key.shard.to_string(),
        attempt: grant.attempt.to_string(),
        lease_epoch: Some(grant.lease_epoch.into()),
        rank: u32::try_from(grant.rank).unwrap_or(u32::MAX),
        token,
    }
}

/// The claim of a worker; `None` if the message names no lease or no epoch.
pub(crate) fn claim(worker: &str, lease: Option<v1::LeaseRef>) -> Option<Claim> {
    let lease = lease?;
    let epoch = lease.lease_epoch?;
    Some(Claim {
        key: Key {
            run: lease.run.into(),
            stage: lease.stage.into(),
            shard: lease.shard.into(),
        },
        lease_epoch: epoch.into(),
        rank: lease.rank as usize,
        worker: worker.into(),
    })
}

pub(crate) fn task_state(state: &State) -> v1::TaskState {
    match state {
        State::Blocked { .. } => v1::TaskState::Blocked,
        State::Ready => v1::TaskState::Ready,
        State::Leased(_) => v1::TaskState::Leased,
        State::Committed => v1::TaskState::Committed,
        State::Quarantined => v1::TaskState::Quarantined,
        State::Cancelled => v1::TaskState::Cancelled,
    }
}

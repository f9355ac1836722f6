//! Between messages and the types of `plan`.

use capstan_plan::FailureKind;
use capstan_plan::id::LeaseEpoch;
use capstan_plan::task::Role;
use capstan_proto::v1;

use crate::machine::{Claim, Grant, Key, State};

pub(crate) fn epoch_message(epoch: LeaseEpoch) -> v1::LeaseEpoch {
    v1::LeaseEpoch {
        generation: epoch.generation,
        counter: epoch.counter,
    }
}

pub(crate) fn lease_message(grant: &Grant) -> v1::LeaseRef {
    v1::LeaseRef {
        run: grant.key.run.to_string(),
        stage: grant.key.stage.to_string(),
        shard: grant.key.shard.to_string(),
        attempt: grant.attempt.to_string(),
        lease_epoch: Some(epoch_message(grant.lease_epoch)),
        rank: u32::try_from(grant.rank).unwrap_or(u32::MAX),
    }
}

/// What a worker claims to hold; `None` where the message names no lease or no epoch.
pub(crate) fn claim(worker: &str, lease: Option<v1::LeaseRef>) -> Option<Claim> {
    let lease = lease?;
    let epoch = lease.lease_epoch?;
    Some(Claim {
        key: Key {
            run: lease.run.into(),
            stage: lease.stage.into(),
            shard: lease.shard.into(),
        },
        lease_epoch: LeaseEpoch {
            generation: epoch.generation,
            counter: epoch.counter,
        },
        rank: lease.rank as usize,
        worker: worker.into(),
    })
}

pub(crate) fn role(role: i32) -> Option<Role> {
    match v1::Role::try_from(role).ok()? {
        v1::Role::Unspecified => None,
        v1::Role::Crawl => Some(Role::Crawl),
        v1::Role::Curate => Some(Role::Curate),
        v1::Role::Caption => Some(Role::Caption),
        v1::Role::Filter => Some(Role::Filter),
        v1::Role::Evaluate => Some(Role::Evaluate),
        v1::Role::Train => Some(Role::Train),
    }
}

pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Crawl => "crawl",
        Role::Curate => "curate",
        Role::Caption => "caption",
        Role::Filter => "filter",
        Role::Evaluate => "evaluate",
        Role::Train => "train",
    }
}

pub(crate) fn role_named(name: &str) -> Option<Role> {
    use Role::{Caption, Crawl, Curate, Evaluate, Filter, Train};
    let roles = [Crawl, Curate, Caption, Filter, Evaluate, Train];
    roles.into_iter().find(|role| role_name(*role) == name)
}

/// A kind that is not told is taken for one that a retry may mend.
pub(crate) fn failure_kind(kind: i32) -> FailureKind {
    match v1::FailureKind::try_from(kind) {
        Ok(v1::FailureKind::BadInput) => FailureKind::BadInput,
        Ok(v1::FailureKind::PoisonShard) => FailureKind::PoisonShard,
        Ok(v1::FailureKind::WorkerFault) => FailureKind::WorkerFault,
        Ok(v1::FailureKind::Fatal) => FailureKind::Fatal,
        Ok(v1::FailureKind::Transient | v1::FailureKind::Unspecified) | Err(_) => {
            FailureKind::Transient
        }
    }
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

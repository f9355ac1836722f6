//! Effects of a task's change on the view of its stage, on watchers and on the driver.

use capstan_proto::v1;

use super::core::Note;
use crate::convert::task_state;
use crate::machine::{Change, Machine, State, What};
use crate::view::{RunView, StageView};

/// The note for the driver of the run. Commits are noted with their records elsewhere.
pub(super) fn note(change: &Change) -> Option<Note> {
    let (stage, shard) = (change.key.stage.clone(), change.key.shard.clone());
    match (&change.task.state, &change.what) {
        (State::Quarantined, _) => Some(Note::GivenUp { stage, shard }),
        (_, What::Retried) => Some(Note::Retried { stage, shard }),
        _ => None,
    }
}

/// Applies a change of a task to the view of its run. Returns whether the view must be written.
pub(super) fn show(run: &mut RunView, change: &Change) -> bool {
    let shard = &change.key.shard;
    let leased = match &change.what {
        What::Began(_) => 1,
        // The attempt never started.
        What::TakenBack(_) => -1,
        What::Added | What::RankFinished(_) => return false,
        What::Moved(_) | What::Retried => 0,
    };
    run.leased = run.leased.saturating_add_signed(leased);
    let Some(stage) = run.stage_mut(&change.key.stage) else {
        return false;
    };
    match &change.task.state {
        State::Leased(_) => {
            stage.leased.insert(shard.clone());
        }
        _ => {
            stage.leased.remove(shard);
            stage.progress.remove(shard);
        }
    }
    if change.task.state == State::Committed {
        stage.committed += 1;
    }
    true
}

/// Fills in the shards of a run that were given up.
pub(super) fn show_given_up(machine: &Machine, view: &mut RunView) {
    for stage in &mut view.stages {
        let given_up = machine.given_up(&view.run, &stage.stage);
        let given_up = given_up.map(|(shard, given_up)| (shard.clone(), given_up.reason.clone()));
        stage.quarantined = given_up.collect();
    }
}

pub(super) fn end_stage(stage: &mut StageView, now_unix_ms: i64) {
    let state = match stage.state {
        v1::StageState::Done | v1::StageState::Failed | v1::StageState::Cancelled => return,
        _ if stage.quarantined.is_empty() => v1::StageState::Cancelled,
        _ => v1::StageState::Failed,
    };
    stage.state = state;
    stage.leased.clear();
    stage.progress.clear();
    if stage.started_unix_ms != 0 {
        stage.ended_unix_ms = now_unix_ms;
    }
}

pub(super) fn task_changed(change: &Change) -> v1::TaskChanged {
    let worker = change.task.holder().or(change.task.last_worker.as_ref());
    v1::TaskChanged {
        stage: change.key.stage.to_string(),
        shard: change.key.shard.to_string(),
        state: task_state(&change.task.state) as i32,
        attempts: change.task.attempts,
        worker: worker.map(ToString::to_string).unwrap_or_default(),
        message: change.message.clone(),
        adopted: false,
    }
}

//! The state behind one lock: the task machine, runs as people see them, workers that wait.
//!
//! What the machine notes is first shown in the views, then written, then told to watchers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_proto::v1;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use crate::convert::task_state;
use crate::machine::{Change, Machine, Offer, State};
use crate::view::{Progress, RunView, StageView};

/// Events of a run that a watcher may lag behind before it gets a snapshot instead.
const EVENTS: usize = 1_024;

/// Ended runs that stay in memory; all of them are in the database.
const ENDED_RUNS: usize = 64;

/// Characters of a reason that are kept.
const REASON: usize = 2_000;

pub(crate) struct Core {
    pub(crate) machine: Machine,
    pub(crate) runs: BTreeMap<RunId, Active>,
    /// Workers that wait, the oldest first.
    pub(crate) waiting: Vec<Waiting>,
    /// Changes that are not written yet.
    pub(super) pending: Vec<Change>,
    /// Runs whose view is not written yet.
    pub(super) dirty: BTreeSet<RunId>,
    /// Events that are not sent yet.
    events: Vec<v1::Event>,
}

/// A run in memory.
pub(crate) struct Active {
    pub(crate) view: RunView,
    pub(crate) events: broadcast::Sender<v1::Event>,
    /// Told when a task of it ends.
    pub(crate) wake: Arc<Notify>,
    /// Cancelled when it ends.
    pub(crate) stop: CancellationToken,
}

/// A worker that waits for work.
pub(crate) struct Waiting {
    pub(crate) offer: Offer,
    pub(crate) answer: oneshot::Sender<Vec<v1::Assignment>>,
}

impl Active {
    pub(crate) fn new(view: RunView) -> Self {
        Self {
            view,
            events: broadcast::channel(EVENTS).0,
            wake: Arc::new(Notify::new()),
            stop: CancellationToken::new(),
        }
    }
}

impl Core {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            runs: BTreeMap::new(),
            waiting: Vec::new(),
            pending: Vec::new(),
            dirty: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    /// Shows in the views what the machine has noted.
    pub(crate) fn absorb(&mut self, now_unix_ms: i64) {
        for change in self.machine.take_changes() {
            let key = &change.key;
            if let Some(active) = self.runs.get_mut(&key.run) {
                show(&mut active.view, &change);
                self.dirty.insert(key.run.clone());
                if change.task.state.is_final() {
                    active.wake.notify_one();
                }
            }
            let what = v1::event::What::TaskChanged(task_changed(&change));
            self.tell(&change.key.run, what, now_unix_ms);
            self.pending.push(change);
        }
    }

    /// Notes an event; it is sent once everything is written.
    pub(crate) fn tell(&mut self, run: &RunId, what: v1::event::What, at_unix_ms: i64) {
        self.events.push(v1::Event {
            run: run.to_string(),
            at_unix_ms,
            what: Some(what),
        });
    }

    /// Sends what was noted. Nobody may be watching.
    pub(crate) fn send_events(&mut self) {
        for event in self.events.drain(..) {
            if let Some(active) = self.runs.get(&RunId(event.run.clone())) {
                let _ = active.events.send(event);
            }
        }
    }

    /// A stage of a run, to be changed and written.
    pub(crate) fn stage_mut(&mut self, run: &RunId, stage: &StageName) -> Option<&mut StageView> {
        self.dirty.insert(run.clone());
        self.runs.get_mut(run)?.view.stage_mut(stage)
    }

    /// Shows how far a lease is.
    pub(crate) fn progress(
        &mut self,
        (run, stage, shard): (&RunId, &StageName, &ShardId),
        progress: Progress,
        now_unix_ms: i64,
    ) {
        let message = progress.to_message(stage, shard);
        let active = self.runs.get_mut(run);
        let Some(view) = active.and_then(|active| active.view.stage_mut(stage)) else {
            return;
        };
        view.progress.insert(shard.clone(), progress);
        self.tell(run, v1::event::What::TaskProgress(message), now_unix_ms);
    }

    /// Ends a run: its tasks that are not final are cancelled, watchers are told. A run that has
    /// ended before stays as it is.
    pub(crate) fn end_run(
        &mut self,
        run: &RunId,
        state: v1::RunState,
        reason: &str,
        now_unix_ms: i64,
    ) {
        let is_running = |active: &Active| active.view.state == v1::RunState::Running;
        if !self.runs.get(run).is_some_and(is_running) {
            return;
        }
        self.machine.cancel(run);
        self.absorb(now_unix_ms);
        self.machine.forget(run);
        let Some(active) = self.runs.get_mut(run) else {
            return;
        };
        active.stop.cancel();
        let view = &mut active.view;
        view.state = state;
        view.reason = reason.chars().take(REASON).collect();
        view.ended_unix_ms = now_unix_ms;
        for stage in &mut view.stages {
            end_stage(stage, now_unix_ms);
        }
        let ended = v1::RunEnded {
            state: state as i32,
            reason: view.reason.clone(),
            leased: view.leased,
        };
        self.dirty.insert(run.clone());
        self.tell(run, v1::event::What::RunEnded(ended), now_unix_ms);
    }

    /// Runs that go on.
    pub(crate) fn running(&self) -> Vec<RunId> {
        let runs = self.runs.iter();
        let running = runs.filter(|(_, active)| active.view.state == v1::RunState::Running);
        running.map(|(run, _)| run.clone()).collect()
    }

    /// Everything is in the database: ended runs need not all stay in memory.
    pub(crate) fn written(&mut self) {
        self.pending.clear();
        self.dirty.clear();
        let mut ended: Vec<(i64, RunId)> = self
            .runs
            .iter()
            .filter(|(_, active)| active.view.state != v1::RunState::Running)
            .map(|(run, active)| (active.view.ended_unix_ms, run.clone()))
            .collect();
        ended.sort();
        let surplus = ended.len().saturating_sub(ENDED_RUNS);
        for (_, run) in ended.into_iter().take(surplus) {
            self.runs.remove(&run);
        }
    }
}

/// Shows a change of a task in its stage.
fn show(run: &mut RunView, change: &Change) {
    let shard = &change.key.shard;
    let Some(stage) = run.stage_mut(&change.key.stage) else {
        return;
    };
    let was_leased = stage.leased.remove(shard);
    let mut leased = 0i64;
    match &change.task.state {
        State::Leased(_) => {
            stage.leased.insert(shard.clone());
            leased = i64::from(!was_leased);
        }
        // Only a lease that was never handed over goes back to where it was.
        State::Ready => leased = -i64::from(was_leased),
        State::Committed => stage.committed += 1,
        State::Quarantined => {
            stage
                .quarantined
                .insert(shard.clone(), change.message.clone());
        }
        State::Blocked { .. } | State::Cancelled => {}
    }
    if !stage.leased.contains(shard) {
        stage.progress.remove(shard);
    }
    run.leased = run.leased.saturating_add_signed(leased);
}

fn end_stage(stage: &mut StageView, now_unix_ms: i64) {
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

fn task_changed(change: &Change) -> v1::TaskChanged {
    let worker = change.task.holder().or(change.task.last_worker.clone());
    v1::TaskChanged {
        stage: change.key.stage.to_string(),
        shard: change.key.shard.to_string(),
        state: task_state(&change.task.state) as i32,
        attempts: change.task.attempts,
        worker: worker.map(|worker| worker.0).unwrap_or_default(),
        message: change.message.clone(),
        adopted: false,
    }
}

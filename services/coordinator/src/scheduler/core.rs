//! The state behind the lock: the task machine, the views of runs, waiting workers, and changes that
//! are not durable yet.
//!
//! A change of the machine is applied to the views first, then written, then sent to watchers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use capstan_plan::commit::Commit;
use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_proto::v1;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use super::sessions::{Session, Sessions};
use super::show::{end_stage, note, show, show_given_up, task_changed};
use super::texts::TaskTexts;
use crate::error::Error;
use crate::machine::{Key, Machine, Now, Offer};
use crate::state::{NewTask, Op, ViewChange};
use crate::view::{RunView, StageView, UnitProgress};

/// Events of a run that a watcher may lag behind before it gets a snapshot instead.
const EVENTS: usize = 1_024;

/// Ended runs that stay in memory. The database has all of them.
const ENDED_RUNS: usize = 64;

/// Maximum length of a reason, in characters.
const REASON: usize = 2_000;

pub(crate) struct Core {
    pub(crate) machine: Machine,
    pub(crate) runs: BTreeMap<RunId, Active>,
    /// Workers that wait for tasks, the oldest request first.
    pub(crate) waiting: Vec<Waiting>,
    /// The JSON of open tasks.
    pub(super) texts: TaskTexts,
    /// The session that each worker name is bound to.
    pub(crate) sessions: Sessions,
    /// Whether tasks are leased and requests answered.
    pub(crate) gate: Gate,
    /// The error that makes the coordinator shut down.
    pub(crate) broken: Option<Error>,
    /// The error of the last write. `None` once the database can be written again.
    pub(crate) halted: Option<Arc<crate::state::Error>>,
    /// Changes that are not written yet.
    batch: Batch,
    /// Whether a batch is being written.
    is_writing: bool,
    /// The time of the last call of [`Core::check_for_pause`].
    checked_at: Now,
    /// Number of events so far.
    pub(super) event_count: u64,
}

/// Whether tasks are leased and requests answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Tasks are leased.
    Open,
    /// The store has not confirmed for a lease period that this coordinator is the newest: no task
    /// is leased. Existing leases are renewed.
    Shut,
    /// The coordinator is shutting down: every request fails.
    Closing,
    /// A newer coordinator has started: every request fails.
    Superseded {
        /// The generation of this coordinator.
        ours: u64,
        /// The generation of the newer one.
        newer: u64,
    },
    /// A part of the coordinator failed, so the process ends: every request fails.
    Broken,
}

/// Changes of one transaction, and the events that are sent after it.
#[derive(Default)]
pub(crate) struct Batch {
    pub(super) ops: Vec<Op>,
    /// Runs whose view must be written, and the changed stages of each.
    dirty: BTreeMap<RunId, BTreeSet<StageName>>,
    pub(super) views: Vec<ViewChange>,
    /// Events that are not sent yet.
    pub(super) events: Vec<NumberedEvent>,
    /// Requests that wait for the transaction.
    pub(super) waiters: Vec<oneshot::Sender<Result<(), Arc<crate::state::Error>>>>,
}

/// An event with its number. A view includes events that are not yet durable. `number` lets a watcher
/// that read the view skip events it has already seen.
#[derive(Debug, Clone)]
pub(crate) struct NumberedEvent {
    pub(super) number: u64,
    pub(super) event: v1::Event,
}

/// A run in memory.
pub(crate) struct Active {
    pub(crate) view: RunView,
    pub(crate) events: broadcast::Sender<NumberedEvent>,
    /// Notified when the inbox has a note.
    pub(crate) wake: Arc<Notify>,
    /// Cancelled when the run ends.
    pub(crate) stop: CancellationToken,
    /// Changes of its tasks that the driver has not processed.
    pub(super) inbox: Vec<Note>,
}

/// A change of a task that the driver of its run must process.
#[derive(Debug)]
pub(super) enum Note {
    /// The commit record is valid.
    Committed {
        stage: StageName,
        shard: ShardId,
        /// The commit, if its recipe does not point at it yet.
        unpublished: Option<Box<Commit>>,
    },
    /// It was given up. The machine has the reason.
    GivenUp { stage: StageName, shard: ShardId },
    /// It was given up and is retried.
    Retried { stage: StageName, shard: ShardId },
}

/// A worker that waits for tasks.
pub(crate) struct Waiting {
    pub(crate) offer: Offer,
    /// The process that sent the request.
    pub(crate) session: Session,
    pub(crate) answer: oneshot::Sender<Vec<v1::Assignment>>,
}

impl std::borrow::Borrow<Offer> for Waiting {
    fn borrow(&self) -> &Offer {
        &self.offer
    }
}

impl Active {
    pub(crate) fn new(view: RunView) -> Self {
        Self {
            view,
            events: broadcast::channel(EVENTS).0,
            wake: Arc::new(Notify::new()),
            stop: CancellationToken::new(),
            inbox: Vec::new(),
        }
    }

    fn note(&mut self, note: Note) {
        self.inbox.push(note);
        self.wake.notify_one();
    }
}

impl Gate {
    /// Whether requests are answered.
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::Open | Self::Shut => Ok(()),
            Self::Closing | Self::Broken => Err(Error::Closing),
            Self::Superseded { ours, newer } => Err(Error::Superseded { ours, newer }),
        }
    }
}

impl Core {
    pub(crate) fn new(machine: Machine, now: Now) -> Self {
        Self {
            machine,
            runs: BTreeMap::new(),
            waiting: Vec::new(),
            texts: TaskTexts::default(),
            sessions: Sessions::default(),
            gate: Gate::Open,
            broken: None,
            halted: None,
            batch: Batch::default(),
            is_writing: false,
            checked_at: now,
            event_count: 0,
        }
    }

    /// Called by each beat. If the last call was longer ago than a third of `lease`, this process
    /// was suspended, its machine was paused, or it could not write. It received no heartbeats in
    /// that time, so every deadline is extended by it.
    pub(crate) fn check_for_pause(&mut self, now: Now, lease: Now) {
        let gap = now.saturating_sub(self.checked_at);
        self.checked_at = now;
        if gap > lease / 3 {
            tracing::warn!(
                seconds = gap.as_secs_f64(),
                "the coordinator was suspended: every lease is extended by that time"
            );
            self.machine.postpone(gap);
            self.sessions.postpone(gap);
        }
    }

    /// The time of the last call of [`Core::check_for_pause`].
    #[cfg(test)]
    pub(crate) fn checked_at(&self) -> Now {
        self.checked_at
    }

    /// Applies the changes of the machine to the views, the inboxes and the batch.
    pub(crate) fn apply_changes(&mut self, now_unix_ms: i64) {
        for change in self.machine.take_changes() {
            crate::metrics::count(&change);
            let key = &change.key;
            if change.task.state.is_final() {
                self.texts.remove(key);
            }
            if let Some(active) = self.runs.get_mut(&key.run) {
                let is_shown = show(&mut active.view, &change);
                if is_shown {
                    let stages = self.batch.dirty.entry(key.run.clone()).or_default();
                    if !stages.contains(&key.stage) {
                        stages.insert(key.stage.clone());
                    }
                }
                if let Some(note) = note(&change) {
                    active.note(note);
                }
            }
            if self.is_watched(&change.key.run) {
                let what = v1::event::What::TaskChanged(task_changed(&change));
                self.queue_event(&change.key.run, what, now_unix_ms);
            }
            self.batch.ops.push(Op::Change(change));
        }
    }

    /// Records a commit record that was read from the store. It decides the state of the task.
    /// Returns whether the task is committed now.
    ///
    /// - `recipe_published`: whether its recipe points at it.
    pub(crate) fn committed(
        &mut self,
        key: &Key,
        commit: Commit,
        recipe_published: bool,
        now: Now,
    ) -> bool {
        let was = self.machine.task(key).map(|task| task.state.is_final());
        let is_committed = self.machine.committed(key, commit.lease_epoch, now);
        if is_committed && was == Some(false) {
            let unpublished = (!recipe_published).then(|| Box::new(commit.clone()));
            self.add_commits(&key.run, &key.stage, vec![commit]);
            if let Some(active) = self.runs.get_mut(&key.run) {
                active.note(Note::Committed {
                    stage: key.stage.clone(),
                    shard: key.shard.clone(),
                    unpublished,
                });
            }
        }
        is_committed
    }

    /// Records the commit of a task that was given up. Returns whether it is committed now.
    pub(crate) fn commit_given_up(
        &mut self,
        key: &Key,
        commit: Commit,
        now: Now,
        now_unix_ms: i64,
    ) -> bool {
        if !self.machine.retry(key) {
            return false;
        }
        // The driver must process the retry before the commit.
        self.apply_changes(now_unix_ms);
        self.committed(key, commit, false, now)
    }

    /// Adds commits to the batch.
    pub(crate) fn add_commits(&mut self, run: &RunId, stage: &StageName, commits: Vec<Commit>) {
        let commits = commits.into_iter();
        let commits = commits.map(|commit| (commit.shard.clone(), commit.into()));
        self.batch.ops.push(Op::Commits {
            run: run.clone(),
            stage: stage.clone(),
            commits: commits.collect(),
        });
    }

    /// Removes commits that the store no longer has.
    pub(crate) fn remove_commits(&mut self, run: &RunId, stage: &StageName, shards: Vec<ShardId>) {
        if !shards.is_empty() {
            let (run, stage) = (run.clone(), stage.clone());
            self.batch.ops.push(Op::Lost { run, stage, shards });
        }
    }

    /// Marks a stage as listed: the database has every commit of it that the store had.
    pub(crate) fn listed(&mut self, run: &RunId, stage: &StageName) {
        let (run, stage) = (run.clone(), stage.clone());
        self.batch.ops.push(Op::Listed { run, stage });
    }

    /// Deletes a run that has ended. Returns false if it is running.
    pub(crate) fn prune(&mut self, run: &RunId) -> bool {
        let is_running = |active: &Active| active.view.state == v1::RunState::Running;
        if self.runs.get(run).is_some_and(is_running) {
            return false;
        }
        self.runs.remove(run);
        self.batch.dirty.remove(run);
        self.batch.ops.push(Op::Prune(run.clone()));
        true
    }

    /// Queues a `StagePlanned` event with the current counts of a stage.
    ///
    /// - `step_tasks`: tasks of the step that begins; 0 if the step had begun before.
    pub(super) fn queue_planned_event(
        &mut self,
        run: &RunId,
        stage: &StageName,
        step_tasks: u64,
        at_unix_ms: i64,
    ) {
        let active = self.runs.get_mut(run);
        let Some(view) = active.and_then(|active| active.view.stage_mut(stage)) else {
            return;
        };
        let planned = v1::StagePlanned {
            stage: stage.to_string(),
            tasks: view.tasks,
            step_tasks,
            committed: view.committed,
            adopted: view.adopted,
        };
        self.queue_event(run, v1::event::What::StagePlanned(planned), at_unix_ms);
    }

    /// Starts a run. Shards that are quarantined in its view stay given up.
    pub(crate) fn begin_run(&mut self, view: RunView) {
        self.batch.ops.push(Op::Submit(Box::new(view.clone())));
        self.insert_run(view);
    }

    /// Adds a run that the database has.
    pub(crate) fn insert_run(&mut self, mut view: RunView) {
        if view.state == v1::RunState::Running {
            for stage in &mut view.stages {
                let given_up = std::mem::take(&mut stage.quarantined);
                self.machine.add_given_up(&view.run, &stage.stage, given_up);
            }
        }
        self.runs.insert(view.run.clone(), Active::new(view));
    }

    /// The current view of a run, with the shards that were given up.
    pub(crate) fn run_view(&self, run: &RunId) -> Option<RunView> {
        let mut view = self.runs.get(run)?.view.clone();
        if view.state == v1::RunState::Running {
            show_given_up(&self.machine, &mut view);
        }
        Some(view)
    }

    /// Adds shards of a stage that were given up before the run was resumed to those that are known.
    pub(crate) fn add_given_up(
        &mut self,
        run: &RunId,
        stage: &StageName,
        shards: impl IntoIterator<Item = (ShardId, String)>,
    ) {
        let shards = self.machine.add_given_up(run, stage, shards);
        if !shards.is_empty() {
            let (run, stage) = (run.clone(), stage.clone());
            self.batch.ops.push(Op::GivenUp { run, stage, shards });
        }
    }

    /// Adds tasks that are ready for workers. Known tasks are left unchanged.
    pub(crate) fn add(&mut self, tasks: Vec<NewTask>) {
        let is_new = |task: &NewTask| self.machine.task(&task.key).is_none();
        let tasks: Vec<NewTask> = tasks.into_iter().filter(is_new).collect();
        for task in &tasks {
            self.machine.add(task.key.clone(), task.spec.clone());
            self.texts.keep(&task.key, &task.task_json);
        }
        if !tasks.is_empty() {
            self.batch.ops.push(Op::Tasks(tasks));
        }
    }

    /// Whether the inbox has a retry of a shard of this stage.
    pub(super) fn is_retried(&self, run: &RunId, stage: &StageName) -> bool {
        let notes = self.runs.get(run).map(|active| &active.inbox);
        let mut notes = notes.into_iter().flatten();
        notes.any(|note| matches!(note, Note::Retried { stage: of, .. } if of == stage))
    }

    /// The shards of a stage whose commits the driver has not read from its inbox.
    pub(super) fn noted_commits(&self, run: &RunId, stage: &StageName) -> BTreeSet<&ShardId> {
        let notes = self.runs.get(run).map(|active| &active.inbox);
        let notes = notes.into_iter().flatten();
        let committed = notes.filter_map(|note| match note {
            Note::Committed {
                stage: of, shard, ..
            } if of == stage => Some(shard),
            _ => None,
        });
        committed.collect()
    }

    /// Whether a run has watchers. Without watchers, no events are created for it.
    fn is_watched(&self, run: &RunId) -> bool {
        let active = self.runs.get(run);
        active.is_some_and(|active| active.events.receiver_count() > 0)
    }

    /// Queues an event. It is sent after the batch is written.
    pub(crate) fn queue_event(&mut self, run: &RunId, what: v1::event::What, at_unix_ms: i64) {
        self.event_count += 1;
        self.batch.events.push(NumberedEvent {
            number: self.event_count,
            event: v1::Event {
                run: run.to_string(),
                at_unix_ms,
                what: Some(what),
            },
        });
    }

    /// Notifies when all changes so far are written; `None` if there are none.
    pub(crate) fn written(
        &mut self,
    ) -> Option<oneshot::Receiver<Result<(), Arc<crate::state::Error>>>> {
        // Earlier changes may be in the batch that is being written.
        if self.batch.ops.is_empty() && self.batch.dirty.is_empty() && !self.is_writing {
            return None;
        }
        let (waiter, written) = oneshot::channel();
        self.batch.waiters.push(waiter);
        Some(written)
    }

    /// Takes the batch to write it.
    pub(crate) fn take_batch(&mut self) -> Batch {
        let mut batch = std::mem::take(&mut self.batch);
        self.is_writing = !batch.ops.is_empty() || !batch.dirty.is_empty();
        for (run, stages) in std::mem::take(&mut batch.dirty) {
            if let Some(active) = self.runs.get(&run) {
                let view = active.view.clone();
                batch.views.push(ViewChange { view, stages });
            }
        }
        batch
    }

    /// Marks the taken batch as written.
    pub(crate) fn finish_writing(&mut self) {
        self.is_writing = false;
    }

    /// Sends the events of a written batch.
    pub(crate) fn send(&mut self, events: Vec<NumberedEvent>) {
        for event in events {
            if let Some(active) = self.runs.get(&RunId::from(event.event.run.as_str())) {
                let _ = active.events.send(event);
            }
        }
    }

    /// A stage of a run, for a change. The stage is marked as dirty.
    pub(crate) fn stage_mut(&mut self, run: &RunId, stage: &StageName) -> Option<&mut StageView> {
        let stages = self.batch.dirty.entry(run.clone()).or_default();
        stages.insert(stage.clone());
        self.runs.get_mut(run)?.view.stage_mut(stage)
    }

    /// Updates the progress of a lease.
    pub(crate) fn update_progress(
        &mut self,
        (run, stage, shard): (&RunId, &StageName, &ShardId),
        progress: UnitProgress,
        now_unix_ms: i64,
    ) {
        let message = progress.to_message(stage, shard);
        let active = self.runs.get_mut(run);
        let Some(view) = active.and_then(|active| active.view.stage_mut(stage)) else {
            return;
        };
        view.progress.insert(shard.clone(), progress);
        // Queued events wait for the database, so progress is dropped while it cannot be written.
        if self.is_watched(run) && self.halted.is_none() {
            self.queue_event(run, v1::event::What::TaskProgress(message), now_unix_ms);
        }
    }

    /// Ends a run: cancels its unfinished tasks and notifies watchers. Returns false, and changes
    /// nothing, if the run has already ended.
    pub(crate) fn end_run(
        &mut self,
        run: &RunId,
        state: v1::RunState,
        reason: &str,
        now_unix_ms: i64,
    ) -> bool {
        let is_running = |active: &Active| active.view.state == v1::RunState::Running;
        if !self.runs.get(run).is_some_and(is_running) {
            return false;
        }
        self.machine.cancel(run);
        self.apply_changes(now_unix_ms);
        let Some(active) = self.runs.get_mut(run) else {
            return false;
        };
        active.stop.cancel();
        let view = &mut active.view;
        show_given_up(&self.machine, view);
        self.machine.forget(run);
        self.texts.remove_run(run);
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
        let stages = view.stages.iter().map(|stage| stage.stage.clone());
        self.batch.dirty.insert(run.clone(), stages.collect());
        self.queue_event(run, v1::event::What::RunEnded(ended), now_unix_ms);
        true
    }

    /// Runs that have not ended.
    pub(crate) fn running(&self) -> Vec<RunId> {
        let runs = self.runs.iter();
        let running = runs.filter(|(_, active)| active.view.state == v1::RunState::Running);
        running.map(|(run, _)| run.clone()).collect()
    }

    /// Removes the oldest ended runs from memory. Runs with unwritten changes stay.
    pub(crate) fn forget_ended(&mut self) {
        if self.runs.len() <= ENDED_RUNS {
            return;
        }
        let ended = self.runs.iter().filter(|(run, active)| {
            active.view.state != v1::RunState::Running && !self.batch.dirty.contains_key(*run)
        });
        let mut ended: Vec<(i64, RunId)> = ended
            .map(|(run, active)| (active.view.ended_unix_ms, run.clone()))
            .collect();
        ended.sort();
        let surplus = ended.len().saturating_sub(ENDED_RUNS);
        for (_, run) in ended.into_iter().take(surplus) {
            self.runs.remove(&run);
        }
    }
}

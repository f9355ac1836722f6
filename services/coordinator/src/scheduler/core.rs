//! The state behind one lock: the task machine, runs as people see them, workers that wait, and
//! what of all that is not written yet.
//!
//! What the machine notes is first shown in the views, then written, then told to watchers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use capstan_plan::commit::Commit;
use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_proto::v1;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use super::sessions::{Session, Sessions};
use super::show::{end_stage, note, show, show_given_up, task_changed};
use crate::error::Error;
use crate::machine::{Key, Machine, Now, Offer};
use crate::state::{NewTask, Op, ViewChange};
use crate::view::{RunView, StageView, UnitProgress};

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
    /// Which process has which worker's name.
    pub(crate) sessions: Sessions,
    /// Whether work is handed out.
    pub(crate) gate: Gate,
    /// Why the coordinator goes down by itself.
    pub(crate) broken: Option<Error>,
    /// Why the database does not take the last batch. Work begins again once it does.
    pub(crate) halted: Option<Arc<crate::state::Error>>,
    /// What is not written yet.
    batch: Batch,
    /// Whether a batch is being written.
    is_writing: bool,
    /// When the beat looked at the clock last.
    looked_at: Now,
    /// Events told so far.
    pub(super) told: u64,
}

/// Whether work is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It is.
    Open,
    /// The store has not said for long whether this coordinator is still the newest one: no
    /// lease begins, those that are held go on.
    Shut,
    /// The coordinator goes down: nothing is answered.
    Closing,
    /// A newer coordinator is there: nothing is answered.
    Superseded {
        /// This one's generation.
        ours: u64,
        /// The newer one's.
        newer: u64,
    },
    /// A part of the coordinator cannot go on, so the process ends: nothing is answered.
    Broken,
}

/// What is written together and then told.
#[derive(Default)]
pub(crate) struct Batch {
    pub(super) ops: Vec<Op>,
    /// Runs whose view is not written yet, and which stages of it.
    dirty: BTreeMap<RunId, BTreeSet<StageName>>,
    pub(super) views: Vec<ViewChange>,
    /// Events that are not sent yet.
    pub(super) events: Vec<Told>,
    /// Who waits for it to be written.
    pub(super) waiters: Vec<oneshot::Sender<Result<(), Arc<crate::state::Error>>>>,
}

/// An event and its place among all: a view shows at once what is told only when it is written, so
/// that whoever looks in between must not be told again.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(super) number: u64,
    pub(super) event: v1::Event,
}

/// A run in memory.
pub(crate) struct Active {
    pub(crate) view: RunView,
    pub(crate) events: broadcast::Sender<Told>,
    /// Told when something is in the inbox.
    pub(crate) wake: Arc<Notify>,
    /// Cancelled when it ends.
    pub(crate) stop: CancellationToken,
    /// What became of its tasks, for its driver.
    pub(super) inbox: Vec<Note>,
}

/// What became of a task, for the driver of its run.
#[derive(Debug)]
pub(super) enum Note {
    /// Its commit stands.
    Committed(Box<Commit>),
    /// It was given up, as the machine says.
    GivenUp { stage: StageName, shard: ShardId },
    /// It is tried again, although it was given up.
    Retried { stage: StageName, shard: ShardId },
}

/// A worker that waits for work.
pub(crate) struct Waiting {
    pub(crate) offer: Offer,
    /// The process that asks.
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
    /// Whether anything is answered.
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
            sessions: Sessions::default(),
            gate: Gate::Open,
            broken: None,
            halted: None,
            batch: Batch::default(),
            is_writing: false,
            looked_at: now,
            told: 0,
        }
    }

    /// Called by each beat. If the last call was longer ago than a third of `lease`, this process
    /// was suspended, its machine was paused, or it could not write. It received no heartbeats in
    /// that time, so every deadline is extended by it.
    pub(crate) fn look(&mut self, now: Now, lease: Now) {
        let gap = now.saturating_sub(self.looked_at);
        self.looked_at = now;
        if gap > lease / 3 {
            tracing::warn!(
                seconds = gap.as_secs_f64(),
                "the coordinator was suspended: every lease is extended by that time"
            );
            self.machine.postpone(gap);
            self.sessions.postpone(gap);
        }
    }

    /// The clock at the last look.
    #[cfg(test)]
    pub(crate) fn looked_at(&self) -> Now {
        self.looked_at
    }

    /// Shows in the views what the machine has noted.
    pub(crate) fn absorb(&mut self, now_unix_ms: i64) {
        for change in self.machine.take_changes() {
            crate::metrics::count(&change);
            let key = &change.key;
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
                self.tell(&change.key.run, what, now_unix_ms);
            }
            self.batch.ops.push(Op::Change(change));
        }
    }

    /// A commit record of a task was read from the store: it decides. True where the task is
    /// committed now.
    pub(crate) fn committed(&mut self, key: &Key, commit: Commit, now: Now) -> bool {
        let was = self.machine.task(key).map(|task| task.state.is_final());
        let is_committed = self.machine.committed(key, commit.lease_epoch, now);
        if is_committed && was == Some(false) {
            self.add_commits(&key.run, &key.stage, vec![commit.clone()]);
            if let Some(active) = self.runs.get_mut(&key.run) {
                active.note(Note::Committed(Box::new(commit)));
            }
        }
        is_committed
    }

    /// A task was given up, and its commit stands all the same. True where it is committed now.
    pub(crate) fn committed_after_all(
        &mut self,
        key: &Key,
        commit: Commit,
        now: Now,
        now_unix_ms: i64,
    ) -> bool {
        if !self.machine.retry(key) {
            return false;
        }
        // The driver is to learn of the one after the other.
        self.absorb(now_unix_ms);
        self.committed(key, commit, now)
    }

    /// Notes commits, to be written with the next batch.
    pub(crate) fn add_commits(&mut self, run: &RunId, stage: &StageName, commits: Vec<Commit>) {
        let commits = commits.into_iter();
        let commits = commits.map(|commit| (commit.shard.clone(), commit.into()));
        self.batch.ops.push(Op::Commits {
            run: run.clone(),
            stage: stage.clone(),
            commits: commits.collect(),
        });
    }

    /// Notes that the store has these commits no more.
    pub(crate) fn lost(&mut self, run: &RunId, stage: &StageName, shards: Vec<ShardId>) {
        if !shards.is_empty() {
            let (run, stage) = (run.clone(), stage.clone());
            self.batch.ops.push(Op::Lost { run, stage, shards });
        }
    }

    /// Notes that every commit of a stage that was in the store is known.
    pub(crate) fn listed(&mut self, run: &RunId, stage: &StageName) {
        let (run, stage) = (run.clone(), stage.clone());
        self.batch.ops.push(Op::Listed { run, stage });
    }

    /// Deletes a run that has ended. False where it goes on.
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

    /// Notes an event of how many tasks of a stage there are, and how many of them are committed and
    /// adopted.
    ///
    /// - `step_tasks`: tasks of the step that begins; 0 for one that had begun.
    pub(super) fn tell_planned(
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
        self.tell(run, v1::event::What::StagePlanned(planned), at_unix_ms);
    }

    /// Puts a run at its beginning. Shards that its view says were given up stay so.
    pub(crate) fn begin_run(&mut self, view: RunView) {
        self.batch.ops.push(Op::Submit(Box::new(view.clone())));
        self.insert_run(view);
    }

    /// Adds a run that the database has.
    pub(crate) fn insert_run(&mut self, mut view: RunView) {
        if view.state == v1::RunState::Running {
            for stage in &mut view.stages {
                let given_up = std::mem::take(&mut stage.quarantined);
                self.machine.leave_out(&view.run, &stage.stage, given_up);
            }
        }
        self.runs.insert(view.run.clone(), Active::new(view));
    }

    /// A run as it stands, with the shards that were given up.
    pub(crate) fn shown(&self, run: &RunId) -> Option<RunView> {
        let mut view = self.runs.get(run)?.view.clone();
        if view.state == v1::RunState::Running {
            show_given_up(&self.machine, &mut view);
        }
        Some(view)
    }

    /// Notes shards of a stage that were given up before the run went on, beside those that are known.
    pub(crate) fn leave_out(
        &mut self,
        run: &RunId,
        stage: &StageName,
        shards: impl IntoIterator<Item = (ShardId, String)>,
    ) {
        let shards = self.machine.leave_out(run, stage, shards);
        if !shards.is_empty() {
            let (run, stage) = (run.clone(), stage.clone());
            self.batch.ops.push(Op::LeftOut { run, stage, shards });
        }
    }

    /// Adds tasks that wait for workers. Those that are known already stay as they are.
    pub(crate) fn add(&mut self, tasks: Vec<NewTask>) {
        let is_new = |task: &NewTask| self.machine.task(&task.key).is_none();
        let tasks: Vec<NewTask> = tasks.into_iter().filter(is_new).collect();
        for task in &tasks {
            self.machine.add(task.key.clone(), task.spec.clone());
        }
        if !tasks.is_empty() {
            self.batch.ops.push(Op::Tasks(tasks));
        }
    }

    /// Whether the driver is still to learn that a shard of this stage is tried again.
    pub(super) fn is_retried(&self, run: &RunId, stage: &StageName) -> bool {
        let notes = self.runs.get(run).map(|active| &active.inbox);
        let mut notes = notes.into_iter().flatten();
        notes.any(|note| matches!(note, Note::Retried { stage: of, .. } if of == stage))
    }

    /// Whether somebody watches a run: events are made for nobody else.
    fn is_watched(&self, run: &RunId) -> bool {
        let active = self.runs.get(run);
        active.is_some_and(|active| active.events.receiver_count() > 0)
    }

    /// Notes an event; it is sent once everything is written.
    pub(crate) fn tell(&mut self, run: &RunId, what: v1::event::What, at_unix_ms: i64) {
        self.told += 1;
        self.batch.events.push(Told {
            number: self.told,
            event: v1::Event {
                run: run.to_string(),
                at_unix_ms,
                what: Some(what),
            },
        });
    }

    /// Waits for what was changed so far to be written; `None` where nothing was.
    pub(crate) fn written(
        &mut self,
    ) -> Option<oneshot::Receiver<Result<(), Arc<crate::state::Error>>>> {
        // What was changed before may be in the batch that is being written.
        if self.batch.ops.is_empty() && self.batch.dirty.is_empty() && !self.is_writing {
            return None;
        }
        let (waiter, written) = oneshot::channel();
        self.batch.waiters.push(waiter);
        Some(written)
    }

    /// Takes what is to be written.
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

    /// Notes that the batch that was taken is written.
    pub(crate) fn finish_writing(&mut self) {
        self.is_writing = false;
    }

    /// Sends events of a batch that is written. Nobody may be watching.
    pub(crate) fn send(&mut self, events: Vec<Told>) {
        for told in events {
            if let Some(active) = self.runs.get(&RunId::from(told.event.run.as_str())) {
                let _ = active.events.send(told);
            }
        }
    }

    /// A stage of a run, to be changed and written.
    pub(crate) fn stage_mut(&mut self, run: &RunId, stage: &StageName) -> Option<&mut StageView> {
        let stages = self.batch.dirty.entry(run.clone()).or_default();
        stages.insert(stage.clone());
        self.runs.get_mut(run)?.view.stage_mut(stage)
    }

    /// Shows how far a lease is.
    pub(crate) fn progress(
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
        // Events wait for the database, so of progress none is kept while it takes nothing.
        if self.is_watched(run) && self.halted.is_none() {
            self.tell(run, v1::event::What::TaskProgress(message), now_unix_ms);
        }
    }

    /// Ends a run: its tasks that are not final are cancelled, watchers are told. A run that has
    /// ended before stays as it is, and gives false.
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
        self.absorb(now_unix_ms);
        let Some(active) = self.runs.get_mut(run) else {
            return false;
        };
        active.stop.cancel();
        let view = &mut active.view;
        show_given_up(&self.machine, view);
        self.machine.forget(run);
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
        self.tell(run, v1::event::What::RunEnded(ended), now_unix_ms);
        true
    }

    /// Runs that go on.
    pub(crate) fn running(&self) -> Vec<RunId> {
        let runs = self.runs.iter();
        let running = runs.filter(|(_, active)| active.view.state == v1::RunState::Running);
        running.map(|(run, _)| run.clone()).collect()
    }

    /// Ended runs need not all stay in memory; those that are not written yet do.
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

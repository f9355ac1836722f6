//! The current step of a stage. Its tasks are created, adopted and added to the machine in chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use capstan_dataset::lists::{self, PAGE};
use capstan_dataset::{settings, versions};
use capstan_plan::commit::{File, Part, Summary};
use capstan_plan::expand::{Items, Tasks};
use capstan_plan::id::{DeviceKind, ShardId};
use capstan_plan::stage::Stage;
use capstan_plan::task::Task;
use capstan_proto::v1;

use super::{Driver, Error, Progress, database_error};
use crate::machine::{Key, Spec};
use crate::scheduler::core::Core;
use crate::state::{NewTask, Shards};

/// Maximum number of open tasks of a step: in the machine and not final.
const OPEN: usize = 8_192;
/// Number of tasks that are looked up and added to the machine at a time.
const CHUNK: u64 = 1_024;
/// Number of chunks of a stage that are processed before other stages of the run advance.
const CHUNKS: usize = 8;
/// Maximum size of a task. A task does not grow with the dataset, so a larger one is a mistake that
/// must not reach a worker.
const TASK_BYTES: usize = 1 << 20;

/// The current step.
pub(super) struct Window {
    pub(super) tasks: Arc<Tasks>,
    /// Tasks in the machine that are not final.
    pub(super) open: BTreeSet<ShardId>,
    /// Ordinal of the first task that was not looked up yet.
    next: u64,
    /// The page of items that contains `next`.
    page: Option<Page>,
    /// The shards of the version that the step reads, if it reads one.
    pages: Option<versions::Pages>,
}

/// A page of a list.
struct Page {
    number: u64,
    items: ItemsOfPage,
}

enum ItemsOfPage {
    Parts(Vec<Part>),
    Files(Vec<File>),
}

impl Progress {
    /// Removes a final task from the window.
    pub(super) fn mark_final(&mut self, shard: &ShardId) {
        if let Some(window) = &mut self.window {
            window.open.remove(shard);
        }
    }

    /// Records a commit.
    pub(super) fn mark_committed(&mut self, shard: &ShardId) {
        let was_open = self.window.as_mut().map(|window| window.open.remove(shard));
        // The task was leased before a restart, and the window has not reached it yet. Its commit
        // may not be in the database yet.
        if was_open != Some(true) {
            self.early.insert(shard.clone());
        }
    }
}

impl Driver {
    /// Starts a step.
    pub(super) async fn begin(&mut self, stage: &Stage, tasks: Tasks) -> Result<(), Error> {
        settings::put(&self.inner.store, &stage.kind).await?;
        let count = tasks.len();
        let known: u64 = self.stages[&stage.name]
            .tasks
            .iter()
            .map(|step| step.len())
            .sum();
        let update = |core: &mut Core| self.show_step(core, stage, known + count, count);
        self.inner.change(update).await?;
        let pages = match &tasks.items {
            Items::Shards(shards, _) => {
                Some(versions::Pages::open(&self.inner.store, &shards.version).await?)
            }
            _ => None,
        };
        let tasks = Arc::new(tasks);
        let is_over = match stage.kind.settings().follower(&tasks.shard(0)) {
            Some(follower) => self.count_between(stage, &follower, &follower).await? > 0,
            None => false,
        };
        let next = if is_over { count } else { 0 };
        if is_over {
            self.give_up_missing(stage, &tasks).await?;
        }
        let progress = self.stages.entry(stage.name.clone()).or_default();
        progress.window = Some(Window {
            tasks,
            open: BTreeSet::new(),
            next,
            page: None,
            pages,
        });
        Ok(())
    }

    /// Adds tasks of the step to the machine while there is room. Returns true if tasks are open
    /// or not looked up yet, false if the step is over.
    pub(super) async fn fill(&mut self, stage: &Stage) -> Result<bool, Error> {
        for _ in 0..CHUNKS {
            let Some(window) = self.window(stage) else {
                return Ok(false);
            };
            let (from, count) = (window.next, window.tasks.len());
            let has_room = window.open.len() + CHUNK as usize <= OPEN;
            if from >= count {
                return Ok(!window.open.is_empty());
            }
            if !has_room {
                return Ok(true);
            }
            let tasks = window.tasks.clone();
            let page_end = ((from / PAGE + 1) * PAGE).min(count);
            // A page whose tasks are all committed is not read.
            let is_committed = from.is_multiple_of(PAGE)
                && self.count(stage, &tasks, from, page_end).await? == page_end - from;
            let to = match is_committed {
                true => page_end,
                false => (from + CHUNK).min(page_end),
            };
            if !is_committed {
                self.fill_chunk(stage, &tasks, from, to).await?;
            }
            if let Some(window) = self.window(stage) {
                window.next = to;
            }
            self.take_inbox()?;
        }
        self.is_filling = true;
        Ok(true)
    }

    /// Adopts or adds to the machine the tasks of a chunk that are not committed.
    async fn fill_chunk(
        &mut self,
        stage: &Stage,
        tasks: &Arc<Tasks>,
        from: u64,
        to: u64,
    ) -> Result<(), Error> {
        let committed = self.committed(stage, tasks, from, to).await?;
        self.load_page(stage, from / PAGE).await?;
        let progress = &self.stages[&stage.name];
        let is_settled = |ordinal: &u64| {
            let shard = tasks.shard(*ordinal);
            committed.contains(&shard) || progress.early.contains(&shard)
        };
        let wanted = (from..to).filter(|ordinal| !is_settled(ordinal));
        let wanted = wanted.filter_map(|ordinal| progress.window.as_ref()?.task(ordinal));
        let wanted: Vec<Task> = wanted.collect();
        let (known, wanted) = self.split_known(stage, wanted)?;
        let rest = self.adopt_all(stage, wanted).await?;
        let device = self.stages[&stage.name].device.as_ref();
        let new = rest.iter().map(|task| new_task(stage, device, task));
        let new: Vec<NewTask> = new.collect::<Result<_, _>>()?;
        let count = tasks.len();
        let add = |core: &mut Core| {
            let run = core.runs.get(&self.run);
            if run.is_some_and(|run| !run.stop.is_cancelled()) {
                core.add(new);
                core.machine.expect(&self.run, &stage.name, count);
            }
        };
        self.inner.change(add).await?;
        if let Some(window) = self.window(stage) {
            let open = rest.into_iter().map(|task| task.shard);
            window.open.extend(open.chain(known));
        }
        Ok(())
    }

    /// Splits tasks into those that the machine restored after a restart, and new ones. Drops those
    /// that were given up, and those that were committed after the driver read its inbox: the machine
    /// has forgotten them, and the database may not have had them yet.
    fn split_known(
        &self,
        stage: &Stage,
        tasks: Vec<Task>,
    ) -> Result<(Vec<ShardId>, Vec<Task>), Error> {
        let core = self.inner.core()?;
        let committed = core.noted_commits(&self.run, &stage.name);
        let is_known = |task: &Task| core.machine.task(&key(task)).is_some();
        let is_open =
            |task: &Task| !core.machine.is_given_up(&key(task)) && !committed.contains(&task.shard);
        let tasks = tasks.into_iter().filter(is_open);
        let (known, new): (Vec<Task>, Vec<Task>) = tasks.partition(is_known);
        Ok((known.into_iter().map(|task| task.shard).collect(), new))
    }

    /// Reads a page of items of the step, unless it is loaded.
    async fn load_page(&mut self, stage: &Stage, number: u64) -> Result<(), Error> {
        let store = self.inner.store.clone();
        let Some(window) = self.window(stage) else {
            return Ok(());
        };
        if window
            .page
            .as_ref()
            .is_some_and(|page| page.number == number)
        {
            return Ok(());
        }
        let items = match (&window.tasks.items, &window.pages) {
            (Items::Shards(..), Some(pages)) => {
                ItemsOfPage::Parts(pages.read(&store, number).await?)
            }
            (Items::Files(list, _), _) => {
                ItemsOfPage::Files(lists::files_of_page(&store, list, number).await?)
            }
            _ => return Ok(()),
        };
        window.page = Some(Page { number, items });
        Ok(())
    }

    pub(super) fn window(&mut self, stage: &Stage) -> Option<&mut Window> {
        self.stages.get_mut(&stage.name)?.window.as_mut()
    }

    /// Number of committed tasks of a step with ordinals in `from..to`.
    pub(super) async fn count(
        &self,
        stage: &Stage,
        tasks: &Tasks,
        from: u64,
        to: u64,
    ) -> Result<u64, Error> {
        if from >= to {
            return Ok(0);
        }
        let (first, last) = (tasks.shard(from), tasks.shard(to - 1));
        self.count_between(stage, &first, &last).await
    }

    async fn count_between(
        &self,
        stage: &Stage,
        first: &ShardId,
        last: &ShardId,
    ) -> Result<u64, Error> {
        let shards = self.shards(stage, first, last);
        let count = self.inner.database.count_committed(shards).await;
        count.map_err(database_error)
    }

    /// Committed tasks of a step with ordinals in `from..to`.
    pub(super) async fn committed(
        &self,
        stage: &Stage,
        tasks: &Tasks,
        from: u64,
        to: u64,
    ) -> Result<BTreeSet<ShardId>, Error> {
        let (first, last) = (tasks.shard(from), tasks.shard(to.saturating_sub(1)));
        let shards = self.shards(stage, &first, &last);
        self.inner
            .database
            .committed(shards)
            .await
            .map_err(database_error)
    }

    pub(super) fn shards<'a>(
        &'a self,
        stage: &'a Stage,
        first: &'a ShardId,
        last: &'a ShardId,
    ) -> Shards<'a> {
        Shards {
            run: &self.run,
            stage: &stage.name,
            first,
            last,
        }
    }

    fn show_step(&self, core: &mut Core, stage: &Stage, known: u64, step_tasks: u64) {
        let now = self.inner.clock.unix_ms();
        let Some(view) = core.stage_mut(&self.run, &stage.name) else {
            return;
        };
        // A driver that restarts also passes stages that are done.
        if view.state == v1::StageState::Done {
            return;
        }
        view.state = v1::StageState::Running;
        if view.started_unix_ms == 0 {
            view.started_unix_ms = now;
        }
        view.tasks = known;
        core.queue_planned_event(&self.run, &stage.name, step_tasks, now);
    }
}

impl Window {
    /// The task with this ordinal; `None` if the loaded page has no item for it.
    fn task(&self, ordinal: u64) -> Option<Task> {
        let place = (ordinal % PAGE) as usize;
        let items = self.page.as_ref().map(|page| &page.items);
        match (&self.tasks.items, items) {
            (Items::One(_), _) => self.tasks.one(),
            (Items::Slices(_, make), _) => Some(self.tasks.task(ordinal, make, ordinal as usize)),
            (Items::Shards(_, make), Some(ItemsOfPage::Parts(parts))) => {
                let part = parts.get(place)?.clone();
                Some(self.tasks.task(ordinal, make, part))
            }
            (Items::Files(_, make), Some(ItemsOfPage::Files(files))) => {
                let file = files.get(place)?.clone();
                Some(self.tasks.task(ordinal, make, file))
            }
            _ => None,
        }
    }
}

fn key(task: &Task) -> Key {
    Key {
        run: task.run.clone(),
        stage: task.stage.clone(),
        shard: task.shard.clone(),
    }
}

fn new_task(stage: &Stage, device: Option<&DeviceKind>, task: &Task) -> Result<NewTask, Error> {
    let settings = stage.kind.settings();
    let part = task.work.part();
    let task_json = serde_json::to_string(task).expect("tasks are plain data with text keys");
    if task_json.len() > TASK_BYTES {
        return Err(Error::TaskSize {
            stage: stage.name.clone(),
            shard: task.shard.clone(),
            bytes: task_json.len(),
            most: TASK_BYTES,
        });
    }
    Ok(NewTask {
        key: key(task),
        spec: Spec {
            role: settings.role(),
            world_size: settings.world_size(),
            base: part.map(|part| part.pixels_file().digest),
            device: device.cloned(),
            may_twin: part.is_some(),
        },
        task_json,
    })
}

/// Commits of a page of a step, by shard. Shards sort like their tasks.
pub(super) type Commits = BTreeMap<ShardId, Summary>;

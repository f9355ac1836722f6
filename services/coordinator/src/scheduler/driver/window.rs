//! The step that a stage works on: its tasks are made, adopted and handed to the machine some at a
//! time.

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

use super::{Driver, Error, Progress, lost};
use crate::machine::{Key, Spec};
use crate::scheduler::core::Core;
use crate::state::{NewTask, Shards};

/// Tasks of a step that are open at most: handed to the machine and not final yet.
const OPEN: usize = 8_192;
/// Tasks that are looked up, and handed to the machine, together.
const CHUNK: u64 = 1_024;
/// Chunks of a stage that are looked up before other stages of the run have their turn.
const CHUNKS: usize = 8;
/// Bytes of a task at most. What a task names does not grow with the dataset, so more is a mistake
/// that no worker should be sent.
const TASK_BYTES: usize = 1 << 20;

/// A step that is worked on.
pub(super) struct Window {
    pub(super) tasks: Arc<Tasks>,
    /// Handed to the machine and not final yet.
    pub(super) open: BTreeSet<ShardId>,
    /// The first task that was not looked at yet.
    next: u64,
    /// Of `next`: the items of the tasks.
    page: Option<Page>,
    /// The shards of the version that the step reads, where it reads one.
    pages: Option<versions::Pages>,
}

/// Items of a list.
struct Page {
    number: u64,
    items: ItemsOfPage,
}

enum ItemsOfPage {
    Parts(Vec<Part>),
    Files(Vec<File>),
}

impl Progress {
    /// A task needs nothing more.
    pub(super) fn settled(&mut self, shard: &ShardId) {
        if let Some(window) = &mut self.window {
            window.open.remove(shard);
        }
    }

    /// A task is committed.
    pub(super) fn committed(&mut self, shard: &ShardId) {
        let was_open = self.window.as_mut().map(|window| window.open.remove(shard));
        // A task that was leased before a restart, which the window did not come to yet. The
        // database may not show its commit yet.
        if was_open != Some(true) {
            self.early.insert(shard.clone());
        }
    }
}

impl Driver {
    /// Begins a step.
    pub(super) async fn begin(&mut self, stage: &Stage, tasks: Tasks) -> Result<(), Error> {
        settings::put(&self.inner.store, &stage.kind).await?;
        let count = tasks.len();
        let known: u64 = self.stages[&stage.name]
            .tasks
            .iter()
            .map(|step| step.len())
            .sum();
        let show = |core: &mut Core| self.show_step(core, stage, known + count, count);
        self.inner.change(show).await?;
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
            self.leave_out(stage, &tasks).await?;
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

    /// Hands further tasks of the step to the machine, for as long as there is room. True where
    /// tasks are open or not looked up yet, false where the step is over.
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
            // A page that is whole is not read.
            let is_whole = from.is_multiple_of(PAGE)
                && self.count(stage, &tasks, from, page_end).await? == page_end - from;
            let to = match is_whole {
                true => page_end,
                false => (from + CHUNK).min(page_end),
            };
            if !is_whole {
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

    /// Adopts or hands to the machine those tasks of a chunk that are not committed.
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
        let (known, wanted) = self.known(wanted)?;
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

    /// Separates tasks that the machine has restored after a restart from new ones. Leaves out those
    /// that were given up.
    fn known(&self, tasks: Vec<Task>) -> Result<(Vec<ShardId>, Vec<Task>), Error> {
        let core = self.inner.core()?;
        let is_known = |task: &Task| core.machine.task(&key(task)).is_some();
        let is_given_up = |task: &Task| core.machine.is_given_up(&key(task));
        let tasks = tasks.into_iter().filter(|task| !is_given_up(task));
        let (known, new): (Vec<Task>, Vec<Task>) = tasks.partition(is_known);
        Ok((known.into_iter().map(|task| task.shard).collect(), new))
    }

    /// Reads the items of a page of the step, unless they were read.
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

    /// How many tasks of a step are committed, of those from one to before another.
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
        count.map_err(lost)
    }

    /// Which tasks of a step are committed, of those from one to before another.
    pub(super) async fn committed(
        &self,
        stage: &Stage,
        tasks: &Tasks,
        from: u64,
        to: u64,
    ) -> Result<BTreeSet<ShardId>, Error> {
        let (first, last) = (tasks.shard(from), tasks.shard(to.saturating_sub(1)));
        let shards = self.shards(stage, &first, &last);
        self.inner.database.committed(shards).await.map_err(lost)
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
        // A driver that begins again comes by stages that were done before.
        if view.state == v1::StageState::Done {
            return;
        }
        view.state = v1::StageState::Running;
        if view.started_unix_ms == 0 {
            view.started_unix_ms = now;
        }
        view.tasks = known;
        core.tell_planned(&self.run, &stage.name, step_tasks, now);
    }
}

impl Window {
    /// The task of an ordinal of the page that was read; `None` where the page is shorter.
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

/// Commits of a step, a page at a time, in the order of its tasks.
pub(super) type Commits = BTreeMap<ShardId, Summary>;

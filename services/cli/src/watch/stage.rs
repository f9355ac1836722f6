//! One stage of a run as a watcher sees it.
//!
//! A stage works while one of its leases is at work. Time in which every lease waits for a turn at
//! the processor, or in which no task is leased, is not counted: rates and the remaining time are
//! made from work alone.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use capstan_proto::v1;

use super::clock;

/// One task as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct TaskSeen {
    pub done: u64,
    pub total: u64,
    pub unit: String,
    pub committed: bool,
    leased: bool,
    waiting: bool,
}

/// One stage as far as it is known.
#[derive(Debug, Default)]
pub struct StageSeen {
    pub tasks: BTreeMap<String, TaskSeen>,
    pub planned: u64,
    pub committed: u64,
    pub done: bool,
    pub reused: bool,
    /// Whether a task of it was ever leased.
    pub has_begun: bool,
    /// Leases that a snapshot counted without naming their shards.
    unnamed_leases: u64,
    worked: Duration,
    working_since: Option<Instant>,
}

impl StageSeen {
    /// Takes a change of one of its tasks.
    pub fn task_changed(&mut self, changed: &v1::TaskChanged, now: Instant) {
        let state = changed.state();
        let is_leased = state == v1::TaskState::Leased;
        let is_named = self.tasks.get(&changed.shard).is_some_and(|t| t.leased);
        if !is_named && !is_leased {
            self.unnamed_leases = self.unnamed_leases.saturating_sub(1);
        }
        let task = self.tasks.entry(changed.shard.clone()).or_default();
        task.leased = is_leased;
        task.waiting = false;
        if state == v1::TaskState::Committed && !task.committed {
            task.committed = true;
            task.done = task.total;
            self.committed += 1;
        }
        self.has_begun |= is_leased;
        self.count_work(now);
    }

    /// Takes the progress of one of its leases.
    pub fn progressed(&mut self, progress: &v1::TaskProgress, now: Instant) {
        self.show_progress(progress);
        self.count_work(now);
    }

    /// Takes what a snapshot says of it; events may have been missed.
    pub fn snapshot(&mut self, status: &v1::StageStatus, now: Instant) {
        self.planned = status.tasks;
        self.committed = status.committed;
        // What was under way when events were missed may be committed by now.
        self.tasks.retain(|_, task| task.committed);
        for progress in &status.progress {
            self.show_progress(progress);
        }
        let named = status.progress.len() as u64;
        self.unnamed_leases = status.leased.saturating_sub(named);
        self.has_begun |= status.leased > 0;
        self.count_work(now);
    }

    /// It is done.
    pub fn finish(&mut self, now: Instant) {
        self.done = true;
        self.count_work(now);
    }

    fn show_progress(&mut self, progress: &v1::TaskProgress) {
        let task = self.tasks.entry(progress.shard.clone()).or_default();
        task.done = progress.done;
        task.total = progress.total;
        task.leased = !task.committed;
        task.waiting = progress.waiting;
        progress.unit.clone_into(&mut task.unit);
    }

    /// Starts or stops the clock of its work.
    fn count_work(&mut self, now: Instant) {
        match (self.is_working(), self.working_since) {
            (true, None) => self.working_since = Some(now),
            (false, Some(since)) => {
                self.worked += now.saturating_duration_since(since);
                self.working_since = None;
            }
            _ => {}
        }
    }

    fn is_working(&self) -> bool {
        let at_work = |task: &TaskSeen| task.leased && !task.waiting;
        !self.done && (self.unnamed_leases > 0 || self.tasks.values().any(at_work))
    }

    /// Whether it has leases and each of them waits for a turn.
    pub fn is_waiting(&self) -> bool {
        !self.is_working() && self.is_leased()
    }

    /// Whether a task of it is leased.
    pub fn is_leased(&self) -> bool {
        !self.done && (self.unnamed_leases > 0 || self.tasks.values().any(|task| task.leased))
    }

    /// Share done. The pictures of a crawl come last and weigh most; how many waves of pages come
    /// before them is not known.
    pub fn share(&self) -> f64 {
        if self.done {
            return 1.0;
        }
        let share_of = |tasks: &[&TaskSeen], planned: f64| {
            let done: f64 = tasks.iter().map(|task| task.share()).sum();
            if planned == 0.0 {
                0.0
            } else {
                (done / planned).min(0.999)
            }
        };
        let pictures: Vec<_> = self.of_prefix("images-").collect();
        let pages: Vec<_> = self.of_prefix("pages-").collect();
        if !pictures.is_empty() {
            0.3 + 0.7 * share_of(&pictures, pictures.len() as f64)
        } else if !pages.is_empty() {
            0.3 * share_of(&pages, pages.len() as f64 + 1.0)
        } else {
            // A snapshot counts the committed tasks and does not name them.
            let open = self.tasks.values().filter(|task| !task.committed);
            let done = self.committed as f64 + open.map(TaskSeen::share).sum::<f64>();
            let planned = self.planned.max(self.tasks.len() as u64) as f64;
            if planned == 0.0 {
                0.0
            } else {
                (done / planned).min(0.999)
            }
        }
    }

    fn of_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a TaskSeen> {
        self.tasks
            .iter()
            .filter(move |(shard, _)| shard.starts_with(prefix))
            .map(|(_, task)| task)
    }

    /// Units done, units in all and their name, over the tasks of the newest unit.
    pub fn units(&self) -> Option<(u64, u64, &str)> {
        let unit = self
            .tasks
            .values()
            .rev()
            .find(|task| !task.unit.is_empty())?
            .unit
            .as_str();
        let of_unit = self.tasks.values().filter(|task| task.unit == unit);
        let (done, total) = of_unit.fold((0, 0), |(done, total), task| {
            (done + task.done, total + task.total)
        });
        Some((done, total, unit))
    }

    /// Seconds of work so far.
    pub fn seconds(&self, now: Instant) -> f64 {
        let running = self
            .working_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        (self.worked + running).as_secs_f64()
    }

    /// The text behind its bar.
    pub fn message(&self, now: Instant) -> String {
        let seconds = self.seconds(now);
        let counted = match self.units() {
            Some((done, total, unit)) if done > 0 && seconds > 0.0 => {
                let rate = done as f64 / seconds;
                format!("{done}/{total} {unit}, {rate:.0}/s, {}", clock(seconds))
            }
            _ if self.done => clock(seconds),
            _ => format!("{}/{} tasks", self.committed, self.planned),
        };
        if self.is_waiting() {
            format!("{counted}, waits for its turn")
        } else {
            counted
        }
    }
}

impl TaskSeen {
    fn share(&self) -> f64 {
        if self.committed {
            1.0
        } else if self.total == 0 {
            0.0
        } else {
            (self.done as f64 / self.total as f64).min(1.0)
        }
    }
}

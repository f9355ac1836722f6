//! One stage of a run as a watcher sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::clock;

/// One task as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct TaskSeen {
    pub done: u64,
    pub total: u64,
    pub unit: String,
    pub committed: bool,
}

/// One stage as far as it is known.
#[derive(Debug, Default)]
pub struct StageSeen {
    pub tasks: BTreeMap<String, TaskSeen>,
    pub planned: u64,
    pub committed: u64,
    pub worked_since: Option<Instant>,
    pub worked: Duration,
    pub done: bool,
    pub reused: bool,
}

impl StageSeen {
    /// Share done. A crawl's pictures come last and weigh most; how many waves of pages come
    /// before them nobody knows.
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
            // A snapshot tells how many tasks are committed, not which.
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

    /// Seconds of work so far, waiting left out.
    pub fn seconds(&self) -> f64 {
        let running = self
            .worked_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        (self.worked + running).as_secs_f64()
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

/// What stands behind a stage's bar.
pub fn message(stage: &StageSeen) -> String {
    let seconds = stage.seconds();
    match stage.units() {
        Some((done, total, unit)) if done > 0 && seconds > 0.0 => {
            let rate = done as f64 / seconds;
            format!("{done}/{total} {unit}, {rate:.0}/s, {}", clock(seconds))
        }
        _ if stage.done => clock(seconds),
        _ => format!("{}/{} tasks", stage.committed, stage.planned),
    }
}

//! What a watcher of a run sees: a bar per stage with rates, and the remaining time.
//!
//! [`Board`] is fed the coordinator's events and knows nothing of how they come; drawing is left to
//! `indicatif` on a terminal and to plain lines elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use capstan_plan::Pipeline;
use capstan_plan::id::StageName;
use capstan_proto::v1;
use capstan_proto::v1::event::What;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::clock;
use super::estimate::{Estimate, Seen};
use super::stage::{StageSeen, TaskSeen, message};

/// Time between two lines about the remaining time where no terminal is.
const PLAIN_PERIOD: Duration = Duration::from_secs(15);

/// The stages of a run as a watcher sees them.
pub struct Board {
    stages: BTreeMap<StageName, StageSeen>,
    bars: BTreeMap<StageName, ProgressBar>,
    order: Vec<StageName>,
    multi: MultiProgress,
    total: ProgressBar,
    estimate: Estimate,
    began: Instant,
    plain_since: Instant,
    shown_at_60s: Option<f64>,
}

impl Board {
    /// A board for this pipeline; draws to stderr.
    pub fn new(pipeline: &Pipeline) -> Self {
        let multi = MultiProgress::new();
        let total = multi.add(ProgressBar::new_spinner());
        total.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a valid template"));
        Self {
            stages: BTreeMap::new(),
            bars: BTreeMap::new(),
            order: pipeline.order(),
            multi,
            total,
            estimate: Estimate::new(pipeline),
            began: Instant::now(),
            plain_since: Instant::now(),
            shown_at_60s: None,
        }
    }

    /// The remaining time that was shown when 60 s had passed; `None` before.
    pub fn remaining_shown_at_60s(&self) -> Option<f64> {
        self.shown_at_60s
    }

    /// Takes an event.
    pub fn apply(&mut self, event: &v1::Event) {
        match &event.what {
            Some(What::Snapshot(status)) => self.snapshot(status),
            Some(What::StagePlanned(planned)) => {
                let stage = self.stage(&planned.stage);
                stage.planned = planned.tasks;
                stage.reused |= planned.already_committed > 0
                    && planned.already_committed == planned.step_tasks;
                stage.committed += planned.already_committed;
            }
            Some(What::TaskChanged(changed)) => self.task_changed(changed),
            Some(What::TaskProgress(progress)) => {
                let task = self.task(&progress.stage, &progress.shard);
                task.done = progress.done;
                task.total = progress.total;
                progress.unit.clone_into(&mut task.unit);
            }
            Some(What::StageDone(done)) => self.stage_done(&done.stage),
            Some(What::RunEnded(_)) | None => {}
        }
        self.draw();
    }

    /// Draws the remaining time anew; to be called about every second.
    pub fn tick(&mut self) {
        let remaining = self.remaining_seconds();
        let elapsed = self.began.elapsed();
        if self.shown_at_60s.is_none() && elapsed >= Duration::from_secs(60) {
            self.shown_at_60s = Some(remaining);
        }
        let line = format!(
            "{} elapsed, about {} remain",
            clock(elapsed.as_secs_f64()),
            clock(remaining)
        );
        self.total.set_message(line.clone());
        self.total.tick();
        if self.multi.is_hidden() && self.plain_since.elapsed() >= PLAIN_PERIOD {
            self.plain_since = Instant::now();
            eprintln!("{line}; {}", self.plain_running());
        }
        self.draw();
    }

    /// Takes the bars away.
    pub fn finish(&mut self) {
        for bar in self.bars.values() {
            bar.finish();
        }
        self.total.finish_and_clear();
    }

    fn remaining_seconds(&self) -> f64 {
        let seen = self
            .stages
            .iter()
            .filter(|(_, stage)| stage.done || stage.seconds() > 0.0);
        let seen = seen
            .map(|(name, stage)| {
                (
                    name.clone(),
                    Seen {
                        share: stage.share(),
                        seconds: stage.seconds(),
                    },
                )
            })
            .collect();
        self.estimate.remaining_seconds(&seen)
    }

    fn stage(&mut self, name: &str) -> &mut StageSeen {
        self.stages.entry(StageName::from(name)).or_default()
    }

    fn task(&mut self, stage: &str, shard: &str) -> &mut TaskSeen {
        self.stage(stage).tasks.entry(shard.to_owned()).or_default()
    }

    fn snapshot(&mut self, status: &v1::RunStatus) {
        for of_status in &status.stages {
            let done = of_status.state() == v1::StageState::Done;
            let stage = self.stage(&of_status.stage);
            stage.planned = of_status.tasks;
            stage.committed = of_status.committed;
            // What was under way when events were missed may be committed by now.
            stage.tasks.retain(|_, task| task.committed);
            if of_status.leased > 0 && stage.worked_since.is_none() {
                stage.worked_since = Some(Instant::now());
            }
            for progress in &of_status.progress {
                let task = stage.tasks.entry(progress.shard.clone()).or_default();
                task.done = progress.done;
                task.total = progress.total;
                progress.unit.clone_into(&mut task.unit);
            }
            if done && !stage.done {
                stage.reused = of_status.tasks == of_status.adopted;
                self.stage_done(&of_status.stage);
            }
        }
    }

    fn task_changed(&mut self, changed: &v1::TaskChanged) {
        let state = changed.state();
        let stage = self.stage(&changed.stage);
        let task = stage.tasks.entry(changed.shard.clone()).or_default();
        if state == v1::TaskState::Committed && !task.committed {
            task.committed = true;
            task.done = task.total;
            stage.committed += 1;
        }
        if state == v1::TaskState::Leased && stage.worked_since.is_none() {
            stage.worked_since = Some(Instant::now());
        }
        if !changed.message.is_empty() && state != v1::TaskState::Committed {
            let line = format!("{}/{}: {}", changed.stage, changed.shard, changed.message);
            self.say(&line);
        }
    }

    fn stage_done(&mut self, name: &str) {
        let stage = self.stage(name);
        stage.done = true;
        stage.worked = Duration::from_secs_f64(stage.seconds());
        stage.worked_since = None;
        let (seconds, reused) = (stage.seconds(), stage.reused);
        let how = if reused && seconds < 0.5 {
            "reused".to_owned()
        } else {
            clock(seconds)
        };
        if self.multi.is_hidden() {
            eprintln!("{name}: done ({how})");
        }
    }

    /// Prints a line above the bars.
    pub fn say(&self, line: &str) {
        if self.multi.is_hidden() {
            eprintln!("{line}");
        } else {
            let _ = self.multi.println(line);
        }
    }

    fn draw(&mut self) {
        if self.multi.is_hidden() {
            return;
        }
        for name in &self.order {
            let Some(stage) = self.stages.get(name) else {
                continue;
            };
            if stage.worked_since.is_none() && !stage.done {
                continue;
            }
            let bar = self.bars.entry(name.clone()).or_insert_with(|| {
                let bar = self
                    .multi
                    .insert_before(&self.total, ProgressBar::new(1000));
                let style = "{prefix:24} {bar:24.cyan/black} {msg}";
                bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
                bar.set_prefix(name.to_string());
                bar
            });
            bar.set_position((stage.share() * 1000.0) as u64);
            bar.set_message(message(stage));
            if stage.done && !bar.is_finished() {
                bar.finish();
            }
        }
    }

    fn plain_running(&self) -> String {
        let running = self
            .stages
            .iter()
            .filter(|(_, stage)| stage.worked_since.is_some());
        let lines: Vec<_> = running
            .map(|(name, stage)| format!("{name} {}", message(stage)))
            .collect();
        if lines.is_empty() {
            "waiting".to_owned()
        } else {
            lines.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: What) -> v1::Event {
        v1::Event {
            run: "r".into(),
            at_unix_ms: 0,
            what: Some(what),
        }
    }

    fn changed(stage: &str, shard: &str, state: v1::TaskState) -> v1::Event {
        event(What::TaskChanged(v1::TaskChanged {
            stage: stage.into(),
            shard: shard.into(),
            state: state as i32,
            ..Default::default()
        }))
    }

    #[test]
    fn a_stage_counts_its_tasks_and_their_progress() {
        let pipeline = Pipeline::from_toml(crate::demo::PIPELINE, "demo.toml").unwrap();
        let mut board = Board::new(&pipeline);
        board.apply(&event(What::StagePlanned(v1::StagePlanned {
            stage: "caption".into(),
            tasks: 4,
            step_tasks: 4,
            already_committed: 0,
        })));
        board.apply(&changed("caption", "00000", v1::TaskState::Leased));
        board.apply(&changed("caption", "00000", v1::TaskState::Committed));
        board.apply(&event(What::TaskProgress(v1::TaskProgress {
            stage: "caption".into(),
            shard: "00001".into(),
            done: 50,
            total: 100,
            unit: "pictures".into(),
        })));
        let stage = &board.stages[&StageName::from("caption")];
        assert!((stage.share() - 0.375).abs() < 1e-9, "{}", stage.share());
        assert_eq!(stage.units(), Some((50, 100, "pictures")));
        board.apply(&event(What::StageDone(v1::StageDone {
            stage: "caption".into(),
            ..Default::default()
        })));
        assert_eq!(board.stages[&StageName::from("caption")].share(), 1.0);
    }

    #[test]
    fn who_comes_late_or_missed_events_is_shown_the_same_share() {
        let pipeline = Pipeline::from_toml(crate::demo::PIPELINE, "demo.toml").unwrap();
        let mut board = Board::new(&pipeline);
        board.apply(&changed("caption", "00000", v1::TaskState::Leased));
        let status = v1::StageStatus {
            stage: "caption".into(),
            tasks: 4,
            committed: 2,
            leased: 1,
            progress: vec![v1::TaskProgress {
                stage: "caption".into(),
                shard: "00002".into(),
                done: 50,
                total: 100,
                unit: "pictures".into(),
            }],
            ..Default::default()
        };
        board.apply(&event(What::Snapshot(v1::RunStatus {
            stages: vec![status],
            ..Default::default()
        })));
        let stage = &board.stages[&StageName::from("caption")];
        assert!((stage.share() - 0.625).abs() < 1e-9, "{}", stage.share());
    }
}

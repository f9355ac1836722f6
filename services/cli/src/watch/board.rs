//! What a watcher of a run sees: a bar per stage with rates, and the remaining time.
//!
//! [`Board`] takes the coordinator's events and knows nothing of how they come. On a terminal
//! `indicatif` draws it; elsewhere it prints plain lines.

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
use super::stage::StageSeen;

/// Time between two lines about the remaining time where there is no terminal.
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
        self.apply_at(event, Instant::now());
        self.draw();
    }

    fn apply_at(&mut self, event: &v1::Event, now: Instant) {
        match &event.what {
            Some(What::Snapshot(status)) => self.snapshot(status, now),
            Some(What::StagePlanned(planned)) => {
                let stage = self.stage(&planned.stage);
                stage.planned = planned.tasks;
                stage.reused = planned.tasks > 0 && planned.adopted == planned.tasks;
                stage.committed = planned.committed;
            }
            Some(What::TaskChanged(changed)) => self.task_changed(changed, now),
            Some(What::TaskProgress(progress)) => {
                self.stage(&progress.stage).progressed(progress, now);
            }
            Some(What::StageDone(done)) => self.stage_done(&done.stage, now),
            Some(What::RunEnded(_)) | None => {}
        }
    }

    /// Draws the remaining time again; to be called about every second.
    pub fn tick(&mut self) {
        let now = Instant::now();
        let remaining = self.remaining_seconds(now);
        let elapsed = now.saturating_duration_since(self.began);
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
            self.plain_since = now;
            eprintln!("{line}; {}", self.plain_running(now));
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

    fn remaining_seconds(&self, now: Instant) -> f64 {
        let seen = self.stages.iter().filter_map(|(name, stage)| {
            let seconds = stage.seconds(now);
            let seen = Seen {
                share: stage.share(),
                seconds,
            };
            (stage.done || seconds > 0.0).then(|| (name.clone(), seen))
        });
        self.estimate.remaining_seconds(&seen.collect())
    }

    fn stage(&mut self, name: &str) -> &mut StageSeen {
        self.stages.entry(StageName::from(name)).or_default()
    }

    fn snapshot(&mut self, status: &v1::RunStatus, now: Instant) {
        for stage_status in &status.stages {
            let is_done = stage_status.state() == v1::StageState::Done;
            let stage = self.stage(&stage_status.stage);
            stage.snapshot(stage_status, now);
            if is_done && !stage.done {
                stage.reused = stage_status.tasks == stage_status.adopted;
                self.stage_done(&stage_status.stage, now);
            }
        }
    }

    fn task_changed(&mut self, changed: &v1::TaskChanged, now: Instant) {
        self.stage(&changed.stage).task_changed(changed, now);
        if !changed.message.is_empty() && changed.state() != v1::TaskState::Committed {
            let line = format!("{}/{}: {}", changed.stage, changed.shard, changed.message);
            self.say(&line);
        }
    }

    fn stage_done(&mut self, name: &str, now: Instant) {
        let stage = self.stage(name);
        stage.finish(now);
        let (seconds, reused) = (stage.seconds(now), stage.reused);
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
        let now = Instant::now();
        for name in &self.order {
            let Some(stage) = self.stages.get(name) else {
                continue;
            };
            if !stage.has_begun && !stage.done {
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
            bar.set_message(stage.message(now));
            if stage.done && !bar.is_finished() {
                bar.finish();
            }
        }
    }

    fn plain_running(&self, now: Instant) -> String {
        let running = self.stages.iter().filter(|(_, stage)| stage.is_leased());
        let lines: Vec<_> = running
            .map(|(name, stage)| format!("{name} {}", stage.message(now)))
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
        board.apply(&planned("caption", 4));
        board.apply(&changed("caption", "00000", v1::TaskState::Leased));
        board.apply(&changed("caption", "00000", v1::TaskState::Committed));
        board.apply(&event(What::TaskProgress(v1::TaskProgress {
            stage: "caption".into(),
            shard: "00001".into(),
            done: 50,
            total: 100,
            unit: "pictures".into(),
            waiting: false,
        })));
        let stage = &board.stages[&StageName::from("caption")];
        assert!((stage.share() - 0.375).abs() < 1e-9, "{}", stage.share());
        assert_eq!(stage.units(), Some((50, 100, "pictures")));
        board.apply(&done("caption"));
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
                waiting: false,
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

    fn progress(stage: &str, shard: &str, (done, total): (u64, u64), waiting: bool) -> v1::Event {
        event(What::TaskProgress(v1::TaskProgress {
            stage: stage.into(),
            shard: shard.into(),
            done,
            total,
            unit: "units".into(),
            waiting,
        }))
    }

    fn planned(stage: &str, tasks: u64) -> v1::Event {
        event(What::StagePlanned(v1::StagePlanned {
            stage: stage.into(),
            tasks,
            step_tasks: tasks,
            committed: 0,
            adopted: 0,
        }))
    }

    fn done(stage: &str) -> v1::Event {
        event(What::StageDone(v1::StageDone {
            stage: stage.into(),
            ..Default::default()
        }))
    }

    /// A demo from the end of `captioner`: `caption` gets its turn for its first shard, then waits
    /// for `matcher`, whose 800 steps take 40 s. Seconds and events, as the coordinator sent them.
    fn caption_waits_for_matcher() -> Vec<(u64, v1::Event)> {
        use v1::TaskState::{Committed, Leased};
        let mut events = Vec::new();
        for (stage, seconds) in [("crawl", 30), ("blip_web", 190), ("captioner", 22)] {
            events.push((0, planned(stage, 1)));
            events.push((0, changed(stage, "all", Leased)));
            events.push((seconds, changed(stage, "all", Committed)));
            events.push((seconds, done(stage)));
        }
        events.push((200, planned("matcher", 1)));
        events.push((200, changed("matcher", "all", Leased)));
        events.push((200, progress("matcher", "all", (0, 800), true)));
        events.push((200, planned("caption", 8)));
        events.push((200, changed("caption", "00000", Leased)));
        events.push((201, progress("caption", "00000", (60, 64), false)));
        events.push((201, changed("caption", "00000", Committed)));
        events.push((201, changed("caption", "00001", Leased)));
        for second in 202..242 {
            events.push((second, progress("caption", "00001", (0, 0), true)));
            let steps = (second - 201) * 20;
            events.push((second, progress("matcher", "all", (steps, 800), false)));
        }
        events.push((242, changed("matcher", "all", Committed)));
        events.push((242, done("matcher")));
        events.push((243, progress("caption", "00001", (60, 64), false)));
        events
    }

    #[test]
    fn a_stage_that_waits_for_its_turn_is_not_extrapolated_from_the_wait() {
        let pipeline = Pipeline::from_toml(crate::demo::PIPELINE, "demo.toml").unwrap();
        let mut board = Board::new(&pipeline);
        let began = Instant::now();
        let mut shown = Vec::new();
        for (second, event) in caption_waits_for_matcher() {
            let now = began + Duration::from_secs(second);
            board.apply_at(&event, now);
            // Once a second, after the progress of all stages.
            let is_last =
                matches!(&event.what, Some(What::TaskProgress(p)) if p.stage == "matcher");
            if second >= 202 && is_last {
                shown.push(board.remaining_seconds(now));
            }
        }
        let caption = &board.stages[&StageName::from("caption")];
        let end = began + Duration::from_secs(243);
        assert_eq!(
            caption.seconds(end),
            2.0,
            "1 s before the wait and 1 s after"
        );
        let jumps = shown.windows(2).map(|pair| pair[1] - pair[0]);
        let largest = jumps.map(f64::abs).fold(0.0, f64::max);
        // The first figure from the steps of `matcher` replaces its prior. Extrapolating the wait of
        // `caption` jumped by minutes.
        assert!(largest < 30.0, "it jumps by {largest} s: {shown:?}");
    }
}

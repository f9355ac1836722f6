//! The local record of a training: a file of metrics and a TensorBoard event file.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use capstan_plan::clock::{Clock, SystemClock};
use capstan_plan::id::{RunId, StageName};
use capstan_plan::results::{TrainingStep, ValidationPoint};
use capstan_train::{Events, Metrics};

use crate::error::Error;

/// The files that rank 0 writes: `<folder>/<run>/<stage>.jsonl`, and the event file in
/// `<folder>/<run>/<stage>/`. A write that fails fails the training after its last step: a full disk
/// does not cost the steps before it.
pub(crate) struct Record {
    files: Mutex<Files>,
    /// Samples of a step.
    global_batch: usize,
    clock: SystemClock,
}

struct Files {
    path: PathBuf,
    metrics: Metrics,
    folder: PathBuf,
    events: Events,
    /// The first write that failed.
    error: Option<Error>,
}

impl Record {
    /// Opens the files of a training that begins at `step`.
    pub(crate) fn open(
        folder: &Path,
        (run, stage): (&RunId, &StageName),
        step: u64,
        global_batch: usize,
    ) -> Result<Self, Error> {
        let clock = SystemClock::new();
        let run = folder.join(run.as_str());
        let path = run.join(format!("{stage}.jsonl"));
        let folder = run.join(stage.as_str());
        std::fs::create_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
        let metrics = Metrics::open(&path, step).map_err(|error| Error::local(&path, error))?;
        let events = Events::open(&folder, step, clock.wall());
        let events = events.map_err(|error| Error::local(&folder, error))?;
        Ok(Self {
            files: Mutex::new(Files {
                path,
                metrics,
                folder,
                events,
                error: None,
            }),
            global_batch,
            clock,
        })
    }

    /// Adds a step.
    pub(crate) fn step(&self, step: &TrainingStep) {
        let (samples, now) = (self.global_batch, self.clock.wall());
        let files = &mut *self.files();
        let written = files.metrics.write(step);
        files.note(written, |files| &files.path);
        let written = files.events.step(step, samples, now);
        files.note(written, |files| &files.folder);
    }

    /// Adds a measurement on the validation set.
    pub(crate) fn validation(&self, point: &ValidationPoint) {
        let now = self.clock.wall();
        let files = &mut *self.files();
        let written = files.metrics.write_validation(point);
        files.note(written, |files| &files.path);
        let written = files.events.validation(point, now);
        files.note(written, |files| &files.folder);
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// The first write that failed.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let files = self.files.into_inner();
        let mut files = files.unwrap_or_else(std::sync::PoisonError::into_inner);
        let flushed = files.metrics.flush();
        files.note(flushed, |files| &files.path);
        files.error.map_or(Ok(()), Err)
    }

    fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        let files = self.files.lock();
        files.unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Files {
    fn note(&mut self, result: std::io::Result<()>, path: impl Fn(&Self) -> &PathBuf) {
        if let Err(error) = result
            && self.error.is_none()
        {
            self.error = Some(Error::local(path(self), error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> TrainingStep {
        TrainingStep {
            step,
            data_epoch: 0,
            learning_rate: 0.1,
            loss: 1.5,
            parts: [("itc".to_owned(), 1.5)].into(),
            gradient_norm: 1.0,
            step_seconds: 0.1,
            all_reduce_seconds: 0.01,
        }
    }

    #[test]
    fn a_stage_has_a_metrics_file_and_a_folder_of_events() {
        let folder = tempfile::tempdir().unwrap();
        let names = (&RunId::from("run"), &StageName::from("blip"));
        let events = folder.path().join("run/blip/events.out.tfevents.capstan");
        let lines = || {
            let text = std::fs::read_to_string(folder.path().join("run/blip.jsonl")).unwrap();
            text.lines().count()
        };
        let record = Record::open(folder.path(), names, 0, 8).unwrap();
        (0..3).for_each(|s| record.step(&step(s)));
        record.validation(&ValidationPoint {
            step: 3,
            figures: [("cider".to_owned(), 80.0)].into(),
        });
        record.finish().unwrap();
        let whole = std::fs::read(&events).unwrap();
        let holds = |text: &[u8]| whole.windows(text.len()).any(|bytes| bytes == text);
        assert!(holds(b"train/samples_per_second") && holds(b"validation/cider"));
        assert_eq!(lines(), 4);
        // A training that goes on after two steps drops what came later.
        Record::open(folder.path(), names, 2, 8)
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!(lines(), 2);
        assert!(std::fs::metadata(&events).unwrap().len() < whole.len() as u64);
    }
}

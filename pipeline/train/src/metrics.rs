//! The metrics file: JSON lines, one [`TrainingStep`] a line, and one line for each measurement on the
//! validation set: `{"step": 200, "validation": {"r_at_1": 12.5, ...}}`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use capstan_plan::results::{TrainingStep, ValidationPoint};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// An open metrics file.
#[derive(Debug)]
pub struct Metrics {
    out: BufWriter<File>,
}

impl Metrics {
    /// Opens `path` for a training that begins at `step`: lines of that step and later ones, which
    /// a killed attempt left after its last checkpoint, go away, and so does half a line at the end.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, step: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        let keep = length_before(&file, step)?;
        file.set_len(keep)?;
        file.seek(SeekFrom::Start(keep))?;
        Ok(Self {
            out: BufWriter::new(file),
        })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, step: &TrainingStep) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, step)?;
        self.out.write_all(b"\n")
    }

    /// Appends the line of a measurement on the validation set.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_validation(&mut self, point: &ValidationPoint) -> io::Result<()> {
        let line = ValidationLine {
            step: point.step,
            validation: &point.figures,
        };
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// What the file system says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[derive(Serialize)]
struct ValidationLine<'a> {
    step: u64,
    validation: &'a BTreeMap<String, f64>,
}

/// The place of a line in a training.
#[derive(Deserialize)]
struct Place {
    step: u64,
    #[serde(default)]
    validation: Option<IgnoredAny>,
}

/// Bytes of the leading whole lines that a training from `step` on does not write again. A measurement
/// carries the number of steps before it, a step its place from 0.
fn length_before(file: &File, step: u64) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut keep, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        let earlier =
            |place: Place| place.step < step || (place.validation.is_some() && place.step == step);
        let whole = line.ends_with(b"\n");
        if !whole || !serde_json::from_slice(&line).is_ok_and(earlier) {
            return Ok(keep);
        }
        keep += read as u64;
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

    fn point(step: u64) -> ValidationPoint {
        ValidationPoint {
            step,
            figures: [("cider".to_owned(), 1.5)].into(),
        }
    }

    #[test]
    fn a_resumed_file_holds_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        (0..4).for_each(|s| metrics.write(&step(s)).unwrap());
        metrics.write_validation(&point(4)).unwrap();
        (4..6).for_each(|s| metrics.write(&step(s)).unwrap());
        metrics.write_validation(&point(6)).unwrap();
        metrics.write(&step(6)).unwrap();
        metrics.flush().unwrap();
        drop(metrics);
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"step\":7")
            .unwrap();

        let mut metrics = Metrics::open(&path, 4).unwrap();
        (4..10).for_each(|s| metrics.write(&step(s)).unwrap());
        metrics.flush().unwrap();
        metrics.write_validation(&point(10)).unwrap();
        metrics.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(last, r#"{"step":10,"validation":{"cider":1.5}}"#);
        let measured = text.lines().filter(|line| line.contains("validation"));
        assert_eq!(measured.count(), 2, "after 4 steps and after 10");
        let steps: Vec<u64> = text
            .lines()
            .filter_map(|line| Some(serde_json::from_str::<TrainingStep>(line).ok()?.step))
            .collect();
        assert_eq!(steps, (0..10).collect::<Vec<_>>());
    }
}

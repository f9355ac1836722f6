//! Per-step metrics: a JSONL file, one [`TrainingStep`] a line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use capstan_plan::results::TrainingStep;

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

    /// Hands everything to the system.
    ///
    /// # Errors
    /// What the file system says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Bytes of the leading whole lines whose step is before `step`.
fn length_before(file: &File, step: u64) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut keep, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        let earlier = |s: TrainingStep| s.step < step;
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

    #[test]
    fn a_resumed_file_holds_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        (0..7).for_each(|s| metrics.write(&step(s)).unwrap());
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
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<TrainingStep>(line).unwrap().step)
            .collect();
        assert_eq!(steps, (0..10).collect::<Vec<_>>());
    }
}

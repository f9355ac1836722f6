//! Repetitions that a caller can alternate with those of another program.

use std::io::BufRead;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

/// How often a piece of work is repeated, and what starts a repetition.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    reps: usize,
    paced: bool,
}

impl Pace {
    pub fn new(reps: usize, paced: bool) -> Self {
        Self { reps, paced }
    }

    /// Runs `work` once to warm up, then repeats it, and prints a line for each. Gives what the last
    /// repetition gave.
    pub fn repeat<T>(self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let mut last = work()?;
        print(&json!({ "ready": true, "warmup_s": start.elapsed().as_secs_f64() }));
        let mut lines = std::io::stdin().lock().lines();
        for _ in 0..self.reps {
            if self.paced && lines.next().transpose()?.is_none() {
                break;
            }
            let start = Instant::now();
            last = work()?;
            print(&json!({ "seconds": start.elapsed().as_secs_f64() }));
        }
        Ok(last)
    }
}

/// Prints a line at once: the caller waits for it.
pub fn print(value: &serde_json::Value) {
    use std::io::Write;
    println!("{value}");
    // A caller that is gone ends this program at its next read.
    let _ = std::io::stdout().flush();
}

/// Prints the last line of a command.
pub fn finish(result: &serde_json::Value) -> Result<()> {
    print(&json!({ "result": result, "peak_rss_mb": peak_rss_mb()? }));
    Ok(())
}

/// The most memory that this process has held, in megabytes.
pub fn peak_rss_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kilobytes: f64 = kilobytes.context("VmHWM of this process")?.trim().parse()?;
    Ok(kilobytes * 1.024 / 1e3)
}

/// Starts the count of [`peak_rss_mb`] again from what is held now: a load is not part of a training
/// step's memory.
pub fn reset_peak_rss() -> Result<()> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

//! Draws of one actor of a history.

use std::time::Duration;

use capstan_plan::draw::Draws;

/// A stream of draws, by the seed of the history and the name of the actor.
#[derive(Debug)]
pub struct Random {
    draws: Draws,
    drawn: u64,
}

impl Random {
    pub fn new(seed: u64, actor: &str) -> Self {
        Self {
            draws: Draws::new(seed, actor),
            drawn: 0,
        }
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.drawn += 1;
        self.draws.unit(b"", self.drawn)
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Uniform between two times in milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + (self.unit() * (to - from) as f64) as u64)
    }

    pub fn index(&mut self, len: usize) -> usize {
        ((self.unit() * len as f64) as usize).min(len - 1)
    }
}

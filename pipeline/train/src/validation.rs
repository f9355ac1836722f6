//! Validation between steps: rank 0 measures the model while the other ranks wait.
//!
//! ```text
//! rank 0:   measure ─────────────────────────────┐
//!           beat ── beat ── beat ── ...          └─► figures
//! others:   wait ── wait ── wait ── ...            ─► figures
//! ```
//! A measurement may take longer than the limit of one ring operation. So rank 0 sends a beat (an
//! empty message) in every quarter of the limit while it computes, and the other ranks wait for the
//! next message. The last message holds the figures: all ranks record the same points.
//!
//! The measurement reads the weights and draws nothing from the training, so the trained weights are
//! those of a training without validation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use capstan_collective::RingError;
use capstan_model::Network;
use capstan_plan::results::{ValidationCurve, ValidationPoint};
use capstan_plan::stage::{self, KeepStep};

use crate::link::Link;
use crate::{SourceError, TrainError};

/// Beats within the limit of one ring operation.
const BEATS_PER_LIMIT: u32 = 4;

/// What measures a model in training.
pub trait Validator: Send {
    /// The values of [`stage::ValidationMetric::figures`] of `network`; `None` if it was cancelled.
    ///
    /// Called on a thread of the rank's pool.
    ///
    /// - `network`: shares its values with the network in training and records no gradients. Drop
    ///   what is derived from it before returning: an update would copy values that are still held.
    /// - `goes_on`: asked between batches; `false` cancels.
    ///
    /// # Errors
    /// [`SourceError`] with the kind of the failure.
    fn measure(
        &mut self,
        network: Box<dyn Network>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>, SourceError>;

    /// Called with every new measurement of this attempt.
    fn record(&mut self, point: &ValidationPoint);
}

/// What was measured so far; part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Validated {
    /// `[measurements, 1 + figures]`: the step, then the figures, the metric first.
    pub points: Vec<f64>,
    /// Flat parameters of the best measurement; empty where the last step is kept, and before the
    /// first measurement.
    pub best: Vec<f32>,
}

/// The validation of one training.
pub(crate) struct Validation<'a> {
    settings: Option<&'a stage::Validation>,
    keep: KeepStep,
    steps: u64,
    done: Validated,
}

impl<'a> Validation<'a> {
    pub(crate) fn new(config: &'a stage::Train) -> Self {
        Self {
            settings: config.validate.as_ref(),
            keep: config.keep,
            steps: config.steps,
            done: Validated::default(),
        }
    }

    /// Goes on from a checkpoint. Only rank 0 keeps the best weights. Returns `false` for the state of
    /// another training.
    ///
    /// - `params`: number of trained parameters.
    pub(crate) fn restore(&mut self, done: Validated, rank: usize, params: usize) -> bool {
        let stride = self.stride();
        let fits = match stride {
            0 => done.points.is_empty(),
            stride => done.points.len().is_multiple_of(stride),
        };
        let keeps = self.keep == KeepStep::Best && !done.points.is_empty();
        let expected = if keeps { params } else { 0 };
        if !fits || done.best.len() != expected {
            return false;
        }
        self.done = done;
        if rank != 0 {
            self.done.best = Vec::new();
        }
        true
    }

    /// Takes the state for a checkpoint; [`Validation::put_back`] follows.
    pub(crate) fn take(&mut self) -> Validated {
        std::mem::take(&mut self.done)
    }

    pub(crate) fn put_back(&mut self, done: Validated) {
        self.done = done;
    }

    /// Whether the model is to be measured after `step` steps, and was not yet.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        let due = self
            .settings
            .is_some_and(|set| set.is_due(step, self.steps));
        due && self.rows().last().is_none_or(|row| (row[0] as u64) < step)
    }

    /// Measures `network` after `step` steps. Every rank calls it.
    ///
    /// - `validator`: of rank 0.
    ///
    /// # Errors
    /// [`TrainError::Validation`], [`TrainError::Ring`], [`TrainError::Cancelled`]; nothing is recorded
    /// then.
    pub(crate) fn measure(
        &mut self,
        step: u64,
        network: &dyn Network,
        link: &mut Link<'_>,
        mut validator: Option<&mut (dyn Validator + '_)>,
        cancel: &AtomicBool,
    ) -> Result<(), TrainError> {
        let Some(settings) = self.settings else {
            return Ok(());
        };
        let figures = match &mut validator {
            Some(validator) if link.rank() == 0 => {
                lead(step, network, link, &mut **validator, cancel)?
            }
            _ => follow(step, link, settings.metric.figures().len(), cancel)?,
        };
        // The time of the measurement is not time of the next step.
        link.take_spent();
        let point = settings.metric.point(step, &figures);
        tracing::info!(rank = link.rank(), step, figures = ?point.figures, "validated");
        let is_best = self.best().is_none_or(|best| figures[0] > best[1]);
        self.done.points.push(step as f64);
        self.done.points.extend(&figures);
        if is_best && self.keep == KeepStep::Best && link.rank() == 0 {
            self.done.best = network.to_flat();
        }
        if let Some(validator) = validator {
            validator.record(&point);
        }
        Ok(())
    }

    /// The curve, after the last step. On rank 0 `network` receives the best weights where they are
    /// kept; the other ranks have no copy of them.
    pub(crate) fn publish(&self, network: &mut dyn Network) -> Option<ValidationCurve> {
        let metric = self.settings?.metric;
        let published_step = match (self.keep, self.best()) {
            (KeepStep::Best, Some(best)) => best[0] as u64,
            _ => self.steps,
        };
        if published_step != self.steps && !self.done.best.is_empty() {
            network.load_flat(&self.done.best);
        }
        let points = self
            .rows()
            .map(|row| metric.point(row[0] as u64, &row[1..]));
        Some(ValidationCurve {
            metric,
            points: points.collect(),
            published_step,
        })
    }

    /// Values of a measurement, the step included.
    fn stride(&self) -> usize {
        self.settings
            .map_or(0, |set| 1 + set.metric.figures().len())
    }

    fn rows(&self) -> impl DoubleEndedIterator<Item = &[f64]> {
        self.done.points.chunks_exact(self.stride().max(1))
    }

    /// The measurement with the greatest metric, the earliest of several.
    fn best(&self) -> Option<&[f64]> {
        let greater = |best: &'_ [f64], row: &'_ [f64]| row[1] > best[1];
        self.rows()
            .reduce(|best, row| if greater(best, row) { row } else { best })
    }
}

/// Rank 0: measures, and keeps the other ranks waiting.
fn lead(
    step: u64,
    network: &dyn Network,
    link: &mut Link<'_>,
    validator: &mut (dyn Validator + '_),
    cancel: &AtomicBool,
) -> Result<Vec<f64>, TrainError> {
    if cancel.load(Ordering::Relaxed) {
        return Err(TrainError::Cancelled { step });
    }
    let ring = |source| TrainError::Ring { step, source };
    let ring_failed = AtomicBool::new(false);
    let interval = link.limit() / BEATS_PER_LIMIT;
    let (measuring, ended) = mpsc::channel::<()>();
    let (measured, beaten) = thread::scope(|scope| {
        // Owned by this closure, so that a panic of the validator ends the beats.
        let measuring = measuring;
        let (link, ring_failed) = (&mut *link, &ring_failed);
        let beats = scope.spawn(move || {
            let beaten = beat(link, &ended, interval);
            ring_failed.store(beaten.is_err(), Ordering::Relaxed);
            beaten
        });
        let goes_on = || !cancel.load(Ordering::Relaxed) && !ring_failed.load(Ordering::Relaxed);
        let measured = validator.measure(network.inference(), &goes_on);
        drop(measuring);
        let beaten = beats.join();
        (measured, beaten.expect("the ring returns its errors"))
    });
    beaten.map_err(ring)?;
    let figures = measured.map_err(|error| TrainError::Validation {
        step,
        kind: error.kind,
        source: error.source,
    })?;
    let figures = figures.ok_or(TrainError::Cancelled { step })?;
    let message: Vec<u8> = figures.iter().flat_map(|f| f.to_le_bytes()).collect();
    link.all_gather_bytes(&message).map_err(ring)?;
    Ok(figures)
}

/// Sends beats until the sender of `ended` is dropped.
fn beat(
    link: &mut Link<'_>,
    ended: &mpsc::Receiver<()>,
    interval: Duration,
) -> Result<(), RingError> {
    while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        link.all_gather_bytes(&[])?;
    }
    Ok(())
}

/// Another rank: waits for the figures of rank 0.
fn follow(
    step: u64,
    link: &mut Link<'_>,
    figures: usize,
    cancel: &AtomicBool,
) -> Result<Vec<f64>, TrainError> {
    let ring = |source| TrainError::Ring { step, source };
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(TrainError::Cancelled { step });
        }
        let messages = link.all_gather_bytes(&[]).map_err(ring)?;
        let (values, rest) = messages[0].as_chunks::<8>();
        match values.len() {
            0 if rest.is_empty() => {}
            count if count == figures && rest.is_empty() => {
                return Ok(values.iter().map(|b| f64::from_le_bytes(*b)).collect());
            }
            _ => {
                return Err(ring(RingError::Protocol {
                    rank: 0,
                    detail: "the figures of a validation have another number",
                }));
            }
        }
    }
}

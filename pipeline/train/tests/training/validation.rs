//! Measurements between steps: they change no weight, survive a restart, and keep a ring waiting.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use capstan_collective::{
    Collective, Ring, RingEpoch, RingError, RingPlan, Secret, SoloRing, deadline_after,
};
use capstan_model::Network;
use capstan_plan::FailureKind;
use capstan_plan::id::Digest;
use capstan_plan::results::{ValidationCurve, ValidationPoint};
use capstan_plan::stage::{self, KeepStep};
use capstan_train::{SourceError, State, TrainError, Validator};

use crate::resume::{Outcome, run_with, run_within, settings};

fn validated(every_steps: u64, keep: KeepStep) -> stage::Train {
    let validation =
        format!(r#"{{"from": "x", "every_steps": {every_steps}, "metric": "r_at_1"}}"#);
    stage::Train {
        validate: Some(serde_json::from_str(&validation).unwrap()),
        keep,
        ..settings(1e-2)
    }
}

/// What a [`Drawn`] does in one of its measurements.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// It is cancelled.
    Cancel,
    /// It fails with this kind.
    Fail(FailureKind),
}

/// Figures that are drawn from the weights: the same weights have the same figures.
struct Drawn {
    /// Values of the metric.
    values: fn(&[f32]) -> f64,
    trouble: Trouble,
    /// Measurements before the trouble.
    left: usize,
    /// The weights by the bits of their value.
    weights: Vec<Vec<f32>>,
    recorded: Vec<ValidationPoint>,
}

fn hashed(weights: &[f32]) -> f64 {
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    let Digest(digest) = Digest::of(&bytes);
    f64::from(digest[0]) + f64::from(digest[1]) / 256.0
}

impl Drawn {
    fn new() -> Self {
        Self {
            values: hashed,
            trouble: Trouble::None,
            left: 0,
            weights: Vec::new(),
            recorded: Vec::new(),
        }
    }

    fn in_trouble(trouble: Trouble, left: usize) -> Self {
        Self {
            trouble,
            left,
            ..Self::new()
        }
    }
}

impl Validator for Drawn {
    fn measure(
        &mut self,
        network: Box<dyn Network>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>, SourceError> {
        assert!(goes_on());
        assert!(!network.device().is_autodiff(), "no gradients are recorded");
        if self.trouble != Trouble::None && self.weights.len() == self.left {
            return match self.trouble {
                Trouble::Fail(kind) => Err(SourceError {
                    kind,
                    source: "no pictures".into(),
                }),
                _ => Ok(None),
            };
        }
        let weights = network.to_flat();
        let value = (self.values)(&weights);
        self.weights.push(weights);
        Ok(Some(vec![value, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    }

    fn record(&mut self, point: &ValidationPoint) {
        self.recorded.push(point.clone());
    }
}

fn run(config: &stage::Train, resume: Option<State>, stop_at: Option<u64>) -> (Outcome, Drawn) {
    let mut drawn = Drawn::new();
    let outcome = run_with(&mut SoloRing, config, resume, stop_at, Some(&mut drawn));
    (outcome, drawn)
}

fn curve(outcome: &Outcome) -> ValidationCurve {
    let trained = outcome.result.as_ref().unwrap();
    trained.training.validation.clone().unwrap()
}

fn bits(params: &[f32]) -> Vec<u32> {
    params.iter().map(|p| p.to_bits()).collect()
}

#[test]
fn a_validation_changes_neither_weights_nor_losses() {
    let plain = run_with(&mut SoloRing, &settings(1e-2), None, None, None);
    for (every_steps, steps) in [(4, vec![4, 8, 12]), (5, vec![5, 10, 12])] {
        let (measured, drawn) = run(&validated(every_steps, KeepStep::Last), None, None);
        assert_eq!(bits(&measured.params), bits(&plain.params));
        let losses = |outcome: &Outcome| -> Vec<f64> {
            outcome.steps.iter().map(|step| step.loss).collect()
        };
        assert_eq!(losses(&measured), losses(&plain));
        let curve = curve(&measured);
        let found: Vec<u64> = curve.points.iter().map(|point| point.step).collect();
        assert_eq!(found, steps);
        assert_eq!(curve.points, drawn.recorded);
        assert_eq!(curve.published_step, 12);
    }
    let training = plain.result.unwrap().training;
    assert_eq!(training.validation, None);
}

#[test]
fn the_best_step_is_published_and_the_earliest_of_equal_ones() {
    let config = validated(2, KeepStep::Best);
    let (outcome, drawn) = run(&config, None, None);
    let curve = curve(&outcome);
    let values: Vec<f64> = drawn.weights.iter().map(|w| hashed(w)).collect();
    let best = values.iter().copied().fold(f64::MIN, f64::max);
    let place = values.iter().position(|value| *value == best).unwrap();
    assert!(place < 5, "the last step is the best one: {values:?}");
    assert_eq!(curve.published_step, 2 * (place as u64 + 1));
    assert_eq!(curve.best().unwrap().step, curve.published_step);
    assert_eq!(bits(&outcome.params), bits(&drawn.weights[place]));

    let mut equal = Drawn {
        values: |_| 7.0,
        ..Drawn::new()
    };
    let outcome = run_with(&mut SoloRing, &config, None, None, Some(&mut equal));
    assert_eq!(self::curve(&outcome).published_step, 2);
    assert_eq!(bits(&outcome.params), bits(&equal.weights[0]));
}

#[test]
fn a_resumed_training_has_the_curve_and_the_best_weights_of_the_undisturbed_one() {
    for keep in [KeepStep::Last, KeepStep::Best] {
        let config = validated(2, keep);
        let (whole, _) = run(&config, None, None);
        let expected = curve(&whole);
        for stop_at in [0, 1, 2, 4, 7, 9, 10] {
            let (stopped, before) = run(&config, None, Some(stop_at));
            assert!(matches!(stopped.result, Err(TrainError::Cancelled { .. })));
            let state = stopped.kept.0.last().unwrap().clone();
            assert_eq!(state.step, stop_at + 1);
            let (resumed, after) = run(&config, Some(state), None);
            assert_eq!(curve(&resumed), expected, "stopped at {stop_at}");
            assert_eq!(bits(&resumed.params), bits(&whole.params));
            // No step is measured twice, but one that the stop fell into.
            let count = before.recorded.len() + after.recorded.len();
            assert_eq!(count, expected.points.len(), "stopped at {stop_at}");
        }
        // From a checkpoint that is older than the last measurement.
        let state = whole.kept.0[0].clone();
        assert_eq!((state.step, state.validation.points.len()), (5, 2 * 8));
        let (resumed, _) = run(&config, Some(state), None);
        assert_eq!(curve(&resumed), expected);
        assert_eq!(bits(&resumed.params), bits(&whole.params));
    }
}

#[test]
fn a_training_that_ends_within_a_measurement_measures_the_step_again() {
    let config = validated(4, KeepStep::Best);
    let (whole, _) = run(&config, None, None);
    for (trouble, left) in [
        (Trouble::Cancel, 0),
        (Trouble::Cancel, 2),
        (Trouble::Fail(FailureKind::Transient), 1),
    ] {
        let mut drawn = Drawn::in_trouble(trouble, left);
        let ended = run_with(&mut SoloRing, &config, None, None, Some(&mut drawn));
        let step = 4 * (left as u64 + 1);
        match ended.result.unwrap_err() {
            TrainError::Cancelled { step: at } if trouble == Trouble::Cancel => {
                assert_eq!(at, step);
            }
            error @ TrainError::Validation { .. } => {
                assert_eq!(error.kind(), FailureKind::Transient);
            }
            error => panic!("{error}"),
        }
        let state = ended.kept.0.last().unwrap().clone();
        assert_eq!(
            (state.step, state.validation.points.len()),
            (step, 8 * left)
        );
        let (resumed, after) = run(&config, Some(state), None);
        assert_eq!(after.recorded[0].step, step);
        assert_eq!(curve(&resumed), curve(&whole));
        assert_eq!(bits(&resumed.params), bits(&whole.params));
    }
    let mut drawn = Drawn::in_trouble(Trouble::Fail(FailureKind::PoisonShard), 0);
    let ended = run_with(&mut SoloRing, &config, None, None, Some(&mut drawn));
    assert_eq!(ended.result.unwrap_err().kind(), FailureKind::PoisonShard);
    assert!(
        ended.kept.0.is_empty(),
        "a resumed training would fail again"
    );
}

#[test]
fn states_of_another_validation_are_refused() {
    let config = validated(2, KeepStep::Best);
    let state = run(&config, None, Some(6)).0.kept.0.pop().unwrap();
    let mut short = state.clone();
    short.validation.points.pop();
    let mut lost = state.clone();
    lost.validation.best.clear();
    let last = validated(2, KeepStep::Last);
    for (config, state) in [
        (&settings(1e-2), &state),
        (&last, &state),
        (&config, &short),
        (&config, &lost),
    ] {
        let result = run(config, Some(state.clone()), None).0.result;
        let foreign = matches!(result, Err(TrainError::ForeignState { .. }));
        assert!(foreign, "{result:?}");
    }
    let without = run_with(&mut SoloRing, &config, None, None, None);
    let Err(TrainError::Settings { field, .. }) = without.result else {
        panic!("rank 0 needs a validator");
    };
    assert_eq!(field, "validate");
}

/// A ring that counts its gathers.
struct Counted {
    ring: Ring,
    gathers: Arc<AtomicU64>,
}

impl Collective for Counted {
    fn rank(&self) -> usize {
        self.ring.rank()
    }

    fn world_size(&self) -> usize {
        self.ring.world_size()
    }

    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError> {
        self.ring.all_reduce_sum(values, deadline)
    }

    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError> {
        self.gathers.fetch_add(1, Ordering::Relaxed);
        self.ring.all_gather_bytes(bytes, deadline)
    }

    fn broadcast(
        &mut self,
        values: &mut [f32],
        root: usize,
        deadline: Instant,
    ) -> Result<(), RingError> {
        self.ring.broadcast(values, root, deadline)
    }

    fn bytes_reduced(&self) -> u64 {
        self.ring.bytes_reduced()
    }
}

/// Runs `work(rank, ring)` on two ranks.
fn on_two_ranks<T: Send>(work: impl Fn(usize, Ring) -> T + Sync) -> Vec<T> {
    let listeners: Vec<TcpListener> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let peers: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let plan = RingPlan {
                    run: "validation".to_owned(),
                    ring_epoch: RingEpoch {
                        generation: 1,
                        counter: 1,
                    },
                    rank,
                    world_size: 2,
                    peers: peers.clone(),
                    secret: Secret([9; 32]),
                };
                let work = &work;
                scope.spawn(move || {
                    let deadline = deadline_after(Duration::from_secs(60));
                    let ring = Ring::connect(&plan, listener, 0, deadline).unwrap();
                    work(rank, ring)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// A validator whose first measurement lasts so many gathers of its ring, or until it is stopped.
struct Slow {
    drawn: Drawn,
    gathers: Arc<AtomicU64>,
    beats: u64,
    stopped: bool,
}

impl Validator for Slow {
    fn measure(
        &mut self,
        network: Box<dyn Network>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>, SourceError> {
        let last = self.gathers.load(Ordering::Relaxed) + std::mem::take(&mut self.beats);
        while self.gathers.load(Ordering::Relaxed) < last {
            if !goes_on() {
                self.stopped = true;
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.drawn.measure(network, goes_on)
    }

    fn record(&mut self, point: &ValidationPoint) {
        self.drawn.record(point);
    }
}

#[test]
fn other_ranks_wait_longer_than_the_limit_of_one_operation() {
    let config = validated(6, KeepStep::Best);
    let plain =
        on_two_ranks(|_, mut ring| run_with(&mut ring, &settings(1e-2), None, None, None).params);
    let outcomes = on_two_ranks(|rank, ring| {
        let gathers = Arc::new(AtomicU64::new(0));
        let mut ring = Counted {
            ring,
            gathers: gathers.clone(),
        };
        let mut slow = Slow {
            drawn: Drawn::new(),
            gathers,
            // There is a beat in each quarter of the limit.
            beats: 5,
            stopped: false,
        };
        let validator: Option<&mut dyn Validator> = match rank {
            0 => Some(&mut slow),
            _ => None,
        };
        let outcome = run_within(
            Duration::from_secs(2),
            &mut ring,
            &config,
            None,
            None,
            validator,
        );
        (outcome, slow.drawn)
    });
    let [(first, drawn), (second, idle)] = <[_; 2]>::try_from(outcomes).ok().unwrap();
    assert_eq!(curve(&first), curve(&second), "all ranks record the points");
    assert_eq!(drawn.recorded, curve(&first).points);
    assert!(idle.recorded.is_empty() && idle.weights.is_empty());
    // Rank 0 ends with the best weights, the other one with the last; none trained otherwise.
    let best = (curve(&first).published_step / 6 - 1) as usize;
    assert_eq!(bits(&first.params), bits(&drawn.weights[best]));
    assert_eq!(bits(&second.params), bits(&plain[1]));
    assert_eq!(bits(&drawn.weights[1]), bits(&plain[0]));
}

#[test]
fn a_rank_that_leaves_stops_the_measurement_and_loses_no_step() {
    let config = validated(4, KeepStep::Best);
    let outcomes = on_two_ranks(|rank, ring| {
        let gathers = Arc::new(AtomicU64::new(0));
        let mut ring = Counted {
            ring,
            gathers: gathers.clone(),
        };
        let mut slow = Slow {
            drawn: Drawn::new(),
            gathers,
            beats: u64::MAX / 2,
            stopped: false,
        };
        // Rank 1 is cancelled after its fourth step, when rank 0 begins to measure.
        let (stop_at, validator): (_, Option<&mut dyn Validator>) = match rank {
            0 => (None, Some(&mut slow)),
            _ => (Some(3), None),
        };
        let outcome = run_with(&mut ring, &config, None, stop_at, validator);
        (outcome, slow.stopped)
    });
    let [(first, stopped), (second, _)] = <[_; 2]>::try_from(outcomes).ok().unwrap();
    let cancelled = matches!(second.result, Err(TrainError::Cancelled { step: 4 }));
    assert!(cancelled, "{:?}", second.result);
    let lost = matches!(first.result, Err(TrainError::Ring { step: 4, .. }));
    assert!(lost && stopped, "{:?}", first.result);
    let state = first.kept.0.last().unwrap();
    assert_eq!((state.step, state.validation.points.len()), (4, 0));
}

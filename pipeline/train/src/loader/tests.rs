use std::thread;
use std::time::Duration;

use super::*;
use crate::augment::tests::augment;
use crate::{PictureSource, SourceError};
use capstan_dataset::sampler::SampleKey;
use capstan_model::ImagePreprocess;
use capstan_plan::FailureKind;
use capstan_plan::id::{Digest, TextId};

const SIDE: usize = 8;
const SAMPLES: usize = 30;
const GLOBAL_BATCH: usize = 6;
const STEPS: u64 = 15;

/// Pictures of their own number; `bad` cannot be loaded.
struct Numbered {
    bad: Option<usize>,
    slow: bool,
}

impl PictureSource for Numbered {
    fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
        if self.slow {
            thread::sleep(Duration::from_millis(2));
        }
        if pictures.iter().any(|picture| Some(*picture) == self.bad) {
            return Err(SourceError {
                kind: FailureKind::Transient,
                source: Box::new(std::io::Error::other("gone")),
            });
        }
        let bytes = |picture: &usize| vec![*picture as u8; 3 * SIDE * SIDE];
        Ok(pictures.iter().map(bytes).collect())
    }
}

fn samples() -> Vec<Sample> {
    let sample = |index: usize| Sample {
        text_id: TextId(Digest::of(&index.to_le_bytes())),
        shard: index as u32 / 10,
        picture: index,
        tokens: vec![index as u32; 3],
    };
    (0..SAMPLES).map(sample).collect()
}

fn sampler(samples: &[Sample]) -> Sampler {
    let key = |sample: &Sample| SampleKey {
        text_id: sample.text_id,
        length: 3,
        shard: sample.shard,
    };
    Sampler::new(
        samples.iter().map(key).collect(),
        SAMPLES as u64,
        GLOBAL_BATCH,
        1,
        4,
    )
    .unwrap()
}

/// What a training receives; it waits before each step where the loader is not the slow one.
fn received(source: Numbered, rank: usize) -> Vec<Result<Prepared, TrainError>> {
    let samples = samples();
    let slow = source.slow;
    let mut pictures = Pictures::new(Box::new(source), SAMPLES, 0);
    let loader = Loader {
        samples: &samples,
        pictures: &mut pictures,
        sampler: sampler(&samples),
        augment: augment(
            4,
            &ImagePreprocess::new(SIDE),
            r#", "augment": {"crop_scale": [0.3, 1.0], "flip": true}"#,
        ),
        rank,
        world_size: 2,
        side: SIDE,
    };
    let (queue, batches) = loader.queue(GLOBAL_BATCH);
    thread::scope(|scope| {
        scope.spawn(move || loader.run(0..STEPS, &queue));
        let pause = || {
            if !slow {
                thread::sleep(Duration::from_millis(2));
            }
        };
        batches.iter().inspect(|_| pause()).collect()
    })
}

#[test]
fn batches_are_the_same_whoever_is_slower() {
    let samples = samples();
    for rank in 0..2 {
        let run = |slow| received(Numbered { bad: None, slow }, rank);
        let (ahead, behind) = (run(false), run(true));
        assert_eq!(
            (ahead.len(), behind.len()),
            (STEPS as usize, STEPS as usize)
        );
        for (step, (a, b)) in (0..).zip(ahead.into_iter().zip(behind)) {
            let (a, b) = (a.unwrap(), b.unwrap());
            assert_eq!(a.slice.step, step);
            assert_eq!(a.slice.pixels, b.slice.pixels);
            assert_eq!(a.slice.tokens, b.slice.tokens);
            let batch = sampler(&samples).batch(step);
            assert_eq!(a.data_epoch, batch.data_epoch);
            let own = rank_slice(GLOBAL_BATCH, rank, 2);
            assert_eq!(a.slice.range, own);
            let pictures: Vec<u32> = batch.samples[own].iter().map(|s| *s as u32).collect();
            assert_eq!(a.slice.pictures, pictures);
        }
    }
}

#[test]
fn an_error_takes_the_place_of_its_step() {
    let samples = samples();
    let step = 7;
    let bad = sampler(&samples).batch(step).samples[1];
    let source = Numbered {
        bad: Some(bad),
        slow: false,
    };
    let first = (0..).find(|step| sampler(&samples).batch(*step).samples[..3].contains(&bad));
    let mut received = received(source, 0);
    let last = received.pop().unwrap();
    assert_eq!(received.len() as u64, first.unwrap());
    assert!(received.iter().all(Result::is_ok));
    let Err(TrainError::Picture { kind, source, .. }) = last else {
        panic!("no error of a picture");
    };
    assert_eq!(kind, FailureKind::Transient);
    assert_eq!(source.to_string(), "gone");
}

#[test]
fn a_loader_is_never_far_ahead_and_stops_when_nothing_receives() {
    let samples = samples();
    let source = Numbered {
        bad: None,
        slow: false,
    };
    let mut pictures = Pictures::new(Box::new(source), SAMPLES, 0);
    let loader = Loader {
        samples: &samples,
        pictures: &mut pictures,
        sampler: sampler(&samples),
        augment: augment(4, &ImagePreprocess::new(SIDE), ""),
        rank: 0,
        world_size: 1,
        side: SIDE,
    };
    let batch = || Err(TrainError::Cancelled { step: 0 });
    let (full, _batches) = loader.queue(GLOBAL_BATCH);
    let taken = std::iter::from_fn(|| full.try_send(batch()).ok());
    assert_eq!(taken.count(), QUEUED_BATCHES);
    // A batch as large as the limit is handed over without a queue.
    let (full, _batches) = loader.queue(QUEUED_BYTES);
    assert!(full.try_send(batch()).is_err());

    let (queue, batches) = loader.queue(GLOBAL_BATCH);
    thread::scope(|scope| {
        scope.spawn(move || loader.run(0..u64::MAX, &queue));
        assert!(batches.recv().unwrap().is_ok());
        drop(batches);
    });
}

#[test]
fn coming_pictures_are_announced_before_they_are_asked_for() {
    /// Fails if a picture is asked for that was not announced.
    struct Announced(std::collections::BTreeSet<usize>);

    impl PictureSource for Announced {
        fn expect(&mut self, pictures: &[usize]) {
            assert!(pictures.len() <= ANNOUNCED_PICTURES);
            self.0 = pictures.iter().copied().collect();
        }

        fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
            assert!(pictures.iter().all(|picture| self.0.contains(picture)));
            Ok(vec![vec![0; 3 * SIDE * SIDE]; pictures.len()])
        }
    }

    let samples = samples();
    let mut pictures = Pictures::new(Box::new(Announced(Default::default())), SAMPLES, 0);
    let loader = Loader {
        samples: &samples,
        pictures: &mut pictures,
        sampler: sampler(&samples),
        augment: augment(4, &ImagePreprocess::new(SIDE), ""),
        rank: 0,
        world_size: 1,
        side: SIDE,
    };
    let (queue, batches) = loader.queue(GLOBAL_BATCH);
    let steps = 2 * ANNOUNCED_STEPS + 3;
    let received = thread::scope(|scope| {
        scope.spawn(move || loader.run(0..steps, &queue));
        batches.iter().filter(Result::is_ok).count()
    });
    assert_eq!(received as u64, steps);
}

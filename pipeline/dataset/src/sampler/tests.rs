//! Properties of the order of samples.

use std::collections::{BTreeMap, BTreeSet};

use capstan_plan::id::{Digest, TextId};
use proptest::prelude::*;

use super::*;

fn keys(count: usize, shards: usize) -> Vec<SampleKey> {
    let key = |n: usize| {
        let digest = Digest::of(&n.to_le_bytes());
        SampleKey {
            text_id: TextId(digest),
            length: 3 + (digest.prefix_u64() % 17) as u32,
            shard: (n * shards / count) as u32,
        }
    };
    (0..count).map(key).collect()
}

/// A sampler over one window.
fn over(keys: &[SampleKey], batch: usize, bucket: usize, seed: u64) -> Sampler {
    Sampler::new(keys.to_vec(), keys.len() as u64, batch, bucket, seed).unwrap()
}

/// The first samples of the stream.
fn stream(sampler: &Sampler, batch: usize, samples: usize) -> Vec<usize> {
    let steps = samples.div_ceil(batch) as u64;
    (0..steps)
        .flat_map(|step| sampler.batch(step).samples)
        .take(samples)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every sample comes in every data epoch; only what fills the last batch of a window comes
    /// again, and from that window.
    #[test]
    fn every_sample_comes_in_a_data_epoch(
        count in 1usize..200,
        shards in 1usize..9,
        batch in 1usize..50,
        bucket in 1usize..6,
        windows in 1u64..6,
        seed: u64,
    ) {
        let keys = keys(count, shards.min(count));
        let sampler = over(&keys, batch, bucket, seed).with_windows(windows);
        let mut epochs = vec![Vec::new(); 3];
        for step in 0.. {
            let drawn = sampler.batch(step);
            prop_assert_eq!(drawn.samples.len(), batch);
            match epochs.get_mut(drawn.data_epoch as usize) {
                Some(epoch) => epoch.push(drawn),
                None => break,
            }
        }
        for epoch in epochs {
            let all: BTreeSet<_> = epoch.iter().flat_map(|batch| &batch.samples).collect();
            prop_assert_eq!(all.len(), count);
            let mut of_windows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for batch in epoch {
                of_windows.entry(batch.window).or_default().extend(batch.samples);
            }
            let mut seen = BTreeSet::new();
            for samples in of_windows.into_values() {
                let distinct: BTreeSet<_> = samples.iter().copied().collect();
                prop_assert!(samples.len() < distinct.len() + batch);
                let shards: BTreeSet<u32> = samples.iter().map(|at| keys[*at].shard).collect();
                prop_assert!(shards.iter().all(|shard| seen.insert(*shard)), "a shard in two windows");
            }
        }
    }

    /// Removing a sample changes the composition of no batch of another window.
    #[test]
    fn removing_a_sample_changes_its_window_alone(
        count in 20usize..300,
        shards in 2usize..20,
        batch in 1usize..12,
        bucket in 1usize..5,
        windows in 2u64..6,
        seed: u64,
        removed: prop::sample::Index,
    ) {
        let keys = keys(count, shards.min(count));
        let removed = removed.index(count);
        let mut rest = keys.clone();
        rest.remove(removed);
        // The batches of the first data epoch, as texts, by the shards of their window.
        let batches = |keys: &[SampleKey]| {
            let sampler = over(keys, batch, bucket, seed).with_windows(windows);
            let steps = (0..).map(|step| sampler.batch(step));
            let mut of_windows: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
            for batch in steps.take_while(|batch| batch.data_epoch == 0) {
                of_windows.entry(batch.window).or_default().push(batch.samples);
            }
            let texts = |batch: Vec<usize>| -> Vec<TextId> {
                batch.iter().map(|at| keys[*at].text_id).collect()
            };
            of_windows.into_values().map(move |batches| {
                let shards: BTreeSet<u32> =
                    batches.iter().flatten().map(|at| keys[*at].shard).collect();
                (shards, batches.into_iter().map(texts).collect::<Vec<_>>())
            }).collect::<Vec<_>>()
        };
        let (before, after) = (batches(&keys), batches(&rest));
        let shard = keys[removed].shard;
        let others = |windows: Vec<(BTreeSet<u32>, Vec<Vec<TextId>>)>| {
            windows.into_iter().filter(|(shards, _)| !shards.contains(&shard)).collect::<Vec<_>>()
        };
        let others_after = others(after);
        for window in others(before) {
            prop_assert!(others_after.contains(&window));
        }
    }

    /// A step's batch is the same asked alone, out of order, or from another sampler.
    #[test]
    fn a_batch_is_a_pure_function_of_its_step(
        count in 1usize..200,
        batch in 1usize..40,
        bucket in 1usize..5,
        seed: u64,
        steps in prop::collection::vec(0u64..40, 1..12),
    ) {
        let sampler = over(&keys(count, 3.min(count)), batch, bucket, seed);
        for step in steps {
            let fresh = over(&keys(count, 3.min(count)), batch, bucket, seed);
            prop_assert_eq!(sampler.batch(step), fresh.batch(step));
        }
    }

    /// Samples in another order (another index) give the same texts in the same order,
    /// when shards are not permuted otherwise.
    #[test]
    fn the_order_hangs_on_texts_not_on_indices(count in 2usize..120, seed: u64) {
        let forward = keys(count, 1);
        let mut backward = forward.clone();
        backward.reverse();
        let first = over(&forward, 7, 1, seed);
        let second = over(&backward, 7, 1, seed);
        for step in 0..20 {
            let texts = |keys: &[SampleKey], sampler: &Sampler| -> Vec<TextId> {
                sampler.batch(step).samples.iter().map(|at| keys[*at].text_id).collect()
            };
            prop_assert_eq!(texts(&forward, &first), texts(&backward, &second));
        }
    }

    /// The slices of all ranks are the batch, in order, as even as can be.
    #[test]
    fn slices_of_ranks_are_the_batch(batch in 1usize..500, world_size in 1usize..17) {
        let slices: Vec<_> = (0..world_size).map(|rank| rank_slice(batch, rank, world_size)).collect();
        let all: Vec<usize> = slices.iter().cloned().flatten().collect();
        prop_assert_eq!(all, (0..batch).collect::<Vec<_>>());
        let lens = slices.iter().map(ExactSizeIterator::len);
        prop_assert!(lens.clone().max().unwrap() - lens.min().unwrap() <= 1);
    }
}

#[test]
fn seeds_and_data_epochs_order_otherwise() {
    let sampler = over(&keys(100, 4), 10, 1, 1);
    let other = over(&keys(100, 4), 10, 1, 2);
    assert_ne!(stream(&sampler, 10, 100), stream(&other, 10, 100));
    let both = stream(&sampler, 10, 200);
    assert_ne!(both[..100], both[100..]);
}

#[test]
fn a_bucket_holds_texts_of_like_length() {
    let spread = |bucket: usize| {
        let keys = keys(640, 1);
        let sampler = over(&keys, 16, bucket, 5);
        let spread = |step: u64| {
            let lengths = sampler.batch(step).samples;
            let lengths = lengths.iter().map(|at| keys[*at].length);
            lengths.clone().max().unwrap() - lengths.min().unwrap()
        };
        (0..40).map(spread).sum::<u32>()
    };
    assert!(
        spread(4) * 2 < spread(1),
        "{} against {}",
        spread(4),
        spread(1)
    );
    // And the order of batches does not climb with their length.
    let keys = keys(640, 1);
    let sampler = over(&keys, 16, 40, 5);
    let first = |step| keys[sampler.batch(step).samples[0]].length;
    assert!(!(0..40).map(first).is_sorted());
}

#[test]
fn windows_are_drawn_anew_in_every_data_epoch_and_follow_the_rows_of_base_files() {
    let keys = keys(1000, 40);
    let sampler = over(&keys, 10, 2, 9).with_windows(4);
    let shards = |epoch: u64| {
        let steps = (0..).map(|step| sampler.batch(step));
        let of_epoch = steps
            .skip_while(|batch| batch.data_epoch < epoch)
            .take_while(|batch| batch.data_epoch == epoch && batch.window == 0);
        of_epoch
            .flat_map(|batch| batch.samples)
            .map(|at| keys[at].shard)
            .collect::<BTreeSet<u32>>()
    };
    assert_ne!(shards(0), shards(1));
    let windows = |rows| Sampler::new(keys.clone(), rows, 1, 1, 0).unwrap().windows;
    assert_eq!(
        [0, 1000, 131_071, 131_072, 6_553_600].map(windows),
        [1, 1, 1, 2, 100]
    );
}

#[test]
fn nothing_to_sample_is_an_error() {
    assert!(Sampler::new(Vec::new(), 0, 4, 1, 0).is_err());
    assert!(Sampler::new(keys(3, 1), 3, 0, 1, 0).is_err());
    assert!(Sampler::new(keys(3, 1), 3, 4, 0, 0).is_err());
}

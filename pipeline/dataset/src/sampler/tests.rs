//! Properties of the order of samples.

use std::collections::BTreeSet;

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

    /// Every sample once per data epoch, batches always full, whatever the sizes.
    #[test]
    fn every_sample_comes_once_in_a_data_epoch(
        count in 1usize..200,
        shards in 1usize..9,
        batch in 1usize..50,
        bucket in 1usize..6,
        window in 1usize..250,
        seed: u64,
    ) {
        let shards = shards.min(count);
        let sampler = Sampler::new(keys(count, shards), batch, bucket, seed).unwrap();
        let sampler = sampler.with_window(window);
        let stream = stream(&sampler, batch, count * 3);
        for data_epoch in stream.chunks(count) {
            let distinct: BTreeSet<_> = data_epoch.iter().collect();
            prop_assert_eq!(distinct.len(), count);
        }
        for step in 0..5 {
            let drawn = sampler.batch(step);
            prop_assert_eq!(drawn.samples.len(), batch);
            prop_assert_eq!(drawn.data_epoch, step * batch as u64 / count as u64);
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
        let sampler = Sampler::new(keys(count, 3.min(count)), batch, bucket, seed).unwrap();
        for step in steps {
            let fresh = Sampler::new(keys(count, 3.min(count)), batch, bucket, seed).unwrap();
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
        let first = Sampler::new(forward.clone(), 7, 1, seed).unwrap();
        let second = Sampler::new(backward.clone(), 7, 1, seed).unwrap();
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
    let sampler = Sampler::new(keys(100, 4), 10, 1, 1).unwrap();
    let other = Sampler::new(keys(100, 4), 10, 1, 2).unwrap();
    assert_ne!(stream(&sampler, 10, 100), stream(&other, 10, 100));
    let both = stream(&sampler, 10, 200);
    assert_ne!(both[..100], both[100..]);
}

#[test]
fn a_bucket_holds_texts_of_like_length() {
    let spread = |bucket: usize| {
        let keys = keys(640, 1);
        let sampler = Sampler::new(keys.clone(), 16, bucket, 5).unwrap();
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
    let sampler = Sampler::new(keys.clone(), 16, 40, 5).unwrap();
    let first = |step| keys[sampler.batch(step).samples[0]].length;
    assert!(!(0..40).map(first).is_sorted());
}

/// A window holds whole shards: a reader needs few of them at a time.
#[test]
fn windows_keep_shards_together() {
    let keys = keys(1000, 10);
    let sampler = Sampler::new(keys.clone(), 10, 2, 9)
        .unwrap()
        .with_window(200);
    let order = stream(&sampler, 10, 1000);
    for window in order.chunks(200) {
        let shards: BTreeSet<u32> = window.iter().map(|at| keys[*at].shard).collect();
        assert_eq!(shards.len(), 2, "{shards:?}");
    }
    let sets = |order: &[usize]| keys[order[0]].shard;
    let next = stream(&sampler, 10, 2000);
    assert_ne!(
        order.chunks(200).map(sets).collect::<Vec<_>>(),
        next[1000..].chunks(200).map(sets).collect::<Vec<_>>(),
        "shards are permuted anew in every data epoch"
    );
}

#[test]
fn nothing_to_sample_is_an_error() {
    assert!(Sampler::new(Vec::new(), 4, 1, 0).is_err());
    assert!(Sampler::new(keys(3, 1), 0, 1, 0).is_err());
    assert!(Sampler::new(keys(3, 1), 4, 0, 0).is_err());
}

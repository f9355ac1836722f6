//! The pictures that a model is measured on, with their reference texts.

use std::collections::BTreeMap;

use capstan_plan::commit::Shards;
use capstan_plan::id::PairId;
use capstan_plan::row::Pair;

use crate::error::Result;
use crate::files::Pixels;
use crate::store::Store;
use crate::view::View;
use crate::{index, versions};

/// The pairs of a version that every curation keeps, with their pictures, in the order of the shards.
///
/// # Errors
/// Those of reading the version and its files.
pub async fn pairs(store: &Store, shards: &Shards) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for part in versions::parts_of(store, shards).await? {
        let rows = View::read(store, &part, Pixels::Read).await?;
        pairs.extend(rows.into_iter().filter(|row| row.keep).map(|row| row.pair));
    }
    Ok(pairs)
}

/// Of [`pairs`], those that have a text: at most `limit`, with the smallest pair ids, in the order of the
/// shards. A pair id is a hash, so this is a random sample that does not depend on the shards. Only the
/// pictures of the sample are kept in memory.
///
/// # Errors
/// As [`pairs`].
pub async fn sample(store: &Store, shards: &Shards, limit: usize) -> Result<Vec<Pair>> {
    let parts = versions::parts_of(store, shards).await?;
    let mut smallest: BTreeMap<(PairId, usize, u32), Pair> = BTreeMap::new();
    for (place, part) in parts.iter().enumerate() {
        for row in View::read(store, part, Pixels::Skip).await? {
            if row.keep && !row.pair.texts.is_empty() {
                smallest.insert((row.pair.pair_id, place, row.row), row.pair);
            }
            if smallest.len() > limit {
                smallest.pop_last();
            }
        }
    }
    let mut chosen: Vec<(usize, u32, Pair)> = smallest
        .into_iter()
        .map(|((_, place, row), pair)| (place, row, pair))
        .collect();
    chosen.sort_unstable_by_key(|(place, row, _)| (*place, *row));
    for of_part in chosen.chunk_by_mut(|a, b| a.0 == b.0) {
        let rows: Vec<u32> = of_part.iter().map(|(_, row, _)| *row).collect();
        let pictures = index::pictures(store, &parts[of_part[0].0], &rows).await?;
        for ((_, _, pair), picture) in of_part.iter_mut().zip(pictures) {
            pair.image = picture.into();
        }
    }
    Ok(chosen.into_iter().map(|(_, _, pair)| pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::rows;

    #[tokio::test]
    async fn a_sample_has_the_smallest_ids_with_their_pictures_whatever_the_shards() {
        let store = Store::memory();
        let mut pairs = rows::pairs("site", 40);
        pairs[7].texts.clear();
        assert!(rows::curations(&pairs)[7].keep);
        let curations = rows::curations(&pairs);
        let kept = pairs.iter().zip(curations).filter(|(_, row)| row.keep);
        let kept: Vec<Pair> = kept.map(|(pair, _)| pair.clone()).collect();
        let mut smallest: Vec<PairId> = kept
            .iter()
            .filter(|pair| !pair.texts.is_empty())
            .map(|pair| pair.pair_id)
            .collect();
        smallest.sort_unstable();
        let with_texts = smallest.len();
        smallest.truncate(12);
        for (run, rows_per_file) in [("one", 40), ("many", 9)] {
            let parts = rows::parts(&store, pairs.clone(), rows_per_file).await;
            let shards = rows::publish_parts(&store, "web", run, parts).await;
            assert!(super::pairs(&store, &shards).await.unwrap() == kept);
            // With their pictures, in the order of the rows.
            let expected = kept.iter().filter(|pair| smallest.contains(&pair.pair_id));
            let found = sample(&store, &shards, 12).await.unwrap();
            assert!(found.len() == 12 && found.iter().eq(expected));
            let all = sample(&store, &shards, 1_000).await.unwrap();
            assert_eq!(all.len(), with_texts);
        }
    }
}

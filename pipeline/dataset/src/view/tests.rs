//! How overlays are joined.

use capstan_plan::commit::parts_of;
use capstan_plan::id::Digest;

use super::*;
use crate::conformance::rows;

/// A shard without overlays, and its pairs.
async fn shard(store: &Store, count: usize) -> (Vec<Pair>, Part) {
    let pairs = rows::pairs("site", count);
    (pairs.clone(), write_part(store, pairs).await)
}

async fn write_part(store: &Store, pairs: Vec<Pair>) -> Part {
    let files = files::write_pairs(store, pairs.len(), pairs).await.unwrap();
    parts_of(&files).unwrap().remove(0)
}

#[tokio::test]
async fn two_curations_keep_what_both_keep() {
    let store = Store::memory();
    let (pairs, part) = shard(&store, 40).await;
    let first = rows::curations(&pairs);
    let mut second = first.clone();
    for (row, curation) in second.iter_mut().enumerate() {
        let drops = row % 3 == 0;
        curation.keep = !drops;
        curation.reason = drops.then(|| "cap".to_owned());
        curation.texts = pairs[row].texts.iter().map(|text| text.text_id).collect();
        if drops {
            curation.texts.clear();
        }
        curation.queries = vec![format!("query {row}")];
    }
    let mut overlays = Vec::new();
    for rows in [&first, &second] {
        overlays.push(
            files::write_overlay(&store, &part.base, rows.clone())
                .await
                .unwrap(),
        );
    }
    let part = Part { overlays, ..part };
    let view = View::read(&store, &part, Pixels::Skip).await.unwrap();
    assert_eq!(view.len(), 40);
    for (row, joined) in view.iter().enumerate() {
        assert_eq!(joined.row as usize, row);
        assert_eq!(joined.keep, first[row].keep && row % 3 != 0);
        let reason = match (first[row].keep, row % 3 == 0) {
            (false, _) => Some("min_chars"),
            (true, true) => Some("cap"),
            (true, false) => None,
        };
        assert_eq!(joined.reason.as_deref(), reason);
        let kept = first[row].texts.iter().filter(|_| joined.keep);
        assert!(joined.kept_texts.iter().eq(kept));
        assert_eq!(joined.queries, second[row].queries);
        assert!(
            joined
                .curated_texts()
                .map(|t| t.text_id)
                .eq(joined.kept_texts.iter().copied())
        );
    }
}

#[tokio::test]
async fn of_two_captioners_the_later_one_stands() {
    let store = Store::memory();
    let (pairs, part) = shard(&store, 10).await;
    let first = rows::captions(&pairs);
    let mut second = first.clone();
    let model = ModelDigest(Digest::of(b"later"));
    for captions in &mut second {
        captions.model = model;
        captions.texts.clear();
    }
    let mut overlays = Vec::new();
    for rows in [first, second] {
        overlays.push(
            files::write_overlay(&store, &part.base, rows)
                .await
                .unwrap(),
        );
    }
    let part = Part { overlays, ..part };
    let mut view = View::open(&store, &part, Pixels::Read).await.unwrap();
    assert_eq!(view.captioner(), Some(model));
    assert!(!view.has_verdicts() && view.filter().is_none());
    let rows = view.next().await.unwrap().unwrap();
    assert!(rows.iter().all(|row| row.synthetic.is_empty()));
    assert!(rows.iter().zip(&pairs).all(|(row, pair)| row.pair == *pair));
    assert!(view.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_foreign_overlay_is_refused() {
    let store = Store::memory();
    let (pairs, part) = shard(&store, 10).await;
    let mut swapped = rows::curations(&pairs);
    swapped.swap(0, 9);
    let overlay = files::write_overlay(&store, &part.base, swapped)
        .await
        .unwrap();
    let with = |overlay| Part {
        overlays: vec![overlay],
        ..part.clone()
    };
    let read = View::read(&store, &with(overlay.clone()), Pixels::Skip).await;
    let error = read.unwrap_err();
    assert!(matches!(error, Error::Misaligned { .. }), "{error}");
    assert!(error.to_string().contains("row 0"), "{error}");
    let fewer = File { rows: 9, ..overlay };
    let opened = View::open(&store, &with(fewer), Pixels::Skip).await;
    assert!(matches!(opened, Err(Error::Misaligned { .. })));
}

/// A later run fetched the same rows at other times and adopted the overlay: other base, equal rows.
#[tokio::test]
async fn an_adopted_overlay_fits_a_base_of_equal_rows() {
    let store = Store::memory();
    let (mut pairs, first) = shard(&store, 10).await;
    let overlay = files::write_overlay(&store, &first.base, rows::curations(&pairs))
        .await
        .unwrap();
    for pair in &mut pairs {
        pair.fetched_at_ms += 1000;
    }
    let again = write_part(&store, pairs).await;
    assert_ne!(again.base.digest, first.base.digest);
    assert_eq!(again.base.rows_digest, first.base.rows_digest);
    let pixels = |part: &Part| part.pixels.as_ref().unwrap().digest;
    assert_eq!(pixels(&again), pixels(&first), "pictures hold no times");
    let part = Part {
        overlays: vec![overlay],
        ..again
    };
    let rows = View::read(&store, &part, Pixels::Skip).await.unwrap();
    assert!(rows.iter().any(|row| !row.keep));
}

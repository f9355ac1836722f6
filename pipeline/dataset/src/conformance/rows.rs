//! Rows that are all different and use every column.

#![allow(
    clippy::unwrap_used,
    reason = "a suite of assertions, compiled for tests only"
)]

use std::collections::BTreeMap;

use capstan_plan::commit::{Part, Shards, VersionRef, parts_of};
use capstan_plan::id::{Digest, ModelDigest, PairId, RecipeHash};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{
    Captions, Curation, ImageLink, Origin, PageLink, Pair, Reject, Text, Verdict, Verdicts,
};

use crate::files;
use crate::store::Store;
use crate::versions::{self, NewVersion};

/// Pair `n` of `site`, found on the web; one with a human text if `n` is a multiple of 7.
pub fn pair(site: &str, n: usize) -> Pair {
    let image_url = format!("http://{site}.test/{n}.jpg");
    let page_url = format!("http://{site}.test/page{}", n / 3);
    let pair_id = PairId::new(&image_url, &page_url);
    let digest = Digest::of(image_url.as_bytes());
    let image: Vec<u8> = digest.0.iter().cycle().take(40 + n % 50).copied().collect();
    let mut texts = vec![Text::new(
        &pair_id,
        Origin::Alt,
        format!("picture {n} \u{1f40b}"),
    )];
    if n.is_multiple_of(2) {
        texts.push(Text::new(&pair_id, Origin::Title, format!("title {n}")));
    }
    if n.is_multiple_of(7) {
        texts.push(Text::new(&pair_id, Origin::Human, format!("people {n}")));
    }
    Pair {
        pair_id,
        image,
        width: 64,
        height: 48 + n as u32 % 9,
        original_width: 640,
        original_height: 480,
        sha256: digest.0,
        phash: digest.prefix_u64(),
        image_url,
        page_url,
        archive_ref: n.is_multiple_of(5).then(|| format!("archive:{n}")),
        fetched_at_ms: 1_700_000_000_000 + n as i64,
        opt_out: vec!["tdm=0".to_owned(); n % 3],
        policy_version: 3,
        licence: n.is_multiple_of(4).then(|| "CC0".to_owned()),
        attribution: n.is_multiple_of(6).then(|| format!("by {n}")),
        texts,
    }
}

/// The first pairs of `site`.
pub fn pairs(site: &str, count: usize) -> Vec<Pair> {
    (0..count).map(|n| pair(site, n)).collect()
}

/// Drops one pair in four, keeps the first text of the others and all human ones.
pub fn curations(pairs: &[Pair]) -> Vec<Curation> {
    let curation = |pair: &Pair| {
        let keep = !pair.phash.is_multiple_of(4);
        let is_kept = |(at, text): &(usize, &Text)| *at == 0 || text.origin == Origin::Human;
        let texts = pair.texts.iter().enumerate().filter(is_kept);
        Curation {
            pair_id: pair.pair_id,
            keep,
            reason: (!keep).then(|| "min_chars".to_owned()),
            texts: texts
                .filter(|_| keep)
                .map(|(_, text)| text.text_id)
                .collect(),
            queries: vec!["picture".to_owned(); usize::from(keep)],
        }
    };
    pairs.iter().map(curation).collect()
}

/// One synthetic text for every pair that [`curations`] keeps.
pub fn captions(pairs: &[Pair]) -> Vec<Captions> {
    let captions = |(pair, curation): (&Pair, Curation)| {
        let text = format!("a drawing {}", pair.phash % 100);
        let text = Text::new(&pair.pair_id, Origin::Synthetic, text);
        Captions {
            pair_id: pair.pair_id,
            texts: if curation.keep {
                vec![text]
            } else {
                Vec::new()
            },
            model: ModelDigest(Digest::of(b"captioner")),
        }
    };
    pairs.iter().zip(curations(pairs)).map(captions).collect()
}

/// Verdicts on every web text that [`curations`] keeps and on every synthetic one.
pub fn verdicts(pairs: &[Pair]) -> Vec<Verdicts> {
    let all = pairs.iter().zip(curations(pairs)).zip(captions(pairs));
    let verdicts = |((pair, curation), captions): ((&Pair, Curation), Captions)| {
        let is_judged =
            |text: &&Text| text.origin.is_web() && curation.texts.contains(&text.text_id);
        let judged = pair.texts.iter().filter(is_judged);
        let judged = judged.chain(&captions.texts).map(|text| {
            let score = text.text_id.0.prefix_u64() as f32 / u64::MAX as f32;
            Verdict {
                text_id: text.text_id,
                itc: score * 2.0 - 1.0,
                itm: score,
                kept: score >= 0.5,
                reason: if score >= 0.5 { "itm>=0.5" } else { "itm<0.5" }.to_owned(),
            }
        });
        Verdicts {
            pair_id: pair.pair_id,
            verdicts: judged.collect(),
            model: ModelDigest(Digest::of(b"filter")),
        }
    };
    all.map(verdicts).collect()
}

/// Rejects of every code.
pub fn rejects(count: usize) -> Vec<Reject> {
    let reject = |n: usize| Reject {
        code: RejectCode::ALL[n % RejectCode::ALL.len()],
        url: format!("http://a.test/{n}"),
        page_url: format!("http://a.test/page{n}"),
        is_image: n.is_multiple_of(2),
        detail: format!("detail {n}"),
    };
    (0..count).map(reject).collect()
}

/// Pages.
pub fn page_links(count: usize) -> Vec<PageLink> {
    let link = |n: usize| PageLink {
        url: format!("http://a.test/{n}"),
        depth: n as u32,
    };
    (0..count).map(link).collect()
}

/// Pictures found on pages.
pub fn image_links(count: usize) -> Vec<ImageLink> {
    let link = |n: usize| ImageLink {
        image_url: format!("http://a.test/{n}.png"),
        raw_url: format!("{n}.png"),
        page_url: "http://a.test/".to_owned(),
        texts: (0..n % 3)
            .map(|at| (Origin::Alt, format!("text {n} {at}")))
            .collect(),
        opt_out: vec!["tdm=0".to_owned(); n % 2],
        licence: n.is_multiple_of(3).then(|| "CC0".to_owned()),
        attribution: n.is_multiple_of(4).then(|| "somebody".to_owned()),
    };
    (0..count).map(link).collect()
}

/// Shards of `rows_per_file` pairs with curation, captions and verdicts.
///
/// # Panics
/// If the store fails.
pub async fn parts(store: &Store, pairs: Vec<Pair>, rows_per_file: usize) -> Vec<Part> {
    let bases = files::write_pairs(store, rows_per_file, pairs.clone())
        .await
        .unwrap();
    let mut parts = parts_of(&bases).unwrap();
    for (part, pairs) in parts.iter_mut().zip(pairs.chunks(rows_per_file)) {
        let base = &part.base;
        let curation = files::write_overlay(store, base, curations(pairs)).await;
        let captions = files::write_overlay(store, base, captions(pairs)).await;
        let verdicts = files::write_overlay(store, base, verdicts(pairs)).await;
        part.overlays = vec![curation.unwrap(), captions.unwrap(), verdicts.unwrap()];
    }
    parts
}

/// A version of `dataset` with `count` pairs and every overlay. The times differ from run to run.
///
/// # Panics
/// If the store fails.
pub async fn publish_dataset(
    store: &Store,
    dataset: &str,
    run: &str,
    count: usize,
    rows_per_file: usize,
) -> VersionRef {
    let mut all = pairs("whole", count);
    for pair in &mut all {
        pair.fetched_at_ms += run.len() as i64;
    }
    let parts = parts(store, all, rows_per_file).await;
    publish_parts(store, dataset, run, parts).await.version
}

/// A version of `dataset` with these shards.
///
/// # Panics
/// If the store fails.
pub async fn publish_parts(store: &Store, dataset: &str, run: &str, parts: Vec<Part>) -> Shards {
    let new = NewVersion {
        dataset: dataset.into(),
        run: run.into(),
        stage: "filter".into(),
        recipes: vec![RecipeHash(Digest::of(run.as_bytes()))],
        derived_from: None,
        statistics: BTreeMap::new(),
        missing: Vec::new(),
        parts,
    };
    let version = versions::publish(store, new).await.unwrap();
    let version = versions::read(store, &version).await.unwrap();
    versions::shards(store, &version).await.unwrap()
}

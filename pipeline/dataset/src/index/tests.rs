//! Which texts become samples.

use std::collections::BTreeSet;

use capstan_plan::commit::parts_of;
use capstan_plan::id::Digest;
use capstan_plan::row::Origin;
use proptest::prelude::*;

use super::*;
use crate::conformance::rows;

async fn data(store: &Store, parts: Vec<Part>, web: Use, synthetic: Use) -> Data {
    // Each in a version of its own.
    let run = Digest::of(format!("{parts:?}").as_bytes()).to_string();
    Data {
        shards: rows::publish_parts(store, "web", &run, parts).await,
        web,
        synthetic,
    }
}

/// Texts by the rows that made the files, without any file.
fn expected(count: usize, web: Use, synthetic: Use) -> BTreeSet<TextId> {
    let pairs = rows::pairs("site", count);
    let all = rows::curations(&pairs)
        .into_iter()
        .zip(rows::captions(&pairs));
    let all = all.zip(rows::verdicts(&pairs)).zip(&pairs);
    let mut expected = BTreeSet::new();
    for (((curation, captions), verdicts), pair) in all {
        let is_used = |text: &Text| {
            let of = match text.origin {
                Origin::Human => Use::All,
                Origin::Synthetic => synthetic,
                _ => web,
            };
            let kept = |v: &capstan_plan::row::Verdict| v.text_id == text.text_id && v.kept;
            of == Use::All || (of == Use::Kept && verdicts.verdicts.iter().any(kept))
        };
        let found = pair
            .texts
            .iter()
            .filter(|t| curation.texts.contains(&t.text_id));
        let texts = found.chain(&captions.texts).filter(|text| is_used(text));
        expected.extend(texts.map(|text| text.text_id));
    }
    expected
}

fn uses() -> impl Strategy<Value = Use> {
    prop_oneof![Just(Use::All), Just(Use::Kept), Just(Use::None)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn samples_are_the_texts_in_use(
        count in 1usize..90,
        cut in 1usize..40,
        web in uses(),
        synthetic in uses(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Store::memory();
            let parts = rows::parts(&store, rows::pairs("site", count), cut).await;
            let index = samples(&store, &[data(&store, parts.clone(), web, synthetic).await]).await.unwrap();
            assert_eq!(index.parts, parts);
            let found: BTreeSet<TextId> = index.samples.iter().map(|s| s.text_id).collect();
            assert_eq!(found.len(), index.samples.len());
            assert_eq!(found, expected(count, web, synthetic));
            for sample in &index.samples {
                let n = sample.shard as usize * cut + sample.row as usize;
                let pair = rows::pair("site", n);
                assert_eq!(sample.pair_id, pair.pair_id);
                assert_eq!(TextId::new(&pair.pair_id, sample.origin, &sample.text), sample.text_id);
            }
        });
    }
}

#[tokio::test]
async fn kept_texts_need_a_filter() {
    let store = Store::memory();
    let mut parts = rows::parts(&store, rows::pairs("site", 10), 10).await;
    parts[0].overlays.pop();
    let asked = [data(&store, parts.clone(), Use::Kept, Use::None).await];
    let error = samples(&store, &asked).await.unwrap_err();
    assert!(matches!(error, Error::NoVerdicts { .. }), "{error}");
    assert!(error.to_string().contains("web@1"), "{error}");
    let index = samples(&store, &[data(&store, parts, Use::All, Use::None).await])
        .await
        .unwrap();
    assert!(!index.samples.is_empty());
}

/// Two versions in one index: their shards have different ordinals, pictures are found by row.
#[tokio::test]
async fn versions_follow_each_other() {
    let store = Store::memory();
    let web = rows::parts(&store, rows::pairs("web", 30), 12).await;
    let bare = crate::files::write_pairs(&store, 50, rows::pairs("human", 14))
        .await
        .unwrap();
    let human = parts_of(&bare).unwrap().remove(0);
    let all = [
        data(&store, web, Use::All, Use::All).await,
        data(&store, vec![human], Use::None, Use::None).await,
    ];
    let index = samples(&store, &all).await.unwrap();
    assert_eq!(index.parts.len(), 4);
    let people = index.samples.iter().filter(|sample| sample.shard == 3);
    let people: Vec<_> = people.collect();
    let rows_found: Vec<u32> = people.iter().map(|sample| sample.row).collect();
    assert_eq!(
        rows_found,
        [0, 7],
        "human texts alone, without curation or verdict"
    );
    let pictures = pictures(&store, &index.parts[3], &rows_found)
        .await
        .unwrap();
    assert_eq!(pictures[1], rows::pair("human", 7).image);
}

//! From texts back to their pages, over versions and runs.

use std::collections::BTreeMap;

use capstan_plan::commit::{Outputs, parts_of};
use capstan_plan::id::{LeaseEpoch, RecipeHash};
use capstan_plan::row::Pair;

use super::*;
use crate::conformance::rows;
use crate::files;
use crate::versions::NewVersion;

fn commit(run: &str, stage: &str, files: Vec<File>, adopted: bool) -> Commit {
    Commit {
        run: run.into(),
        stage: stage.into(),
        shard: "00000".into(),
        attempt: format!("{run}-{stage}").into(),
        worker: "w".into(),
        lease_epoch: LeaseEpoch::default(),
        recipe: RecipeHash(Digest::of(stage.as_bytes())),
        inputs: Vec::new(),
        outputs: Outputs {
            files,
            ..Outputs::default()
        },
        wall_seconds: 0.0,
        cpu_seconds: 0.0,
        adopted,
    }
}

async fn publish(store: &Store, stage: &str, before: Option<VersionRef>, part: Part) -> VersionRef {
    let new = NewVersion {
        dataset: "web".into(),
        run: "now".into(),
        stage: stage.into(),
        recipes: Vec::new(),
        derived_from: before,
        statistics: BTreeMap::new(),
        missing: Vec::new(),
        parts: vec![part],
    };
    versions::publish(store, new).await.unwrap()
}

/// A crawl, captions that an earlier run made and this one adopted, and verdicts.
async fn three_versions(store: &Store, pairs: &[Pair]) -> VersionRef {
    let base = files::write_pairs(store, 100, pairs.to_vec())
        .await
        .unwrap();
    let mut part = parts_of(&base).unwrap().remove(0);
    let crawl = commit("now", "crawl", base, false);
    commits::commit(store, &crawl).await.unwrap();
    let mut version = publish(store, "crawl", None, part.clone()).await;
    let captions = files::write_overlay(store, &part.base, rows::captions(pairs));
    let captions = captions.await.unwrap();
    let verdicts = files::write_overlay(store, &part.base, rows::verdicts(pairs));
    let verdicts = verdicts.await.unwrap();
    let early = commit("early", "caption", vec![captions.clone()], false);
    commits::commit(store, &early).await.unwrap();
    recipes::publish(store, &early).await.unwrap();
    for (stage, file, adopted) in [("caption", captions, true), ("filter", verdicts, false)] {
        let made = commit("now", stage, vec![file.clone()], adopted);
        commits::commit(store, &made).await.unwrap();
        part.overlays.push(file);
        version = publish(store, stage, Some(version), part.clone()).await;
    }
    version
}

#[tokio::test]
async fn a_synthetic_text_leads_to_page_models_verdict_versions_and_commits() {
    let store = Store::memory();
    let pairs = rows::pairs("site", 30);
    let version = three_versions(&store, &pairs).await;
    let written = rows::captions(&pairs);
    let row = written
        .iter()
        .position(|row| !row.texts.is_empty())
        .unwrap();
    let text = &written[row].texts[0];
    let found = trace(&store, &version, &Query::Id(text.text_id.0), 10)
        .await
        .unwrap();
    let [lineage] = &found[..] else {
        panic!("{found:?}")
    };
    let traced = lineage.text.as_ref().unwrap();
    assert_eq!((traced.text_id, &traced.text), (text.text_id, &text.text));
    assert_eq!(lineage.page_url, pairs[row].page_url);
    assert_eq!(lineage.image_url, pairs[row].image_url);
    assert_eq!(
        traced.written_by,
        Some(ModelDigest(Digest::of(b"captioner")))
    );
    let judged = traced.judged.as_ref().unwrap();
    assert_eq!(judged.by, Some(ModelDigest(Digest::of(b"filter"))));
    let verdict = rows::verdicts(&pairs)[row].verdicts.clone();
    let verdict = verdict.iter().find(|v| v.text_id == text.text_id).unwrap();
    assert_eq!((judged.itm, judged.kept), (verdict.itm, verdict.kept));
    let passed: Vec<_> = lineage
        .versions
        .iter()
        .map(|passed| (passed.version.as_str(), passed.stage.as_str()))
        .collect();
    assert_eq!(
        passed,
        [
            ("web@3", "filter"),
            ("web@2", "caption"),
            ("web@1", "crawl")
        ]
    );
    let made: Vec<_> = lineage
        .files
        .iter()
        .map(|made| {
            let commit = made.commit.as_ref().unwrap();
            let from = made.adopted_from.as_ref().map(|c| c.attempt.as_str());
            (made.kind, commit.attempt.as_str(), from)
        })
        .collect();
    let expected = [
        ("base", "now-crawl", None),
        ("pixels", "now-crawl", None),
        ("captions", "now-caption", Some("early-caption")),
        ("verdicts", "now-filter", None),
    ];
    assert_eq!(made, expected);
}

#[tokio::test]
async fn a_pair_gives_all_of_its_texts_and_words_those_that_hold_them() {
    let store = Store::memory();
    let pairs = rows::pairs("site", 30);
    let version = three_versions(&store, &pairs).await;
    let of_pair = trace(&store, &version, &Query::Id(pairs[14].pair_id.0), 10)
        .await
        .unwrap();
    let texts = pairs[14].texts.len() + rows::captions(&pairs)[14].texts.len();
    assert_eq!(of_pair.len(), texts);
    let mut texts = of_pair.iter().filter_map(|lineage| lineage.text.as_ref());
    assert!(texts.any(|text| text.origin == Origin::Human && text.judged.is_none()));
    let by_words = trace(&store, &version, &Query::parse("TITLE 1"), 3)
        .await
        .unwrap();
    let words: Vec<_> = by_words
        .iter()
        .map(|lineage| lineage.text.as_ref().unwrap().text.as_str())
        .collect();
    assert_eq!(words, ["title 10", "title 12", "title 14"], "three at most");
    let nothing = trace(&store, &version, &Query::parse("no such words"), 3).await;
    assert_eq!(nothing.unwrap(), []);
}

#[tokio::test]
async fn a_picture_without_texts_is_found_by_its_pair_alone() {
    let store = Store::memory();
    let mut pairs = rows::pairs("site", 3);
    pairs[1].texts.clear();
    let base = files::write_pairs(&store, 100, pairs.clone())
        .await
        .unwrap();
    let part = parts_of(&base).unwrap().remove(0);
    let version = publish(&store, "import", None, part).await;
    let found = trace(&store, &version, &Query::Id(pairs[1].pair_id.0), 10)
        .await
        .unwrap();
    let [lineage] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!((&lineage.text, lineage.curated), (&None, true));
    assert_eq!(lineage.image_url, pairs[1].image_url);
    let json = serde_json::to_value(lineage).unwrap();
    assert!(json.get("text_id").is_none(), "{json}");
    assert_eq!(json["pair_id"], pairs[1].pair_id.to_string());
    let by_words = trace(&store, &version, &Query::parse(""), 10).await;
    assert!(by_words.unwrap().iter().all(|l| l.text.is_some()));
}

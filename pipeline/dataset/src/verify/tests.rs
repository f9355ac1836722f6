//! Every kind of damage is found and named.

use std::collections::BTreeMap;

use capstan_plan::commit::{Commit, File, FileKind, Outputs, Part, parts_of};
use capstan_plan::id::{Digest, LeaseEpoch, RecipeHash};
use capstan_plan::row::{Curation, Pair, Text};

use super::{Scope, VerifyReport, verify};
use crate::conformance::rows;
use crate::files;
use crate::store::Store;
use crate::versions::{self, NewVersion};
use crate::{commits, runs};

async fn publish(store: &Store, parts: Vec<Part>) -> VerifyReport {
    let new = NewVersion {
        dataset: "d".into(),
        run: "r".into(),
        stage: "s".into(),
        recipes: Vec::new(),
        derived_from: None,
        statistics: BTreeMap::new(),
        missing: Vec::new(),
        parts,
    };
    let version = versions::publish(store, new).await.unwrap();
    verify(store, &Scope::Version(version)).await.unwrap()
}

async fn report_of(
    pairs: Vec<Pair>,
    change: impl FnOnce(&mut Vec<Curation>),
) -> (Store, VerifyReport) {
    let store = Store::memory();
    let files = files::write_pairs(&store, 100, pairs.clone())
        .await
        .unwrap();
    let part = parts_of(&files).unwrap().remove(0);
    let mut curations = rows::curations(&pairs);
    change(&mut curations);
    let overlay = files::write_overlay(&store, &part.base, curations)
        .await
        .unwrap();
    let report = publish(
        &store,
        vec![Part {
            overlays: vec![overlay],
            ..part
        }],
    )
    .await;
    (store, report)
}

fn only(report: &VerifyReport) -> &str {
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(!report.is_clean());
    &report.problems[0].reason
}

#[tokio::test]
async fn sound_shards_are_clean() {
    let (_, report) = report_of(rows::pairs("a", 20), |_| {}).await;
    assert!(report.is_clean(), "{:?}", report.problems);
    assert_eq!((report.files, report.rows), (4, 20));
}

#[tokio::test]
async fn overlays_of_other_pairs_are_found() {
    let (_, report) = report_of(rows::pairs("a", 20), |rows| rows.swap(3, 4)).await;
    assert!(only(&report).contains("row 3 is of another pair"));
}

#[tokio::test]
async fn ids_are_made_anew() {
    let mut pairs = rows::pairs("a", 20);
    pairs[5].texts[0].text.push('!');
    let (_, report) = report_of(pairs, |_| {}).await;
    assert!(only(&report).contains("row 5: text id"));

    let mut pairs = rows::pairs("a", 20);
    pairs[6].page_url.push('!');
    let (_, report) = report_of(pairs, |_| {}).await;
    assert!(only(&report).contains("row 6: its pair id"));
}

#[tokio::test]
async fn a_pair_that_stands_twice_is_found() {
    let mut pairs = rows::pairs("a", 20);
    pairs[7] = pairs[8].clone();
    let (_, report) = report_of(pairs, |_| {}).await;
    assert!(only(&report).contains("twice"));
}

#[tokio::test]
async fn curations_must_make_sense() {
    let kept = |rows: &[Curation]| rows.iter().position(|row| row.keep).unwrap();
    let (_, report) = report_of(rows::pairs("a", 20), |rows| {
        let at = kept(rows);
        rows[at].reason = Some("why".to_owned());
    })
    .await;
    assert!(only(&report).contains("kept with a reason"));
    let (_, report) = report_of(rows::pairs("a", 20), |rows| {
        let at = kept(rows);
        let pair = rows[at].pair_id;
        let foreign = Text::new(&pair, capstan_plan::row::Origin::Alt, "not found");
        rows[at].texts.push(foreign.text_id);
    })
    .await;
    assert!(only(&report).contains("a text that was not found"));
}

#[tokio::test]
async fn verdicts_speak_of_texts_that_are_there() {
    let store = Store::memory();
    let pairs = rows::pairs("a", 20);
    let mut part = rows::parts(&store, pairs, 20).await.remove(0);
    // Without the captions, verdicts on synthetic texts hang in the air.
    part.overlays.retain(|file| file.kind != FileKind::Captions);
    let report = publish(&store, vec![part]).await;
    assert!(!report.is_clean());
    let reasons = report.problems.iter().map(|problem| &problem.reason);
    assert!(
        reasons.clone().all(|r| r.contains("which the shard lacks")),
        "{report:?}"
    );
}

/// Writes other bytes where an object stands.
async fn damage(store: &Store, file: &File, bytes: Vec<u8>) {
    let path = files::path(&file.digest);
    store.delete(&path).await.unwrap();
    store.create(&path, bytes).await.unwrap();
}

#[tokio::test]
async fn bytes_are_held_against_their_digest() {
    let store = Store::memory();
    let version = rows::publish_dataset(&store, "web", "run", 40, 20).await;
    let parts = versions::parts(&store, &version).await.unwrap();
    let scope = Scope::Version(version);
    let overlay = &parts[0].overlays[0];
    let mut bytes = store
        .get(&files::path(&overlay.digest))
        .await
        .unwrap()
        .to_vec();
    bytes[20] ^= 1;
    damage(&store, overlay, bytes).await;
    let report = verify(&store, &scope).await.unwrap();
    assert!(only(&report).contains("digest"));

    let base = &parts[1].base;
    store.delete(&files::path(&base.digest)).await.unwrap();
    let report = verify(&store, &scope).await.unwrap();
    assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
    assert!(report.problems[1].reason.contains(&base.digest.to_string()));
    // And reading says the same, in one line.
    let error = files::read::<Curation>(&store, overlay).await.unwrap_err();
    assert_eq!(error.kind(), capstan_plan::FailureKind::PoisonShard);
}

#[tokio::test]
async fn what_nobody_names_is_listed_apart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    rows::publish_dataset(&store, "web", "run", 10, 10).await;
    let orphan = files::write(&store, FileKind::Rejects, rows::rejects(3))
        .await
        .unwrap();
    std::fs::write(folder.path().join("data/half.parquet#1"), b"half").unwrap();
    let report = verify(&store, &Scope::Store).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
    assert_eq!(report.orphans, [files::path(&orphan.digest)]);
    assert_eq!(report.staged, ["data/half.parquet#1"]);

    store.create("data/foreign.bin", &b"x"[..]).await.unwrap();
    let wrong = files::path(&Digest::of(b"something else"));
    store.create(&wrong, &b"x"[..]).await.unwrap();
    let report = verify(&store, &Scope::Store).await.unwrap();
    assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
}

/// Files that only commits name are hashed too, and a cached copy does not stand for the object.
#[tokio::test]
async fn every_named_file_is_read_from_the_store() {
    let store = Store::memory();
    let pages = files::write(&store, FileKind::Pages, rows::page_links(30));
    let pages = pages.await.unwrap();
    let commit = Commit {
        run: "r".into(),
        stage: "s".into(),
        shard: "all".into(),
        attempt: "a".into(),
        worker: "w".into(),
        lease_epoch: LeaseEpoch::default(),
        recipe: RecipeHash(Digest::of(b"recipe")),
        inputs: Vec::new(),
        outputs: Outputs {
            files: vec![pages.clone()],
            ..Outputs::default()
        },
        wall_seconds: 0.0,
        cpu_seconds: 0.0,
        adopted: false,
    };
    commits::commit(&store, &commit).await.unwrap();
    runs::begin(
        &store,
        &runs::RunRecord {
            run: "r".into(),
            pipeline: serde_json::json!({}),
            seed: 0,
            created_at_ms: 0,
            program: "test".to_owned(),
        },
    )
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cached = store.clone().with_cache(folder.path(), 1 << 20).unwrap();
    let path = files::path(&pages.digest);
    let mut bytes = cached.get(&path).await.unwrap().to_vec();
    let report = verify(&cached, &Scope::Store).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
    assert_eq!(report.files, 1);

    bytes[20] ^= 1;
    damage(&store, &pages, bytes).await;
    let report = verify(&cached, &Scope::Store).await.unwrap();
    assert_eq!(only(&report), "its bytes do not have its digest");
    assert_eq!(report.problems[0].path, path);
}

#[tokio::test]
async fn pixels_are_checked_against_their_base() {
    let store = Store::memory();
    let [first, second] = ["a", "b"].map(|site| rows::pairs(site, 20));
    let first = rows::parts(&store, first, 20).await.remove(0);
    let second = rows::parts(&store, second, 20).await.remove(0);
    let mixed = Part {
        pixels: second.pixels.clone(),
        ..first.clone()
    };
    let report = publish(&store, vec![mixed]).await;
    assert_eq!(only(&report), "row 0 is of another pair than its base");

    let store = Store::memory();
    let mut pairs = rows::pairs("a", 20);
    pairs[7].image.clear();
    let parts = rows::parts(&store, pairs, 20).await;
    let report = publish(&store, parts).await;
    assert_eq!(only(&report), "row 7: it has no picture");
}

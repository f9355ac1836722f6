//! The conformance suite of a store, run on local disk, memory and MinIO (feature `conformance`).
//!
//! A backend that passes can hold the state of Capstan: creates have one winner, reads return what
//! was written, listings are complete, and the protocols built on them (commits, versions, recipes,
//! models, checkpoints) hold under races.
#![allow(
    clippy::unwrap_used,
    reason = "a suite of assertions, compiled for tests only"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use capstan_plan::commit::{Commit, File, FileKind, Outputs, Part, parts_of};
use capstan_plan::id::{Digest, LeaseEpoch, RecipeHash};
use futures::future::join_all;
use tokio::sync::Barrier;

use crate::commits::{Committed, commit};
use crate::files::{self, Pairs, Pixels};
use crate::record::{ManifestRow, TaskRow};
use crate::store::{Created, Store};
use crate::versions::NewVersion;
use crate::{checkpoints, commits, compare, models, recipes, runs, stats, verify, versions};

pub mod rows;

/// Writers of a race.
const WRITERS: usize = 16;
/// Races of creates.
const RACES: usize = 50;

/// Runs the whole suite on an empty store.
///
/// # Panics
/// If the store or this crate does not conform.
pub async fn conformance(store: &Store) {
    creates_and_reads(store).await;
    creates_have_one_winner(store).await;
    round_trips(store).await;
    commits_have_one_winner(store).await;
    versions_are_numbered_once(store).await;
    recipes_are_adopted(store).await;
    models_and_checkpoints(store).await;
    a_whole_dataset(store).await;
}

async fn creates_and_reads(store: &Store) {
    store.probe().await.unwrap();
    let path = "conformance/a/one";
    assert_eq!(store.try_get(path).await.unwrap(), None);
    assert_eq!(store.size(path).await.unwrap(), None);
    assert_eq!(store.list("conformance").await.unwrap(), []);
    assert_eq!(
        store.create(path, &b"first"[..]).await.unwrap(),
        Created::Created
    );
    assert_eq!(
        store.create(path, &b"second"[..]).await.unwrap(),
        Created::AlreadyExists
    );
    assert_eq!(store.get(path).await.unwrap(), &b"first"[..]);
    assert_eq!(store.get_range(path, 1..3).await.unwrap(), &b"ir"[..]);
    assert_eq!(store.size(path).await.unwrap(), Some(5));
    store
        .create("conformance/b/two", Bytes::new())
        .await
        .unwrap();
    let listed = store.list("conformance").await.unwrap();
    let paths: Vec<&str> = listed.iter().map(|object| object.path.as_str()).collect();
    assert_eq!(paths, ["conformance/a/one", "conformance/b/two"]);
    assert_eq!(store.folders("conformance").await.unwrap(), ["a", "b"]);
    store.delete(path).await.unwrap();
    store.delete(path).await.unwrap();
    assert_eq!(store.folders("conformance").await.unwrap(), ["b"]);
}

/// 50 races of 16 writers: exactly one gets `Created`, and the object is its own.
async fn creates_have_one_winner(store: &Store) {
    for race in 0..RACES {
        let path: Arc<str> = format!("conformance/race/{race}").into();
        let start = Arc::new(Barrier::new(WRITERS));
        let writers = (0..WRITERS).map(|writer| {
            let (store, path, start) = (store.clone(), path.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                let created = store.create(&path, format!("writer {writer}")).await;
                (writer, created.unwrap())
            })
        });
        let outcomes = join_all(writers).await.into_iter().map(Result::unwrap);
        let won: Vec<usize> = outcomes
            .filter(|(_, created)| *created == Created::Created)
            .map(|(writer, _)| writer)
            .collect();
        assert_eq!(won.len(), 1, "race {race}: winners {won:?}");
        let stands = store.get(&path).await.unwrap();
        assert_eq!(stands, format!("writer {}", won[0]), "race {race}");
    }
}

/// Every kind of file is read as it was written; the digest of rows leaves out times alone.
async fn round_trips(store: &Store) {
    let pairs = rows::pairs("trip", 2500);
    let bases = files::write_pairs(store, 1200, pairs.clone())
        .await
        .unwrap();
    let bases = parts_of(&bases).unwrap();
    let sizes: Vec<u64> = bases.iter().map(|part| part.base.rows).collect();
    assert_eq!(sizes, [1200, 1200, 100]);
    let mut read = Vec::new();
    let mut bare = Vec::new();
    for part in &bases {
        for (pixels, into) in [(Pixels::Read, &mut read), (Pixels::Skip, &mut bare)] {
            let mut reader = Pairs::open(store, part, pixels).await.unwrap();
            while let Some(group) = reader.next().await.unwrap() {
                assert!(group.len() <= 1024, "a row group is bounded");
                into.extend(group);
            }
        }
    }
    assert_eq!(read, pairs);
    for (bare, pair) in bare.iter_mut().zip(&pairs) {
        assert!(bare.image.is_empty());
        bare.image.clone_from(&pair.image);
    }
    assert_eq!(bare, pairs);
    let requested = [1199, 0, 1030, 0];
    let pictures = files::pictures(store, &bases[0], &requested).await.unwrap();
    for (picture, row) in pictures.iter().zip(requested) {
        assert_eq!(picture, &pairs[row as usize].image);
    }
    assert!(files::pictures(store, &bases[0], &[1200]).await.is_err());

    let later: Vec<_> = pairs[..100]
        .iter()
        .cloned()
        .map(|mut pair| {
            pair.fetched_at_ms += 1;
            pair
        })
        .collect();
    let same = files::write_pairs(store, 100, pairs[..100].to_vec())
        .await
        .unwrap();
    let later = files::write_pairs(store, 100, later).await.unwrap();
    assert_ne!(same[0].digest, later[0].digest);
    assert_eq!(same[0].rows_digest, later[0].rows_digest);
    assert_eq!(same[1].digest, later[1].digest, "pictures hold no times");

    let base = &same[0];
    let pairs = &pairs[..100];
    macro_rules! overlay {
        ($rows:expr) => {{
            let rows = $rows;
            let file = files::write_overlay(store, base, rows.clone())
                .await
                .unwrap();
            assert_eq!(file.base, Some(base.digest));
            let read = files::read(store, &file).await.unwrap();
            assert_eq!(rows, read);
            let fewer = rows[1..].to_vec();
            assert!(files::write_overlay(store, base, fewer).await.is_err());
        }};
    }
    overlay!(rows::curations(pairs));
    overlay!(rows::captions(pairs));
    overlay!(rows::verdicts(pairs));
    macro_rules! file {
        ($kind:ident, $rows:expr) => {{
            for rows in [$rows, Vec::new()] {
                let file = files::write(store, FileKind::$kind, rows.clone())
                    .await
                    .unwrap();
                assert_eq!(file.rows, rows.len() as u64);
                assert_eq!(rows, files::read(store, &file).await.unwrap());
                let again = files::write(store, FileKind::$kind, rows).await.unwrap();
                assert_eq!(file, again, "equal rows make one object");
            }
        }};
    }
    file!(Rejects, rows::rejects(30));
    file!(Pages, rows::page_links(30));
    file!(PageLinks, rows::page_links(30));
    file!(Images, rows::image_links(30));
    file!(ImageLinks, rows::image_links(30));
    let manifest = bases.iter().zip(0..).flat_map(|(part, ordinal)| {
        let row = move |file: &File| ManifestRow {
            part: ordinal,
            file: file.clone(),
        };
        part.files().map(row)
    });
    let manifest: Vec<ManifestRow> = manifest.collect();
    file!(Manifest, manifest.clone());
    let recipe = TaskRow::Recipe(RecipeHash(Digest::of(b"recipe")));
    file!(
        Tasks,
        vec![recipe.clone(), TaskRow::Missing("00007".into())]
    );
    let wrong = files::write(store, FileKind::Base, rows::page_links(1)).await;
    assert!(wrong.is_err(), "links make no base file");
}

fn sample_commit(run: &str, shard: &str, attempt: &str) -> Commit {
    Commit {
        run: run.into(),
        stage: "stage".into(),
        shard: shard.into(),
        attempt: attempt.into(),
        worker: "worker".into(),
        lease_epoch: LeaseEpoch::default(),
        recipe: RecipeHash(Digest::of(format!("{run}/{shard}").as_bytes())),
        inputs: vec![Digest::of(b"input")],
        outputs: Outputs::default(),
        wall_seconds: 1.5,
        cpu_seconds: 0.25,
        adopted: false,
    }
}

async fn commits_have_one_winner(store: &Store) {
    for race in 0..RACES / 5 {
        let shard = format!("{race:05}");
        let start = Arc::new(Barrier::new(WRITERS));
        let writers = (0..WRITERS).map(|writer| {
            let (store, start) = (store.clone(), start.clone());
            let mine = sample_commit("race", &shard, &format!("attempt-{writer}"));
            tokio::spawn(async move {
                start.wait().await;
                (mine.clone(), commit(&store, &mine).await.unwrap())
            })
        });
        let outcomes: Vec<_> = join_all(writers).await;
        let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
        let mut mine = outcomes
            .iter()
            .filter(|(_, outcome)| *outcome == Committed::Mine);
        let (winner, _) = mine.next().expect("somebody wins");
        assert!(mine.next().is_none(), "two attempts won {shard}");
        for (attempt, outcome) in &outcomes {
            if attempt != winner {
                assert_eq!(*outcome, Committed::Others(Box::new(winner.clone())));
            }
        }
        // The winner asks again, as after a lost answer.
        assert_eq!(commit(store, winner).await.unwrap(), Committed::Mine);
    }
    let listed = commits::of_stage(store, &"race".into(), &"stage".into()).await;
    let listed = listed.unwrap();
    assert_eq!(listed.len(), RACES / 5);
    assert!(listed.is_sorted_by_key(|commit| commit.shard.clone()));
    assert_eq!(
        commits::of_run(store, &"race".into()).await.unwrap(),
        listed
    );
    let record = runs::RunRecord {
        run: "race".into(),
        pipeline: serde_json::json!({"name": "p"}),
        seed: 7,
        created_at_ms: 1,
        program: "test".to_owned(),
    };
    assert_eq!(runs::begin(store, &record).await.unwrap(), Created::Created);
    // Of another record: a writer whose answer is lost takes equal bytes for its own.
    let later = runs::RunRecord {
        created_at_ms: 2,
        ..record.clone()
    };
    assert_eq!(
        runs::begin(store, &later).await.unwrap(),
        Created::AlreadyExists
    );
    assert_eq!(runs::list(store).await.unwrap(), [record]);
    for bad in ["../run", "a/b", "", ".hidden"] {
        let commit = commits::read(store, &bad.into(), &"s".into(), &"all".into()).await;
        assert!(commit.is_err(), "`{bad}` is no name");
    }
}

fn new_version(dataset: &str, run: &str, parts: Vec<Part>) -> NewVersion {
    NewVersion {
        dataset: dataset.into(),
        run: run.into(),
        stage: "stage".into(),
        recipes: vec![RecipeHash(Digest::of(b"recipe"))],
        derived_from: None,
        statistics: BTreeMap::from([("rows".to_owned(), 3)]),
        missing: Vec::new(),
        parts,
    }
}

/// Publishers of different runs get different numbers without a gap; those of one run get the same.
async fn versions_are_numbered_once(store: &Store) {
    let start = Arc::new(Barrier::new(WRITERS));
    let publishers = (0..WRITERS).map(|writer| {
        let (store, start) = (store.clone(), start.clone());
        // Every run publishes twice: a coordinator and its successor.
        let new = new_version("contended", &format!("run-{}", writer / 2), Vec::new());
        tokio::spawn(async move {
            start.wait().await;
            (
                new.run.clone(),
                versions::publish(&store, new).await.unwrap(),
            )
        })
    });
    let mut by_run = BTreeMap::new();
    for published in join_all(publishers).await {
        let (run, version) = published.unwrap();
        let first = by_run.entry(run).or_insert(version.clone());
        assert_eq!(*first, version, "one run, one version");
    }
    let mut numbers: Vec<u64> = by_run.values().map(|version| version.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=WRITERS as u64 / 2).collect::<Vec<_>>());
    let dataset = "contended".into();
    for version in versions::list(store, &dataset).await.unwrap() {
        let read = versions::read(store, &version).await.unwrap();
        assert_eq!(
            read.parent,
            version.number.checked_sub(1).filter(|n| *n > 0)
        );
    }
    let newest = versions::latest(store, &dataset).await.unwrap().unwrap();
    assert_eq!(newest.number, WRITERS as u64 / 2);
    assert_eq!(versions::resolve(store, "contended").await.unwrap(), newest);
    assert_eq!(
        versions::resolve(store, "contended@2")
            .await
            .unwrap()
            .number,
        2
    );
    for absent in ["contended@99", "nothing", "contended@x"] {
        assert!(versions::resolve(store, absent).await.is_err());
    }
}

async fn recipes_are_adopted(store: &Store) {
    let mut done = sample_commit("first", "all", "attempt");
    let file = files::write(store, FileKind::Rejects, rows::rejects(5)).await;
    done.outputs.files = vec![file.unwrap()];
    let codes = rows::rejects(5).into_iter().map(|reject| (reject.code, 1));
    done.outputs.rejects = codes.collect();
    assert_eq!(recipes::adopt(store, &done.recipe).await.unwrap(), None);
    recipes::publish(store, &done).await.unwrap();
    let adopted = recipes::adopt(store, &done.recipe).await.unwrap();
    assert_eq!(adopted, None, "a pointer without its commit");
    commit(store, &done).await.unwrap();
    let adopted = recipes::adopt(store, &done.recipe).await.unwrap();
    assert_eq!(adopted, Some(done.clone()));
    // Outputs that are gone are not adopted.
    let path = files::path(&done.outputs.files[0].digest);
    store.delete(&path).await.unwrap();
    assert_eq!(recipes::adopt(store, &done.recipe).await.unwrap(), None);
    files::write(store, FileKind::Rejects, rows::rejects(5))
        .await
        .unwrap();
    assert!(recipes::adopt(store, &done.recipe).await.unwrap().is_some());
}

async fn models_and_checkpoints(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir_all(source.join("captioner")).unwrap();
    std::fs::write(source.join("config.json"), b"{}").unwrap();
    std::fs::write(source.join("captioner/model.safetensors"), vec![7; 70_000]).unwrap();
    let model = models::put(store, &source).await.unwrap();
    assert_eq!(model, models::digest(&source).await.unwrap());
    assert_eq!(models::put(store, &source).await.unwrap(), model);
    assert_eq!(models::list(store).await.unwrap(), [model]);
    let cache = folder.path().join("cache");
    for _ in 0..2 {
        let fetched = models::fetch(store, &model, &cache).await.unwrap();
        assert_eq!(models::digest(&fetched).await.unwrap(), model);
    }
    let other = capstan_plan::id::ModelDigest(Digest::of(b"none"));
    assert!(models::fetch(store, &other, &cache).await.is_err());

    let (run, stage) = ("run".into(), "train".into());
    assert_eq!(
        checkpoints::latest(store, &run, &stage).await.unwrap(),
        None
    );
    for step in [10, 20, 100] {
        std::fs::write(source.join("config.json"), format!("{{\"step\":{step}}}")).unwrap();
        let put = checkpoints::put(store, &run, &stage, step, &"a".into(), &source).await;
        assert_eq!(put.unwrap().step, step);
    }
    // A writer died in step 110: files, no COMMIT.
    let half = "checkpoints/run/train/00000000000000000110/dead.0/config.json";
    store.create(half, &b"half"[..]).await.unwrap();
    let newest = checkpoints::latest(store, &run, &stage)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(newest.step, 100);
    let steps = store.folders("checkpoints/run/train").await.unwrap();
    assert_eq!(
        steps.len(),
        3,
        "two complete ones and the dead one: {steps:?}"
    );
    let target = folder.path().join("resumed");
    checkpoints::fetch(store, &newest, &target).await.unwrap();
    let config = std::fs::read(target.join("config.json")).unwrap();
    assert_eq!(config, b"{\"step\":100}");
    // The same attempt, resumed, writes the step in which it died.
    for (writer, wanted) in [("dead", "dead"), ("late", "dead")] {
        let put = checkpoints::put(store, &run, &stage, 110, &writer.into(), &source).await;
        assert_eq!(put.unwrap().attempt.as_str(), wanted, "the first stands");
    }
    checkpoints::clear(store, &run, &stage).await.unwrap();
    assert_eq!(store.list("checkpoints").await.unwrap(), []);
}

/// A version of base files and all overlays is verified, counted and compared.
async fn a_whole_dataset(store: &Store) {
    let version = rows::publish_dataset(store, "web", "whole", 150, 60).await;
    let scope = verify::Scope::Version(version.clone());
    let report = verify::verify(store, &scope).await.unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.versions, report.shards, report.rows), (1, 3, 150));
    let stats = stats::stats(store, &version).await.unwrap();
    assert_eq!(stats.rows, 150);
    assert_eq!(stats.kept + stats.dropped, stats.rows);
    assert!(stats.dropped > 0);
    assert_eq!(stats.dropped_by_reason.values().sum::<u64>(), stats.dropped);
    for (origin, texts) in &stats.texts {
        assert_eq!(texts.found, texts.curated + texts.dropped, "{origin}");
        let judged = texts.kept + texts.refused + texts.unjudged;
        assert_eq!(texts.curated, judged, "{origin}");
    }
    assert!(stats.texts["synthetic"].kept > 0 && stats.texts["alt"].refused > 0);

    // The same rows, cut otherwise, fetched later, in another store.
    let twin = Store::memory();
    let other = rows::publish_dataset(&twin, "web", "twin", 150, 40).await;
    let same = compare::compare((store, &version), (&twin, &other))
        .await
        .unwrap();
    assert!(same.is_equal(), "{same:?}");
    assert_eq!(
        compare::digest(store, &version).await.unwrap(),
        compare::digest(&twin, &other).await.unwrap()
    );
    let fewer = rows::publish_dataset(&twin, "web", "fewer", 149, 40).await;
    let differing = compare::compare((store, &version), (&twin, &fewer))
        .await
        .unwrap();
    assert_eq!((differing.only_first, differing.only_second), (1, 0));

    let whole = verify::verify(store, &verify::Scope::Store).await.unwrap();
    let runs_without_record = |path: &str| path == "runs/first";
    let problems = whole.problems.iter();
    let unexpected: Vec<_> = problems.filter(|p| !runs_without_record(&p.path)).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    assert!(!whole.orphans.is_empty(), "files that no version names");
}

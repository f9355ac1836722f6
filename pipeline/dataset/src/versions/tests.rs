//! Versions of bounded size, claims, and versions written before both.

use super::*;
use crate::conformance::rows;
use crate::tests::counting::Counting;
use capstan_plan::id::Digest;

fn new_version(run: &str, parts: Vec<Part>, shards: usize) -> NewVersion {
    let recipe = |n: usize| RecipeHash(Digest::of(&n.to_le_bytes()));
    NewVersion {
        dataset: "web".into(),
        run: run.into(),
        stage: "crawl".into(),
        recipes: (0..shards).map(recipe).collect(),
        derived_from: None,
        statistics: BTreeMap::from([("rows".to_owned(), 3)]),
        missing: (0..shards / 5).map(ShardId::ordinal).collect(),
        parts,
    }
}

/// Parts without objects behind them: publishing reads none.
fn parts_of_nothing(shards: usize) -> Vec<Part> {
    let file = |kind, name: String| File {
        kind,
        digest: Digest::of(name.as_bytes()),
        rows_digest: Digest::of(b"rows"),
        rows: 10,
        size_bytes: 100,
        base: None,
    };
    let part = |n| Part {
        base: file(FileKind::Base, format!("base {n}")),
        pixels: Some(file(FileKind::Pixels, format!("pixels {n}"))),
        overlays: vec![file(FileKind::Curation, format!("curation {n}"))],
    };
    (0..shards).map(part).collect()
}

#[tokio::test]
async fn the_size_of_a_version_does_not_depend_on_its_shards() {
    let store = Store::memory();
    let mut sizes = Vec::new();
    for shards in [10, 8_000] {
        let parts = parts_of_nothing(shards);
        let new = new_version(&format!("run-{shards}"), parts.clone(), shards);
        let reference = publish(&store, new.clone()).await.unwrap();
        let size = store.size(&path(&reference).unwrap()).await.unwrap();
        sizes.push(size.unwrap());
        assert_eq!(super::parts(&store, &reference).await.unwrap(), parts);
        let version = read(&store, &reference).await.unwrap();
        let tasks = tasks(&store, &version).await.unwrap();
        assert_eq!((tasks.recipes, tasks.missing), (new.recipes, new.missing));
    }
    assert!(sizes[1] < sizes[0] + 100, "{sizes:?}");
}

#[tokio::test]
async fn a_version_is_read_page_by_page() {
    let store = Store::memory();
    let parts = parts_of_nothing(PAGE as usize + 2);
    let new = new_version("run", parts.clone(), 3);
    let reference = publish(&store, new).await.unwrap();
    let version = read(&store, &reference).await.unwrap();
    let shards = shards(&store, &version).await.unwrap();
    assert_eq!(shards.count, PAGE + 2);
    assert_eq!(parts_of(&store, &shards).await.unwrap(), parts);
    let other = Shards {
        count: 7,
        ..shards.clone()
    };
    let other = parts_of(&store, &other).await;
    assert!(matches!(other, Err(Error::Damaged { .. })));

    // As it was written before: one manifest of everything, and no counts.
    let mut rows = Vec::new();
    for (part, shard) in (0..).zip(&parts) {
        let files = shard.files().cloned();
        rows.extend(files.map(|file| ManifestRow { part, file }));
    }
    let manifest = files::write(&store, FileKind::Manifest, rows)
        .await
        .unwrap();
    let older = Version {
        number: 2,
        shards: None,
        manifests: vec![manifest],
        ..version
    };
    let at = path(&older.reference()).unwrap();
    store.create_json(&at, &older).await.unwrap();
    let expected = Shards {
        version: older.reference(),
        ..shards
    };
    assert_eq!(super::shards(&store, &older).await.unwrap(), expected);

    for version in [reference, older.reference()] {
        let pages = Pages::open(&store, &version).await.unwrap();
        let (first, rest) = parts.split_at(PAGE as usize);
        assert_eq!(pages.read(&store, 0).await.unwrap(), first);
        assert_eq!(pages.read(&store, 1).await.unwrap(), rest);
        assert_eq!(pages.read(&store, 2).await.unwrap(), []);
    }
}

#[tokio::test]
async fn publishing_reads_no_earlier_version() {
    let (counting, store) = Counting::store();
    for run in 0..5 {
        counting.reset();
        let new = new_version(&format!("run-{run}"), Vec::new(), 3);
        let made = publish(&store, new.clone()).await.unwrap();
        assert_eq!(made.number, run + 1);
        let read = counting.paths();
        assert!(
            !read.iter().any(|path| path.contains("/versions/")),
            "{read:?}"
        );

        // Again: its own version alone is read.
        counting.reset();
        assert_eq!(publish(&store, new).await.unwrap(), made);
        let mut read = counting.paths();
        // Its lists are written again, and found.
        read.retain(|path| path.starts_with("datasets/"));
        assert_eq!(read, [path(&made).unwrap()]);
    }
}

#[tokio::test]
async fn a_claim_without_a_version_is_no_version() {
    let store = Store::memory();
    let [mine, other] = ["mine", "other"].map(|run| new_version(run, Vec::new(), 1));
    // `mine` died between its claim and its version; another run took the number.
    let claimed = VersionRef {
        dataset: "web".into(),
        number: 1,
    };
    let folder = claims_folder(&"web".into(), &"mine".into(), &"crawl".into()).unwrap();
    let claim = format!("{folder}/1.json");
    store.create_json(&claim, &claimed).await.unwrap();
    let stage = "crawl".into();
    let found = published(&store, &"web".into(), &"mine".into(), &stage).await;
    assert_eq!(found.unwrap(), None);
    assert_eq!(publish(&store, other).await.unwrap().number, 1);
    assert_eq!(publish(&store, mine.clone()).await.unwrap().number, 2);
    assert_eq!(publish(&store, mine).await.unwrap().number, 2);
    let found = published(&store, &"web".into(), &"mine".into(), &stage).await;
    assert_eq!(found.unwrap().unwrap().number, 2);
}

#[tokio::test]
async fn a_version_written_before_claims_and_task_lists_is_read() {
    let store = Store::memory();
    let recipe = Digest::of(b"recipe");
    let json = serde_json::json!({
        "dataset": "web", "number": 1, "parent": null, "derived_from": null,
        "run": "old", "stage": "crawl", "recipes": [recipe], "statistics": {"rows": 7},
        "missing": ["images-00001"], "manifests": [],
    });
    let first = VersionRef {
        dataset: "web".into(),
        number: 1,
    };
    let bytes = serde_json::to_vec(&json).unwrap();
    store.create(&path(&first).unwrap(), bytes).await.unwrap();
    let found = published(&store, &"web".into(), &"old".into(), &"crawl".into()).await;
    let version = found.unwrap().unwrap();
    assert_eq!(version.reference(), first);
    assert_eq!(version.statistics["rows"], 7);
    let tasks = tasks(&store, &version).await.unwrap();
    assert_eq!(tasks.recipes, [RecipeHash(recipe)]);
    assert_eq!(tasks.missing, ["images-00001".into()]);
    assert_eq!(serde_json::to_value(&version).unwrap(), json);
}

#[tokio::test]
async fn shards_are_listed_base_first() {
    let store = Store::memory();
    let good = rows::parts(&store, rows::pairs("site", 20), 10).await;
    let mut files: Vec<(u32, File)> = Vec::new();
    for (part, shard) in (0..).zip(&good) {
        files.extend(shard.files().map(|file| (part, file.clone())));
    }
    let add = |rows: &[(u32, File)]| {
        let mut parts = Vec::new();
        let added = rows
            .iter()
            .cloned()
            .try_for_each(|(part, file)| add_file(&mut parts, 0, ManifestRow { part, file }));
        added.map(|()| parts)
    };
    assert_eq!(add(&files).unwrap(), good);
    let (base, pixels) = (files[0].clone(), files[1].clone());
    let overlay = files[2].clone();
    let twice = [base.clone(), pixels.clone(), pixels.clone()];
    let late = [base.clone(), overlay, pixels.clone()];
    for wrong in [
        &twice[..],
        &late[..],
        &[pixels][..],
        &[base.clone(), base][..],
    ] {
        assert!(add(wrong).is_err());
    }
}

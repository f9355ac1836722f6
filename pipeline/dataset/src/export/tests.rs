//! What goes out, in every layout, and what is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{Array, RecordBatch};

use super::*;
use crate::conformance::rows;

const COUNT: usize = 50;

async fn published() -> (Store, VersionRef) {
    let store = Store::memory();
    let version = rows::publish_dataset(&store, "web", "r", COUNT, 20).await;
    (store, version)
}

/// Text, origin, itm.
type Sent = (String, &'static str, Option<f32>);

/// Texts that must go out, by pair.
fn expected() -> BTreeMap<String, Vec<Sent>> {
    let pairs = rows::pairs("whole", COUNT);
    let curations = rows::curations(&pairs);
    let captions = rows::captions(&pairs);
    let verdicts = rows::verdicts(&pairs);
    let mut expected = BTreeMap::new();
    for row in 0..COUNT {
        let found = pairs[row].texts.iter();
        let found = found.filter(|text| curations[row].texts.contains(&text.text_id));
        let all = found.chain(&captions[row].texts);
        let texts: Vec<_> = all
            .filter_map(|text| {
                let mut of = verdicts[row].verdicts.iter();
                let verdict = of.find(|verdict| verdict.text_id == text.text_id);
                let kept = text.origin == Origin::Human || verdict.is_some_and(|v| v.kept);
                let itm = verdict.map(|verdict| verdict.itm);
                kept.then(|| (text.text.clone(), text.origin.as_str(), itm))
            })
            .collect();
        if !texts.is_empty() {
            expected.insert(pairs[row].pair_id.to_string(), texts);
        }
    }
    expected
}

async fn export_as(layout: Layout, rows_per_file: usize) -> (tempfile::TempDir, Exported) {
    let (store, version) = published().await;
    let temp = tempfile::tempdir().unwrap();
    let options = Options {
        layout,
        rows_per_file,
    };
    let last = std::sync::Mutex::new((0, 0));
    let progress = |done, total| *last.lock().unwrap() = (done, total);
    let folder = temp.path().join("out");
    let exported = export(&store, &version, &folder, options, &progress)
        .await
        .unwrap();
    assert_eq!(*last.lock().unwrap(), (COUNT as u64, COUNT as u64));
    let names: Vec<_> = std::fs::read_dir(temp.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "something is left beside it: {names:?}");
    let about: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join(ABOUT)).unwrap()).unwrap();
    assert_eq!(about["version"], "web@1");
    assert_eq!(about["texts"], exported.texts);
    (temp, exported)
}

/// Every row of every Parquet file, by file.
fn read(folder: &Path, files: u64) -> Vec<Vec<RecordBatch>> {
    let read = |file: u64| {
        let file = File::open(folder.join(format!("{file:05}.parquet"))).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        reader.build().unwrap().map(Result::unwrap).collect()
    };
    (0..files).map(read).collect()
}

fn strings(batch: &RecordBatch, column: &str) -> Vec<String> {
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    column.iter().map(|text| text.unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pictures_go_out_with_their_kept_texts() {
    let (temp, exported) = export_as(Layout::Pictures, 7).await;
    let expected = expected();
    assert_eq!(exported.pictures, expected.len() as u64);
    assert_eq!(exported.left_out, (COUNT - expected.len()) as u64);
    assert_eq!(exported.files, exported.pictures.div_ceil(7));
    let pairs: BTreeMap<String, Pair> = rows::pairs("whole", COUNT)
        .into_iter()
        .map(|pair| (pair.pair_id.to_string(), pair))
        .collect();
    let mut found = BTreeMap::new();
    for batch in read(&temp.path().join("out"), exported.files).concat() {
        let images = batch.column_by_name("jpg").unwrap().as_binary::<i32>();
        let widths = batch
            .column_by_name("original_width")
            .unwrap()
            .as_primitive::<Int32Type>();
        let texts = batch.column_by_name("texts").unwrap().as_list::<i32>();
        let urls = strings(&batch, "url");
        for (row, id) in strings(&batch, "pair_id").into_iter().enumerate() {
            let pair = &pairs[&id];
            assert_eq!(images.value(row), pair.image);
            assert_eq!(widths.value(row) as u32, pair.original_width);
            assert_eq!(urls[row], pair.image_url);
            let list = texts.value(row);
            let list = list.as_struct();
            let text = list.column_by_name("text").unwrap().as_string::<i32>();
            let origin = list.column_by_name("origin").unwrap().as_string::<i32>();
            let itm = list.column_by_name("itm").unwrap();
            let itm = itm.as_primitive::<Float32Type>();
            let of = |at: usize| {
                let origin = Origin::parse(origin.value(at)).unwrap().as_str();
                let itm = itm.is_valid(at).then(|| itm.value(at));
                (text.value(at).to_owned(), origin, itm)
            };
            found.insert(id, (0..list.len()).map(of).collect::<Vec<_>>());
        }
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_flat_export_has_a_row_per_text_under_keys_of_its_file() {
    let (temp, exported) = export_as(Layout::Flat, 16).await;
    let expected = expected();
    let texts = expected.values().flatten().count() as u64;
    assert_eq!(
        (exported.texts, exported.files),
        (texts, texts.div_ceil(16))
    );
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let files = read(&temp.path().join("out"), exported.files);
    for (number, file) in files.iter().enumerate() {
        let mut row = 0;
        for batch in file {
            for key in strings(batch, "key") {
                assert_eq!(key, format!("{number:05}{row:02}"));
                row += 1;
            }
            assert!(
                strings(batch, "status")
                    .iter()
                    .all(|status| status == "success")
            );
            let error = batch.column_by_name("error_message").unwrap();
            assert_eq!(error.null_count(), batch.num_rows());
            let captions = strings(batch, "caption");
            for (id, caption) in strings(batch, "pair_id").into_iter().zip(captions) {
                found.entry(id).or_default().push(caption);
            }
        }
        assert!(row == 16 || number + 1 == files.len());
    }
    let captions = expected.into_iter().map(|(id, texts)| {
        let texts = texts.into_iter().map(|(text, _, _)| text);
        (id, texts.collect::<Vec<_>>())
    });
    assert_eq!(found, captions.collect());
}

#[tokio::test]
async fn a_tar_holds_the_members_of_every_sample_together() {
    let (temp, exported) = export_as(Layout::Webdataset, 1_000).await;
    assert_eq!(exported.files, 1);
    let file = File::open(temp.path().join("out/00000.tar")).unwrap();
    let mut archive = ::tar::Archive::new(file);
    let mut members = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        members.push((name, bytes));
    }
    assert_eq!(members.len() as u64, 3 * exported.texts);
    for (row, sample) in members.chunks(3).enumerate() {
        let names: Vec<_> = sample.iter().map(|(name, _)| name.as_str()).collect();
        let key = format!("00000{row:03}");
        let expected = ["jpg", "txt", "json"].map(|kind| format!("{key}.{kind}"));
        assert_eq!(names, expected);
        let about: serde_json::Value = serde_json::from_slice(&sample[2].1).unwrap();
        assert_eq!(about["caption"].as_str().unwrap().as_bytes(), sample[1].1);
        assert!(!sample[0].1.is_empty());
    }
}

#[tokio::test]
async fn a_version_without_a_filter_goes_out_as_curation_left_it() {
    let store = Store::memory();
    let pairs = rows::pairs("site", 12);
    let files = crate::files::write_pairs(&store, 100, pairs.clone())
        .await
        .unwrap();
    let new = versions::NewVersion {
        dataset: "d".into(),
        run: "r".into(),
        stage: "s".into(),
        recipes: Vec::new(),
        derived_from: None,
        statistics: BTreeMap::new(),
        missing: Vec::new(),
        parts: capstan_plan::commit::parts_of(&files).unwrap(),
    };
    let version = versions::publish(&store, new).await.unwrap();
    let temp = tempfile::tempdir().unwrap();
    let exported = export(
        &store,
        &version,
        temp.path(),
        Options::default(),
        &|_, _| (),
    )
    .await
    .unwrap();
    let texts = pairs.iter().map(|pair| pair.texts.len() as u64).sum();
    assert_eq!((exported.pictures, exported.texts), (12, texts));
}

#[tokio::test]
async fn a_strangers_folder_is_refused_and_left_alone() {
    let (store, version) = published().await;
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("thesis.tex"), "dear").unwrap();
    let refused = export(
        &store,
        &version,
        temp.path(),
        Options::default(),
        &|_, _| (),
    )
    .await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), capstan_plan::FailureKind::BadInput);
    let line = error.to_string();
    assert!(
        line.contains("thesis.tex") && line.contains("empty folder"),
        "{line}"
    );
    let file = temp.path().join("thesis.tex");
    let refused = export(&store, &version, &file, Options::default(), &|_, _| ()).await;
    assert!(matches!(refused, Err(Error::Target { .. })));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_failed_export_leaves_nothing() {
    let (store, version) = published().await;
    let parts = versions::parts(&store, &version).await.unwrap();
    let last = &parts.last().unwrap().base;
    store
        .delete(&crate::files::path(&last.digest))
        .await
        .unwrap();
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("out");
    let failed = export(&store, &version, &folder, Options::default(), &|_, _| ()).await;
    assert!(matches!(failed, Err(Error::NotFound { .. })));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn keys_have_a_digit_for_each_of_a_files_rows() {
    assert_eq!(key(3, 42, 10_000), "000030042");
    assert_eq!(key(3, 42, 1_000), "00003042");
    assert_eq!(key(0, 0, 1), "000000");
}

/// A version without a curation or a filter over these pairs.
async fn publish_pairs(store: &Store, pairs: Vec<Pair>) -> VersionRef {
    let mut parts = rows::parts(store, pairs, 100).await;
    parts.iter_mut().for_each(|part| part.overlays.clear());
    let new = versions::NewVersion {
        dataset: "d".into(),
        run: "r".into(),
        stage: "s".into(),
        recipes: Vec::new(),
        derived_from: None,
        statistics: BTreeMap::new(),
        missing: Vec::new(),
        parts,
    };
    versions::publish(store, new).await.unwrap()
}

/// Pairs as a `folder` import makes them: each with its path and its texts.
fn imported(pictures: &[(&str, &[&str])]) -> Vec<Pair> {
    let pair = |(n, (path, texts)): (usize, &(&str, &[&str]))| {
        let mut pair = rows::pair("folder", n);
        pair.image_url = format!("file:d/{path}");
        pair.archive_ref = Some((*path).to_owned());
        let texts = texts.iter();
        pair.texts = texts
            .map(|text| Text::new(&pair.pair_id, Origin::Caption, *text))
            .collect();
        pair
    };
    pictures.iter().enumerate().map(pair).collect()
}

async fn export_pairs(pairs: Vec<Pair>, layout: Layout) -> (tempfile::TempDir, Exported) {
    let store = Store::memory();
    let version = publish_pairs(&store, pairs).await;
    let temp = tempfile::tempdir().unwrap();
    let options = Options {
        layout,
        rows_per_file: 2,
    };
    let exported = export(&store, &version, temp.path(), options, &|_, _| ())
        .await
        .unwrap();
    (temp, exported)
}

const ONE_WITHOUT_A_TEXT: [(&str, &[&str]); 2] = [("a.png", &["a ball"]), ("b.png", &[])];

#[tokio::test]
async fn a_picture_without_a_text_goes_out_with_an_empty_caption() {
    let pairs = imported(&ONE_WITHOUT_A_TEXT);
    let (temp, exported) = export_pairs(pairs.clone(), Layout::Flat).await;
    assert_eq!((exported.pictures, exported.texts), (2, 1));
    let batch = &read(temp.path(), 1)[0][0];
    assert_eq!(strings(batch, "caption"), ["a ball", ""]);
    let ids = batch.column_by_name("text_id").unwrap();
    assert_eq!((ids.is_null(0), ids.is_null(1)), (false, true));

    let (temp, exported) = export_pairs(pairs.clone(), Layout::Pictures).await;
    assert_eq!((exported.pictures, exported.texts), (2, 1));
    let batch = &read(temp.path(), 1)[0][0];
    let lists = batch.column_by_name("texts").unwrap().as_list::<i32>();
    assert_eq!((lists.value(0).len(), lists.value(1).len()), (1, 0));

    let (temp, _) = export_pairs(pairs, Layout::Webdataset).await;
    let mut archive = ::tar::Archive::new(File::open(temp.path().join("00000.tar")).unwrap());
    let mut members = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        members.insert(name, bytes);
    }
    assert_eq!(members.len(), 6);
    assert_eq!(members["000000.txt"], b"a ball");
    assert_eq!(members["000001.txt"], b"");
    let about: serde_json::Value = serde_json::from_slice(&members["000001.json"]).unwrap();
    assert_eq!(about["caption"], "");
    assert!(about["text_id"].is_null() && about["origin"].is_null());
}

/// Every file below a folder but `_export.json`, with its bytes.
fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
    files.remove(ABOUT).unwrap();
    files
}

#[tokio::test]
async fn a_folder_of_pictures_has_the_texts_beside_them_under_the_imported_names() {
    let mut pairs = imported(&[
        ("a.png", &["a ball", "a red ball"]),
        ("deep/er/b.JPEG", &[]),
        // The stem of the first again, also where case makes no difference.
        ("A.webp", &["a ring"]),
        ("v1.2/c", &["a crate"]),
        // Paths that lead out, hide, or take the export's own name.
        ("../out.png", &["x"]),
        (".hidden.png", &["x"]),
        ("_export.png", &["x"]),
    ]);
    // Of the web, and of a row of a Parquet file: the key says nothing to a person.
    pairs.push(rows::pair("site", 1));
    let mut row = rows::pair("site", 2);
    row.image_url = "file:d/00000.parquet/000000007".to_owned();
    row.archive_ref = Some("000000007".to_owned());
    pairs.push(row);
    let (temp, exported) = export_pairs(pairs.clone(), Layout::Files).await;
    let files = files_below(temp.path());
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let stems = [
        "00000/000000",
        "00000/000001",
        "00001/000010",
        "00001/000011",
        "00002/000020",
        "A.webp",
        "a",
        "deep/er/b",
        "v1.2/c",
    ];
    let expected = stems.map(|stem| [format!("{stem}.jpg"), format!("{stem}.txt")]);
    let mut expected: Vec<String> = expected.concat();
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(files["a.txt"], b"a ball\na red ball\n");
    assert_eq!(files["deep/er/b.txt"], b"");
    assert_eq!(files["A.webp.txt"], b"a ring\n");
    assert_eq!(files["a.jpg"], pairs[0].image);
    assert_eq!(files["00001/000011.jpg"], pairs[7].image);
    let size: usize = files.values().map(Vec::len).sum();
    assert_eq!((exported.files, exported.size_bytes), (2 * 9, size as u64));
}

#[tokio::test]
async fn a_folder_of_pictures_leaves_out_what_the_filter_refused() {
    let (temp, exported) = export_as(Layout::Files, 1_000).await;
    let expected = expected();
    let files = files_below(&temp.path().join("out"));
    assert_eq!(exported.pictures, expected.len() as u64);
    assert_eq!(files.len(), 2 * expected.len());
    let mut found: Vec<Vec<u8>> = files
        .into_iter()
        .filter(|(name, _)| name.ends_with(".txt"))
        .map(|(_, lines)| lines)
        .collect();
    let lines = |texts: Vec<Sent>| -> Vec<u8> {
        let lines = texts.into_iter().map(|(text, ..)| text + "\n");
        lines.collect::<String>().into_bytes()
    };
    let mut wanted: Vec<Vec<u8>> = expected.into_values().map(lines).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

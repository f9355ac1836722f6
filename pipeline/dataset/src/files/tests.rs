//! Base files and pixels: bounds, alignment, schema versions, older stores, bytes read.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use capstan_plan::FailureKind;
use capstan_plan::commit::{Part, VersionRef, parts_of};
use capstan_plan::row::Pair;
use capstan_plan::stage::Use;
use capstan_plan::task::Data;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use super::*;
use crate::conformance::rows;
use crate::record::{Picture, RowHasher, hash_with_pixels};
use crate::tests::counting::Counting;
use crate::versions::NewVersion;
use crate::view::View;
use crate::{compare, index, stats, verify, versions};

/// Pairs whose pictures have these sizes.
fn pairs_of(sizes: &[usize]) -> Vec<Pair> {
    let mut pairs = rows::pairs("sizes", sizes.len());
    for (pair, size) in pairs.iter_mut().zip(sizes) {
        pair.image = vec![pair.phash as u8; *size];
    }
    pairs
}

async fn read_all(store: &Store, part: &Part, pixels: Pixels) -> Result<Vec<Pair>> {
    let mut reader = Pairs::open(store, part, pixels).await?;
    let mut all = Vec::new();
    while let Some(group) = reader.next().await? {
        all.extend(group);
    }
    Ok(all)
}

fn without_images(pairs: &[Pair]) -> Vec<Pair> {
    let mut pairs = pairs.to_vec();
    pairs.iter_mut().for_each(|pair| pair.image.clear());
    pairs
}

/// The estimate that bounds files: that of a pair without its picture, and of the picture.
fn weight(pair: &Pair) -> u64 {
    let picture = Picture {
        pair_id: pair.pair_id,
        image: Bytes::from(pair.image.clone()),
    };
    let [bare] = &without_images(std::slice::from_ref(pair))[..] else {
        unreachable!()
    };
    (bare.weight() + picture.weight()) as u64
}

/// Bytes of Parquet that no row accounts for: footers and page headers.
const OVERHEAD: u64 = 24 << 10;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn files_keep_their_bounds_and_rows_stay_aligned(
        sizes in prop::collection::vec(prop_oneof![1usize..3_000, 1usize..60_000], 1..60),
        rows in 1usize..40,
        bytes in 1_000u64..200_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Store::memory();
            let pairs = pairs_of(&sizes);
            let bounds = FileBounds { rows, bytes };
            let files = write_pairs(&store, bounds, pairs.clone()).await.unwrap();
            let parts = parts_of(&files).unwrap();
            let mut first = 0;
            for part in &parts {
                let (base, pixels) = (&part.base, part.pixels.as_ref().unwrap());
                let end = first + base.rows as usize;
                let total: u64 = pairs[first..end].iter().map(weight).sum();
                assert!(base.rows as usize <= rows);
                assert!(total <= bytes || base.rows == 1);
                assert!(base.size_bytes + pixels.size_bytes <= total + OVERHEAD);
                // A file ends only where a bound asks for it.
                if let Some(next) = pairs.get(end) {
                    assert!(base.rows as usize == rows || total + weight(next) > bytes);
                }
                let read = read_all(&store, part, Pixels::Read).await.unwrap();
                assert_eq!(read, &pairs[first..end]);
                let bare = read_all(&store, part, Pixels::Skip).await.unwrap();
                assert_eq!(bare, without_images(&pairs[first..end]));
                first = end;
            }
            assert_eq!(first, pairs.len());
        });
    }
}

/// Row groups of the two files end at different rows.
#[tokio::test]
async fn pictures_are_joined_across_row_groups() {
    let store = Store::memory();
    let mut sizes = vec![200; 1500];
    for row in [10, 700, 1100, 1499] {
        sizes[row] = 5 << 20;
    }
    let pairs = pairs_of(&sizes);
    let files = write_pairs(&store, 5000, pairs.clone()).await.unwrap();
    let part = parts_of(&files).unwrap().remove(0);
    assert_eq!(read_all(&store, &part, Pixels::Read).await.unwrap(), pairs);
    let requested = [1499, 0, 700, 701, 0];
    let found = pictures(&store, &part, &requested).await.unwrap();
    for (picture, row) in found.iter().zip(requested) {
        assert_eq!(picture, &pairs[row as usize].image);
    }
}

#[tokio::test]
async fn pixels_of_other_pairs_are_refused() {
    let store = Store::memory();
    let [a, b] = ["a", "b"].map(|site| rows::pairs(site, 10));
    let a = parts_of(&write_pairs(&store, 10, a).await.unwrap()).unwrap();
    let b = parts_of(&write_pairs(&store, 10, b).await.unwrap()).unwrap();
    let mixed = Part {
        pixels: b[0].pixels.clone(),
        ..a[0].clone()
    };
    let error = read_all(&store, &mixed, Pixels::Read).await.unwrap_err();
    assert!(matches!(error, Error::Misaligned { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::PoisonShard);
    assert!(read_all(&store, &mixed, Pixels::Skip).await.is_ok());
    let mut short = a[0].clone();
    short.pixels.as_mut().unwrap().rows = 9;
    let error = read_all(&store, &short, Pixels::Read).await.unwrap_err();
    assert!(matches!(error, Error::Misaligned { .. }), "{error}");
}

/// A file of these columns, as any program could write it.
async fn put_columns(
    store: &Store,
    kind: FileKind,
    columns: Vec<(Field, ArrayRef)>,
    version: Option<&str>,
    rows_digest: Digest,
) -> File {
    let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let version = version.map(|v| KeyValue::new("schema_version".to_owned(), v.to_owned()));
    let properties = WriterProperties::builder()
        .set_key_value_metadata(version.map(|version| vec![version]))
        .set_max_row_group_row_count(Some(1024))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.into_inner().unwrap();
    let file = File {
        kind,
        digest: Digest::of(&bytes),
        rows_digest,
        rows: batch.num_rows() as u64,
        size_bytes: bytes.len() as u64,
        base: None,
    };
    store.create(&path(&file.digest), bytes).await.unwrap();
    file
}

/// The metadata columns of pairs.
fn metadata_columns(pairs: &[Pair]) -> Vec<(Field, ArrayRef)> {
    let batch = Pair::encode(pairs).unwrap();
    let fields = batch.schema();
    let fields = fields.fields().iter().map(|field| (**field).clone());
    fields.zip(batch.columns().iter().cloned()).collect()
}

/// A base file as it was written before the split: 17 columns, `image` the second, no version.
pub(crate) async fn write_unsplit(store: &Store, pairs: &[Pair]) -> Part {
    let mut columns = metadata_columns(pairs);
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(
        pairs.iter().map(|pair| &pair.image),
    ));
    let image = Field::new("image", DataType::Binary, false);
    columns.insert(1, (image, images));
    let names: Vec<_> = columns
        .iter()
        .map(|(field, _)| field.name().as_str())
        .collect();
    let expected = "pair_id image width height original_width original_height sha256 phash \
                    image_url page_url archive_ref fetched_at_ms opt_out policy_version licence \
                    attribution texts";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    let mut hasher = RowHasher::default();
    for pair in pairs {
        hash_with_pixels(pair, &pair.image, &mut hasher);
    }
    let base = put_columns(store, FileKind::Base, columns, None, hasher.finish()).await;
    Part {
        base,
        pixels: None,
        overlays: Vec::new(),
    }
}

async fn publish(store: &Store, part: Part) -> VersionRef {
    let new = NewVersion {
        dataset: "d".into(),
        run: "r".into(),
        stage: "s".into(),
        recipes: Vec::new(),
        derived_from: None,
        statistics: Default::default(),
        missing: Vec::new(),
        parts: vec![part],
    };
    versions::publish(store, new).await.unwrap()
}

#[tokio::test]
async fn a_store_written_before_the_split_stays_readable() {
    let store = Store::memory();
    let pairs = rows::pairs("old", 1500);
    let part = write_unsplit(&store, &pairs).await;
    assert_eq!(read_all(&store, &part, Pixels::Read).await.unwrap(), pairs);
    let bare = read_all(&store, &part, Pixels::Skip).await.unwrap();
    assert_eq!(bare, without_images(&pairs));
    let found = pictures(&store, &part, &[1400, 3]).await.unwrap();
    assert_eq!(found, [&pairs[1400].image[..], &pairs[3].image[..]]);

    let overlay = write_overlay(&store, &part.base, rows::curations(&pairs)).await;
    let part = Part {
        overlays: vec![overlay.unwrap()],
        ..part
    };
    let old = publish(&store, part.clone()).await;
    let parts = versions::parts(&store, &old).await.unwrap();
    assert_eq!(parts, std::slice::from_ref(&part));
    let scope = verify::Scope::Version(old.clone());
    let report = verify::verify(&store, &scope).await.unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(stats::stats(&store, &old).await.unwrap().rows, 1500);
    let version = versions::read(&store, &old).await.unwrap();
    let data = Data {
        shards: versions::shards(&store, &version).await.unwrap(),
        web: Use::All,
        synthetic: Use::None,
    };
    let index = index::samples(&store, &[data]).await.unwrap();
    assert!(!index.samples.is_empty());
    let image = index::pictures(&store, &part, &[7]).await.unwrap();
    assert_eq!(image, [&pairs[7].image[..]]);

    // The same rows, split: another store, an equal version.
    let twin = Store::memory();
    let files = write_pairs(&twin, 400, pairs.clone()).await.unwrap();
    let mut parts = parts_of(&files).unwrap();
    for (part, pairs) in parts.iter_mut().zip(pairs.chunks(400)) {
        let overlay = write_overlay(&twin, &part.base, rows::curations(pairs)).await;
        part.overlays.push(overlay.unwrap());
    }
    let new = NewVersion {
        parts,
        dataset: "d".into(),
        run: "r".into(),
        stage: "s".into(),
        recipes: Vec::new(),
        derived_from: None,
        statistics: Default::default(),
        missing: Vec::new(),
    };
    let new = versions::publish(&twin, new).await.unwrap();
    let same = compare::compare((&store, &old), (&twin, &new))
        .await
        .unwrap();
    assert!(same.is_equal(), "{same:?}");
}

#[tokio::test]
async fn a_damaged_picture_of_an_unsplit_base_is_found() {
    let store = Store::memory();
    let mut pairs = rows::pairs("old", 20);
    pairs[4].image.clear();
    let part = write_unsplit(&store, &pairs).await;
    let version = publish(&store, part).await;
    let report = verify::verify(&store, &verify::Scope::Version(version)).await;
    let problems = report.unwrap().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].reason, "row 4: it has no picture");
}

async fn open_error(store: &Store, file: &File) -> String {
    let part = Part {
        base: file.clone(),
        pixels: None,
        overlays: Vec::new(),
    };
    let opened = Pairs::open(store, &part, Pixels::Skip).await;
    opened
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

#[tokio::test]
async fn columns_are_checked_by_schema_version() {
    let store = Store::memory();
    let pairs = rows::pairs("columns", 10);
    let rows_digest = crate::record::rows_digest(&pairs);
    let put = |columns, version| put_columns(&store, FileKind::Base, columns, version, rows_digest);
    let without = |name: &str| {
        let mut columns = metadata_columns(&pairs);
        columns.retain(|(field, _)| field.name() != name);
        columns
    };

    // An older file may lack a nullable column; a file of this version may not.
    let older = put(without("licence"), None).await;
    assert_eq!(open_error(&store, &older).await, "");
    let part = parts_of([&older]).unwrap().remove(0);
    let read = read_all(&store, &part, Pixels::Skip).await.unwrap();
    assert!(read.iter().all(|pair| pair.licence.is_none()));
    assert!(read.iter().any(|pair| pair.attribution.is_some()));
    let current = put(without("licence"), Some("2")).await;
    let object = path(&current.digest);
    let expected = format!("{object} is damaged: column `licence` is missing");
    assert_eq!(open_error(&store, &current).await, expected);

    // A required column is required of every version.
    let missing = put(without("texts"), None).await;
    let object = path(&missing.digest);
    let expected = format!("{object} is damaged: column `texts` is missing");
    assert_eq!(open_error(&store, &missing).await, expected);

    // Columns of a later version, or of the user, are ignored.
    let mut columns = metadata_columns(&pairs);
    let extra: ArrayRef = Arc::new(StringArray::from(vec!["x"; 10]));
    columns.insert(
        3,
        (Field::new("price", DataType::Utf8, true), extra.clone()),
    );
    let later = put(columns, Some("9")).await;
    let part = parts_of([&later]).unwrap().remove(0);
    let read = read_all(&store, &part, Pixels::Skip).await.unwrap();
    assert_eq!(read, without_images(&pairs));

    let mut columns = without("width");
    columns.push((Field::new("width", DataType::Utf8, false), extra));
    let foreign = put(columns, Some("2")).await;
    let object = path(&foreign.digest);
    let expected = format!("{object} is damaged: column `width` is of type Utf8, not UInt32");
    assert_eq!(open_error(&store, &foreign).await, expected);
    let numberless = put(metadata_columns(&pairs), Some("two")).await;
    let error = open_error(&store, &numberless).await;
    assert!(
        error.ends_with("its schema version `two` is no number"),
        "{error}"
    );
}

/// 40 pictures of 200 kB: the pixels are far larger than a file that is fetched whole.
fn large_pairs() -> Vec<Pair> {
    pairs_of(&[200_000; 40])
}

#[tokio::test]
async fn a_metadata_scan_never_opens_pixels() {
    let (counting, store) = Counting::store();
    let pairs = large_pairs();
    let mut parts = parts_of(&write_pairs(&store, 20, pairs.clone()).await.unwrap()).unwrap();
    for (part, pairs) in parts.iter_mut().zip(pairs.chunks(20)) {
        let overlay = write_overlay(&store, &part.base, rows::curations(pairs)).await;
        part.overlays.push(overlay.unwrap());
    }
    let metadata: u64 = parts
        .iter()
        .flat_map(Part::metadata_files)
        .map(|file| file.size_bytes)
        .sum();
    let scans = |counting: &Counting, lists: usize| {
        let pixels = parts.iter().filter_map(|part| part.pixels.as_ref());
        assert_eq!(counting.bytes_of(pixels), 0);
        assert_eq!(counting.paths().len(), 4 + lists, "{:?}", counting.paths());
        let read = counting.bytes_of(parts.iter().flat_map(Part::files));
        assert!(0 < read && read <= metadata, "{read} of {metadata} bytes");
        counting.reset();
    };
    counting.reset();
    for part in &parts {
        View::read(&store, part, Pixels::Skip).await.unwrap();
    }
    scans(&counting, 0);
    stats::read_parts(&store, &parts).await.unwrap();
    scans(&counting, 0);
    let shards = rows::publish_parts(&store, "d", "r", parts.clone()).await;
    counting.reset();
    let data = Data {
        shards,
        web: Use::All,
        synthetic: Use::All,
    };
    index::samples(&store, &[data]).await.unwrap();
    scans(&counting, 2);
}

/// A scan of a large file fetches its columns, and does not fill the cache with the whole file.
#[tokio::test]
async fn a_column_is_read_by_range_and_pictures_through_the_cache() {
    let (counting, store) = Counting::store();
    let part = write_unsplit(&store, &large_pairs()).await;
    let folder = tempfile::tempdir().unwrap();
    let cached = store.clone().with_cache(folder.path(), 1 << 30).unwrap();
    let size = part.base.size_bytes;
    assert!(size > 6_000_000);
    read_all(&cached, &part, Pixels::Skip).await.unwrap();
    let read = counting.bytes_of([&part.base]);
    assert!(read < 200_000, "{read} of {size} bytes");
    assert_eq!(cached.cached(9).await, []);

    counting.reset();
    for _ in 0..3 {
        pictures(&cached, &part, &[3, 30]).await.unwrap();
        read_all(&cached, &part, Pixels::Skip).await.unwrap();
    }
    let read = counting.bytes_of([&part.base]);
    assert!(
        (size..size + 200_000).contains(&read),
        "{read} of {size} bytes"
    );
    assert_eq!(cached.cached(9).await, [part.base.digest]);
}

#[tokio::test]
async fn a_damaged_object_is_written_again() {
    let store = Store::memory();
    let links = rows::page_links(30);
    let file = write(&store, FileKind::Pages, links.clone()).await.unwrap();
    let path = path(&file.digest);
    let sound = store.get(&path).await.unwrap();
    let mut other = sound.to_vec();
    other[20] ^= 1;
    for damaged in [&sound[..40], &other[..], b""] {
        store.delete(&path).await.unwrap();
        store.create(&path, damaged.to_vec()).await.unwrap();
        let again = write(&store, FileKind::Pages, links.clone()).await.unwrap();
        assert_eq!(again, file);
        assert_eq!(store.get(&path).await.unwrap(), sound);
    }
    let read: Vec<capstan_plan::row::PageLink> = read(&store, &file).await.unwrap();
    assert_eq!(read, links);
}

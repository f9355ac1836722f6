//! Parquet as img2dataset writes it, with every kind of damaged row and file.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int32Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;

use super::*;

/// One row: caption, url, key, status, message, picture.
struct Row {
    caption: Option<&'static str>,
    url: String,
    status: &'static str,
    message: Option<&'static str>,
    picture: Option<Vec<u8>>,
}

impl Row {
    fn good(url: &str, caption: &'static str) -> Self {
        Self {
            caption: Some(caption),
            url: url.to_owned(),
            status: "success",
            message: None,
            picture: Some(picture(40)),
        }
    }

    fn failed(url: &str, status: &'static str, message: &'static str) -> Self {
        Self {
            status,
            message: Some(message),
            picture: None,
            ..Self::good(url, "lost")
        }
    }
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .unwrap();
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// All columns of img2dataset, in its order.
fn shard(folder: &Path, name: &str, rows: &[Row]) -> PathBuf {
    let texts = |of: &dyn Fn(&Row) -> Option<String>| -> ArrayRef {
        Arc::new(StringArray::from(rows.iter().map(of).collect::<Vec<_>>()))
    };
    let numbers = |number: i32| -> ArrayRef {
        let of = |row: &Row| row.picture.as_ref().map(|_| number);
        Arc::new(Int32Array::from(rows.iter().map(of).collect::<Vec<_>>()))
    };
    let number = name.trim_end_matches(".parquet").to_owned();
    let keys: Vec<String> = (0..rows.len())
        .map(|row| format!("{number}{row:04}"))
        .collect();
    let sha256 = |row: &Row| row.picture.as_ref().map(|_| "ab".repeat(32));
    let pictures: Vec<Option<&[u8]>> = rows.iter().map(|row| row.picture.as_deref()).collect();
    let path = folder.join(name);
    write(
        &path,
        vec![
            ("url", texts(&|row| Some(row.url.clone()))),
            ("caption", texts(&|row| row.caption.map(str::to_owned))),
            ("key", Arc::new(StringArray::from(keys))),
            ("status", texts(&|row| Some(row.status.to_owned()))),
            (
                "error_message",
                texts(&|row| row.message.map(str::to_owned)),
            ),
            ("width", numbers(40)),
            ("height", numbers(40)),
            ("original_width", numbers(640)),
            ("original_height", numbers(480)),
            ("exif", texts(&|_| None)),
            ("sha256", texts(&sha256)),
            ("png", Arc::new(BinaryArray::from(pictures))),
        ],
    );
    path
}

#[tokio::test]
async fn rows_become_pairs_with_what_is_known_of_their_download() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        Row::good("http://A.test/1.png#top", " a red\n ball "),
        Row::good("no url at all", "a ring"),
    ];
    shard(folder.path(), "00000.parquet", &rows);
    shard(
        folder.path(),
        "00001.parquet",
        &[Row::good(
            "http://a.test/1.png",
            "the same picture elsewhere",
        )],
    );
    fs::write(folder.path().join("00000_stats.json"), "{}").unwrap();
    let (pairs, rejects) = import_as("img2dataset", folder.path()).await.unwrap();
    assert_eq!(rejects, []);
    let urls: Vec<_> = pairs.iter().map(|pair| pair.image_url.as_str()).collect();
    let ours = "file:human/00000.parquet/000000001";
    assert_eq!(urls, ["http://a.test/1.png", ours, "http://a.test/1.png"]);
    assert_ne!(pairs[0].pair_id, pairs[2].pair_id);
    let first = &pairs[0];
    assert_eq!(words(first), ["a red ball"]);
    assert_eq!(first.texts[0].origin, Origin::Alt);
    assert_eq!(first.page_url, "file:human/00000.parquet");
    assert_eq!(first.archive_ref.as_deref(), Some("000000000"));
    assert_eq!((first.original_width, first.original_height), (640, 480));
    assert_eq!((first.width, first.height), (40, 40));
    assert_eq!(first.sha256, [0xab; 32]);
}

#[tokio::test]
async fn rows_that_img2dataset_failed_on_keep_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let expected = [
        (
            "failed_to_download",
            "HTTP Error 404: Not Found",
            RejectCode::HttpStatus,
        ),
        (
            "failed_to_download",
            "<urlopen error timed out>",
            RejectCode::Timeout,
        ),
        (
            "failed_to_download",
            "[Errno 111] Connection refused",
            RejectCode::Network,
        ),
        (
            "failed_to_download",
            "Use of image disallowed by X-Robots-Tag directive",
            RejectCode::OptOut,
        ),
        ("failed_to_download", "hash mismatch", RejectCode::Upstream),
        (
            "failed_to_download",
            "unknown url type: 'x'",
            RejectCode::Url,
        ),
        (
            "failed_to_resize",
            "Image decoding error",
            RejectCode::Decode,
        ),
        ("failed_to_resize", "image too small", RejectCode::TooSmall),
        (
            "failed_to_resize",
            "aspect ratio too large",
            RejectCode::Upstream,
        ),
        ("failed_to_shine", "", RejectCode::Upstream),
    ];
    let url = |at: usize| format!("http://a.test/{at}");
    let mut rows: Vec<Row> = (0..expected.len())
        .map(|at| Row::failed(&url(at), expected[at].0, expected[at].1))
        .collect();
    rows.push(Row::good("http://a.test/good", "a ball"));
    shard(folder.path(), "00000.parquet", &rows);
    let (pairs, rejects) = import_as("img2dataset", folder.path()).await.unwrap();
    assert_eq!(pairs.len(), 1);
    for (at, (status, message, code)) in expected.iter().enumerate() {
        let reject = &rejects[at];
        assert_eq!(
            (reject.code, reject.url.as_str()),
            (*code, url(at).as_str()),
            "{message}"
        );
        assert!(reject.detail.contains(status) && reject.detail.contains(message));
        assert!(reject.is_image);
    }
}

#[tokio::test]
async fn a_bad_row_or_file_is_a_reject_and_the_rest_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = vec![Row::good("http://a.test/good", "a ball")];
    rows.push(Row {
        caption: None,
        ..Row::good("http://a.test/mute", "")
    });
    rows.push(Row {
        picture: None,
        ..Row::good("http://a.test/blind", "x")
    });
    rows.push(Row {
        picture: Some(b"<html>".to_vec()),
        ..Row::good("http://a.test/html", "x")
    });
    rows.push(Row {
        picture: Some(vec![0; 50_001]),
        ..Row::good("http://a.test/fat", "x")
    });
    rows.push(Row {
        picture: Some(picture(8)),
        ..Row::good("http://a.test/small", "x")
    });
    let whole = shard(folder.path(), "00000.parquet", &rows);
    let bytes = fs::read(&whole).unwrap();
    fs::write(
        folder.path().join("00001.parquet"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    // Pages are overwritten: the footer is intact, the rows are not.
    let mut rotten = bytes.clone();
    let (from, to) = (4, bytes.len() / 2);
    rotten[from..to].fill(0xff);
    fs::write(folder.path().join("00002.parquet"), rotten).unwrap();
    let one: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    write(&folder.path().join("00003.parquet"), vec![("text", one)]);
    shard(
        folder.path(),
        "00004.parquet",
        &[Row::good("http://a.test/last", "a ring")],
    );
    let (pairs, rejects) = import_as("img2dataset", folder.path()).await.unwrap();
    let urls: Vec<_> = pairs.iter().map(|pair| pair.image_url.as_str()).collect();
    let expected = ["good", "mute", "last"].map(|name| format!("http://a.test/{name}"));
    assert_eq!(urls, expected);
    assert_eq!(words(&pairs[1]), [""; 0]);
    let expected = [
        (RejectCode::Bytes, "http://a.test/fat"),
        (RejectCode::NotImage, "http://a.test/html"),
        (RejectCode::TooSmall, "http://a.test/small"),
        (RejectCode::Record, "00001.parquet"),
        (RejectCode::Record, "00002.parquet"),
        (RejectCode::Record, "00003.parquet"),
        (RejectCode::Record, "http://a.test/blind"),
    ];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(codes(&rejects), expected);
    let of_file = |name: &str| rejects.iter().find(|reject| reject.url == name).unwrap();
    assert!(!of_file("00001.parquet").is_image);
    let lost = &of_file("00002.parquet").detail;
    assert!(lost.contains("rows from row 0 on are lost"), "{lost}");
    let lacks = &of_file("00003.parquet").detail;
    assert!(
        lacks.contains("no column `jpg`, `png` or `webp` of bytes; it has text"),
        "{lacks}"
    );
    let strict = import_with_texts("img2dataset", folder.path()).await;
    let (pairs, rejects) = strict.unwrap();
    assert_eq!(pairs.len(), 2);
    let mute = (RejectCode::Record, "http://a.test/mute");
    assert!(codes(&rejects).contains(&mute), "{rejects:?}");
    let lacks = rejects.iter().find(|reject| reject.url == "00003.parquet");
    let lacks = &lacks.unwrap().detail;
    assert!(
        lacks.contains("no column `caption`; it has text"),
        "{lacks}"
    );
}

#[tokio::test]
async fn a_file_without_captions_gives_pictures_without_texts() {
    let folder = tempfile::tempdir().unwrap();
    let one = picture(20);
    let pictures: ArrayRef = Arc::new(BinaryArray::from(vec![&one[..]]));
    write(&folder.path().join("a.parquet"), vec![("jpg", pictures)]);
    let (pairs, rejects) = import_as("img2dataset", folder.path()).await.unwrap();
    assert_eq!((pairs.len(), rejects.len()), (1, 0));
    assert_eq!(words(&pairs[0]), [""; 0]);
    let strict = import_with_texts("img2dataset", folder.path()).await;
    let line = strict.unwrap_err().to_string();
    assert!(line.ends_with("no column `caption`; it has jpg"), "{line}");
}

#[tokio::test]
async fn picture_and_caption_are_all_that_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (picture(20), picture(30));
    let captions: ArrayRef = Arc::new(StringArray::from(vec!["a ball", "a ring"]));
    let pictures: ArrayRef = Arc::new(BinaryArray::from(vec![&one[..], &two[..]]));
    write(
        &folder.path().join("a.parquet"),
        vec![("jpg", pictures), ("caption", captions)],
    );
    let (pairs, rejects) = import_as("img2dataset", folder.path()).await.unwrap();
    assert_eq!(rejects, []);
    let keys: Vec<_> = pairs
        .iter()
        .map(|pair| pair.archive_ref.as_deref())
        .collect();
    assert_eq!(keys, [Some("0"), Some("1")]);
    assert_eq!(
        (pairs[1].original_width, words(&pairs[1])[0]),
        (30, "a ring")
    );
}

#[tokio::test]
async fn a_duplicate_key_is_a_reject() {
    let folder = tempfile::tempdir().unwrap();
    let one = picture(20);
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["k", "k"]));
    let captions: ArrayRef = Arc::new(StringArray::from(vec!["a ball", "a ring"]));
    let pictures: ArrayRef = Arc::new(BinaryArray::from(vec![&one[..], &one[..]]));
    write(
        &folder.path().join("a.parquet"),
        vec![("jpg", pictures), ("caption", captions), ("key", keys)],
    );
    let (pairs, rejects) = import_as("img2dataset", folder.path()).await.unwrap();
    assert_eq!(
        (pairs.len(), codes(&rejects)),
        (1, vec![(RejectCode::Record, "k")])
    );
}

#[tokio::test]
async fn slices_of_files_cover_the_source() {
    let folder = tempfile::tempdir().unwrap();
    for file in 0..5 {
        let rows = [
            Row::good(&format!("http://a.test/{file}"), "a ball"),
            Row::failed(&format!("http://b.test/{file}"), "failed_to_resize", "x"),
        ];
        shard(folder.path(), &format!("{file:05}.parquet"), &rows);
    }
    slices_cover_the_source("img2dataset", folder.path()).await;
}

#[tokio::test]
async fn a_source_of_another_format_is_refused_with_the_missing_column() {
    let temp = tempfile::tempdir().unwrap();
    let gone = import_as("img2dataset", &temp.path().join("gone")).await;
    let gone = gone.unwrap_err();
    assert_eq!(gone.kind(), capstan_plan::FailureKind::BadInput);
    assert!(matches!(gone, Error::NoSource { .. }));
    let empty = import_as("img2dataset", temp.path()).await.unwrap_err();
    assert!(
        empty
            .to_string()
            .contains("no file in it ends in `.parquet`"),
        "{empty}"
    );
    // What img2dataset writes beside tars: all columns but the picture.
    let one: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let path = temp.path().join("00000.parquet");
    write(&path, vec![("caption", one.clone()), ("url", one)]);
    let foreign = import_as("img2dataset", temp.path()).await.unwrap_err();
    assert_eq!(foreign.kind(), capstan_plan::FailureKind::BadInput);
    let line = foreign.to_string();
    assert!(
        line.contains("00000.parquet is not Parquet of img2dataset"),
        "{line}"
    );
    assert!(
        line.contains("`jpg`") && line.contains("caption, url"),
        "{line}"
    );
}

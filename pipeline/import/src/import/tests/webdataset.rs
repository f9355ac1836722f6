//! WebDataset tars, as img2dataset and others write them.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;

use super::*;

fn tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        add(&mut builder, name, bytes);
    }
    builder.finish().unwrap();
}

fn add(builder: &mut tar::Builder<fs::File>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    builder.append_data(&mut header, name, bytes).unwrap();
}

#[tokio::test]
async fn members_of_one_key_become_a_pair() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (picture(20), picture(30));
    let json = format!(
        r#"{{"url": "http://a.test/1.jpg", "original_width": 600, "sha256": "{}"}}"#,
        "cd".repeat(32)
    );
    let caption = r#"{"caption": "from json", "licence": "CC0"}"#;
    let fat = vec![0; 50_001];
    tar(
        &folder.path().join("00000.tar"),
        &[
            ("000000000.jpg", &one),
            ("000000000.json", json.as_bytes()),
            ("000000000.txt", b"a red\nball"),
            ("deep/er/k.v2.PNG", &two),
            ("deep/er/k.json", caption.as_bytes()),
            ("mute.jpg", &one),
            ("blind.txt", b"a text"),
            ("fat.jpg", &fat),
            ("fat.txt", b"a text"),
            ("long.jpg", &one),
            ("long.txt", &[b'x'; 101]),
            ("odd.jpg", &one),
            ("odd.txt", b"\xff\xfe"),
            ("000000000.jpg", &one),
            ("000000000.txt", b"again"),
        ],
    );
    let (pairs, rejects) = import_as("webdataset", folder.path()).await.unwrap();
    assert_eq!(pairs.len(), 2, "{rejects:?}");
    assert_eq!(pairs[1].archive_ref.as_deref(), Some("mute"));
    assert_eq!(words(&pairs[1]), [""; 0]);
    let first = &pairs[0];
    assert_eq!(words(first), ["a red ball"]);
    assert_eq!(first.image_url, "http://a.test/1.jpg");
    assert_eq!(first.page_url, "file:human/00000.tar");
    assert_eq!((first.original_width, first.original_height), (600, 20));
    assert_eq!(first.sha256, [0xcd; 32]);
    let mut expected = vec![
        (RejectCode::Record, "000000000"),
        (RejectCode::Record, "blind"),
        (RejectCode::Record, "deep/er/k"),
        (RejectCode::Record, "odd"),
        (RejectCode::Bytes, "fat"),
        (RejectCode::TextBytes, "long"),
    ];
    expected.sort();
    assert_eq!(codes(&rejects), expected);
    expected.push((RejectCode::Record, "mute"));
    expected.sort();
    let (_, rejects) = import_with_texts("webdataset", folder.path())
        .await
        .unwrap();
    assert_eq!(codes(&rejects), expected);
}

#[tokio::test]
async fn failed_rows_are_read_from_the_parquet_beside_the_tar() {
    let folder = tempfile::tempdir().unwrap();
    let (one, path) = (picture(20), folder.path());
    tar(
        &path.join("00000.tar"),
        &[("0.jpg", &one), ("0.txt", b"a ball")],
    );
    let text = |texts: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    let batch = RecordBatch::try_from_iter([
        ("url", text(["http://a.test/0", "http://a.test/1"])),
        ("status", text(["success", "failed_to_download"])),
        ("error_message", text(["", "HTTP Error 404: Not Found"])),
    ])
    .unwrap();
    let file = fs::File::create(path.join("00000.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let (pairs, rejects) = import_as("webdataset", path).await.unwrap();
    assert_eq!(pairs.len(), 1);
    assert_eq!(
        codes(&rejects),
        [(RejectCode::HttpStatus, "http://a.test/1")]
    );
}

#[tokio::test]
async fn a_damaged_tar_loses_only_its_own_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (one, path) = (picture(20), folder.path());
    for number in 0..4 {
        let name = format!("{number}.tar");
        let members: [(&str, &[u8]); 4] = [
            ("a.jpg", &one),
            ("a.txt", b"a ball"),
            ("b.jpg", &one),
            ("b.txt", b"a ring"),
        ];
        tar(&path.join(name), &members);
    }
    let mut bytes = fs::read(path.join("1.tar")).unwrap();
    // The header of the third member.
    let at = 512 + one.len().next_multiple_of(512) + 1024;
    bytes[at..at + 512].fill(0xff);
    fs::write(path.join("1.tar"), bytes).unwrap();
    let (pairs, rejects) = import_as("webdataset", path).await.unwrap();
    assert_eq!(pairs.len(), 7);
    assert_eq!(codes(&rejects), [(RejectCode::Record, "1.tar")]);
    slices_cover_the_source("webdataset", path).await;
}

#[tokio::test]
async fn long_names_are_read_in_either_form() {
    let folder = tempfile::tempdir().unwrap();
    let (one, path) = (picture(20), folder.path());
    let long = format!("{}/{}", "d".repeat(150), "k".repeat(150));
    let (jpg, txt) = (format!("{long}.jpg"), format!("{long}.txt"));
    // The GNU form, which the builder writes.
    let members: [(&str, &[u8]); 2] = [(&jpg, &one), (&txt, b"a ball")];
    tar(&path.join("0.tar"), &members);
    let mut builder = tar::Builder::new(fs::File::create(path.join("1.tar")).unwrap());
    for (name, bytes) in members {
        let records = [("path", name.as_bytes())];
        builder.append_pax_extensions(records).unwrap();
        add(&mut builder, "short", bytes);
    }
    builder.finish().unwrap();
    let (pairs, rejects) = import_as("webdataset", path).await.unwrap();
    let urls: Vec<&str> = pairs.iter().map(|pair| pair.image_url.as_str()).collect();
    let url = |tar: &str| format!("file:human/{tar}/{long}");
    assert_eq!(urls, [url("0.tar"), url("1.tar")], "{rejects:?}");
}

#[tokio::test]
async fn a_name_beyond_the_cap_loses_the_rest_of_its_tar() {
    let folder = tempfile::tempdir().unwrap();
    let (one, path) = (picture(20), folder.path());
    let endless = "n".repeat(64 << 10);
    let kinds = [
        tar::EntryType::GNULongName,
        tar::EntryType::GNULongLink,
        tar::EntryType::XHeader,
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let file = fs::File::create(path.join(format!("{number}.tar"))).unwrap();
        let mut builder = tar::Builder::new(file);
        add(&mut builder, "a.jpg", &one);
        add(&mut builder, "a.txt", b"a ball");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(endless.len() as u64);
        header.set_cksum();
        builder.append(&header, endless.as_bytes()).unwrap();
        add(&mut builder, "b.jpg", &one);
        add(&mut builder, "b.txt", b"a ring");
        builder.finish().unwrap();
    }
    let (pairs, rejects) = import_as("webdataset", path).await.unwrap();
    assert_eq!(pairs.len(), 3);
    let expected = ["0.tar", "1.tar", "2.tar"].map(|name| (RejectCode::Record, name));
    assert_eq!(codes(&rejects), expected);
    for reject in &rejects {
        assert!(reject.detail.contains("65536 bytes"), "{}", reject.detail);
    }
}

#[tokio::test]
async fn a_tar_cut_within_an_unread_member_is_a_reject() {
    let folder = tempfile::tempdir().unwrap();
    let (one, at) = (picture(20), folder.path().join("0.tar"));
    let members: [(&str, &[u8]); 3] = [
        ("a.jpg", &one),
        ("a.txt", b"a ball"),
        ("a.cls", &[b'7'; 5_000]),
    ];
    tar(&at, &members);
    let file = fs::OpenOptions::new().write(true).open(&at).unwrap();
    // Cuts the end of the tar, the padding and part of the member.
    let whole = file.metadata().unwrap().len();
    file.set_len(whole - 3_000).unwrap();
    let (pairs, rejects) = import_as("webdataset", folder.path()).await.unwrap();
    assert_eq!(pairs.len(), 1);
    assert_eq!(codes(&rejects), [(RejectCode::Record, "0.tar")]);
}

#[tokio::test]
async fn a_folder_without_tars_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = import_as("webdataset", folder.path()).await.unwrap_err();
    assert!(error.to_string().contains("ends in `.tar`"), "{error}");
    fs::write(folder.path().join("a.tar"), [7; 2_000]).unwrap();
    let error = import_as("webdataset", folder.path()).await.unwrap_err();
    assert!(
        error.to_string().contains("a.tar is not a WebDataset tar"),
        "{error}"
    );
    assert_eq!(error.kind(), capstan_plan::FailureKind::BadInput);
}

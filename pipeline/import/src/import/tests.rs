//! Imports of valid and damaged sources, and of sources of another format.

use std::collections::BTreeMap;
use std::fs;

use capstan_plan::row::Origin;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::roots::Roots;

mod folder;
mod img2dataset;
mod webdataset;

fn config(format: &str) -> Import {
    serde_json::from_value(serde_json::json!({
        "dataset": "human",
        "format": format,
        "source": "x",
        "max_text_bytes": 100,
        "max_image_bytes": 50_000,
        "storing": {"min_side_px": 16},
    }))
    .unwrap()
}

type Both = (Vec<Pair>, Vec<Reject>);

/// The folder as a source below the folder that holds it.
fn source(folder: &Path) -> Result<SourceFolder, Error> {
    let root = folder.parent().unwrap().to_owned();
    let name = folder.file_name().unwrap().to_str().unwrap();
    Roots::new([root]).resolve(name)
}

async fn import_slice(format: &str, folder: &Path, slice: Slice) -> Result<Both, Error> {
    import_with(&config(format), &source(folder)?, slice).await
}

/// As [`import_as`], where a picture without a text is a reject.
async fn import_with_texts(format: &str, folder: &Path) -> Result<Both, Error> {
    let config = Import {
        texts: Texts::Required,
        ..config(format)
    };
    import_with(&config, &source(folder)?, Slice::default()).await
}

async fn import_with(config: &Import, source: &SourceFolder, slice: Slice) -> Result<Both, Error> {
    let control = Control::new(CancellationToken::new(), |_| {}, || 7);
    let (sender, mut receiver) = mpsc::channel(2);
    let collect = async {
        let (mut pairs, mut rejects) = (Vec::new(), Vec::new());
        while let Some(imported) = receiver.recv().await {
            match imported {
                Imported::Pair(pair) => pairs.push(*pair),
                Imported::Reject(reject) => rejects.push(reject),
            }
        }
        (pairs, rejects)
    };
    let reading = super::import(config, source, slice, &control, sender);
    let (read, both) = tokio::join!(reading, collect);
    read.map(|()| both)
}

async fn import_as(format: &str, folder: &Path) -> Result<Both, Error> {
    import_slice(format, folder, Slice::default()).await
}

async fn import(folder: &Path) -> Result<Both, Error> {
    import_as("coco_captions", folder).await
}

/// The slices of a source hold every item of it, each once.
async fn slices_cover_the_source(format: &str, folder: &Path) {
    let key = |reject: &Reject| (reject.code, reject.url.clone(), reject.detail.clone());
    let (whole, whole_rejects) = import_as(format, folder).await.unwrap();
    let (mut pairs, mut rejects) = (Vec::new(), Vec::new());
    for index in 0..3 {
        let slice = import_slice(format, folder, Slice { index, of: 3 }).await;
        let slice = slice.unwrap();
        assert!(slice.0.len() < whole.len(), "one slice holds all");
        pairs.extend(slice.0);
        rejects.extend(slice.1);
    }
    let sorted = |mut pairs: Vec<Pair>| {
        pairs.sort_by_key(|pair| pair.pair_id);
        pairs
    };
    assert_eq!(sorted(pairs), sorted(whole));
    let codes = |rejects: &[Reject]| {
        let mut codes: Vec<_> = rejects.iter().map(key).collect();
        codes.sort();
        codes
    };
    assert_eq!(codes(&rejects), codes(&whole_rejects));
}

fn codes(rejects: &[Reject]) -> Vec<(RejectCode, &str)> {
    let mut codes: Vec<_> = rejects.iter().map(|r| (r.code, r.url.as_str())).collect();
    codes.sort();
    codes
}

fn picture(side: u32) -> Vec<u8> {
    let picture =
        image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8 * 3, y as u8, 9]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn words(pair: &Pair) -> Vec<&str> {
    pair.texts.iter().map(|text| text.text.as_str()).collect()
}

fn save(folder: &Path, name: &str, side: u32) {
    let picture =
        image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8 * 3, y as u8, 9]));
    picture.save(folder.join("images").join(name)).unwrap();
}

#[tokio::test]
async fn good_records_become_pairs_and_bad_ones_rejects() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("images")).unwrap();
    for name in ["a.png", "b.jpg", "mute.png", "long.png"] {
        save(at, name, 32);
    }
    save(at, "small.png", 8);
    fs::write(at.join("images/fat.png"), vec![0; 50_001]).unwrap();
    fs::write(at.join("images/text.png"), "hello").unwrap();
    let whole = fs::read(at.join("images/a.png")).unwrap();
    fs::write(at.join("images/cut.png"), &whole[..whole.len() / 2]).unwrap();
    let names = [
        "a.png",
        "b.jpg",
        "mute.png",
        "long.png",
        "small.png",
        "fat.png",
        "text.png",
        "cut.png",
        "gone.png",
        "../captions.json",
        "/etc/passwd",
        "a.png",
    ];
    let mut images: Vec<_> = names
        .iter()
        .enumerate()
        .map(
            |(id, name)| serde_json::json!({"id": id, "file_name": name, "license": 1, "width": 1}),
        )
        .collect();
    images.push(serde_json::json!({"id": 0, "file_name": "again.png"}));
    images.push(serde_json::json!({"id": "x"}));
    let mut annotations: Vec<_> = (0..names.len())
        .filter(|id| *id != 2)
        .map(|id| serde_json::json!({"id": id, "image_id": id, "caption": format!(" a  red\nball {id} ")}))
        .collect();
    annotations.push(serde_json::json!({"image_id": 0, "caption": "another"}));
    annotations.push(serde_json::json!({"image_id": 0, "caption": "another"}));
    annotations.push(serde_json::json!({"image_id": 3, "caption": "x".repeat(101)}));
    annotations.push(serde_json::json!({"image_id": 99, "caption": "whose"}));
    annotations.push(serde_json::json!({"image_id": 1, "caption": null}));
    let file = serde_json::json!({
        "info": {"year": 2026},
        "licenses": [{"id": 1, "url": "http://l.test/by", "name": "by"}],
        "images": images,
        "annotations": annotations,
    });
    fs::write(at.join("captions.json"), file.to_string()).unwrap();

    let (pairs, rejects) = import(at).await.unwrap();
    let urls: Vec<&str> = pairs.iter().map(|pair| pair.image_url.as_str()).collect();
    assert_eq!(
        urls,
        [
            "file:human/a.png",
            "file:human/b.jpg",
            "file:human/mute.png"
        ]
    );
    assert_eq!(words(&pairs[2]), [""; 0]);
    let texts: Vec<(&str, Origin)> = pairs[0]
        .texts
        .iter()
        .map(|text| (text.text.as_str(), text.origin))
        .collect();
    assert_eq!(
        texts,
        [("a red ball 0", Origin::Human), ("another", Origin::Human)]
    );
    assert_eq!(pairs[0].licence.as_deref(), Some("http://l.test/by"));
    assert_eq!(
        (pairs[0].fetched_at_ms, pairs[0].page_url.as_str()),
        (7, "captions.json")
    );

    let mut codes: BTreeMap<(RejectCode, bool), usize> = BTreeMap::new();
    for reject in &rejects {
        *codes.entry((reject.code, reject.is_image)).or_default() += 1;
    }
    let expected = [
        ((RejectCode::Bytes, true), 1),
        ((RejectCode::NotImage, true), 1),
        ((RejectCode::Decode, true), 1),
        ((RejectCode::TooSmall, true), 1),
        ((RejectCode::TextBytes, true), 1),
        // Annotations: one of no image, and one without a caption.
        ((RejectCode::Record, false), 2),
        // Gone, two outside, a.png again, two bad image records.
        ((RejectCode::Record, true), 6),
    ];
    assert_eq!(codes, expected.into());
    assert_eq!(import(at).await.unwrap(), (pairs, rejects.clone()));
    let (_, strict) = import_with_texts("coco_captions", at).await.unwrap();
    let reason = |url: &str, rejects: &[Reject]| {
        let reject = rejects.iter().find(|reject| reject.url == url);
        reject.map(|reject| (reject.code, reject.detail.clone()))
    };
    assert_eq!(reason("mute.png", &rejects), None);
    let detail = "no text belongs to the picture".to_owned();
    assert_eq!(
        reason("mute.png", &strict),
        Some((RejectCode::Record, detail))
    );
}

#[tokio::test]
async fn a_foreign_file_is_named_with_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let error = import(folder.path()).await.unwrap_err();
    assert!(matches!(error, Error::Read { .. }));
    assert_eq!(error.kind(), capstan_plan::FailureKind::BadInput);
    for (text, field) in [
        ("{\"images\": []}", "annotations"),
        ("{\"annotations\": []}", "images"),
        ("[]", "line 1"),
        ("{\"images\": {}", "line 1"),
        ("", "line 1"),
    ] {
        fs::write(folder.path().join("captions.json"), text).unwrap();
        let error = import(folder.path()).await.unwrap_err();
        let shown = error.to_string();
        assert!(matches!(error, Error::Format { .. }), "{text}");
        assert!(
            shown.contains("captions.json") && shown.contains(field),
            "{shown}"
        );
    }
}

//! COCO captions: `captions.json` of the form `images: [{id, file_name, license}]`,
//! `annotations: [{image_id, caption}]`, `licenses: [{id, url, name}]`
//! (cocodataset.org, "Data format", 1 and 4) beside a folder `images`.
//!
//! All records of the file are held in memory, which is enough for COCO's own files; pictures are not.

use std::collections::{HashMap, HashSet};
use std::io::BufReader;
use std::path::{Component, Path, PathBuf};

use capstan_crawl::{RejectReason, collapse_whitespace};
use capstan_plan::reject::RejectCode;
use capstan_plan::stage::Import;
use capstan_plan::task::Slice;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Error;
use crate::item::{Candidate, Original, PictureSource, Sink, file_url};
use crate::roots::SourceFolder;

/// The file of captions, and the page URL of its pairs.
const CAPTIONS: &str = "captions.json";
/// The folder of pictures beside it.
const IMAGES: &str = "images";

/// Sends one candidate per picture of the file, in its order, with all captions of the picture.
pub(crate) fn read(
    config: &Import,
    source: &SourceFolder,
    slice: Slice,
    sink: &Sink,
) -> Result<(), Error> {
    let (records, bad_records) = read_file(source, &source.path().join(CAPTIONS))?;
    let mut places = 0..;
    let mut is_in_slice = || places.next().is_some_and(|place| slice.holds(place));
    for bad in bad_records {
        if is_in_slice() {
            sink.reject(bad.reason, &bad.what, CAPTIONS, bad.is_image)?;
        }
    }
    let images = source.path().join(IMAGES);
    let mut names = HashSet::new();
    for record in records {
        let path = match names.insert(record.file_name.clone()) {
            true => path_within(&images, &record.file_name),
            false => Err(record_reason("another record names the same file")),
        };
        if !is_in_slice() {
            continue;
        }
        match path {
            Ok(path) => sink.candidate(candidate(config, record), PictureSource::File(path))?,
            Err(reason) => sink.reject(reason, &record.file_name, CAPTIONS, true)?,
        }
    }
    Ok(())
}

fn candidate(config: &Import, record: Record) -> Candidate {
    Candidate {
        image_url: file_url(config, &record.file_name),
        key: record.file_name,
        page_url: CAPTIONS.to_owned(),
        texts: record.captions,
        original: Original::default(),
        licence: record.licence,
    }
}

/// The path of a `file_name`, which must not lead out of the folder.
fn path_within(images: &Path, name: &str) -> Result<PathBuf, RejectReason> {
    let is_plain = |part| matches!(part, Component::Normal(_));
    let path = Path::new(name);
    match !name.is_empty() && path.components().all(is_plain) {
        true => Ok(images.join(path)),
        false => Err(record_reason(
            "file_name must be a plain path within `images`",
        )),
    }
}

fn record_reason(detail: &str) -> RejectReason {
    RejectReason::new(RejectCode::Record, detail)
}

/// A picture with its captions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    file_name: String,
    /// Whitespace collapsed, none empty, none twice.
    captions: Vec<String>,
    licence: Option<String>,
}

/// A record of the file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BadRecord {
    what: String,
    is_image: bool,
    reason: RejectReason,
}

#[derive(Deserialize)]
struct Captions {
    images: Vec<Lenient<Image>>,
    annotations: Vec<Lenient<Annotation>>,
    #[serde(default)]
    licenses: Vec<Lenient<License>>,
}

/// A record that may have the wrong fields: one bad record does not make the file unusable.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Good(T),
    Bad(IgnoredAny),
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
    license: Option<u64>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    caption: String,
}

#[derive(Deserialize)]
struct License {
    id: u64,
    url: Option<String>,
    name: Option<String>,
}

/// Reads the file.
fn read_file(source: &SourceFolder, path: &Path) -> Result<(Vec<Record>, Vec<BadRecord>), Error> {
    let file = source.open(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let captions = serde_json::from_reader(BufReader::new(file)).map_err(|error| {
        let path = path.to_owned();
        if error.is_io() {
            return Error::Read {
                path,
                source: error.into(),
            };
        }
        Error::Format {
            path,
            expected: "a COCO captions file",
            problem: error.to_string(),
        }
    })?;
    Ok(join(captions))
}

/// Joins captions and licences to their pictures.
fn join(captions: Captions) -> (Vec<Record>, Vec<BadRecord>) {
    let mut bad_records = Vec::new();
    let licences = licences(captions.licenses);
    let mut records: Vec<Record> = Vec::new();
    let mut by_id: HashMap<u64, usize> = HashMap::new();
    for (index, image) in captions.images.into_iter().enumerate() {
        let what = format!("captions.json#images[{index}]");
        let Lenient::Good(image) = image else {
            let needed = "a number `id` and a text `file_name` are needed";
            bad_records.push(bad_record(what, true, needed));
            continue;
        };
        if by_id.contains_key(&image.id) {
            let detail = format!("another image has the id {}", image.id);
            bad_records.push(bad_record(what, true, &detail));
            continue;
        }
        by_id.insert(image.id, records.len());
        records.push(Record {
            file_name: image.file_name,
            captions: Vec::new(),
            licence: image.license.and_then(|id| licences.get(&id).cloned()),
        });
    }
    for (index, annotation) in captions.annotations.into_iter().enumerate() {
        let what = || format!("captions.json#annotations[{index}]");
        let Lenient::Good(annotation) = annotation else {
            let needed = "a number `image_id` and a text `caption` are needed";
            bad_records.push(bad_record(what(), false, needed));
            continue;
        };
        let Some(index) = by_id.get(&annotation.image_id) else {
            let detail = format!("no image has the id {}", annotation.image_id);
            bad_records.push(bad_record(what(), false, &detail));
            continue;
        };
        let caption = collapse_whitespace([annotation.caption.as_str()]);
        let known = &mut records[*index].captions;
        if !caption.is_empty() && !known.contains(&caption) {
            known.push(caption);
        }
    }
    (records, bad_records)
}

fn licences(licences: Vec<Lenient<License>>) -> HashMap<u64, String> {
    let good = licences.into_iter().filter_map(|licence| match licence {
        Lenient::Good(licence) => Some((licence.id, licence.url.or(licence.name)?)),
        Lenient::Bad(_) => None,
    });
    good.collect()
}

fn bad_record(what: String, is_image: bool, detail: &str) -> BadRecord {
    BadRecord {
        what,
        is_image,
        reason: record_reason(detail),
    }
}

//! COCO captions JSON: `images: [{id, file_name, license}]`,
//! `annotations: [{image_id, caption}]`, `licenses: [{id, url, name}]`
//! (cocodataset.org, "Data format", 1 and 4).

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use capstan_plan::reject::RejectCode;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Error;
use crate::net::Refusal;

/// A picture with its captions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) file_name: String,
    /// Whitespace collapsed, none empty, none twice.
    pub(super) captions: Vec<String>,
    pub(super) licence: Option<String>,
}

/// A record that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) what: String,
    pub(super) is_image: bool,
    pub(super) refusal: Refusal,
}

#[derive(Deserialize)]
struct Captions {
    images: Vec<Lenient<Image>>,
    annotations: Vec<Lenient<Annotation>>,
    #[serde(default)]
    licenses: Vec<Lenient<License>>,
}

/// What one record gets wrong is no reason to refuse the file.
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
pub(super) fn read(path: &Path) -> Result<(Vec<Record>, Vec<Refused>), Error> {
    let file = File::open(path).map_err(|source| Error::Read {
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
            problem: error.to_string(),
        }
    })?;
    Ok(join(captions))
}

fn join(captions: Captions) -> (Vec<Record>, Vec<Refused>) {
    let mut refused = Vec::new();
    let licences = licences(captions.licenses);
    let mut records: Vec<Record> = Vec::new();
    let mut by_id: HashMap<u64, usize> = HashMap::new();
    for (index, image) in captions.images.into_iter().enumerate() {
        let what = format!("captions.json#images[{index}]");
        let Lenient::Good(image) = image else {
            refused.push(refuse(
                what,
                true,
                "a number `id` and a text `file_name` are needed",
            ));
            continue;
        };
        if by_id.contains_key(&image.id) {
            refused.push(refuse(what, true, &format!("id {} stands twice", image.id)));
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
            refused.push(refuse(what(), false, needed));
            continue;
        };
        let Some(index) = by_id.get(&annotation.image_id) else {
            let detail = format!("no image has the id {}", annotation.image_id);
            refused.push(refuse(what(), false, &detail));
            continue;
        };
        let caption = crate::page::collapse([annotation.caption.as_str()]);
        let known = &mut records[*index].captions;
        if !caption.is_empty() && !known.contains(&caption) {
            known.push(caption);
        }
    }
    (records, refused)
}

fn licences(licences: Vec<Lenient<License>>) -> HashMap<u64, String> {
    let good = licences.into_iter().filter_map(|licence| match licence {
        Lenient::Good(licence) => Some((licence.id, licence.url.or(licence.name)?)),
        Lenient::Bad(_) => None,
    });
    good.collect()
}

fn refuse(what: String, is_image: bool, detail: &str) -> Refused {
    let refusal = Refusal::new(RejectCode::Record, detail);
    Refused {
        what,
        is_image,
        refusal,
    }
}

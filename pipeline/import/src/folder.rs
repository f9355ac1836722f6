//! A folder of pictures, nested or not. `a/b.jpg` has its texts in `a/b.txt`, one per line; a picture
//! without such a file has no text.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use capstan_crawl::RejectReason;
use capstan_plan::reject::RejectCode;
use capstan_plan::stage::{Import, Texts};
use capstan_plan::task::Slice;

use crate::Error;
use crate::item::{Candidate, Original, PictureSource, Sink, file_url, texts};
use crate::roots::SourceFolder;

const PICTURES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];
/// Greatest depth of nested folders.
const MAX_DEPTH: usize = 64;
/// Greatest size of a `.txt`, as a multiple of the greatest size of one text.
const TEXTS: u64 = 16;

/// Sends the pictures of the slice, folder by folder: the files of a folder by name, then its
/// folders by name.
///
/// Files of other kinds and names that begin with a dot are skipped. A `.txt` without a picture is
/// a reject, and so is a link to a folder, which could form a cycle.
pub(crate) fn read(
    config: &Import,
    source: &SourceFolder,
    slice: Slice,
    sink: &Sink,
) -> Result<(), Error> {
    let mut walk = Walk {
        config,
        source,
        slice,
        sink,
        place: 0,
        pictures: 0,
    };
    let entries = list(source.path()).map_err(|error| Error::Read {
        path: source.path().to_owned(),
        source: error,
    })?;
    walk.folder("", entries, 0)?;
    match walk.pictures {
        0 => Err(Error::Format {
            path: source.path().to_owned(),
            expected: "a folder of pictures",
            problem: format!("no file in it ends in one of {}", PICTURES.join(", ")),
        }),
        _ => Ok(()),
    }
}

/// Names in a folder, sorted, by kind.
#[derive(Default)]
struct Entries {
    pictures: Vec<String>,
    texts: HashSet<String>,
    folders: Vec<String>,
    links: Vec<String>,
    /// Names that are not UTF-8.
    unreadable: Vec<String>,
}

fn list(folder: &Path) -> std::io::Result<Entries> {
    let mut entries = Entries::default();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = match entry.file_name().into_string() {
            Ok(name) => name,
            Err(name) => {
                entries.unreadable.push(name.to_string_lossy().into_owned());
                continue;
            }
        };
        if name.starts_with('.') {
            continue;
        }
        let kind = entry.file_type()?;
        let extension = name
            .rsplit_once('.')
            .map(|(_, extension)| extension.to_lowercase());
        let extension = extension.as_deref().unwrap_or_default();
        if kind.is_dir() {
            entries.folders.push(name);
        } else if kind.is_symlink() && entry.path().is_dir() {
            entries.links.push(name);
        } else if PICTURES.contains(&extension) {
            entries.pictures.push(name);
        } else if name.ends_with(".txt") {
            entries.texts.insert(name);
        }
    }
    entries.pictures.sort();
    entries.folders.sort();
    entries.links.sort();
    entries.unreadable.sort();
    Ok(entries)
}

struct Walk<'a> {
    config: &'a Import,
    source: &'a SourceFolder,
    slice: Slice,
    sink: &'a Sink,
    /// Items met so far.
    place: usize,
    pictures: u64,
}

impl Walk<'_> {
    /// Counts the next item and returns whether it is in the slice.
    fn is_in_slice(&mut self) -> bool {
        let place = self.place;
        self.place += 1;
        self.slice.holds(place)
    }

    fn folder(&mut self, within: &str, entries: Entries, depth: usize) -> Result<(), Error> {
        for name in &entries.pictures {
            self.pictures += 1;
            if self.is_in_slice() {
                let has_text = entries.texts.contains(&text_name(name));
                self.picture(within, name, has_text)?;
            }
        }
        self.other_entries(within, &entries)?;
        for name in entries.folders {
            let path = format!("{within}{name}");
            let listed = match depth < MAX_DEPTH {
                true => list(&self.source.path().join(&path)).map_err(|error| error.to_string()),
                false => Err(format!("more than {MAX_DEPTH} folders deep")),
            };
            match listed {
                Ok(entries) => self.folder(&format!("{path}/"), entries, depth + 1)?,
                Err(problem) if self.is_in_slice() => self.sink.reject_file(&path, &problem)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Rejects texts without a picture, links to folders, and names that are not UTF-8.
    fn other_entries(&mut self, within: &str, entries: &Entries) -> Result<(), Error> {
        let stems: HashSet<&str> = entries.pictures.iter().map(|name| stem(name)).collect();
        let texts = entries.texts.iter();
        let mut unmatched: Vec<&String> =
            texts.filter(|name| !stems.contains(stem(name))).collect();
        unmatched.sort();
        let unmatched = unmatched
            .into_iter()
            .map(|name| (name, "no picture has its name"));
        let links = entries.links.iter();
        let links = links.map(|name| (name, "a link to a folder is not followed"));
        let unreadable = entries.unreadable.iter();
        let unreadable = unreadable.map(|name| (name, "its name is not UTF-8"));
        for (name, detail) in unmatched.chain(links).chain(unreadable) {
            if self.is_in_slice() {
                self.sink.reject_file(&format!("{within}{name}"), detail)?;
            }
        }
        Ok(())
    }

    fn picture(&self, within: &str, name: &str, has_text: bool) -> Result<(), Error> {
        let path = format!("{within}{name}");
        let image_url = file_url(self.config, &path);
        let text_path = format!("{within}{}", text_name(name));
        let text_url = file_url(self.config, &text_path);
        if !has_text && self.config.texts == Texts::Required {
            let reason = RejectReason::new(RejectCode::Record, "no `.txt` has its name");
            return self.sink.reject(reason, &path, &text_url, true);
        }
        let lines = match has_text {
            true => self.lines(&self.source.path().join(text_path)),
            false => Ok(String::new()),
        };
        match lines {
            Ok(lines) => {
                let picture = PictureSource::File(self.source.path().join(&path));
                let candidate = Candidate {
                    // A picture without a `.txt` is named by no file but itself.
                    page_url: if has_text {
                        text_url
                    } else {
                        image_url.clone()
                    },
                    image_url,
                    texts: texts(lines.lines()),
                    original: Original::default(),
                    licence: None,
                    key: path,
                };
                self.sink.candidate(candidate, picture)
            }
            Err(reason) => self.sink.reject(reason, &path, &text_url, true),
        }
    }

    fn lines(&self, path: &Path) -> Result<String, RejectReason> {
        let record = |detail: String| RejectReason::new(RejectCode::Record, detail);
        let cap = (self.config.max_text_bytes as u64).saturating_mul(TEXTS);
        let read = || {
            let mut bytes = Vec::new();
            let file = self.source.open(path)?;
            file.take(cap.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read()
            .map_err(|error: std::io::Error| record(format!("cannot read its `.txt`: {error}")))?;
        if bytes.len() as u64 > cap {
            let detail = format!("its `.txt` has more than {cap} bytes");
            return Err(RejectReason::new(RejectCode::TextBytes, detail));
        }
        String::from_utf8(bytes).map_err(|_| record("its `.txt` is not UTF-8".to_owned()))
    }
}

/// The name of the file with the texts of a picture.
fn text_name(picture: &str) -> String {
    format!("{}.txt", stem(picture))
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

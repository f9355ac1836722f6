//! A folder of pictures, nested or not: `a/b.jpg` has its texts, a line each, in `a/b.txt`.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use capstan_crawl::RejectReason;
use capstan_plan::reject::RejectCode;
use capstan_plan::stage::Import;
use capstan_plan::task::Slice;

use crate::Error;
use crate::item::{Candidate, Original, Sink, Source, file_url, texts};

const PICTURES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];
/// Folders within folders at most.
const MAX_DEPTH: usize = 64;
/// Bytes of all lines of a picture at most, as a multiple of what one text may have.
const TEXTS: u64 = 16;

/// Pictures of the slice, folder by folder: of each its files by name, then its folders by name.
///
/// Files of other kinds, and names that begin with a dot, are passed over; a `.txt` without a
/// picture is a reject, and so is a folder that is a link, which could lead in a circle.
pub(crate) fn read(config: &Import, folder: &Path, slice: Slice, sink: &Sink) -> Result<(), Error> {
    let mut walk = Walk {
        config,
        root: folder,
        slice,
        sink,
        place: 0,
        pictures: 0,
    };
    let entries = list(folder).map_err(|source| Error::Read {
        path: folder.to_owned(),
        source,
    })?;
    walk.folder("", entries, 0)?;
    match walk.pictures {
        0 => Err(Error::Format {
            path: folder.to_owned(),
            expected: "folder of pictures",
            problem: format!("no file in it ends in one of {}", PICTURES.join(", ")),
        }),
        _ => Ok(()),
    }
}

/// Names in a folder, sorted, by what they are.
#[derive(Default)]
struct Entries {
    pictures: Vec<String>,
    texts: HashSet<String>,
    folders: Vec<String>,
    links: Vec<String>,
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
        let ending = name
            .rsplit_once('.')
            .map(|(_, ending)| ending.to_lowercase());
        let ending = ending.as_deref().unwrap_or_default();
        if kind.is_dir() {
            entries.folders.push(name);
        } else if kind.is_symlink() && entry.path().is_dir() {
            entries.links.push(name);
        } else if PICTURES.contains(&ending) {
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
    root: &'a Path,
    slice: Slice,
    sink: &'a Sink,
    /// Items met so far.
    place: usize,
    pictures: u64,
}

impl Walk<'_> {
    /// Whether the next item is of the slice.
    fn is_ours(&mut self) -> bool {
        let place = self.place;
        self.place += 1;
        self.slice.holds(place)
    }

    fn folder(&mut self, within: &str, entries: Entries, depth: usize) -> Result<(), Error> {
        for name in &entries.pictures {
            self.pictures += 1;
            if self.is_ours() {
                let text = format!("{}.txt", stem(name));
                let text = entries.texts.contains(&text).then_some(text);
                self.picture(within, name, text)?;
            }
        }
        self.rest(within, &entries)?;
        for name in entries.folders {
            let path = format!("{within}{name}");
            let listed = match depth < MAX_DEPTH {
                true => list(&self.root.join(&path)).map_err(|error| error.to_string()),
                false => Err(format!("more than {MAX_DEPTH} folders deep")),
            };
            match listed {
                Ok(entries) => self.folder(&format!("{path}/"), entries, depth + 1)?,
                Err(problem) if self.is_ours() => self.sink.refuse_file(&path, &problem)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// What is no pair: texts without a picture, links, names that are no text.
    fn rest(&mut self, within: &str, entries: &Entries) -> Result<(), Error> {
        let stems: HashSet<&str> = entries.pictures.iter().map(|name| stem(name)).collect();
        let texts = entries.texts.iter();
        let mut lonely: Vec<&String> = texts.filter(|name| !stems.contains(stem(name))).collect();
        lonely.sort();
        let lonely = lonely
            .into_iter()
            .map(|name| (name, "no picture has its name"));
        let links = entries.links.iter();
        let links = links.map(|name| (name, "a link to a folder is not followed"));
        let unreadable = entries.unreadable.iter();
        let unreadable = unreadable.map(|name| (name, "its name is no UTF-8"));
        for (name, detail) in lonely.chain(links).chain(unreadable) {
            if self.is_ours() {
                self.sink.refuse_file(&format!("{within}{name}"), detail)?;
            }
        }
        Ok(())
    }

    fn picture(&self, within: &str, name: &str, text: Option<String>) -> Result<(), Error> {
        let path = format!("{within}{name}");
        let page_url = file_url(self.config, &format!("{within}{}.txt", stem(name)));
        let lines = match text {
            Some(text) => self.lines(&self.root.join(within).join(text)),
            None => Err(RejectReason::new(
                RejectCode::Record,
                "no `.txt` has its name",
            )),
        };
        match lines {
            Ok(lines) => {
                let source = Source::File(self.root.join(&path));
                let candidate = Candidate {
                    image_url: file_url(self.config, &path),
                    page_url,
                    texts: texts(lines.lines()),
                    original: Original::default(),
                    licence: None,
                    key: path,
                };
                self.sink.candidate(candidate, source)
            }
            Err(reason) => self.sink.refuse(reason, &path, &page_url, true),
        }
    }

    fn lines(&self, path: &Path) -> Result<String, RejectReason> {
        let refuse = |detail: String| RejectReason::new(RejectCode::Record, detail);
        let cap = (self.config.max_text_bytes as u64).saturating_mul(TEXTS);
        let read = || {
            // Opening a pipe would wait for ever.
            if !path.metadata()?.is_file() {
                return Err(std::io::Error::other("it is no file"));
            }
            let mut bytes = Vec::new();
            let file = File::open(path)?;
            file.take(cap.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read()
            .map_err(|error: std::io::Error| refuse(format!("cannot read its `.txt`: {error}")))?;
        if bytes.len() as u64 > cap {
            let detail = format!("its `.txt` has more than {cap} bytes");
            return Err(RejectReason::new(RejectCode::TextBytes, detail));
        }
        String::from_utf8(bytes).map_err(|_| refuse("its `.txt` is no UTF-8".to_owned()))
    }
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

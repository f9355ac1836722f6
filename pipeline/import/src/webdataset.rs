//! WebDataset: tar files whose members share the name up to the first dot of their last part, one
//! sample after another. img2dataset (`output_format=webdataset`) writes `<key>.jpg`, `<key>.txt`
//! and `<key>.json`, and beside `00000.tar` a `00000.parquet` that names the rows it failed on.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Error as IoError, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use capstan_crawl::RejectReason;
use capstan_plan::id::Digest;
use capstan_plan::reject::RejectCode;
use capstan_plan::stage::Import;
use capstan_plan::task::Slice;
use serde_json::Value;
use tar::{Archive, Entry, EntryType};

use crate::Error;
use crate::img2dataset::{each_batch, failed};
use crate::item::{
    Candidate, Keys, Original, Sink, Source, file_url, files, image_url, texts, twice,
};

/// Bytes of a sample's `json` at most.
const MAX_JSON_BYTES: u64 = 1 << 20;
/// Bytes of what describes a member at most: its header, a long name (GNU), attributes (PAX). The
/// `tar` crate reads them whole, however long they say they are.
const MAX_HEAD_BYTES: u64 = 64 << 10;
const EXPECTED: &str = "WebDataset tar";

/// Samples of the slice's tars, in the order of their names.
pub(crate) fn read(config: &Import, folder: &Path, slice: Slice, sink: &Sink) -> Result<(), Error> {
    let names = files(folder, "tar")?;
    check_source(folder, &names)?;
    for (_, name) in (0..).zip(&names).filter(|(place, _)| slice.holds(*place)) {
        let mut samples = Samples::new(config, name, sink);
        if let Err(problem) = samples.read(&folder.join(name))? {
            sink.refuse_file(name, &format!("the rest of it is lost: {problem}"))?;
        }
        samples.flush()?;
        refuse_failed(config, folder, name, sink)?;
    }
    Ok(())
}

/// Whether any file begins like a tar; else the source is another's.
fn check_source(folder: &Path, names: &[String]) -> Result<(), Error> {
    let foreign = |path: &Path, problem: String| Error::Format {
        path: path.to_owned(),
        expected: EXPECTED,
        problem,
    };
    let mut first = None;
    for name in names {
        let path = folder.join(name);
        let opened =
            Tar::open(&path).and_then(|mut tar| tar.members()?.next().transpose().map(|_| ()));
        match opened {
            Ok(()) => return Ok(()),
            Err(error) => first = first.or(Some(foreign(&path, error.to_string()))),
        }
    }
    Err(first.unwrap_or_else(|| foreign(folder, "no file in it ends in `.tar`".to_owned())))
}

/// Rows that img2dataset failed on stand in no tar, but in the Parquet beside it.
fn refuse_failed(config: &Import, folder: &Path, name: &str, sink: &Sink) -> Result<(), Error> {
    let beside = Path::new(name).with_extension("parquet");
    let (path, page_url) = (folder.join(&beside), file_url(config, name));
    if !path.is_file() {
        return Ok(());
    }
    let columns = ["url", "key", "status", "error_message"];
    let name = beside.display().to_string();
    each_batch(&path, &name, &columns, sink, |batch, _| {
        for row in 0..batch.rows() {
            if let Some(reason) = failed(batch, row) {
                let what = batch.text("url", row).or_else(|| batch.text("key", row));
                sink.refuse(reason, what.unwrap_or_default(), &page_url, true)?;
            }
        }
        Ok(())
    })
}

/// A tar whose members are described in [`MAX_HEAD_BYTES`] each.
struct Tar {
    archive: Archive<Capped>,
    /// What [`Capped`] may still read.
    left: Rc<Cell<u64>>,
}

impl Tar {
    fn open(path: &Path) -> Result<Self, IoError> {
        let file = File::open(path)?;
        let left = Rc::new(Cell::new(0));
        let capped = Capped {
            size_bytes: file.metadata()?.len(),
            file: BufReader::new(file),
            left: left.clone(),
        };
        Ok(Self {
            archive: Archive::new(capped),
            left,
        })
    }

    /// Its members. What is not read of one is passed over by a seek, so that between two of them
    /// nothing is read but what describes the second; its content has caps of its own.
    fn members(
        &mut self,
    ) -> Result<impl Iterator<Item = Result<Entry<'_, Capped>, IoError>>, IoError> {
        let left = self.left.clone();
        let mut entries = self.archive.entries_with_seek()?;
        Ok(std::iter::from_fn(move || {
            left.set(MAX_HEAD_BYTES);
            let entry = entries.next();
            left.set(u64::MAX);
            entry
        }))
    }
}

/// A file that gives no more bytes than it may.
struct Capped {
    file: BufReader<File>,
    size_bytes: u64,
    left: Rc<Cell<u64>>,
}

impl Read for Capped {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, IoError> {
        let left = self.left.get();
        if left == 0 {
            let detail = format!("name and attributes of a member exceed {MAX_HEAD_BYTES} bytes");
            return Err(IoError::new(ErrorKind::InvalidData, detail));
        }
        let wanted = left.min(into.len() as u64) as usize;
        let read = self.file.read(&mut into[..wanted])?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}

impl Seek for Capped {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, IoError> {
        match to {
            // Members are small: most of the next one is in the buffer already.
            SeekFrom::Current(by) => self.file.seek_relative(by)?,
            other => self.file.seek(other).map(|_| ())?,
        }
        let at = self.file.stream_position()?;
        // A file lets itself be sought beyond its end; a member that was cut short would not show.
        if at > self.size_bytes {
            let detail = format!("it ends after {} bytes, within a member", self.size_bytes);
            return Err(IoError::new(ErrorKind::UnexpectedEof, detail));
        }
        Ok(at)
    }
}

/// A sample as far as its members were met.
#[derive(Default)]
struct Sample {
    key: String,
    picture: Option<Result<Vec<u8>, RejectReason>>,
    text: Option<Result<Vec<u8>, RejectReason>>,
    json: Option<Value>,
}

/// A member by its path, and its bytes, or why they are refused.
type Member = (String, Result<Vec<u8>, RejectReason>);

/// Gathers the members of samples.
struct Samples<'a> {
    config: &'a Import,
    /// The tar.
    name: &'a str,
    page_url: String,
    sink: &'a Sink,
    open: Option<Sample>,
    keys: Keys,
}

impl<'a> Samples<'a> {
    fn new(config: &'a Import, name: &'a str, sink: &'a Sink) -> Self {
        Self {
            config,
            name,
            page_url: file_url(config, name),
            sink,
            open: None,
            keys: Keys::default(),
        }
    }

    /// The inner result says where the tar breaks.
    fn read(&mut self, path: &Path) -> Result<Result<(), IoError>, Error> {
        let mut tar = match Tar::open(path) {
            Ok(tar) => tar,
            Err(error) => return Ok(Err(error)),
        };
        let members = match tar.members() {
            Ok(members) => members,
            Err(error) => return Ok(Err(error)),
        };
        for entry in members {
            let (member, bytes) = match entry.and_then(|entry| self.member(entry)) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) => return Ok(Err(error)),
            };
            self.add(&member, bytes)?;
        }
        Ok(Ok(()))
    }

    /// A member by its path, with its bytes as far as they are wanted; `None` where they are not.
    fn member(&self, mut entry: Entry<'_, Capped>) -> Result<Option<Member>, IoError> {
        if entry.header().entry_type() != EntryType::Regular {
            return Ok(None);
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let cap = match split(&path).1.as_str() {
            "jpg" | "jpeg" | "png" | "webp" | "gif" => self.config.max_image_bytes,
            "txt" => self.config.max_text_bytes as u64,
            "json" => MAX_JSON_BYTES,
            _ => return Ok(None),
        };
        if entry.size() > cap {
            let detail = format!("{} bytes; at most {cap}", entry.size());
            return Ok(Some((
                path,
                Err(RejectReason::new(RejectCode::Bytes, detail)),
            )));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < entry.size() {
            let detail = format!("{path} ends after {} bytes", bytes.len());
            return Err(IoError::new(ErrorKind::UnexpectedEof, detail));
        }
        Ok(Some((path, Ok(bytes))))
    }

    fn add(&mut self, path: &str, bytes: Result<Vec<u8>, RejectReason>) -> Result<(), Error> {
        let (key, kind) = split(path);
        if self.open.as_ref().is_none_or(|sample| sample.key != key) {
            self.flush()?;
        }
        let sample = self.open.get_or_insert_with(|| Sample {
            key: key.to_owned(),
            ..Sample::default()
        });
        match kind.as_str() {
            "txt" => {
                let cap =
                    |reason: RejectReason| RejectReason::new(RejectCode::TextBytes, reason.detail);
                sample.text = Some(bytes.map_err(cap));
            }
            "json" => {
                sample.json = bytes
                    .ok()
                    .and_then(|json| serde_json::from_slice(&json).ok())
            }
            _ => sample.picture = Some(bytes),
        }
        Ok(())
    }

    /// Gives the sample whose members were gathered.
    fn flush(&mut self) -> Result<(), Error> {
        let Some(sample) = self.open.take() else {
            return Ok(());
        };
        let key = sample.key.clone();
        let made = match self.keys.is_new(&key) {
            true => self.candidate(sample),
            false => Err(twice()),
        };
        match made {
            Ok((candidate, picture)) => self.sink.candidate(candidate, Source::Bytes(picture)),
            Err(reason) => self.sink.refuse(reason, &key, &self.page_url, true),
        }
    }

    /// The sample with the bytes of its picture.
    fn candidate(&self, sample: Sample) -> Result<(Candidate, Vec<u8>), RejectReason> {
        let record = |detail: &str| RejectReason::new(RejectCode::Record, detail);
        let picture = sample
            .picture
            .unwrap_or_else(|| Err(record("the sample has no jpg, png, webp or gif")))?;
        let json = |field: &str| sample.json.as_ref().and_then(|json| json.get(field));
        let stated = |field: &str| json(field).and_then(Value::as_str);
        let text = sample.text.transpose()?;
        let text = match &text {
            Some(bytes) => Some(std::str::from_utf8(bytes).map_err(|_| record("txt is no UTF-8"))?),
            None => stated("caption"),
        };
        let pixels = |field: &str| {
            let pixels = json(field).and_then(Value::as_u64);
            pixels
                .and_then(|pixels| u32::try_from(pixels).ok())
                .filter(|pixels| *pixels > 0)
        };
        let path = format!("{}/{}", self.name, sample.key);
        let candidate = Candidate {
            image_url: image_url(self.config, stated("url"), &path),
            page_url: self.page_url.clone(),
            texts: texts(text),
            original: Original {
                width: pixels("original_width"),
                height: pixels("original_height"),
                sha256: stated("sha256")
                    .and_then(Digest::from_hex)
                    .map(|digest| digest.0),
            },
            licence: stated("licence").map(str::to_owned),
            key: sample.key,
        };
        Ok((candidate, picture))
    }
}

/// Key and kind of a member: what stands before and behind the first dot of its last part.
fn split(path: &str) -> (&str, String) {
    let last = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[last..].find('.') {
        Some(dot) => {
            let (key, kind) = path.split_at(last + dot);
            (key, kind[1..].to_lowercase())
        }
        None => (path, String::new()),
    }
}

//! WebDataset: tar files whose members share the name up to the first dot of their last path
//! component, one sample after another. img2dataset (`output_format=webdataset`) writes `<key>.jpg`,
//! `<key>.txt` and `<key>.json`, and beside `00000.tar` a `00000.parquet` that lists the rows it
//! failed on. A sample without `txt` and without a caption in its `json` is a row without a text.

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
    Candidate, Keys, Original, PictureSource, Sink, duplicate_key, file_names, file_url, image_url,
    texts,
};
use crate::roots::SourceFolder;

/// Greatest size of a sample's `json`.
const MAX_JSON_BYTES: u64 = 1 << 20;
/// Greatest size of the records that describe a member: its header, a long name (GNU), attributes
/// (PAX). The `tar` crate reads them whole, whatever size they state.
const MAX_HEAD_BYTES: u64 = 64 << 10;
const EXPECTED: &str = "a WebDataset tar";

/// Sends the samples of the slice's tars, in the order of the file names.
pub(crate) fn read(
    config: &Import,
    source: &SourceFolder,
    slice: Slice,
    sink: &Sink,
) -> Result<(), Error> {
    let names = file_names(source.path(), "tar")?;
    check_source(source, &names)?;
    for (_, name) in (0..).zip(&names).filter(|(place, _)| slice.holds(*place)) {
        let mut samples = Samples::new(config, name, sink);
        if let Err(problem) = samples.read(source)? {
            sink.reject_file(name, &format!("the rest of it is lost: {problem}"))?;
        }
        samples.flush()?;
        reject_failed_rows(config, source, name, sink)?;
    }
    Ok(())
}

/// Fails where no file begins like a tar: then the source as a whole has another format.
fn check_source(source: &SourceFolder, names: &[String]) -> Result<(), Error> {
    let foreign = |path: &Path, problem: String| Error::Format {
        path: path.to_owned(),
        expected: EXPECTED,
        problem,
    };
    let mut first = None;
    for name in names {
        let opened = Tar::open(source, name)
            .and_then(|mut tar| tar.members()?.next().transpose().map(|_| ()));
        match opened {
            Ok(()) => return Ok(()),
            Err(error) => {
                let path = source.path().join(name);
                first = first.or_else(|| Some(foreign(&path, error.to_string())));
            }
        }
    }
    let problem = "no file in it ends in `.tar`".to_owned();
    Err(first.unwrap_or_else(|| foreign(source.path(), problem)))
}

/// Rejects the rows that img2dataset failed on, which are in the Parquet beside the tar.
fn reject_failed_rows(
    config: &Import,
    source: &SourceFolder,
    name: &str,
    sink: &Sink,
) -> Result<(), Error> {
    let beside = Path::new(name).with_extension("parquet");
    if !source.path().join(&beside).is_file() {
        return Ok(());
    }
    let page_url = file_url(config, name);
    let columns = ["url", "key", "status", "error_message"];
    let name = beside.display().to_string();
    each_batch(source, &name, &columns, sink, |batch, _| {
        for row in 0..batch.rows() {
            if let Some(reason) = failed(batch, row) {
                let what = batch.text("url", row).or_else(|| batch.text("key", row));
                sink.reject(reason, what.unwrap_or_default(), &page_url, true)?;
            }
        }
        Ok(())
    })
}

/// A tar that reads at most [`MAX_HEAD_BYTES`] of description per member.
struct Tar {
    archive: Archive<Capped>,
    /// Bytes that [`Capped`] may still read.
    left: Rc<Cell<u64>>,
}

impl Tar {
    fn open(source: &SourceFolder, name: &str) -> Result<Self, IoError> {
        let file = source.open(&source.path().join(name))?;
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

    /// The members. Unread content of a member is skipped by a seek, so that only the description of
    /// the next member is read between two of them. The content of members has caps of its own.
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

/// A file with a limit on the bytes that are read next.
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
            // Members are small: most of the next one is already in the buffer.
            SeekFrom::Current(by) => self.file.seek_relative(by)?,
            other => self.file.seek(other).map(|_| ())?,
        }
        let at = self.file.stream_position()?;
        // Seeking beyond the end of a file succeeds, which would hide a truncated member.
        if at > self.size_bytes {
            let detail = format!("it ends after {} bytes, within a member", self.size_bytes);
            return Err(IoError::new(ErrorKind::UnexpectedEof, detail));
        }
        Ok(at)
    }
}

/// The members of a sample that were read so far.
#[derive(Default)]
struct Sample {
    key: String,
    picture: Option<Result<Vec<u8>, RejectReason>>,
    text: Option<Result<Vec<u8>, RejectReason>>,
    json: Option<Value>,
}

/// The path of a member with its bytes, or why they are not used.
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

    /// Reads the tar; the inner result says where it breaks.
    fn read(&mut self, source: &SourceFolder) -> Result<Result<(), IoError>, Error> {
        let mut tar = match Tar::open(source, self.name) {
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

    /// The path and bytes of a member; `None` for a kind that is not read.
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

    /// Sends the sample whose members were gathered.
    fn flush(&mut self) -> Result<(), Error> {
        let Some(sample) = self.open.take() else {
            return Ok(());
        };
        let key = sample.key.clone();
        let made = match self.keys.insert(&key) {
            true => self.candidate(sample),
            false => Err(duplicate_key()),
        };
        match made {
            Ok((candidate, picture)) => self
                .sink
                .candidate(candidate, PictureSource::Bytes(picture)),
            Err(reason) => self.sink.reject(reason, &key, &self.page_url, true),
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
            Some(bytes) => {
                Some(std::str::from_utf8(bytes).map_err(|_| record("txt is not UTF-8"))?)
            }
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

/// Key and kind of a member: its path before and after the first dot of the last component.
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

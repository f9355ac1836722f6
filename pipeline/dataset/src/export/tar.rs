//! WebDataset: tar files `00000.tar ...`; the members of a sample follow each other under its key.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use capstan_plan::id::Digest;
use serde_json::json;
use tar::{Builder, Header};

use super::{Kept, Row, key, pairs};
use crate::error::{Error, Result};

/// The files being written.
pub(super) struct Folder {
    folder: PathBuf,
    rows_per_file: usize,
    /// The open file and its samples so far.
    open: Option<(Builder<BufWriter<File>>, usize)>,
    /// Number of files begun, and the size of the complete ones.
    files: u64,
    size_bytes: u64,
}

impl Folder {
    pub(super) fn new(folder: &Path, rows_per_file: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            rows_per_file,
            open: None,
            files: 0,
            size_bytes: 0,
        }
    }

    pub(super) fn write(&mut self, rows: &[Row]) -> Result<()> {
        for (row, kept) in rows.iter().flat_map(pairs) {
            if self.open.is_none() {
                self.begin()?;
            }
            let (file, path) = (self.files - 1, self.path());
            let Some((builder, written)) = &mut self.open else {
                continue;
            };
            let key = key(file, *written, self.rows_per_file);
            add_sample(builder, &key, row, kept).map_err(|error| Error::local(&path, error))?;
            *written += 1;
            if *written == self.rows_per_file {
                self.close()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        self.files += 1;
        let path = self.path();
        let file = File::create_new(&path).map_err(|error| Error::local(&path, error))?;
        self.open = Some((Builder::new(BufWriter::new(file)), 0));
        Ok(())
    }

    /// The path of the newest file.
    fn path(&self) -> PathBuf {
        let file = self.files.saturating_sub(1);
        self.folder.join(format!("{file:05}.tar"))
    }

    fn close(&mut self) -> Result<()> {
        let Some((builder, _)) = self.open.take() else {
            return Ok(());
        };
        let path = self.path();
        let size = || {
            let mut file = builder.into_inner()?;
            file.flush()?;
            Ok(file.get_ref().metadata()?.len())
        };
        self.size_bytes += size().map_err(|error| Error::local(&path, error))?;
        Ok(())
    }

    /// Number of files and their size.
    pub(super) fn finish(mut self) -> Result<(u64, u64)> {
        if self.files == 0 {
            self.begin()?;
        }
        self.close()?;
        Ok((self.files, self.size_bytes))
    }
}

fn add_sample(
    builder: &mut Builder<BufWriter<File>>,
    key: &str,
    Row { pair, .. }: &Row,
    kept: Option<&Kept>,
) -> std::io::Result<()> {
    let caption = kept.map_or("", |kept| &kept.text.text);
    let verdict = kept.and_then(|kept| kept.verdict.as_ref());
    let about = json!({
        "key": key,
        "url": pair.image_url,
        "caption": caption,
        "status": "success",
        "width": pair.width,
        "height": pair.height,
        "original_width": pair.original_width,
        "original_height": pair.original_height,
        "sha256": Digest(pair.sha256),
        "page_url": pair.page_url,
        "pair_id": pair.pair_id,
        "text_id": kept.map(|kept| kept.text.text_id),
        "origin": kept.map(|kept| kept.text.origin),
        "itc": verdict.map(|verdict| verdict.itc),
        "itm": verdict.map(|verdict| verdict.itm),
        "captioner": kept.and_then(|kept| kept.writer),
        "licence": pair.licence,
        "attribution": pair.attribution,
    });
    let about = serde_json::to_vec(&about)?;
    add(builder, &format!("{key}.jpg"), &pair.image)?;
    add(builder, &format!("{key}.txt"), caption.as_bytes())?;
    add(builder, &format!("{key}.json"), &about)
}

/// Adds a member without owner and time, so that equal versions give equal files.
fn add(builder: &mut Builder<BufWriter<File>>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, name, bytes)
}

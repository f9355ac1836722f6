//! Verifies one shard. Pixels files are read one at a time; pictures are decoded a row group at a time.

use std::collections::HashSet;

use bytes::Bytes;
use capstan_plan::commit::{File, FileKind, Part};
use capstan_plan::id::{Digest, PairId, TextId};
use capstan_plan::row::{Captions, Curation, Origin, Pair, Text, Verdicts};

use super::VerifyReport;
use crate::error::{Error, Result};
use crate::files::{self, Reader};
use crate::record::{Picture, Record, RowHasher, hash_with_pixels};
use crate::store::Store;

/// Checks the bytes and rows of a file against its record; returns the rows if both match.
pub(super) async fn check_digests<T: Record>(
    store: &Store,
    file: &File,
    report: &mut VerifyReport,
) -> Result<Option<Vec<T>>> {
    let mut rows = Vec::new();
    let checked = each_group::<T>(store, file, |group| rows.extend(group)).await;
    let done = report.note(&files::path(&file.digest), checked)?;
    report.files += 1;
    Ok(done.map(|()| rows))
}

/// The bytes of a file as the store holds them; a cached copy would prove nothing.
async fn read_checked(store: &Store, file: &File) -> Result<Bytes> {
    let path = files::path(&file.digest);
    let bytes = store.get_uncached(&path).await?;
    if bytes.len() as u64 != file.size_bytes || Digest::of(&bytes) != file.digest {
        return Err(Error::damaged(path, "its bytes do not have its digest"));
    }
    Ok(bytes)
}

fn check_rows_digest(file: &File, hasher: &RowHasher) -> Result<()> {
    match hasher.finish() == file.rows_digest {
        true => Ok(()),
        false => Err(Error::damaged(
            files::path(&file.digest),
            "its rows do not have its rows_digest",
        )),
    }
}

async fn each_group<T: Record>(
    store: &Store,
    file: &File,
    mut take: impl FnMut(Vec<T>),
) -> Result<()> {
    let bytes = read_checked(store, file).await?;
    let mut reader = Reader::<T>::over(store, file, bytes)?;
    let mut hasher = RowHasher::default();
    while let Some(group) = reader.next().await? {
        for row in &group {
            row.hash(&mut hasher);
        }
        take(group);
    }
    check_rows_digest(file, &hasher)
}

pub(super) async fn check_shard(
    store: &Store,
    part: &Part,
    report: &mut VerifyReport,
) -> Result<()> {
    report.shards += 1;
    let Some(mut shard) = check_base(store, part, report).await? else {
        return Ok(());
    };
    if let Some(pixels) = &part.pixels {
        check_pixels(store, pixels, &shard, report).await?;
    }
    for overlay in &part.overlays {
        match overlay.kind {
            FileKind::Curation => {
                let rows = check_overlay::<Curation>(store, overlay, &shard, report).await?;
                check_curation(overlay, &rows, &shard, report);
            }
            FileKind::Captions => {
                let rows = check_overlay::<Captions>(store, overlay, &shard, report).await?;
                check_captions(overlay, rows, &mut shard, report);
            }
            FileKind::Verdicts => {
                let rows = check_overlay::<Verdicts>(store, overlay, &shard, report).await?;
                check_verdicts(overlay, &rows, &shard, report);
            }
            other => report.add(
                files::path(&overlay.digest),
                format!("{other:?} is no overlay"),
            ),
        }
    }
    Ok(())
}

/// Ids of a shard by row: pairs, and their found and synthetic texts.
#[derive(Default)]
struct Shard {
    pairs: Vec<PairId>,
    found: Vec<HashSet<TextId>>,
    synthetic: Vec<HashSet<TextId>>,
}

impl Shard {
    /// Adds the rows of a base file. Returns what is wrong with them, by row.
    fn add(&mut self, pairs: Vec<Pair>) -> Vec<(usize, String)> {
        let mut wrong = Vec::new();
        for pair in pairs {
            wrong.extend(wrong_pair(&pair).map(|reason| (self.pairs.len(), reason)));
            self.pairs.push(pair.pair_id);
            let ids = pair.texts.iter().map(|text| text.text_id);
            self.found.push(ids.collect());
            self.synthetic.push(HashSet::new());
        }
        wrong
    }
}

async fn check_base(
    store: &Store,
    part: &Part,
    report: &mut VerifyReport,
) -> Result<Option<Shard>> {
    let base = &part.base;
    let path = files::path(&base.digest);
    let mut shard = Shard::default();
    let mut wrong = Vec::new();
    let checked = match &part.pixels {
        Some(_) => each_group(store, base, |group| wrong.extend(shard.add(group))).await,
        None => {
            each_group_with_pixels(store, base, |pairs, pictures| {
                wrong.extend(missing_pictures(shard.pairs.len(), pictures));
                wrong.extend(shard.add(pairs));
            })
            .await
        }
    };
    let checked = report.note(&path, checked)?;
    report.files += 1;
    for (row, reason) in wrong {
        report.add(&path, format!("row {row}: {reason}"));
    }
    let distinct: HashSet<&PairId> = shard.pairs.iter().collect();
    if distinct.len() != shard.pairs.len() {
        report.add(&path, "it holds a pair twice");
    }
    report.rows += shard.pairs.len() as u64;
    Ok(checked.map(|()| shard))
}

/// As [`each_group`], for a base file written before pixels had a file of their own.
async fn each_group_with_pixels(
    store: &Store,
    base: &File,
    mut take: impl FnMut(Vec<Pair>, &[Picture]),
) -> Result<()> {
    let bytes = read_checked(store, base).await?;
    let mut pairs = Reader::<Pair>::over(store, base, bytes.clone())?;
    let mut pictures = Reader::<Picture>::over(store, base, bytes)?;
    let mut hasher = RowHasher::default();
    while let (Some(pairs), Some(pictures)) = (pairs.next().await?, pictures.next().await?) {
        for (pair, picture) in pairs.iter().zip(&pictures) {
            hash_with_pixels(pair, &picture.image, &mut hasher);
        }
        take(pairs, &pictures);
    }
    check_rows_digest(base, &hasher)
}

/// Rows without a picture, of a group that begins at row `first`.
fn missing_pictures(first: usize, pictures: &[Picture]) -> Vec<(usize, String)> {
    let rows = (first..).zip(pictures);
    let missing = rows.filter(|(_, picture)| picture.image.is_empty());
    missing
        .map(|(row, _)| (row, "it has no picture".to_owned()))
        .collect()
}

/// Checks a pixels file; of rows that are not those of the base, the first is reported.
async fn check_pixels(
    store: &Store,
    pixels: &File,
    shard: &Shard,
    report: &mut VerifyReport,
) -> Result<()> {
    let path = files::path(&pixels.digest);
    let (mut rows, mut wrong, mut other) = (0, Vec::new(), None);
    let checked = each_group::<Picture>(store, pixels, |group| {
        let ids = group.iter().map(|picture| Some(&picture.pair_id));
        let at = (rows..).zip(ids);
        let mut at = at.filter(|(row, id)| shard.pairs.get(*row) != *id);
        other = other.or_else(|| at.next().map(|(row, _)| row));
        wrong.extend(missing_pictures(rows, &group));
        rows += group.len();
    })
    .await;
    let checked = report.note(&path, checked)?;
    report.files += 1;
    for (row, reason) in wrong {
        report.add(&path, format!("row {row}: {reason}"));
    }
    if let Some(row) = other {
        report.add(&path, format!("row {row} is of another pair than its base"));
    } else if checked.is_some() && rows != shard.pairs.len() {
        let expected = shard.pairs.len();
        report.add(&path, format!("{rows} rows, its base has {expected}"));
    }
    Ok(())
}

fn wrong_pair(pair: &Pair) -> Option<String> {
    let keys = [Some(&pair.image_url), pair.archive_ref.as_ref()];
    let is_id = |key: &String| PairId::new(key, &pair.page_url) == pair.pair_id;
    if !keys.into_iter().flatten().any(is_id) {
        return Some("its pair id is not that of its picture and page".to_owned());
    }
    if pair
        .texts
        .iter()
        .any(|text| text.origin == Origin::Synthetic)
    {
        return Some("a found text is called synthetic".to_owned());
    }
    wrong_text(&pair.pair_id, &pair.texts)
}

fn wrong_text(pair: &PairId, texts: &[Text]) -> Option<String> {
    let wrong = texts
        .iter()
        .find(|text| TextId::new(pair, text.origin, &text.text) != text.text_id)?;
    Some(format!("text id {} is not that of its text", wrong.text_id))
}

/// Reads an overlay; of rows that are not those of the base, the first is reported.
async fn check_overlay<T: Record>(
    store: &Store,
    overlay: &File,
    shard: &Shard,
    report: &mut VerifyReport,
) -> Result<Vec<T>> {
    let rows = check_digests::<T>(store, overlay, report).await?;
    let Some(rows) = rows else {
        return Ok(Vec::new());
    };
    let path = files::path(&overlay.digest);
    if rows.len() != shard.pairs.len() {
        let (found, expected) = (rows.len(), shard.pairs.len());
        report.add(path, format!("{found} rows, its base has {expected}"));
        return Ok(Vec::new());
    }
    let mut pairs = rows.iter().zip(&shard.pairs);
    let other = pairs.position(|(row, pair)| row.pair_id() != Some(*pair));
    if let Some(row) = other {
        report.add(path, format!("row {row} is of another pair than its base"));
        return Ok(Vec::new());
    }
    Ok(rows)
}

fn check_curation(file: &File, rows: &[Curation], shard: &Shard, report: &mut VerifyReport) {
    let path = files::path(&file.digest);
    for (row, (curation, found)) in rows.iter().zip(&shard.found).enumerate() {
        if curation.keep == curation.reason.is_some() {
            report.add(
                &path,
                format!("row {row}: kept with a reason, or dropped without"),
            );
        }
        if !curation.keep && !curation.texts.is_empty() {
            report.add(&path, format!("row {row}: dropped, but keeps texts"));
        }
        if curation.texts.iter().any(|text| !found.contains(text)) {
            report.add(&path, format!("row {row}: keeps a text that was not found"));
        }
    }
}

fn check_captions(file: &File, rows: Vec<Captions>, shard: &mut Shard, report: &mut VerifyReport) {
    let path = files::path(&file.digest);
    for (row, captions) in rows.into_iter().enumerate() {
        if let Some(reason) = wrong_text(&captions.pair_id, &captions.texts) {
            report.add(&path, format!("row {row}: {reason}"));
        }
        let is_synthetic = |text: &Text| text.origin == Origin::Synthetic;
        if !captions.texts.iter().all(is_synthetic) {
            report.add(
                &path,
                format!("row {row}: a caption is not called synthetic"),
            );
        }
        let ids = captions.texts.iter().map(|text| text.text_id);
        shard.synthetic[row].extend(ids);
    }
}

fn check_verdicts(file: &File, rows: &[Verdicts], shard: &Shard, report: &mut VerifyReport) {
    let path = files::path(&file.digest);
    for (row, verdicts) in rows.iter().enumerate() {
        let mut judged = HashSet::new();
        for verdict in &verdicts.verdicts {
            let text = verdict.text_id;
            if !shard.found[row].contains(&text) && !shard.synthetic[row].contains(&text) {
                report.add(
                    &path,
                    format!("row {row}: judges text {text}, which the shard lacks"),
                );
            }
            if !judged.insert(text) {
                report.add(&path, format!("row {row}: judges text {text} twice"));
            }
        }
    }
}

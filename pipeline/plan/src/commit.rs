//! What a task writes: the commit record, and the output of a finished stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{
    AttemptId, DatasetName, Digest, LeaseEpoch, ModelDigest, PartsHasher, RecipeHash, RunId,
    ShardId, StageName, WorkerId,
};
use crate::reject::RejectCode;

/// The contents of a file of `data/`; each kind has its own Parquet schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// The metadata of pairs. A file written before base files were split also holds the
    /// pictures, in a column `image`.
    Base,
    /// The encoded pictures of a base file, aligned with it row by row.
    Pixels,
    /// Keep and reason, aligned with a base file.
    Curation,
    /// Synthetic texts, aligned with a base file.
    Captions,
    /// Scores and verdicts, aligned with a base file.
    Verdicts,
    /// What was refused and why.
    Rejects,
    /// Pages to fetch (a shard of a wave).
    Pages,
    /// Pictures to fetch (a shard of the last wave).
    Images,
    /// Pages found by a wave.
    PageLinks,
    /// Pictures found by a wave.
    ImageLinks,
    /// Base, pixels and overlay files of a dataset version.
    Manifest,
    /// Recipes and missing shards of the stage that made a dataset version.
    Tasks,
}

/// A file of `data/`, by the digest of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct File {
    /// Its contents.
    pub kind: FileKind,
    /// blake3 of its bytes: its name, `data/<digest>.parquet`.
    pub digest: Digest,
    /// blake3 of its rows without times. Files of equal rows have equal row digests, even where
    /// their bytes differ.
    pub rows_digest: Digest,
    /// Rows.
    pub rows: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// For an overlay or a pixels file, the digest of the base file that it is aligned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
}

/// One shard of a dataset version: a base file, its pixels and its overlays.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// The metadata of the pairs.
    pub base: File,
    /// The pictures of the pairs, row by row. `None` for a store written before base files were
    /// split: the base file then holds the pictures as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels: Option<File>,
    /// Results of later stages, oldest first. Of two overlays of one kind the later one
    /// applies; a second curation narrows the first: a row stays if both keep it.
    #[serde(default)]
    pub overlays: Vec<File>,
}

impl Part {
    /// The file that holds the pictures: `pixels`, or `base` in a store written before the split.
    pub fn pixels_file(&self) -> &File {
        self.pixels.as_ref().unwrap_or(&self.base)
    }

    /// The files that a stage reads that never looks at pictures: the base, then its overlays.
    pub fn metadata_files(&self) -> impl Iterator<Item = &File> {
        [&self.base].into_iter().chain(&self.overlays)
    }

    /// Every file: the base, its pixels, then its overlays.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        [&self.base]
            .into_iter()
            .chain(&self.pixels)
            .chain(&self.overlays)
    }

    /// The recipe input of a stage that never reads pictures (curate, balance, tokenizer).
    ///
    /// Equal to [`Part::digest_with_pixels`] for a part without a pixels file: the rows of its
    /// base include the pictures.
    pub fn digest_of_metadata(&self) -> Digest {
        rows_digest(self.metadata_files())
    }

    /// The recipe input of a stage that reads pictures (caption, filter, train, evaluate).
    pub fn digest_with_pixels(&self) -> Digest {
        rows_digest(self.files())
    }
}

fn rows_digest<'a>(files: impl Iterator<Item = &'a File>) -> Digest {
    let digests: Vec<Digest> = files.map(|file| file.rows_digest).collect();
    Digest::of_parts(digests.iter().map(|digest| &digest.0[..]))
}

/// The shards of a dataset version, by reference: its size does not grow with their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    /// The version that lists them.
    pub version: VersionRef,
    /// How many there are.
    pub count: u64,
    /// Digest of [`Part::digest_of_metadata`] of each, in order: the recipe input of a stage that
    /// reads all of them and never reads pictures.
    pub metadata: Digest,
    /// Digest of [`Part::digest_with_pixels`] of each, in order.
    pub with_pixels: Digest,
}

/// Counts and hashes shards one after the other.
#[derive(Debug, Clone, Default)]
pub struct ShardsHasher {
    count: u64,
    metadata: PartsHasher,
    with_pixels: PartsHasher,
}

impl ShardsHasher {
    /// Adds a shard.
    pub fn push(&mut self, part: &Part) {
        self.count += 1;
        self.metadata.push(&part.digest_of_metadata().0);
        self.with_pixels.push(&part.digest_with_pixels().0);
    }

    /// The shards so far, as those of this version.
    pub fn finish(&self, version: VersionRef) -> Shards {
        Shards {
            version,
            count: self.count,
            metadata: self.metadata.finish(),
            with_pixels: self.with_pixels.finish(),
        }
    }
}

/// Files of one kind that a step made, by reference: its size grows by one entry with tens of
/// thousands of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// How many there are.
    pub count: u64,
    /// Digest of the row digests of each, in order: the recipe input of a task that reads all of
    /// them.
    pub rows: Digest,
    /// Files of kind `Manifest` that list them, in order. Empty where the files are held in memory.
    pub manifests: Vec<File>,
}

/// Counts and hashes files one after the other.
#[derive(Debug, Clone, Default)]
pub struct FilesHasher {
    count: u64,
    rows: PartsHasher,
}

impl FilesHasher {
    /// Adds a file.
    pub fn push(&mut self, file: &File) {
        self.count += 1;
        self.rows.push(&file.rows_digest.0);
    }

    /// The files so far, which these manifests list.
    pub fn finish(&self, manifests: Vec<File>) -> FileList {
        FileList {
            count: self.count,
            rows: self.rows.finish(),
            manifests,
        }
    }
}

/// Base and pixels files of a commit that do not form shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// A base file without pixels among base files that have them.
    #[error("names base {base} without its pixels")]
    MissingPixels {
        /// The base file.
        base: Digest,
    },
    /// A pixels file that does not directly follow a base file.
    #[error("names pixels {pixels}, which do not follow a base")]
    StrayPixels {
        /// The pixels file.
        pixels: Digest,
    },
    /// A pixels file that was written for another base file.
    #[error("names pixels {pixels}, which are aligned with another base than {base}")]
    OtherBase {
        /// The pixels file.
        pixels: Digest,
        /// The base file that it follows.
        base: Digest,
    },
    /// A pixels file with more or fewer rows than its base file.
    #[error("names pixels {pixels} of {found} rows for base {base} of {expected} rows")]
    OtherRows {
        /// The pixels file.
        pixels: Digest,
        /// Its rows.
        found: u64,
        /// The base file.
        base: Digest,
        /// The rows of the base file.
        expected: u64,
    },
}

/// The shards that the files of a commit form, in their order, without overlays.
///
/// A pixels file directly follows its base file. Files of other kinds are skipped. A list
/// without any pixels file was written before base files were split: its bases hold the pictures.
///
/// # Errors
/// [`PartsError`]: a pixels file is missing or is not aligned with its base.
pub fn parts_of<'a>(files: impl IntoIterator<Item = &'a File>) -> Result<Vec<Part>, PartsError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut follows_base = false;
    for file in files {
        match file.kind {
            FileKind::Base => parts.push(Part {
                base: file.clone(),
                pixels: None,
                overlays: Vec::new(),
            }),
            FileKind::Pixels => match parts.last_mut().filter(|_| follows_base) {
                Some(part) => add_pixels(part, file)?,
                None => {
                    let pixels = file.digest;
                    return Err(PartsError::StrayPixels { pixels });
                }
            },
            _ => {}
        }
        follows_base = file.kind == FileKind::Base;
    }
    let is_split = parts.iter().any(|part| part.pixels.is_some());
    match parts.iter().find(|part| part.pixels.is_none()) {
        Some(part) if is_split => Err(PartsError::MissingPixels {
            base: part.base.digest,
        }),
        _ => Ok(parts),
    }
}

fn add_pixels(part: &mut Part, pixels: &File) -> Result<(), PartsError> {
    let base = part.base.digest;
    if pixels.base != Some(base) {
        let pixels = pixels.digest;
        return Err(PartsError::OtherBase { pixels, base });
    }
    if pixels.rows != part.base.rows {
        return Err(PartsError::OtherRows {
            pixels: pixels.digest,
            found: pixels.rows,
            base,
            expected: part.base.rows,
        });
    }
    part.pixels = Some(pixels.clone());
    Ok(())
}

/// A version of a dataset by name and number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VersionRef {
    /// The dataset.
    pub dataset: DatasetName,
    /// Its version, from 1.
    pub number: u64,
}

impl std::fmt::Display for VersionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.dataset, self.number)
    }
}

/// The outputs of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Outputs {
    /// Files of `data/`, in shard order; a pixels file directly follows its base file.
    #[serde(default)]
    pub files: Vec<File>,
    /// Files of kind `Manifest` that list the outputs in place of `files`, where they are many, so
    /// that a commit has a bounded size.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<File>,
    /// A model folder (trained model, tokenizer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelDigest>,
    /// The metrics of an evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<crate::results::Evaluation>,
    /// The loss curve and rates of a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<crate::results::Training>,
    /// Rejected pictures, pages or records, by code.
    #[serde(default)]
    pub rejects: BTreeMap<RejectCode, u64>,
    /// Counts for statistics, by name (`found`, `fetched`, `pages`, `texts` ...).
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
}

/// `runs/<run>/<stage>/<shard>.commit.json`: created once; the first committer wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// The shard; `all` for a global task.
    pub shard: ShardId,
    /// The attempt that committed.
    pub attempt: AttemptId,
    /// The worker that ran the attempt.
    pub worker: WorkerId,
    /// The epoch of the lease that the attempt held.
    pub lease_epoch: LeaseEpoch,
    /// The recipe of the task.
    pub recipe: RecipeHash,
    /// Digests of the files and models that were read; of a task that reads a whole version or
    /// list, those of its manifests.
    pub inputs: Vec<Digest>,
    /// What the task wrote.
    pub outputs: Outputs,
    /// Wall time of the work in seconds. Comparisons leave it out, as every time.
    pub wall_seconds: f64,
    /// CPU time of the work in seconds. Comparisons leave it out, as every time.
    pub cpu_seconds: f64,
    /// Whether the outputs were adopted from an earlier commit of the same recipe.
    #[serde(default)]
    pub adopted: bool,
}

/// What the stage that made a commit needs of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The recipe of the task.
    pub recipe: RecipeHash,
    /// What the task wrote.
    pub outputs: Outputs,
    /// Whether the outputs were adopted from an earlier commit of the same recipe.
    #[serde(default)]
    pub adopted: bool,
}

impl From<Commit> for Summary {
    fn from(commit: Commit) -> Self {
        Self {
            recipe: commit.recipe,
            outputs: commit.outputs,
            adopted: commit.adopted,
        }
    }
}

/// The output of a finished stage, as later stages read it.
#[derive(Debug, Clone, PartialEq)]
pub enum StageOutput {
    /// The shards of a dataset version.
    Dataset(Shards),
    /// A model or tokenizer folder.
    Model {
        /// Its digest.
        digest: ModelDigest,
    },
    /// Metrics; only reports read them.
    Figures,
}

impl StageOutput {
    /// The output as people see it.
    pub fn reference(&self) -> OutputRef {
        match self {
            Self::Dataset(shards) => OutputRef::Dataset {
                version: shards.version.clone(),
                parts: shards.count,
            },
            Self::Model { digest } => OutputRef::Model { digest: *digest },
            Self::Figures => OutputRef::Figures,
        }
    }
}

/// What a finished stage produced, by reference: its size does not grow with the shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputRef {
    /// A dataset version.
    Dataset {
        /// Its name and number.
        version: VersionRef,
        /// Its shards; 0 where a record of an earlier program version did not count them.
        parts: u64,
    },
    /// A model or tokenizer folder.
    Model {
        /// Its digest.
        digest: ModelDigest,
    },
    /// Figures, in the commit record.
    Figures,
}

#[cfg(test)]
mod tests;

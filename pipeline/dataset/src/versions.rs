//! Dataset versions: `datasets/<name>/versions/<number of 20 digits>.json`, created once, never changed.
//!
//! A version does not grow with its rows or overlays. It names Parquet manifests, which list its files,
//! one for [`PAGE`] shards, and Parquet lists of the tasks that made it. Publishers race by create-if-absent; the loser takes the next
//! number.
//!
//! ```text
//! datasets/<name>/versions/00000000000000000007.json      the version
//! datasets/<name>/claims/<run>/<stage>/7.json             written before it: `stage` may have made 7
//! ```
//! Publishing is idempotent per (run, stage) without reading earlier versions: a publisher claims a
//! number before it creates the version. A publisher that lists the versions first and the claims of
//! its stage afterwards sees every claim whose version it has listed, and checks only those.

use std::collections::BTreeMap;

use capstan_plan::commit::{File, FileKind, Part, Shards, ShardsHasher, VersionRef};
use capstan_plan::id::{DatasetName, Digest, RecipeHash, RunId, ShardId, StageName};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::commits::READS;
use crate::error::{Error, Result};
use crate::files;
use crate::lists::{PAGE, VersionLists, VersionWriter};
use crate::record::{ManifestRow, TaskRow};
use crate::store::{Created, Store, checked};

mod pages;
#[cfg(test)]
mod tests;

pub use pages::Pages;

/// Numbers that a publisher tries before it returns [`Error::Contended`].
const PUBLISH_TRIES: u32 = 64;

/// What a version to publish says beside its lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The dataset.
    pub dataset: DatasetName,
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// The version that the stage added overlays to, if any.
    pub derived_from: Option<VersionRef>,
    /// Counts by name.
    pub statistics: BTreeMap<String, u64>,
}

/// The content of a version to publish, where it fits in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// The dataset.
    pub dataset: DatasetName,
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// Recipes of the stage's tasks, in shard order.
    pub recipes: Vec<RecipeHash>,
    /// The version that the stage added overlays to, if any.
    pub derived_from: Option<VersionRef>,
    /// Counts by name.
    pub statistics: BTreeMap<String, u64>,
    /// Quarantined shards, which the version lacks.
    pub missing: Vec<ShardId>,
    /// Shards, in order.
    pub parts: Vec<Part>,
}

/// A dataset version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The dataset.
    pub dataset: DatasetName,
    /// From 1.
    pub number: u64,
    /// The previous version of this dataset.
    pub parent: Option<u64>,
    /// The version that the stage added overlays to, if any.
    pub derived_from: Option<VersionRef>,
    /// The run that made it.
    pub run: RunId,
    /// The stage that made it.
    pub stage: StageName,
    /// Counts by name.
    pub statistics: BTreeMap<String, u64>,
    /// Parquet files: manifests of base files, pixels and overlays, then lists of tasks.
    pub manifests: Vec<File>,
    /// `None` in versions written before shards were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shards: Option<Counted>,
    /// Set in versions written before there were lists of tasks.
    #[serde(flatten)]
    inline: InlineTasks,
}

/// The shards of a version, and how its manifests list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    /// How many there are.
    count: u64,
    /// Shards of each manifest; the last one has fewer.
    page: u64,
    /// See [`Shards::metadata`].
    metadata: Digest,
    /// See [`Shards::with_pixels`].
    with_pixels: Digest,
}

/// Tasks as older versions hold them, in the JSON itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct InlineTasks {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recipes: Vec<RecipeHash>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing: Vec<ShardId>,
}

/// The tasks of the stage that made a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tasks {
    /// Recipes of the tasks, in shard order.
    pub recipes: Vec<RecipeHash>,
    /// Quarantined shards, which the version lacks.
    pub missing: Vec<ShardId>,
}

impl Version {
    /// Its name and number.
    pub fn reference(&self) -> VersionRef {
        VersionRef {
            dataset: self.dataset.clone(),
            number: self.number,
        }
    }

    /// Whether this stage of this run made it.
    fn is_by(&self, run: &RunId, stage: &StageName) -> bool {
        self.run == *run && self.stage == *stage
    }
}

fn folder(dataset: &DatasetName) -> Result<String> {
    let dataset = checked("dataset", dataset.as_str())?;
    Ok(format!("datasets/{dataset}/versions"))
}

fn path(version: &VersionRef) -> Result<String> {
    let number = version.number;
    Ok(format!("{}/{number:020}.json", folder(&version.dataset)?))
}

fn claims_folder(dataset: &DatasetName, run: &RunId, stage: &StageName) -> Result<String> {
    let dataset = checked("dataset", dataset.as_str())?;
    let run = checked("run", run.as_str())?;
    let stage = checked("stage", stage.as_str())?;
    Ok(format!("datasets/{dataset}/claims/{run}/{stage}"))
}

/// Writes the lists and creates the next version of the dataset, as [`publish_lists`].
///
/// # Errors
/// Those of [`publish_lists`].
pub async fn publish(store: &Store, new: NewVersion) -> Result<VersionRef> {
    let mut writer = VersionWriter::new(store);
    for part in &new.parts {
        writer.shard(part).await?;
    }
    for recipe in new.recipes {
        writer.recipe(recipe).await?;
    }
    for shard in new.missing {
        writer.missing(shard).await?;
    }
    let origin = Origin {
        dataset: new.dataset,
        run: new.run,
        stage: new.stage,
        derived_from: new.derived_from,
        statistics: new.statistics,
    };
    let shards = publish_lists(store, origin, &writer.finish().await?).await?;
    Ok(shards.version)
}

/// Creates the next version of the dataset. Publishing the same (run, stage) again returns the
/// version that it made.
///
/// # Errors
/// Those of [`Store::create`]; [`Error::Contended`] if other publishers took 64 numbers in a row.
pub async fn publish_lists(store: &Store, new: Origin, lists: &VersionLists) -> Result<Shards> {
    let claims = claims_folder(&new.dataset, &new.run, &new.stage)?;
    for _ in 0..PUBLISH_TRIES {
        // In this order: see the head of this module.
        let parent = latest(store, &new.dataset).await?.map(|last| last.number);
        if let Some(made) = claimed(store, &new.dataset, &new.run, &new.stage).await? {
            return shards(store, &made).await;
        }
        let version = Version {
            dataset: new.dataset.clone(),
            number: parent.unwrap_or(0) + 1,
            parent,
            derived_from: new.derived_from.clone(),
            run: new.run.clone(),
            stage: new.stage.clone(),
            statistics: new.statistics.clone(),
            manifests: lists.manifests.clone(),
            shards: None,
            inline: InlineTasks::default(),
        };
        let reference = version.reference();
        let shards = lists.shards.finish(reference.clone());
        let version = Version {
            shards: Some(Counted {
                count: shards.count,
                page: PAGE,
                metadata: shards.metadata,
                with_pixels: shards.with_pixels,
            }),
            ..version
        };
        let claim = format!("{claims}/{}.json", version.number);
        store.create_json(&claim, &reference).await?;
        if store.create_json(&path(&reference)?, &version).await? == Created::Created {
            return Ok(shards);
        }
    }
    Err(Error::Contended {
        url: store.url().to_owned(),
        path: folder(&new.dataset)?,
        tries: PUBLISH_TRIES,
    })
}

/// The version that a claim of this stage led to, if any.
async fn claimed(
    store: &Store,
    dataset: &DatasetName,
    run: &RunId,
    stage: &StageName,
) -> Result<Option<Version>> {
    for claim in store.list(&claims_folder(dataset, run, stage)?).await? {
        let name = claim.path.rsplit('/').next().unwrap_or_default();
        let number = name.strip_suffix(".json").and_then(|n| n.parse().ok());
        let Some(number) = number else { continue };
        let dataset = dataset.clone();
        match read(store, &VersionRef { dataset, number }).await {
            Ok(version) if version.is_by(run, stage) => return Ok(Some(version)),
            // Another publisher took the number, or the claimant died before it created the version.
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The version of the dataset that this stage of this run published, if any.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn published(
    store: &Store,
    dataset: &DatasetName,
    run: &RunId,
    stage: &StageName,
) -> Result<Option<Version>> {
    if let Some(made) = claimed(store, dataset, run, stage).await? {
        return Ok(Some(made));
    }
    // Versions published before there were claims, newest first.
    let known = list(store, dataset).await?;
    for newest in known.rchunks(READS) {
        let versions = try_join_all(newest.iter().map(|version| read(store, version))).await?;
        let mut made = versions.into_iter().filter(|v| v.is_by(run, stage));
        if let Some(made) = made.next() {
            return Ok(Some(made));
        }
    }
    Ok(None)
}

/// Reads a version.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn read(store: &Store, version: &VersionRef) -> Result<Version> {
    let path = path(version)?;
    let read: Option<Version> = store.get_json(&path).await?;
    let read = read.ok_or_else(|| Error::NotFound {
        url: store.url().to_owned(),
        path: path.clone(),
    })?;
    match read.reference() == *version {
        true => Ok(read),
        false => Err(Error::damaged(
            path,
            format!("it holds version {}", read.reference()),
        )),
    }
}

/// The shards of a version, in order.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn parts(store: &Store, version: &VersionRef) -> Result<Vec<Part>> {
    all_parts(store, &read(store, version).await?).await
}

async fn all_parts(store: &Store, version: &Version) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for manifest in of_kind(&version.manifests, FileKind::Manifest) {
        add_manifest(store, manifest, 0, &mut parts).await?;
    }
    Ok(parts)
}

/// Adds the shards of a manifest.
///
/// - `first`: the ordinal of the first one of `parts`.
async fn add_manifest(
    store: &Store,
    manifest: &File,
    first: u64,
    parts: &mut Vec<Part>,
) -> Result<()> {
    for row in files::read(store, manifest).await? {
        add_file(parts, first, row)
            .map_err(|reason| Error::damaged(files::path(&manifest.digest), reason))?;
    }
    Ok(())
}

/// The shards of a version by reference.
///
/// # Errors
/// Those of [`parts`], for a version that was written before shards were counted.
pub async fn shards(store: &Store, version: &Version) -> Result<Shards> {
    if let Some(counted) = version.shards {
        return Ok(Shards {
            version: version.reference(),
            count: counted.count,
            metadata: counted.metadata,
            with_pixels: counted.with_pixels,
        });
    }
    let mut hasher = ShardsHasher::default();
    let parts = all_parts(store, version).await?;
    parts.iter().for_each(|part| hasher.push(part));
    Ok(hasher.finish(version.reference()))
}

/// Every shard that a task names, in order.
///
/// # Errors
/// Those of [`parts`]; [`Error::Damaged`]: the version lists other shards.
pub async fn parts_of(store: &Store, shards: &Shards) -> Result<Vec<Part>> {
    let parts = parts(store, &shards.version).await?;
    let mut hasher = ShardsHasher::default();
    parts.iter().for_each(|part| hasher.push(part));
    if hasher.finish(shards.version.clone()) != *shards {
        let reason = "it lists other shards than the task that reads it names";
        return Err(Error::damaged(path(&shards.version)?, reason));
    }
    Ok(parts)
}

/// Digests of the manifests of a version: what a task that reads all of its shards has read.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn manifests(store: &Store, shards: &Shards) -> Result<Vec<Digest>> {
    let version = read(store, &shards.version).await?;
    let manifests = of_kind(&version.manifests, FileKind::Manifest);
    Ok(manifests.map(|manifest| manifest.digest).collect())
}

fn of_kind(manifests: &[File], kind: FileKind) -> impl Iterator<Item = &File> {
    manifests.iter().filter(move |file| file.kind == kind)
}

/// Adds a file to the shard that it belongs to: the last one, or for a base file the next one.
///
/// - `first`: the ordinal of the first one of `parts`.
fn add_file(parts: &mut Vec<Part>, first: u64, row: ManifestRow) -> Result<(), &'static str> {
    let ManifestRow { part, file } = row;
    let (part, known) = (u64::from(part), first + parts.len() as u64);
    let last = parts.last_mut().filter(|_| part + 1 == known);
    match (file.kind, last) {
        (FileKind::Base, _) if part == known => parts.push(Part {
            base: file,
            pixels: None,
            overlays: Vec::new(),
        }),
        (FileKind::Pixels, Some(last)) if last.pixels.is_none() && last.overlays.is_empty() => {
            last.pixels = Some(file);
        }
        (FileKind::Curation | FileKind::Captions | FileKind::Verdicts, Some(last)) => {
            last.overlays.push(file);
        }
        _ => return Err("a shard is not one base file, its pixels, then its overlays"),
    }
    Ok(())
}

/// The tasks of the stage that made a version.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn tasks(store: &Store, version: &Version) -> Result<Tasks> {
    let mut tasks = Tasks {
        recipes: version.inline.recipes.clone(),
        missing: version.inline.missing.clone(),
    };
    for list in of_kind(&version.manifests, FileKind::Tasks) {
        for row in files::read(store, list).await? {
            match row {
                TaskRow::Recipe(recipe) => tasks.recipes.push(recipe),
                TaskRow::Missing(shard) => tasks.missing.push(shard),
            }
        }
    }
    Ok(tasks)
}

/// The newest version of a dataset.
///
/// # Errors
/// Those of the store.
pub async fn latest(store: &Store, dataset: &DatasetName) -> Result<Option<VersionRef>> {
    Ok(list(store, dataset).await?.pop())
}

/// The versions of a dataset, oldest first.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &Store, dataset: &DatasetName) -> Result<Vec<VersionRef>> {
    let objects = store.list(&folder(dataset)?).await?;
    let number = |path: &str| -> Option<u64> {
        let name = path.rsplit('/').next()?.strip_suffix(".json")?;
        (name.len() == 20).then(|| name.parse().ok())?
    };
    Ok(objects
        .iter()
        .filter_map(|object| {
            Some(VersionRef {
                dataset: dataset.clone(),
                number: number(&object.path)?,
            })
        })
        .collect())
}

/// Every dataset, by name.
///
/// # Errors
/// Those of the store.
pub async fn datasets(store: &Store) -> Result<Vec<DatasetName>> {
    let names = store.folders("datasets").await?;
    Ok(names.into_iter().map(DatasetName).collect())
}

/// `name@3`, or `name` for its newest version.
///
/// # Errors
/// [`Error::NoDataset`], [`Error::NotFound`], [`Error::Name`].
pub async fn resolve(store: &Store, text: &str) -> Result<VersionRef> {
    let Some((name, number)) = text.split_once('@') else {
        let dataset = DatasetName::from(text);
        return latest(store, &dataset).await?.ok_or(Error::NoDataset {
            dataset,
            url: store.url().to_owned(),
        });
    };
    let number = number.parse().map_err(|_| Error::Name {
        what: "dataset version (such as `web@3`)",
        name: text.to_owned(),
    })?;
    let version = VersionRef {
        dataset: DatasetName::from(name),
        number,
    };
    read(store, &version).await.map(|_| version)
}

//! Dataset versions: `datasets/<name>/versions/<number of 20 digits>.json`, created once, never changed.
//!
//! A version is small: it names Parquet manifests, and these list base files and
//! overlays. Two publishers race by create-if-absent: the loser takes the next
//! number, unless what stands there is its own (run, stage).

use std::collections::BTreeMap;

use capstan_plan::commit::{File, FileKind, Part, VersionRef};
use capstan_plan::id::{DatasetName, RecipeHash, RunId, ShardId, StageName};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::commits::READS;
use crate::error::{Error, Result};
use crate::files;
use crate::record::ManifestRow;
use crate::store::{Created, Store, checked};

/// Files that one manifest lists at most.
const MANIFEST_ROWS: usize = 65_536;
/// Numbers that a publisher tries at most before it gives up for now.
const PUBLISH_TRIES: u32 = 64;

/// What a stage publishes.
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
    /// The version that the stage read, where it added overlays to one.
    pub derived_from: Option<VersionRef>,
    /// Counts by name.
    pub statistics: BTreeMap<String, u64>,
    /// Shards that were quarantined: what is missing.
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
    /// The version before it in this dataset.
    pub parent: Option<u64>,
    /// The version that the stage read, where it added overlays to one.
    pub derived_from: Option<VersionRef>,
    /// The run that made it.
    pub run: RunId,
    /// The stage that made it.
    pub stage: StageName,
    /// Recipes of the stage's tasks, in shard order.
    pub recipes: Vec<RecipeHash>,
    /// Counts by name.
    pub statistics: BTreeMap<String, u64>,
    /// Shards that were quarantined: what is missing.
    pub missing: Vec<ShardId>,
    /// Manifests: Parquet files that list base files and overlays.
    pub manifests: Vec<File>,
}

impl Version {
    /// Its name and number.
    pub fn reference(&self) -> VersionRef {
        VersionRef {
            dataset: self.dataset.clone(),
            number: self.number,
        }
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

/// Writes the manifests and creates the next version of the dataset. Publishing
/// the same (run, stage) again gives the version that it made.
///
/// # Errors
/// Those of [`Store::create`]; [`Error::Contended`] where others took 64 numbers in a row.
pub async fn publish(store: &Store, new: NewVersion) -> Result<VersionRef> {
    let mut known = list(store, &new.dataset).await?;
    if let Some(made) = made_by(store, &known, &new.run, &new.stage).await? {
        return Ok(made.reference());
    }
    let mut version = Version {
        number: 0,
        parent: None,
        manifests: write_manifests(store, new.parts.clone()).await?,
        dataset: new.dataset.clone(),
        derived_from: new.derived_from.clone(),
        run: new.run.clone(),
        stage: new.stage.clone(),
        recipes: new.recipes.clone(),
        statistics: new.statistics.clone(),
        missing: new.missing.clone(),
    };
    for _ in 0..PUBLISH_TRIES {
        version.parent = known.last().map(|last| last.number);
        version.number = version.parent.unwrap_or(0) + 1;
        let reference = version.reference();
        if store.create_json(&path(&reference)?, &version).await? == Created::Created {
            return Ok(reference);
        }
        let newer = list(store, &new.dataset).await?;
        let unseen: Vec<_> = newer
            .iter()
            .filter(|v| !known.contains(v))
            .cloned()
            .collect();
        if let Some(made) = made_by(store, &unseen, &new.run, &new.stage).await? {
            return Ok(made.reference());
        }
        known = newer;
    }
    Err(Error::Contended {
        url: store.url().to_owned(),
        path: folder(&new.dataset)?,
        tries: PUBLISH_TRIES,
    })
}

/// The version of the dataset that this stage of this run published, if it has.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn published(
    store: &Store,
    dataset: &DatasetName,
    run: &RunId,
    stage: &StageName,
) -> Result<Option<Version>> {
    let known = list(store, dataset).await?;
    made_by(store, &known, run, stage).await
}

/// The version among these that (run, stage) made.
async fn made_by(
    store: &Store,
    among: &[VersionRef],
    run: &RunId,
    stage: &StageName,
) -> Result<Option<Version>> {
    // Newest first: a publisher that comes again comes soon.
    for newest in among.rchunks(READS) {
        let versions = try_join_all(newest.iter().map(|version| read(store, version))).await?;
        let is_made = |v: &Version| &v.run == run && &v.stage == stage;
        if let Some(made) = versions.into_iter().find(is_made) {
            return Ok(Some(made));
        }
    }
    Ok(None)
}

async fn write_manifests(store: &Store, parts: Vec<Part>) -> Result<Vec<File>> {
    let mut rows = Vec::new();
    for (part, Part { base, overlays }) in (0u32..).zip(parts) {
        let files = std::iter::once(base).chain(overlays);
        rows.extend(files.map(|file| ManifestRow { part, file }));
    }
    let mut manifests = Vec::new();
    for chunk in rows.chunks(MANIFEST_ROWS) {
        manifests.push(files::write(store, FileKind::Manifest, chunk.to_vec()).await?);
    }
    Ok(manifests)
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

/// Its shards, in order.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn parts(store: &Store, version: &VersionRef) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for manifest in read(store, version).await?.manifests {
        for ManifestRow { part, file } in files::read(store, &manifest).await? {
            let fail = |reason: &str| Error::damaged(files::path(&manifest.digest), reason);
            let (part, known) = (part as usize, parts.len());
            match file.kind {
                FileKind::Base if part == known => parts.push(Part {
                    base: file,
                    overlays: Vec::new(),
                }),
                FileKind::Curation | FileKind::Captions | FileKind::Verdicts
                    if part + 1 == known =>
                {
                    parts[part].overlays.push(file);
                }
                _ => return Err(fail("a shard is not one base file and then its overlays")),
            }
        }
    }
    Ok(parts)
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

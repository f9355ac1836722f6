//! Verifies the content of a store against its records.
//!
//! Every file that a version or a commit names is read from the store, never from a cache: bytes
//! are checked against digests, rows against `rows_digest`, pixels and overlays against their base
//! row by row, and ids against their definition. Models and unnamed objects of `data/` follow.

use std::collections::{BTreeMap, BTreeSet};

use capstan_plan::commit::{FileKind, VersionRef};
use capstan_plan::id::{DatasetName, Digest};
use capstan_plan::row::Reject;

use crate::error::{Error, Result};
use crate::record::{ManifestRow, TaskRow};
use crate::store::Store;
use crate::{commits, files, lists, models, runs, versions};

mod shard;

use shard::{check_digests, check_shard};

/// Most problems in a report; further ones are only counted.
const MAX_PROBLEMS: usize = 1000;

/// The part of a store to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every dataset, commit, model, and `data/` itself.
    Store,
    /// Every version of a dataset.
    Dataset(DatasetName),
    /// One version.
    Version(VersionRef),
}

/// An object that does not match its record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    /// The object.
    pub path: String,
    /// What is wrong with it, in one line.
    pub reason: String,
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct VerifyReport {
    /// Versions read.
    pub versions: u64,
    /// Distinct shards read.
    pub shards: u64,
    /// Files of `data/` whose bytes were checked against their digest.
    pub files: u64,
    /// Rows of base files.
    pub rows: u64,
    /// Commits read.
    pub commits: u64,
    /// Models read.
    pub models: u64,
    /// Problems; at most 1,000.
    pub problems: Vec<Problem>,
    /// Further problems, not listed.
    pub more_problems: u64,
    /// Sound files of `data/` that no commit and no version names: outputs of attempts that
    /// never committed. No problem.
    pub orphans: Vec<String>,
    /// Staging files of killed writers in a local store, never visible as objects. No problem.
    pub staged: Vec<String>,
}

impl VerifyReport {
    /// Whether there are no problems.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, path: impl Into<String>, reason: impl std::fmt::Display) {
        if self.problems.len() == MAX_PROBLEMS {
            self.more_problems += 1;
            return;
        }
        self.problems.push(Problem {
            path: path.into(),
            reason: crate::error::one_line(&reason.to_string()),
        });
    }

    /// Records an error of the content; returns an error of the store itself.
    fn note<T>(&mut self, path: &str, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(
                error @ (Error::NotFound { .. }
                | Error::Damaged { .. }
                | Error::Misaligned { .. }
                | Error::NoModel { .. }),
            ) => {
                self.add(path, error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads everything in `scope` and reports its problems.
///
/// # Errors
/// Only failures of the store itself; problems of its content are in the report.
pub async fn verify(store: &Store, scope: &Scope) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let mut seen = Seen::default();
    match scope {
        Scope::Version(version) => check_version(store, version, &mut seen, &mut report).await?,
        Scope::Dataset(dataset) => {
            if versions::latest(store, dataset).await?.is_none() {
                return Err(Error::NoDataset {
                    dataset: dataset.clone(),
                    url: store.url().to_owned(),
                });
            }
            check_dataset(store, dataset, &mut seen, &mut report).await?;
        }
        Scope::Store => {
            for dataset in versions::datasets(store).await? {
                check_dataset(store, &dataset, &mut seen, &mut report).await?;
            }
            check_commits(store, &mut seen, &mut report).await?;
            check_models(store, &mut report).await?;
            check_data(store, &seen, &mut report).await?;
        }
    }
    Ok(report)
}

/// Files whose digests were checked, and shards by the digests of their files: versions share them.
#[derive(Default)]
pub(crate) struct Seen {
    files: BTreeSet<Digest>,
    shards: BTreeSet<Vec<Digest>>,
}

async fn check_dataset(
    store: &Store,
    dataset: &DatasetName,
    seen: &mut Seen,
    report: &mut VerifyReport,
) -> Result<()> {
    let all = versions::list(store, dataset).await?;
    for (version, expected) in all.iter().zip(1..) {
        if version.number != expected {
            report.add(
                format!("datasets/{dataset}"),
                format!("version {expected} is missing before {}", version.number),
            );
            break;
        }
    }
    for version in &all {
        check_version(store, version, seen, report).await?;
    }
    Ok(())
}

async fn check_version(
    store: &Store,
    reference: &VersionRef,
    seen: &mut Seen,
    report: &mut VerifyReport,
) -> Result<()> {
    let name = reference.to_string();
    let Some(version) = report.note(&name, versions::read(store, reference).await)? else {
        return Ok(());
    };
    report.versions += 1;
    if version.parent.map_or(0, |parent| parent) + 1 != version.number {
        report.add(&name, format!("its parent is {:?}", version.parent));
    }
    for manifest in &version.manifests {
        if !seen.files.insert(manifest.digest) {
            continue;
        }
        if manifest.kind == FileKind::Tasks {
            check_digests::<TaskRow>(store, manifest, report).await?;
        } else {
            check_digests::<ManifestRow>(store, manifest, report).await?;
        }
    }
    let Some(parts) = report.note(&name, versions::parts(store, reference).await)? else {
        return Ok(());
    };
    for part in &parts {
        let shard: Vec<Digest> = part.files().map(|file| file.digest).collect();
        seen.files.extend(shard.iter().copied());
        if seen.shards.insert(shard) {
            check_shard(store, part, report).await?;
        }
    }
    Ok(())
}

/// Checks the outputs of every commit, and its rejects by code against the sidecars.
async fn check_commits(store: &Store, seen: &mut Seen, report: &mut VerifyReport) -> Result<()> {
    for name in store.folders("runs").await? {
        let run = name.into();
        let folder = format!("runs/{run}");
        if report.note(&folder, runs::read(store, &run).await)? == Some(None) {
            report.add(&folder, "it has commits but no run.json");
        }
        let Some(all) = report.note(&folder, commits::of_run(store, &run).await)? else {
            continue;
        };
        for commit in all {
            report.commits += 1;
            let path = commits::path(&commit.run, &commit.stage, &commit.shard)?;
            check_outputs(store, &path, &commit, seen, report).await?;
        }
    }
    Ok(())
}

async fn check_outputs(
    store: &Store,
    path: &str,
    commit: &capstan_plan::commit::Commit,
    seen: &mut Seen,
    report: &mut VerifyReport,
) -> Result<()> {
    let mut rejects = BTreeMap::new();
    let mut named = commit.outputs.manifests.clone();
    let listed = lists::output_files(store, &commit.outputs).await;
    named.extend(report.note(path, listed)?.unwrap_or_default());
    for file in &named {
        let object = files::path(&file.digest);
        let is_new = seen.files.insert(file.digest);
        match store.size(&object).await? {
            Some(size) if size == file.size_bytes => {}
            found => {
                let expected = file.size_bytes;
                report.add(
                    path,
                    format!("{object} has {found:?} bytes, not {expected}"),
                );
                continue;
            }
        }
        if file.kind == FileKind::Rejects {
            let rows = check_digests::<Reject>(store, file, report).await?;
            for reject in rows.unwrap_or_default() {
                *rejects.entry(reject.code).or_insert(0u64) += 1;
            }
        } else if is_new {
            report.files += 1;
            check_object(store, &object, file.digest, report).await?;
        }
    }
    let has_sidecar = named.iter().any(|f| f.kind == FileKind::Rejects);
    let mut counted = commit.outputs.rejects.clone();
    counted.retain(|_, count| *count > 0);
    if has_sidecar && counted != rejects {
        report.add(
            path,
            format!("it counts rejects {counted:?}, its sidecars hold {rejects:?}"),
        );
    }
    if let Some(model) = &commit.outputs.model
        && !models::exists(store, model).await?
    {
        report.add(path, format!("model {model} is not complete"));
    }
    Ok(())
}

/// Checks the bytes of an object in the store; whether they are sound.
async fn check_object(
    store: &Store,
    path: &str,
    digest: Digest,
    report: &mut VerifyReport,
) -> Result<bool> {
    let found = store.digest(path).await?;
    match found {
        Some(found) if found == digest => {}
        Some(_) => report.add(path, "its bytes do not have its digest"),
        None => report.add(path, "it is missing"),
    }
    Ok(found == Some(digest))
}

async fn check_models(store: &Store, report: &mut VerifyReport) -> Result<()> {
    for model in models::list(store).await? {
        report.models += 1;
        let folder = format!("models/{model}");
        let manifest = models::manifest(store, &model).await;
        let Some(manifest) = report.note(&folder, manifest)? else {
            continue;
        };
        for file in manifest.files {
            let path = format!("{folder}/{}", file.name);
            check_object(store, &path, file.digest, report).await?;
        }
    }
    Ok(())
}

/// Checks the objects of `data/` that no record names.
async fn check_data(store: &Store, seen: &Seen, report: &mut VerifyReport) -> Result<()> {
    for object in store.list("data").await? {
        let name = object.path.strip_prefix("data/").unwrap_or_default();
        let digest = name.strip_suffix(".parquet").and_then(Digest::from_hex);
        match digest {
            None => report.add(object.path, "its name is no digest"),
            Some(digest) if seen.files.contains(&digest) => {}
            Some(digest) => {
                report.files += 1;
                if check_object(store, &object.path, digest, report).await? {
                    report.orphans.push(object.path);
                }
            }
        }
    }
    if let Some(folder) = store.folder() {
        report.staged = staged(folder)?;
    }
    Ok(())
}

/// Staging files `<name>#<n>` of a local store; listings leave them out.
fn staged(folder: &std::path::Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let data = folder.join("data");
    let entries = match std::fs::read_dir(&data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(Error::local(&data, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| Error::local(&data, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains('#') {
            found.push(format!("data/{name}"));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;

//! Lists of files and shards, in pages: Parquet manifests of at most [`PAGE`] entries each.
//!
//! A list is named by a digest and the few manifests that hold it, so what names it has a bounded
//! size, and whoever reads it needs memory for a page.

use capstan_plan::commit::{File, FileKind, FileList, FilesHasher, Outputs, Part, ShardsHasher};
use capstan_plan::id::{RecipeHash, ShardId};

use crate::error::{Error, Result};
use crate::files;
use crate::record::{ManifestRow, Record, TaskRow};
use crate::store::Store;

/// Files or shards of a page.
pub const PAGE: u64 = 8_192;
/// Recipes and missing shards of a list of tasks.
const TASK_ROWS: usize = 65_536;
/// Files that a commit names itself; more are listed in manifests.
const INLINE: usize = 1_024;

/// Writes a list of files.
#[derive(Debug)]
pub struct FileWriter<'a> {
    store: &'a Store,
    page: Vec<ManifestRow>,
    hasher: FilesHasher,
    count: u32,
    manifests: Vec<File>,
}

impl<'a> FileWriter<'a> {
    /// A list without files.
    pub fn new(store: &'a Store) -> Self {
        Self {
            store,
            page: Vec::new(),
            hasher: FilesHasher::default(),
            count: 0,
            manifests: Vec::new(),
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub async fn push(&mut self, file: File) -> Result<()> {
        self.hasher.push(&file);
        let part = self.count;
        self.count += 1;
        self.page.push(ManifestRow { part, file });
        if self.page.len() as u64 == PAGE {
            self.flush().await?;
        }
        Ok(())
    }

    /// The list.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub async fn finish(mut self) -> Result<FileList> {
        self.flush().await?;
        Ok(self.hasher.finish(self.manifests))
    }

    async fn flush(&mut self) -> Result<()> {
        let manifest = write_page(self.store, FileKind::Manifest, &mut self.page).await?;
        self.manifests.extend(manifest);
        Ok(())
    }
}

/// Writes rows as a file, where there are any.
async fn write_page<T: Record>(
    store: &Store,
    kind: FileKind,
    page: &mut Vec<T>,
) -> Result<Option<File>> {
    if page.is_empty() {
        return Ok(None);
    }
    let rows = std::mem::take(page);
    files::write(store, kind, rows).await.map(Some)
}

/// The files of a page of a list.
///
/// - `page`: from 0; the last one is shorter.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn files_of_page(store: &Store, list: &FileList, page: u64) -> Result<Vec<File>> {
    let Some(manifest) = list.manifests.get(page as usize) else {
        return Ok(Vec::new());
    };
    let rows: Vec<ManifestRow> = files::read(store, manifest).await?;
    let expected = PAGE.min(list.count - PAGE * page);
    if rows.len() as u64 != expected {
        let path = files::path(&manifest.digest);
        let reason = format!("it lists {} files, not {expected}", rows.len());
        return Err(Error::damaged(path, reason));
    }
    Ok(rows.into_iter().map(|row| row.file).collect())
}

/// Every file of a list, in order.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn files_of(store: &Store, list: &FileList) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for page in 0..list.manifests.len() as u64 {
        files.extend(files_of_page(store, list, page).await?);
    }
    Ok(files)
}

/// Outputs of a bounded size: where the files are many, they are listed in manifests.
///
/// # Errors
/// Those of [`Store::create`].
pub async fn bounded(store: &Store, mut outputs: Outputs) -> Result<Outputs> {
    if outputs.files.len() <= INLINE {
        return Ok(outputs);
    }
    let mut writer = FileWriter::new(store);
    for file in std::mem::take(&mut outputs.files) {
        writer.push(file).await?;
    }
    outputs.manifests = writer.finish().await?.manifests;
    Ok(outputs)
}

/// Every file of outputs, in order: those that are named, then those that are listed.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn output_files(store: &Store, outputs: &Outputs) -> Result<Vec<File>> {
    let mut files = outputs.files.clone();
    for page in 1..=outputs.manifests.len() {
        files.extend(output_page(store, outputs, page).await?);
    }
    Ok(files)
}

/// Pages of outputs: the files that they name, then a page for each manifest.
pub fn output_pages(outputs: &Outputs) -> usize {
    1 + outputs.manifests.len()
}

/// The files of a page of outputs, see [`output_pages`].
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn output_page(store: &Store, outputs: &Outputs, page: usize) -> Result<Vec<File>> {
    let Some(manifest) = page.checked_sub(1) else {
        return Ok(outputs.files.clone());
    };
    let Some(manifest) = outputs.manifests.get(manifest) else {
        return Ok(Vec::new());
    };
    let rows: Vec<ManifestRow> = files::read(store, manifest).await?;
    Ok(rows.into_iter().map(|row| row.file).collect())
}

/// Writes the lists of a dataset version: its shards, and the tasks of the stage that made it.
#[derive(Debug)]
pub struct VersionWriter<'a> {
    store: &'a Store,
    page: Vec<ManifestRow>,
    tasks: Vec<TaskRow>,
    hasher: ShardsHasher,
    count: u64,
    manifests: Vec<File>,
    task_lists: Vec<File>,
}

/// The lists of a dataset version.
#[derive(Debug, Clone)]
pub struct VersionLists {
    pub(crate) shards: ShardsHasher,
    pub(crate) manifests: Vec<File>,
}

impl<'a> VersionWriter<'a> {
    /// A version without shards and tasks.
    pub fn new(store: &'a Store) -> Self {
        Self {
            store,
            page: Vec::new(),
            tasks: Vec::new(),
            hasher: ShardsHasher::default(),
            count: 0,
            manifests: Vec::new(),
            task_lists: Vec::new(),
        }
    }

    /// Adds a shard.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub async fn shard(&mut self, shard: &Part) -> Result<()> {
        self.hasher.push(shard);
        let part = self.count as u32;
        self.count += 1;
        let rows = shard.files().cloned();
        self.page
            .extend(rows.map(|file| ManifestRow { part, file }));
        if self.count.is_multiple_of(PAGE) {
            self.flush_shards().await?;
        }
        Ok(())
    }

    /// Adds the recipe of a task that committed. Recipes come in the order of the tasks.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub async fn recipe(&mut self, recipe: RecipeHash) -> Result<()> {
        self.task(TaskRow::Recipe(recipe)).await
    }

    /// Adds a shard that was given up: the version lacks it.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub async fn missing(&mut self, shard: ShardId) -> Result<()> {
        self.task(TaskRow::Missing(shard)).await
    }

    async fn task(&mut self, row: TaskRow) -> Result<()> {
        self.tasks.push(row);
        if self.tasks.len() == TASK_ROWS {
            self.flush_tasks().await?;
        }
        Ok(())
    }

    /// The lists, to be published.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub async fn finish(mut self) -> Result<VersionLists> {
        self.flush_shards().await?;
        self.flush_tasks().await?;
        self.manifests.extend(self.task_lists);
        Ok(VersionLists {
            shards: self.hasher,
            manifests: self.manifests,
        })
    }

    async fn flush_shards(&mut self) -> Result<()> {
        let manifest = write_page(self.store, FileKind::Manifest, &mut self.page).await?;
        self.manifests.extend(manifest);
        Ok(())
    }

    async fn flush_tasks(&mut self) -> Result<()> {
        let list = write_page(self.store, FileKind::Tasks, &mut self.tasks).await?;
        self.task_lists.extend(list);
        Ok(())
    }
}

//! The shards of a version, page by page.

use capstan_plan::commit::{File, FileKind, Part, VersionRef};

use super::{add_manifest, all_parts, of_kind, read};
use crate::error::Result;
use crate::lists::PAGE;
use crate::store::Store;

/// The shards of a version, [`PAGE`] at a time.
#[derive(Debug)]
pub struct Pages {
    manifests: Vec<File>,
    /// Every shard of a version whose manifests are no pages.
    whole: Vec<Part>,
}

impl Pages {
    /// Those of this version.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`].
    pub async fn open(store: &Store, version: &VersionRef) -> Result<Self> {
        let version = read(store, version).await?;
        let is_paged = version.shards.is_some_and(|counted| counted.page == PAGE);
        let whole = match is_paged {
            true => Vec::new(),
            false => all_parts(store, &version).await?,
        };
        let manifests = of_kind(&version.manifests, FileKind::Manifest).cloned();
        Ok(Self {
            manifests: manifests.filter(|_| is_paged).collect(),
            whole,
        })
    }

    /// The shards of a page, from 0; none behind the last one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`].
    pub async fn read(&self, store: &Store, page: u64) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        match self.manifests.get(page as usize) {
            Some(manifest) => add_manifest(store, manifest, page * PAGE, &mut parts).await?,
            None => {
                let shards = self.whole.chunks(PAGE as usize).nth(page as usize);
                parts.extend(shards.into_iter().flatten().cloned());
            }
        }
        Ok(parts)
    }
}

//! Encoded pictures from the store. One read loads all rows of a part that the training uses.

use bytes::Bytes;
use capstan_dataset::{Store, index};
use capstan_plan::commit::Part;
use capstan_train::{PictureRow, SourceError};
use tokio::runtime::Handle;

/// Most encoded bytes that are kept in memory. Pictures beyond that are read at every request.
const MAX_KEPT_BYTES: u64 = 1 << 30;

/// Fetches encoded pictures by their index.
pub(crate) struct Fetch {
    store: Store,
    handle: Handle,
    parts: Vec<Part>,
    rows: Vec<PictureRow>,
    kept: Vec<Option<Bytes>>,
    left_bytes: u64,
}

impl Fetch {
    /// - `rows`: the shard and row of each picture, by its index.
    pub(crate) fn new(
        store: Store,
        handle: Handle,
        parts: Vec<Part>,
        rows: Vec<PictureRow>,
    ) -> Self {
        let kept = vec![None; rows.len()];
        Self {
            store,
            handle,
            parts,
            rows,
            kept,
            left_bytes: MAX_KEPT_BYTES,
        }
    }

    /// The encoded pictures of these indices, in the order of `wanted`.
    pub(crate) fn fetch(&mut self, wanted: &[usize]) -> Result<Vec<Bytes>, SourceError> {
        wanted
            .iter()
            .map(|picture| self.fetch_picture(*picture))
            .collect()
    }

    fn fetch_picture(&mut self, picture: usize) -> Result<Bytes, SourceError> {
        if let Some(bytes) = &self.kept[picture] {
            return Ok(bytes.clone());
        }
        let shard = self.rows[picture].shard;
        let size = self.parts[shard as usize].pixels_file().size_bytes;
        if size > self.left_bytes {
            let mut read = self.read(shard, &[picture])?;
            return Ok(read.remove(0));
        }
        let of_shard: Vec<usize> = (0..self.rows.len())
            .filter(|other| self.rows[*other].shard == shard)
            .collect();
        let read = self.read(shard, &of_shard)?;
        for (index, bytes) in of_shard.iter().zip(read) {
            self.left_bytes = self.left_bytes.saturating_sub(bytes.len() as u64);
            self.kept[*index] = Some(bytes);
        }
        Ok(self.kept[picture]
            .clone()
            .expect("the picture is in the shard that was read"))
    }

    fn read(&self, shard: u32, pictures: &[usize]) -> Result<Vec<Bytes>, SourceError> {
        let rows: Vec<u32> = pictures
            .iter()
            .map(|picture| self.rows[*picture].row)
            .collect();
        let part = &self.parts[shard as usize];
        self.handle
            .block_on(index::pictures(&self.store, part, &rows))
            .map_err(|error| SourceError {
                kind: error.kind(),
                source: Box::new(error),
            })
    }
}

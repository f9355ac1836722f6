//! Encoded pictures from the store, in memory while the training needs them.
//!
//! A window of the sampler draws its samples from some shards. The shards of the window that fit into
//! the memory are read whole, once for the window. Of other shards the announced pictures are read
//! together, so that a row group is read once for many steps.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use capstan_dataset::{Store, index};
use capstan_plan::commit::Part;
use capstan_train::{PictureFiles, PictureRow, SourceError};
use tokio::runtime::Handle;

/// Most encoded bytes of whole shards that are kept in memory.
const MAX_KEPT_BYTES: u64 = 1 << 30;

/// What reads rows of a shard.
pub(crate) trait ReadRows: Send {
    /// Encoded size of all pictures of the shard.
    fn size_bytes(&self, shard: u32) -> u64;

    /// The pictures of these rows, in their order.
    fn read(&self, shard: u32, rows: &[u32]) -> Result<Vec<Bytes>, SourceError>;
}

/// Reads from the store.
pub(crate) struct FromStore {
    store: Store,
    handle: Handle,
    parts: Vec<Part>,
}

impl FromStore {
    pub(crate) fn new(store: Store, handle: Handle, parts: Vec<Part>) -> Self {
        Self {
            store,
            handle,
            parts,
        }
    }
}

impl ReadRows for FromStore {
    fn size_bytes(&self, shard: u32) -> u64 {
        self.parts[shard as usize].pixels_file().size_bytes
    }

    fn read(&self, shard: u32, rows: &[u32]) -> Result<Vec<Bytes>, SourceError> {
        let part = &self.parts[shard as usize];
        self.handle
            .block_on(index::pictures(&self.store, part, rows))
            .map_err(|error| SourceError {
                kind: error.kind(),
                source: Box::new(error),
            })
    }
}

/// Fetches encoded pictures by their index.
pub(crate) struct Fetch<R> {
    source: R,
    /// The shard and row of each picture.
    rows: Vec<PictureRow>,
    /// The pictures of each shard.
    shards: HashMap<u32, Vec<usize>>,
    /// The announced pictures of each shard.
    coming: BTreeMap<u32, Vec<usize>>,
    /// Shards that were read whole.
    kept: BTreeMap<u32, HashMap<usize, Bytes>>,
    left_bytes: u64,
    /// Announced pictures of other shards, until the next announcement.
    ahead: HashMap<usize, Bytes>,
}

impl<R: ReadRows> Fetch<R> {
    /// - `rows`: the shard and row of each picture, by its index.
    pub(crate) fn new(source: R, rows: Vec<PictureRow>) -> Self {
        Self::within(source, rows, MAX_KEPT_BYTES)
    }

    fn within(source: R, rows: Vec<PictureRow>, left_bytes: u64) -> Self {
        let mut shards: HashMap<u32, Vec<usize>> = HashMap::new();
        for (picture, row) in rows.iter().enumerate() {
            shards.entry(row.shard).or_default().push(picture);
        }
        Self {
            source,
            rows,
            shards,
            coming: BTreeMap::new(),
            kept: BTreeMap::new(),
            left_bytes,
            ahead: HashMap::new(),
        }
    }

    fn fetch_picture(&mut self, picture: usize) -> Result<Bytes, SourceError> {
        let shard = self.rows[picture].shard;
        if let Some(bytes) = self.kept.get(&shard).and_then(|kept| kept.get(&picture)) {
            return Ok(bytes.clone());
        }
        if let Some(bytes) = self.ahead.get(&picture) {
            return Ok(bytes.clone());
        }
        if self.make_room(self.source.size_bytes(shard)) {
            self.keep_shard(shard)?;
            return Ok(self.kept[&shard][&picture].clone());
        }
        self.read_ahead(shard, picture)
    }

    /// Drops shards without announced pictures until `bytes` fit; says whether they do.
    fn make_room(&mut self, bytes: u64) -> bool {
        while self.left_bytes < bytes {
            let past = self
                .kept
                .keys()
                .find(|shard| !self.coming.contains_key(shard));
            let Some(past) = past.copied() else {
                return false;
            };
            let dropped = self.kept.remove(&past).unwrap_or_default();
            self.left_bytes += size_of_all(&dropped);
        }
        true
    }

    fn keep_shard(&mut self, shard: u32) -> Result<(), SourceError> {
        let read = self.read(shard, &self.shards[&shard])?;
        self.left_bytes = self.left_bytes.saturating_sub(size_of_all(&read));
        self.kept.insert(shard, read);
        Ok(())
    }

    /// Reads a picture with the announced ones of its shard.
    fn read_ahead(&mut self, shard: u32, picture: usize) -> Result<Bytes, SourceError> {
        // A later picture of the shard was not announced and is read alone.
        let mut pictures = self.coming.insert(shard, Vec::new()).unwrap_or_default();
        pictures.retain(|coming| *coming != picture);
        pictures.push(picture);
        self.ahead.extend(self.read(shard, &pictures)?);
        Ok(self.ahead[&picture].clone())
    }

    fn read(&self, shard: u32, pictures: &[usize]) -> Result<HashMap<usize, Bytes>, SourceError> {
        let rows: Vec<u32> = pictures
            .iter()
            .map(|picture| self.rows[*picture].row)
            .collect();
        let read = self.source.read(shard, &rows)?;
        Ok(pictures.iter().copied().zip(read).collect())
    }
}

impl<R: ReadRows> PictureFiles for Fetch<R> {
    type Bytes = Bytes;

    fn expect(&mut self, pictures: &[usize]) {
        self.coming.clear();
        self.ahead.clear();
        for picture in pictures {
            let shard = self.rows[*picture].shard;
            self.coming.entry(shard).or_default().push(*picture);
        }
        for pictures in self.coming.values_mut() {
            pictures.sort_unstable();
            pictures.dedup();
        }
    }

    fn fetch(&mut self, wanted: &[usize]) -> Result<Vec<Bytes>, SourceError> {
        wanted
            .iter()
            .map(|picture| self.fetch_picture(*picture))
            .collect()
    }
}

fn size_of_all(pictures: &HashMap<usize, Bytes>) -> u64 {
    pictures.values().map(|bytes| bytes.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// The shard and the rows of each read.
    type Reads = Arc<Mutex<Vec<(u32, Vec<u32>)>>>;

    /// Shards of ten pictures of one byte.
    struct Counted(Reads);

    impl ReadRows for Counted {
        fn size_bytes(&self, _shard: u32) -> u64 {
            10
        }

        fn read(&self, shard: u32, rows: &[u32]) -> Result<Vec<Bytes>, SourceError> {
            self.0.lock().unwrap().push((shard, rows.to_vec()));
            let byte = |row: &u32| Bytes::from(vec![(10 * shard + row) as u8]);
            Ok(rows.iter().map(byte).collect())
        }
    }

    /// Three shards, `bytes` of which fit into memory.
    fn fetch(bytes: u64) -> (Fetch<Counted>, Reads) {
        let reads = Reads::default();
        let rows = (0..30).map(|picture| PictureRow {
            shard: picture / 10,
            row: picture % 10,
        });
        let fetch = Fetch::within(Counted(reads.clone()), rows.collect(), bytes);
        (fetch, reads)
    }

    fn check(fetch: &mut Fetch<Counted>, wanted: &[usize]) {
        let found = fetch.fetch(wanted).unwrap();
        let found: Vec<usize> = found.iter().map(|bytes| usize::from(bytes[0])).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_shard_that_fits_is_read_once_and_dropped_after_its_window() {
        let (mut fetch, reads) = fetch(20);
        for (window, batches) in [
            ([3, 12], [[3, 12], [14, 5]]),
            ([21, 13], [[21, 13], [28, 19]]),
        ] {
            fetch.expect(&window);
            for batch in batches {
                check(&mut fetch, &batch);
            }
        }
        let shards: Vec<u32> = reads
            .lock()
            .unwrap()
            .iter()
            .map(|(shard, _)| *shard)
            .collect();
        // Shard 2 takes the place of shard 0; shard 1 is in both windows.
        assert_eq!(shards, [0, 1, 2]);
        assert_eq!(fetch.kept.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(fetch.left_bytes, 0);
    }

    #[test]
    fn announced_pictures_of_other_shards_are_read_together() {
        let (mut fetch, reads) = fetch(10);
        fetch.expect(&[1, 25, 11, 22, 2, 12, 25]);
        for batch in [[1, 25], [11, 22], [2, 12]] {
            check(&mut fetch, &batch);
        }
        let all = (0..10).collect();
        let want = [(0, all), (2, vec![2, 5]), (1, vec![2, 1])];
        assert_eq!(*reads.lock().unwrap(), want);
        // A second text of a picture reads nothing.
        check(&mut fetch, &[25, 12]);
        assert_eq!(reads.lock().unwrap().len(), 3);
        // A picture that was not announced is read alone.
        check(&mut fetch, &[17]);
        assert_eq!(reads.lock().unwrap().last(), Some(&(1, vec![7])));
        fetch.expect(&[]);
        assert!(fetch.ahead.is_empty());
    }
}

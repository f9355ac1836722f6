//! The pictures of a training as a rank keeps them: decoded once, within a budget.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use capstan_model::ImagePreprocess;
use capstan_model::preprocess::{self, Rgb};
use capstan_plan::FailureKind;
use rayon::prelude::*;

use crate::TrainError;

/// Why a picture cannot be loaded, or a checkpoint cannot be saved.
#[derive(Debug, thiserror::Error)]
#[error("the store or the decoder failed")]
pub struct SourceError {
    /// How the failure is to be treated.
    pub kind: FailureKind,
    /// What the store or the decoder said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Where pictures come from: a shard cache, a store, or memory.
pub trait PictureSource: Send {
    /// The pictures of these indices, decoded and brought to the model's side: `[side, side, 3]`
    /// bytes each, red first, in the order asked for.
    ///
    /// # Errors
    /// [`SourceError`].
    fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError>;

    /// Announces the pictures that are asked for next, in place of those announced before. A source
    /// may read them together.
    fn expect(&mut self, _pictures: &[usize]) {}

    /// The pictures of these indices, decoded at their own sides, in the order asked for. A source
    /// of square pictures needs none of its own.
    ///
    /// # Errors
    /// [`SourceError`].
    fn whole(&mut self, pictures: &[usize]) -> Result<Vec<Rgb>, SourceError> {
        Ok(self.decoded(pictures)?.into_iter().map(square).collect())
    }
}

fn square(bytes: Vec<u8>) -> Rgb {
    let side = (bytes.len() / 3).isqrt();
    Rgb {
        width: side,
        height: side,
        bytes,
    }
}

/// Where encoded pictures come from, as files or rows hold them.
pub trait PictureFiles: Send {
    /// An encoded picture.
    type Bytes: AsRef<[u8]> + Sync;

    /// The encoded pictures of these indices, in the order asked for.
    ///
    /// # Errors
    /// [`SourceError`].
    fn fetch(&mut self, pictures: &[usize]) -> Result<Vec<Self::Bytes>, SourceError>;

    /// As [`PictureSource::expect`].
    fn expect(&mut self, _pictures: &[usize]) {}
}

/// Encoded pictures that are decoded here.
pub struct Encoded<F> {
    preprocess: ImagePreprocess,
    files: F,
}

impl<F: PictureFiles> Encoded<F> {
    /// - `preprocess`: how pictures are brought to the model's side.
    pub fn new(preprocess: ImagePreprocess, files: F) -> Self {
        Self { preprocess, files }
    }

    fn decode<T: Send>(
        &mut self,
        pictures: &[usize],
        decode: impl Fn(&ImagePreprocess, &[u8]) -> Result<T, preprocess::Error> + Sync,
    ) -> Result<Vec<T>, SourceError> {
        let encoded = self.files.fetch(pictures)?;
        let decoded = encoded.par_iter().map(|bytes| {
            decode(&self.preprocess, bytes.as_ref()).map_err(|error| SourceError {
                kind: FailureKind::PoisonShard,
                source: Box::new(error),
            })
        });
        decoded.collect()
    }
}

impl<F: PictureFiles> PictureSource for Encoded<F> {
    fn expect(&mut self, pictures: &[usize]) {
        self.files.expect(pictures);
    }

    fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
        self.decode(pictures, |preprocess, bytes| {
            Ok(preprocess.decode(bytes)?.rgb)
        })
    }

    fn whole(&mut self, pictures: &[usize]) -> Result<Vec<Rgb>, SourceError> {
        self.decode(pictures, ImagePreprocess::decode_whole)
    }
}

/// Decoded pictures, kept up to a budget; beyond it they are decoded again whenever a batch asks.
///
/// Which ones are kept is decided by who comes first. Every sample comes once in a pass, so no
/// order of eviction would do better than none.
pub struct Pictures {
    source: Box<dyn PictureSource>,
    kept: Vec<Option<Arc<Rgb>>>,
    left_bytes: u64,
    whole: bool,
}

impl Pictures {
    /// - `pictures`: how many there are.
    /// - `budget_bytes`: decoded bytes that may be kept.
    pub fn new(source: Box<dyn PictureSource>, pictures: usize, budget_bytes: u64) -> Self {
        Self {
            source,
            kept: vec![None; pictures],
            left_bytes: budget_bytes,
            whole: false,
        }
    }

    /// Gives pictures at their own sides from here on. Called before the first picture is loaded.
    pub(crate) fn keep_whole(&mut self) {
        self.whole = true;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Announces the pictures that are loaded next, in place of those announced before.
    pub(crate) fn expect(&mut self, pictures: &[usize]) {
        let missing = |picture: &&usize| self.kept[**picture].is_none();
        let missing: Vec<usize> = pictures.iter().filter(missing).copied().collect();
        self.source.expect(&missing);
    }

    /// The pictures of these indices, in the order of `wanted`.
    ///
    /// # Errors
    /// [`TrainError::Picture`].
    pub fn load(&mut self, wanted: &[usize]) -> Result<Vec<Arc<Rgb>>, TrainError> {
        let missing: BTreeSet<usize> = wanted
            .iter()
            .copied()
            .filter(|picture| self.kept[*picture].is_none())
            .collect();
        let missing: Vec<usize> = missing.into_iter().collect();
        let read = self.read(&missing)?;
        let found = wanted.iter().map(|picture| match &self.kept[*picture] {
            Some(kept) => kept.clone(),
            None => read[picture].clone(),
        });
        let found = found.collect();
        for (picture, bytes) in read {
            if let Some(left) = self.left_bytes.checked_sub(bytes.bytes.len() as u64) {
                self.left_bytes = left;
                self.kept[picture] = Some(bytes);
            }
        }
        Ok(found)
    }

    fn read(&mut self, missing: &[usize]) -> Result<BTreeMap<usize, Arc<Rgb>>, TrainError> {
        let Some(first) = missing.first() else {
            return Ok(BTreeMap::new());
        };
        let read = if self.whole {
            self.source.whole(missing)
        } else {
            let decoded = self.source.decoded(missing);
            decoded.map(|pictures| pictures.into_iter().map(square).collect())
        };
        let read = read.map_err(|error| TrainError::Picture {
            picture: *first,
            kind: error.kind,
            source: error.source,
        })?;
        Ok(missing
            .iter()
            .copied()
            .zip(read.into_iter().map(Arc::new))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Counted(Arc<Mutex<Vec<usize>>>);

    impl PictureSource for Counted {
        fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
            self.0.lock().unwrap().extend(pictures);
            Ok(pictures.iter().map(|p| vec![*p as u8; 12]).collect())
        }
    }

    #[test]
    fn pictures_are_decoded_once_within_the_budget() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut pictures = Pictures::new(Box::new(Counted(asked.clone())), 4, 24);
        let wanted = [2, 0, 2, 3];
        for _ in 0..3 {
            let seen = pictures.load(&wanted).unwrap();
            for (picture, wanted) in seen.iter().zip(wanted) {
                assert_eq!((picture.width, picture.height), (2, 2));
                assert_eq!(picture.bytes, vec![wanted as u8; 12]);
            }
        }
        // 0 and 2 fill the budget; 3 is decoded every time.
        assert_eq!(*asked.lock().unwrap(), [0, 2, 3, 3, 3]);
    }
}

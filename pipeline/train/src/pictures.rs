//! The pictures of a training as a rank keeps them: decoded once, within a budget.

use std::collections::BTreeSet;

use capstan_model::ImagePreprocess;
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
}

/// Pictures that are fetched encoded, as files or rows hold them, and decoded here.
pub struct Encoded<F> {
    preprocess: ImagePreprocess,
    fetch: F,
}

impl<F> Encoded<F> {
    /// - `fetch`: gives the encoded pictures of these indices, in the order asked for.
    pub fn new(preprocess: ImagePreprocess, fetch: F) -> Self {
        Self { preprocess, fetch }
    }
}

impl<F, B> PictureSource for Encoded<F>
where
    F: FnMut(&[usize]) -> Result<Vec<B>, SourceError> + Send,
    B: AsRef<[u8]> + Sync,
{
    fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
        let encoded = (self.fetch)(pictures)?;
        let decode = |bytes: &B| {
            self.preprocess
                .decode(bytes.as_ref())
                .map(|picture| picture.rgb)
                .map_err(|error| SourceError {
                    kind: FailureKind::PoisonShard,
                    source: Box::new(error),
                })
        };
        encoded.par_iter().map(decode).collect()
    }
}

/// Decoded pictures, kept up to a budget; beyond it they are decoded again whenever a batch asks.
///
/// Which ones are kept is decided by who comes first. Every sample comes once in a pass, so no
/// order of eviction would do better than none.
pub struct Pictures {
    source: Box<dyn PictureSource>,
    kept: Vec<Option<Box<[u8]>>>,
    left_bytes: u64,
}

impl Pictures {
    /// - `pictures`: how many there are.
    /// - `budget_bytes`: decoded bytes that may be kept.
    pub fn new(source: Box<dyn PictureSource>, pictures: usize, budget_bytes: u64) -> Self {
        Self {
            source,
            kept: vec![None; pictures],
            left_bytes: budget_bytes,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Calls `each` with the place in `wanted` and the bytes of every picture, in some order.
    ///
    /// # Errors
    /// [`TrainError::Picture`].
    pub fn visit(
        &mut self,
        wanted: &[usize],
        mut each: impl FnMut(usize, &[u8]),
    ) -> Result<(), TrainError> {
        let missing: BTreeSet<usize> = wanted
            .iter()
            .copied()
            .filter(|picture| self.kept[*picture].is_none())
            .collect();
        let missing: Vec<usize> = missing.into_iter().collect();
        for (place, picture) in wanted.iter().enumerate() {
            if let Some(bytes) = &self.kept[*picture] {
                each(place, bytes);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let decoded = self
            .source
            .decoded(&missing)
            .map_err(|error| TrainError::Picture {
                picture: missing[0],
                kind: error.kind,
                source: error.source,
            })?;
        for (picture, bytes) in missing.iter().zip(decoded) {
            for (place, _) in wanted.iter().enumerate().filter(|(_, w)| *w == picture) {
                each(place, &bytes);
            }
            if let Some(left) = self.left_bytes.checked_sub(bytes.len() as u64) {
                self.left_bytes = left;
                self.kept[*picture] = Some(bytes.into_boxed_slice());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

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
            let mut seen = vec![None; 4];
            pictures
                .visit(&wanted, |place, bytes| seen[place] = Some(bytes.to_vec()))
                .unwrap();
            let want: Vec<_> = wanted.iter().map(|p| Some(vec![*p as u8; 12])).collect();
            assert_eq!(seen, want);
        }
        // 0 and 2 fill the budget; 3 is decoded every time.
        assert_eq!(*asked.lock().unwrap(), [0, 2, 3, 3, 3]);
    }
}

//! From the index of a dataset to what a training takes.

use std::collections::HashMap;

use capstan_dataset::index;
use capstan_model::Tokenizer;
use capstan_plan::id::TextId;

/// One kept (picture, text), ready to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The text.
    pub text_id: TextId,
    /// Ordinal of the shard that holds the picture.
    pub shard: u32,
    /// Index of the picture in [`crate::Pictures`].
    pub picture: usize,
    /// Token ids with the special ones, unpadded.
    pub tokens: Vec<u32>,
}

/// Where the picture of an index lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PictureRow {
    /// Index into the parts of the index.
    pub shard: u32,
    /// Row of the base file.
    pub row: u32,
}

/// Tokenised samples in the order of `samples`, and the row of every picture that they name; texts
/// of one picture share it.
///
/// - `prompt`: what every text begins with.
/// - `max_tokens`: of a text, special ones included; longer texts are cut.
pub fn tokenised(
    samples: &[index::Sample],
    tokenizer: &Tokenizer,
    prompt: &str,
    max_tokens: usize,
) -> (Vec<Sample>, Vec<PictureRow>) {
    let (mut rows, mut places) = (Vec::new(), HashMap::new());
    let tokenised = samples.iter().map(|sample| {
        let row = PictureRow {
            shard: sample.shard,
            row: sample.row,
        };
        let picture = *places.entry(row).or_insert_with(|| {
            rows.push(row);
            rows.len() - 1
        });
        Sample {
            text_id: sample.text_id,
            shard: sample.shard,
            picture,
            tokens: tokenizer.encode(&format!("{prompt}{}", sample.text), max_tokens),
        }
    });
    (tokenised.collect(), rows)
}

//! Verdicts on texts.

use std::collections::HashMap;
use std::path::Path;

use capstan_dataset::view::ViewRow;
use capstan_model::{ComputePool, DeviceSpec, Embed, Match, MedParts, Memory, Tensor};
use capstan_plan::id::ModelDigest;
use capstan_plan::row::{Verdict, Verdicts};
use capstan_plan::stage;

use crate::error::Error;
use crate::model::Loaded;

/// Texts that go through the network together, at most.
const TEXTS_AT_A_TIME: usize = 128;

/// Judges whether texts match their pictures: a MED fine-tuned by contrast and matching.
#[derive(Debug)]
pub struct Filter {
    model: Loaded,
}

/// A text of a batch, as token ids, with the picture that it belongs to.
struct Job {
    picture: usize,
    ids: Vec<u32>,
}

/// Cosine similarity and probability of a match.
#[derive(Clone, Copy)]
struct Score {
    itc: f32,
    itm: f32,
}

impl Filter {
    /// Loads a filter from the folder of a BlipForImageTextRetrieval or of a pre-trained MED, with
    /// vocabulary and picture preparation beside the weights.
    ///
    /// - `digest`: recorded in every row as the filter.
    /// - `pool`: the threads that read the weights.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Device`].
    pub fn load(
        folder: &Path,
        digest: ModelDigest,
        device: DeviceSpec,
        pool: &ComputePool,
    ) -> Result<Self, Error> {
        let model = Loaded::load(folder, MedParts::Filter, digest, device, pool)?;
        Ok(Self { model })
    }

    /// Judges every web text that curation keeps and every synthetic text. Returns one row per
    /// input row, in order. Human texts and dropped pictures get no verdict.
    ///
    /// A picture is encoded once, and equal texts of one picture are scored once. A text is kept
    /// if its probability of a match is at least the threshold.
    ///
    /// - `pool`: all numeric work runs on its threads.
    /// - `rows`: the rows of one shard, with their pictures.
    /// - `progress`: called with the number of pictures done; `false` stops the work.
    ///
    /// # Errors
    /// [`Error::Picture`] and [`Error::Score`] name the pair; [`Error::Cancelled`].
    pub fn judge_shard(
        &self,
        pool: &ComputePool,
        config: &stage::Filter,
        rows: &[ViewRow],
        progress: &dyn Fn(u64) -> bool,
    ) -> Result<Vec<Verdicts>, Error> {
        let judged: Vec<&ViewRow> = rows
            .iter()
            .filter(|row| row.judged_texts().next().is_some())
            .collect();
        let verdicts = self
            .model
            .each_batch(pool, &judged, config.batch, progress, |batch| {
                self.judge(batch, config)
            })?;
        let mut verdicts: HashMap<u32, Vec<Verdict>> =
            judged.iter().map(|row| row.row).zip(verdicts).collect();
        let verdicts_of = |row: &ViewRow| Verdicts {
            pair_id: row.pair.pair_id,
            verdicts: verdicts.remove(&row.row).unwrap_or_default(),
            model: self.model.digest,
        };
        Ok(rows.iter().map(verdicts_of).collect())
    }

    /// Judges one batch of pictures.
    fn judge(&self, rows: &[&ViewRow], config: &stage::Filter) -> Result<Vec<Vec<Verdict>>, Error> {
        let threshold = config.threshold;
        let longest = config.text_tokens.unwrap_or(usize::MAX);
        let mut jobs = Vec::new();
        let mut places: HashMap<(usize, &str), usize> = HashMap::new();
        for (picture, row) in rows.iter().enumerate() {
            for text in row.judged_texts() {
                places.entry((picture, &text.text)).or_insert_with(|| {
                    let ids = self.model.model.tokens_within(&text.text, longest);
                    jobs.push(Job { picture, ids });
                    jobs.len() - 1
                });
            }
        }
        let scores = self.score(rows, &jobs)?;
        let verdicts = rows.iter().enumerate().map(|(picture, row)| {
            let verdict = |text: &capstan_plan::row::Text| {
                let Score { itc, itm } = scores[places[&(picture, text.text.as_str())]];
                if !itc.is_finite() || !itm.is_finite() {
                    return Err(Error::Score {
                        pair: row.pair.pair_id,
                    });
                }
                let kept = itm >= threshold;
                let relation = if kept { ">=" } else { "<" };
                let reason = format!("itm{relation}{threshold}");
                Ok(Verdict {
                    text_id: text.text_id,
                    itc,
                    itm,
                    kept,
                    reason,
                })
            };
            row.judged_texts().map(verdict).collect()
        });
        verdicts.collect()
    }

    /// Scores every job; the scores are in the order of the jobs. Texts of similar length are
    /// batched together, which reduces padding.
    fn score(&self, rows: &[&ViewRow], jobs: &[Job]) -> Result<Vec<Score>, Error> {
        let (space, head) = self.heads();
        let images = self.model.encode(rows)?;
        let (features, memory) = (numbers(space.image_features(&images)), head.memory(&images));
        let width = features.len() / rows.len();
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_by_key(|&job| jobs[job].ids.len());
        let mut scores = vec![
            Score {
                itc: f32::NAN,
                itm: f32::NAN
            };
            jobs.len()
        ];
        for chunk in order.chunks(TEXTS_AT_A_TIME) {
            let chunk_jobs: Vec<&Job> = chunk.iter().map(|&job| &jobs[job]).collect();
            let (texts, itm) = self.compare(&memory, &chunk_jobs);
            for (place, &job) in chunk.iter().enumerate() {
                let text = &texts[place * width..][..width];
                let image = &features[jobs[job].picture * width..][..width];
                let itc = text.iter().zip(image).map(|(a, b)| a * b).sum();
                scores[job] = Score {
                    itc,
                    itm: itm[place],
                };
            }
        }
        Ok(scores)
    }

    fn heads(&self) -> (&dyn Embed, &dyn Match) {
        let network = &self.model.model.network;
        let heads = network.embed().zip(network.matching());
        heads.expect("a filter is loaded with its heads")
    }

    /// Text features `[jobs, common]` and probabilities of a match `[jobs]`.
    fn compare(&self, memory: &Memory, jobs: &[&Job]) -> (Vec<f32>, Vec<f32>) {
        let (space, head) = self.heads();
        let ids: Vec<&[u32]> = jobs.iter().map(|job| &job.ids[..]).collect();
        let texts = self.model.model.batch(&ids);
        let pictures: Vec<usize> = jobs.iter().map(|job| job.picture).collect();
        let logits = numbers(head.match_logits(memory, &texts, &pictures));
        // Softmax over two classes, class 1 a match.
        let matches = logits
            .chunks_exact(2)
            .map(|two| 1.0 / (1.0 + (two[0] - two[1]).exp()));
        (numbers(space.text_features(&texts)), matches.collect())
    }
}

/// The values of a tensor, row by row.
fn numbers(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data();
    data.as_slice::<f32>()
        .expect("networks compute in f32")
        .to_vec()
}

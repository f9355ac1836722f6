//! What a rank needs of the global batch before its backward pass.

use capstan_collective::RingError;
use capstan_model::Network;
use capstan_plan::stage::Objective;

use super::contrast::{Contrast, Gathered, contrast};
use super::exchange::Share;
use super::negatives::Negatives;
use super::positives::Positives;
use super::{Losses, Objectives, Slice};
use crate::link::Link;
use crate::momentum::{Classes, ContrastInputs, Newest, Teacher};
use crate::network::ScaleParameter;

/// What every chunk of a rank's samples needs of the global batch.
pub(super) struct Global {
    pub(super) samples: Share,
    /// Gradients of the contrast with respect to this rank's features, `[samples, width]`.
    pub(super) asked: Option<[Vec<f32>; 2]>,
    pub(super) negatives: Option<Negatives>,
    /// Tokens that LM predicts.
    pub(super) predicted: usize,
    /// Gradient of the scale's parameter, which no tensor carries.
    pub(super) scale: f64,
    /// What the teacher's queue takes once the step is applied.
    pub(super) newest: Option<Newest>,
}

impl Objectives {
    /// Meets the other ranks: what follows for this rank's samples.
    ///
    /// - `own`: this rank's samples with their features.
    pub(super) fn global(
        &self,
        network: &dyn Network,
        scale: Option<ScaleParameter>,
        (slice, own): (&Slice, &Share),
        losses: &mut Losses,
        link: &mut Link<'_>,
    ) -> Result<Global, RingError> {
        let samples = own.gather(link)?;
        let first = self.first_predicted();
        let of_row = |row: &Vec<u32>| row.len().saturating_sub(first);
        let mut global = Global {
            asked: None,
            negatives: None,
            predicted: samples.tokens.iter().map(of_row).sum(),
            scale: 0.0,
            newest: None,
            samples,
        };
        if !self.contrasts() {
            return Ok(global);
        }
        let scale = scale.expect("a contrast has a scale");
        match &self.teacher {
            None => self.contrast_batch(&mut global, scale, slice, losses, link)?,
            Some(teacher) => {
                self.contrast_entries(&mut global, scale, slice, losses, (teacher, network));
            }
        }
        Ok(global)
    }

    /// Contrasts the samples of the global batch with one another.
    fn contrast_batch(
        &self,
        global: &mut Global,
        scale: ScaleParameter,
        slice: &Slice,
        losses: &mut Losses,
        link: &mut Link<'_>,
    ) -> Result<(), RingError> {
        let samples = &global.samples;
        let positives = Positives::new(self.positives, &samples.pictures, &samples.tokens);
        let (batch, width) = (positives.samples(), samples.width());
        let gathered = Gathered {
            images: &samples.images,
            texts: &samples.texts,
            width,
            scale: scale.rule.factor(scale.value),
        };
        let logits = gathered.logits();
        if self.has(Objective::Itc) {
            let rows = contrast(&gathered, &logits, &positives, slice.range.clone());
            losses.insert("itc", rows.loss);
            global.scale = rows.scale * scale.rule.slope(scale.value);
            global.asked = Some(asked(rows, slice, width, link)?);
        }
        if self.has(Objective::Itm) {
            let logits: [&dyn Fn(usize, usize) -> f32; 2] = [
                &|image, text| logits[image * batch + text],
                &|text, image| logits[image * batch + text],
            ];
            let drawn = Negatives::draw(&self.negatives, slice.step, logits, &positives);
            global.negatives = Some(drawn);
        }
        Ok(())
    }

    /// Contrasts this rank's samples with the momentum features of the global batch and of the queue.
    /// Entries have no gradient, so nothing returns to other ranks. As in the release, negatives of
    /// ITM are drawn by the similarities with the momentum features of the batch.
    fn contrast_entries(
        &self,
        global: &mut Global,
        scale: ScaleParameter,
        slice: &Slice,
        losses: &mut Losses,
        (teacher, network): (&Teacher, &dyn Network),
    ) {
        let [images, texts] = std::mem::take(&mut global.samples.copies);
        let samples = &global.samples;
        let classes = samples.pictures.iter().zip(&samples.tokens);
        let newest = Newest {
            images,
            texts,
            classes: classes
                .map(|(picture, tokens)| Classes::new(*picture, tokens))
                .collect(),
        };
        let positives = Positives::new(self.positives, &samples.pictures, &samples.tokens);
        let batch = positives.samples();
        if self.has(Objective::Itc) {
            let own = slice.range.clone();
            let queued = teacher.queue().classes();
            let positive = |sample: usize, entry: usize| match entry.checked_sub(batch) {
                None => positives.are(own.start + sample, entry),
                Some(entry) => {
                    let sample = &newest.classes[own.start + sample];
                    queued[entry].is_some_and(|entry| positives.join(sample, &entry))
                }
            };
            let inputs = ContrastInputs {
                step: slice.step,
                own: own.clone(),
                images: &samples.images,
                texts: &samples.texts,
                newest: &newest,
                positive: &positive,
                factor: scale.rule.factor(scale.value),
            };
            let gradient = teacher.contrast(&inputs, network.device());
            losses.insert("itc", gradient.loss);
            global.scale = gradient.factor * scale.rule.slope(scale.value);
            global.asked = Some(gradient.own);
        }
        if self.has(Objective::Itm) {
            let logits = |rows, columns| {
                let gathered = Gathered {
                    images: rows,
                    texts: columns,
                    width: samples.width(),
                    scale: scale.rule.factor(scale.value),
                };
                gathered.logits()
            };
            let of_images = logits(&samples.images, &newest.texts);
            let of_texts = logits(&samples.texts, &newest.images);
            let logits: [&dyn Fn(usize, usize) -> f32; 2] = [
                &|image, text| of_images[image * batch + text],
                &|text, image| of_texts[text * batch + image],
            ];
            let drawn = Negatives::draw(&self.negatives, slice.step, logits, &positives);
            global.negatives = Some(drawn);
        }
        global.newest = Some(newest);
    }
}

/// What all ranks ask of this rank's features of pictures and of texts.
fn asked(
    rows: Contrast,
    slice: &Slice,
    width: usize,
    link: &mut Link<'_>,
) -> Result<[Vec<f32>; 2], RingError> {
    let mut all = rows.images;
    let half = all.len();
    all.extend(rows.texts);
    link.all_reduce_sum(&mut all)?;
    let own = slice.range.start * width..slice.range.end * width;
    let (images, texts) = all.split_at(half);
    Ok([images, texts].map(|asked| asked[own.clone()].to_vec()))
}

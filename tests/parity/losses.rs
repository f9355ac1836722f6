//! Losses without a network: CLIP's, the contrast with soft labels, language modelling.

use super::array::Array;
use super::case::Case;
use super::{Outputs, Setup};
use burn::tensor::{Tensor, TensorData};
use capstan_model::network::cross_entropy_sum;
use capstan_plan::stage;
use capstan_train::momentum::soft_cross_entropy_sum;
use capstan_train::objective::contrast::{Gathered, contrast};
use capstan_train::objective::positives::Positives;

/// The label of a token that is not predicted.
const IGNORED: i64 = -100;

pub fn compute(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let mut outputs = clip(case)?;
    outputs.push(("itc_soft.loss".into(), soft(case, setup)?));
    outputs.extend(language(case, setup)?);
    Ok(outputs)
}

fn clip(case: &Case) -> Result<Outputs, String> {
    let (image, text) = (case.input("image")?, case.input("text")?);
    let scale = case.input("logit_scale_log")?.floats()[0].exp();
    let (images, texts) = (image.floats(), text.floats());
    let gathered = Gathered {
        images: &images,
        texts: &texts,
        width: image.shape[1],
        scale,
    };
    let batch = gathered.batch();
    let positives = Positives::new(stage::Positives::Pair, &[], &vec![Vec::new(); batch]);
    let found = contrast(&gathered, &gathered.logits(), &positives, 0..batch);
    Ok(vec![
        ("clip.loss".into(), Array::double(&[], vec![found.loss])),
        (
            "clip.grad_image".into(),
            Array::float(&image.shape, found.images),
        ),
        (
            "clip.grad_text".into(),
            Array::float(&text.shape, found.texts),
        ),
        // With respect to the logarithm of the scale.
        (
            "clip.grad_logit_scale".into(),
            Array::double(&[], vec![found.scale * f64::from(scale)]),
        ),
    ])
}

/// A matrix of an input.
fn matrix(array: &Array, setup: &Setup) -> Tensor<2> {
    let columns = array.shape[array.shape.len() - 1];
    let values = array.floats();
    let rows = values.len() / columns;
    Tensor::from_data(TensorData::new(values, [rows, columns]), setup.device())
}

fn soft(case: &Case, setup: &Setup) -> Result<Array, String> {
    let (logits, targets) = (case.input("itc_sim")?, case.input("itc_targets")?);
    let sum = soft_cross_entropy_sum(matrix(logits, setup), matrix(targets, setup));
    Ok(Array::tensor(&[], sum / logits.shape[0] as f64))
}

/// `mean` over all predicted tokens, `none_sum` per text, each with and without label smoothing.
fn language(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let (logits, labels) = (case.input("lm_logits")?, case.input("lm_labels")?);
    let len = labels.shape[1];
    let all = matrix(logits, setup);
    let texts: Vec<(Vec<i64>, Vec<u32>)> = labels
        .ints()
        .chunks_exact(len)
        .enumerate()
        .map(|(row, labels)| {
            // The logits at a position predict the label of the next one.
            let predicted = (1..len).filter(|position| labels[*position] != IGNORED);
            predicted
                .map(|position| ((row * len + position - 1) as i64, labels[position] as u32))
                .unzip()
        })
        .collect();
    let sum = |(positions, classes): &(Vec<i64>, Vec<u32>), smoothing| -> f64 {
        let at = TensorData::new(positions.clone(), [positions.len()]);
        let rows = all.clone().select(0, Tensor::from_data(at, setup.device()));
        let loss = cross_entropy_sum(rows, classes, smoothing);
        f64::from(loss.into_scalar::<f32>())
    };
    let tokens: usize = texts.iter().map(|(_, classes)| classes.len()).sum();
    let mut outputs = Outputs::new();
    for (name, smoothing) in [("0.0", 0.0), ("0.1", 0.1)] {
        let sums: Vec<f64> = texts.iter().map(|text| sum(text, smoothing)).collect();
        let mean = sums.iter().sum::<f64>() / tokens as f64;
        outputs.push((format!("lm.mean_ls{name}"), Array::double(&[], vec![mean])));
        let each = Array::double(&[sums.len()], sums);
        outputs.push((format!("lm.none_sum_ls{name}"), each));
    }
    Ok(outputs)
}

//! open_clip's CLIP with a VisionTransformer, and its zero-shot classifier.

use super::array::Array;
use super::case::Case;
use super::clip::pictures;
use super::{Outputs, Setup};
use burn::tensor::{Device, Tensor};
use capstan_evaluate::zero_shot;
use capstan_model::names::open_clip;
use capstan_model::network::cross_entropy_sum;
use capstan_model::{Clip, Embed, Model, Network, TokenBatch, names};

/// The network of a case, on `device`.
pub fn load(case: &Case, setup: &Setup, device: &Device) -> Result<Clip, String> {
    let config = open_clip::config(&case.config()?).map_err(|error| error.to_string())?;
    let mut clip = Clip::new(config, device);
    let flat = names::flat(&clip.layout(), &case.weights()?, &open_clip::place, &|_| {
        false
    });
    clip.load_flat(&flat.map_err(|error| error.to_string())?);
    Ok(setup.stored(clip))
}

/// Rows of ids as they are: open_clip attends to padding and pools at the largest id.
pub fn texts(ids: &Array) -> TokenBatch {
    let len = ids.shape[ids.shape.len() - 1];
    let all: Vec<u32> = ids.ints().iter().map(|id| *id as u32).collect();
    let rows = all.len() / len;
    TokenBatch::from_padded(all, len, vec![len as u32; rows])
}

pub fn compute(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let clip = load(case, setup, setup.device())?;
    let pixels = pictures(case.input("image")?, setup.device());
    let texts = texts(case.input("text")?);
    let (rows, batch) = (texts.rows(), pixels.dims()[0]);
    let common = clip.config().projection_dim;
    let image = clip.image_features(&clip.encode(pixels.clone()));
    let text = clip.text_features(&texts);
    let logits = image.matmul(text.transpose()) * clip.logit_scale().unsqueeze();
    let classes: Vec<u32> = (0..rows as u32).collect();
    let half = |logits: Tensor<2>| cross_entropy_sum(logits, &classes, 0.0) / rows as f64;
    let loss = (half(logits.clone()) + half(logits.clone().transpose())) / 2.0;
    Ok(vec![
        (
            "image_features".into(),
            Array::tensor(&[batch, common], clip.encode_image(pixels)),
        ),
        (
            "text_features".into(),
            Array::tensor(&[rows, common], clip.encode_text(&texts)),
        ),
        (
            "logits_per_image".into(),
            Array::tensor(&[batch, rows], logits),
        ),
        (
            "logit_scale_exp".into(),
            Array::tensor(&[], clip.logit_scale()),
        ),
        ("loss".into(), Array::tensor(&[], loss)),
    ])
}

/// Factor of the cosines of the classifier.
const SCALE: f64 = 100.0;

pub fn zero_shot(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let clip = load(case, setup, setup.device())?;
    let common = clip.config().projection_dim;
    let text = case.input("text")?;
    let (classes, templates) = (text.shape[0], text.shape[1]);
    let prompts: Vec<f32> = floats(clip.encode_text(&texts(text)));
    let of_class = |class: &[f32]| {
        let prompts: Vec<Vec<f32>> = class.chunks_exact(common).map(<[f32]>::to_vec).collect();
        zero_shot::ensemble(&prompts)
    };
    let classifier: Vec<Vec<f32>> = prompts
        .chunks_exact(templates * common)
        .map(of_class)
        .collect();
    let images =
        floats(clip.image_features(&clip.encode(pictures(case.input("image")?, setup.device()))));
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        SCALE * products.sum::<f64>()
    };
    let logits: Vec<Vec<f64>> = images
        .chunks_exact(common)
        .map(|image| classifier.iter().map(|class| dot(image, class)).collect())
        .collect();
    let top: Vec<Vec<i64>> = logits.iter().map(|row| likeliest(row, 3)).collect();
    let target = case.input("target")?.ints();
    let share = |k: usize| {
        let right = top
            .iter()
            .zip(target)
            .filter(|(top, t)| top[..k].contains(t));
        vec![right.count() as f64 / target.len() as f64]
    };
    let probabilities = logits.iter().flat_map(|row| softmax(row)).collect();
    // Classes are columns.
    let columns = (0..common).flat_map(|row| classifier.iter().map(move |class| class[row]));
    let pictures = logits.len();
    Ok(vec![
        (
            "classifier".into(),
            Array::float(&[common, classes], columns.collect()),
        ),
        (
            "logits".into(),
            Array::double(&[pictures, classes], logits.concat()),
        ),
        (
            "probs".into(),
            Array::double(&[pictures, classes], probabilities),
        ),
        ("top3".into(), Array::int(&[pictures, 3], top.concat())),
        ("acc1".into(), Array::double(&[], share(1))),
        ("acc3".into(), Array::double(&[], share(3))),
    ])
}

fn floats(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32 features")
}

fn likeliest(scores: &[f64], count: usize) -> Vec<i64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.into_iter().take(count).map(|at| at as i64).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = exps.iter().sum();
    exps.iter().map(|exp| exp / total).collect()
}

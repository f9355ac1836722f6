//! `CLIPModel`.

use super::array::Array;
use super::case::Case;
use super::{Outputs, Setup};
use burn::tensor::{Tensor, TensorData};
use capstan_model::network::cross_entropy_sum;
use capstan_model::positions::{self, Resample};
use capstan_model::{Clip, Embed, Model, Network, TokenBatch};

/// The pictures of an input as a tensor.
pub fn pictures(array: &Array, device: &burn::tensor::Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(array.floats(), array.shape.clone()), device)
}

pub fn compute(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let device = setup.device();
    let clip = Clip::load(&case.path, &setup.load()).map_err(|error| error.to_string())?;
    let clip = setup.stored(clip);
    let pixels = pictures(case.input("pixel_values")?, device);
    let ids = case.input("input_ids")?;
    let texts = TokenBatch::new(&ids.ids(), 0);
    let (rows, batch) = (texts.rows(), pixels.dims()[0]);
    let text_width = clip.config().text_config.hidden_size;
    let vision = &clip.config().vision_config;
    let [_, _, height, width] = pixels.dims();
    let grid = [height, width].map(|side| side / vision.patch_size);
    let common = clip.config().projection_dim;

    let image = clip.image_features(&clip.encode(pixels.clone()));
    let text = clip.text_features(&texts);
    let logits = image.clone().matmul(text.clone().transpose()) * clip.logit_scale().unsqueeze();
    let classes: Vec<u32> = (0..rows as u32).collect();
    let half = |logits: Tensor<2>| cross_entropy_sum(logits, &classes, 0.0) / rows as f64;
    let loss = (half(logits.clone()) + half(logits.clone().transpose())) / 2.0;
    let mut outputs = interpolated(case, &clip, grid)?;
    outputs.extend([
        (
            "image_embeds".into(),
            Array::tensor(&[batch, common], image),
        ),
        ("text_embeds".into(), Array::tensor(&[rows, common], text)),
        (
            "logits_per_image".into(),
            Array::tensor(&[batch, rows], logits.clone()),
        ),
        (
            "logits_per_text".into(),
            Array::tensor(&[rows, batch], logits.transpose()),
        ),
        ("loss".into(), Array::tensor(&[], loss)),
        ("text_last_hidden_state".into(), {
            Array::tensor(
                &[rows, texts.padded_len(), text_width],
                clip.text_hidden(&texts),
            )
        }),
        (
            "text_pooler_output".into(),
            Array::tensor(&[rows, common], clip.encode_text(&texts)),
        ),
        ("vision_last_hidden_state".into(), {
            let hidden = clip.image_hidden(pixels.clone());
            Array::tensor(&[batch, grid[0] * grid[1] + 1, vision.hidden_size], hidden)
        }),
        (
            "vision_pooler_output".into(),
            Array::tensor(&[batch, common], clip.encode_image(pixels)),
        ),
    ]);
    Ok(outputs)
}

/// Position tables of other grids, which outputs such as `interpolated_7x7` ask for.
fn interpolated(case: &Case, clip: &Clip, grid: [usize; 2]) -> Result<Outputs, String> {
    let vision = &clip.config().vision_config;
    let width = vision.hidden_size;
    let side = vision.image_size / vision.patch_size;
    let name = "vision_model.embeddings.position_embedding.weight";
    let params = clip.params();
    let positions = params.iter().find(|param| param.parts()[0].name == name);
    // A stored type may be narrow.
    let table = positions.ok_or("the network has no positions")?.floats();
    let asked = case.expected.keys().filter_map(|output| {
        let of = output.strip_prefix("interpolated_")?;
        let numbers = of.split('_').next()?.split_once('x');
        let to = match numbers {
            Some((down, across)) => [down.parse().ok()?, across.parse().ok()?],
            None => grid,
        };
        let table = positions::resize(&table, width, 1, [side, side], to, Resample::Plain);
        let shape = [table.len() / width, width];
        Some((output.clone(), Array::float(&shape, table)))
    });
    Ok(asked.collect())
}

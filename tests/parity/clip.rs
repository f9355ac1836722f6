//! `CLIPModel`.

use crate::Outputs;
use crate::array::Array;
use crate::case::Case;
use burn::tensor::{Tensor, TensorData};
use capstan_model::network::cross_entropy_sum;
use capstan_model::{Clip, DeviceSpec, Embed, Load, Network, TokenBatch};

/// The pictures of an input as a tensor.
pub fn pictures(array: &Array, device: &burn::tensor::Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(array.floats(), array.shape.clone()), device)
}

pub fn compute(case: &Case) -> Result<Outputs, String> {
    let device = DeviceSpec::Cpu.open().map_err(|error| error.to_string())?;
    let clip = Clip::load(&case.path, &Load::on(&device)).map_err(|error| error.to_string())?;
    let pixels = pictures(case.input("pixel_values")?, &device);
    let ids = case.input("input_ids")?;
    let texts = TokenBatch::new(&ids.ids(), 0);
    let (rows, batch) = (texts.rows(), pixels.dims()[0]);
    let text_width = clip.config().text_config.hidden_size;
    let vision = &clip.config().vision_config;
    let common = clip.config().projection_dim;

    let image = clip.image_features(&clip.encode(pixels.clone()));
    let text = clip.text_features(&texts);
    let logits = image.clone().matmul(text.clone().transpose()) * clip.logit_scale().unsqueeze();
    let classes: Vec<u32> = (0..rows as u32).collect();
    let half = |logits: Tensor<2>| cross_entropy_sum(logits, &classes) / rows as f64;
    let loss = (half(logits.clone()) + half(logits.clone().transpose())) / 2.0;
    Ok(vec![
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
            Array::tensor(&[batch, vision.tokens(), vision.hidden_size], hidden)
        }),
        (
            "vision_pooler_output".into(),
            Array::tensor(&[batch, common], clip.encode_image(pixels)),
        ),
    ])
}

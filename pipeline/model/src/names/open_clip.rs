//! open_clip, and OpenAI's first release of CLIP: one matrix for query, key and value, projections
//! that are applied from the right.

use serde::Deserialize;
use serde_json::Map;

use super::{Error, Stored, View};
use crate::config::{Activation, ClipConfig, ClipTextConfig, VisionConfig};

/// `model_cfg` of `open_clip_config.json`, or a file of open_clip's `model_configs`.
#[derive(Debug, Deserialize)]
struct Config {
    embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    vision_cfg: Vision,
    text_cfg: Text,
}

#[derive(Debug, Deserialize)]
struct Vision {
    image_size: usize,
    /// A number; a ResNet has a list.
    layers: serde_json::Value,
    width: usize,
    #[serde(default = "default_head_width")]
    head_width: usize,
    #[serde(default)]
    patch_size: Option<usize>,
    #[serde(default = "default_mlp_ratio")]
    mlp_ratio: f64,
}

#[derive(Debug, Deserialize)]
struct Text {
    #[serde(default = "default_context")]
    context_length: usize,
    #[serde(default = "default_vocabulary")]
    vocab_size: usize,
    #[serde(default = "default_text_width")]
    width: usize,
    #[serde(default = "default_heads")]
    heads: usize,
    #[serde(default = "default_layers")]
    layers: usize,
    #[serde(default = "default_mlp_ratio")]
    mlp_ratio: f64,
}

/// The configuration of the same network in our terms.
///
/// # Errors
/// [`Error::Config`]: not open_clip's keys, or a vision tower other than its VisionTransformer.
pub fn config(json: &serde_json::Value) -> Result<ClipConfig, Error> {
    let config = json.get("model_cfg").unwrap_or(json);
    let config = Config::deserialize(config).map_err(|error| Error::Config(error.to_string()))?;
    let activation = match config.quick_gelu {
        true => Activation::QuickGelu,
        false => Activation::Gelu,
    };
    let vision = vision(&config.vision_cfg, activation)?;
    let text = text(&config.text_cfg, activation)?;
    Ok(ClipConfig {
        architectures: vec!["CLIPModel".to_owned()],
        model_type: "clip".to_owned(),
        projection_dim: config.embed_dim,
        logit_scale_init_value: (1.0f64 / 0.07).ln(),
        text_config: text,
        vision_config: vision,
        other: Map::new(),
    })
}

fn vision(config: &Vision, activation: Activation) -> Result<VisionConfig, Error> {
    let unsupported = |what: String| Err(Error::Config(what));
    let (Some(layers), Some(patch_size)) = (config.layers.as_u64(), config.patch_size) else {
        return unsupported("the vision tower is not a VisionTransformer".to_owned());
    };
    if config.head_width == 0 || !config.width.is_multiple_of(config.head_width) {
        let (width, head) = (config.width, config.head_width);
        return unsupported(format!("width {width} is no multiple of head_width {head}"));
    }
    Ok(VisionConfig {
        intermediate_size: (config.width as f64 * config.mlp_ratio) as usize,
        hidden_act: activation,
        ..VisionConfig::new(
            config.width,
            config.width / config.head_width,
            layers as usize,
            config.image_size,
            patch_size,
        )
    })
}

fn text(config: &Text, activation: Activation) -> Result<ClipTextConfig, Error> {
    if config.heads == 0 || !config.width.is_multiple_of(config.heads) {
        let (width, heads) = (config.width, config.heads);
        return Err(Error::Config(format!(
            "text width {width} is no multiple of {heads} heads"
        )));
    }
    Ok(ClipTextConfig {
        vocab_size: config.vocab_size,
        hidden_size: config.width,
        intermediate_size: (config.width as f64 * config.mlp_ratio) as usize,
        num_attention_heads: config.heads,
        num_hidden_layers: config.layers,
        max_position_embeddings: config.context_length,
        hidden_act: activation,
        layer_norm_eps: 1e-5,
        bos_token_id: config.vocab_size.saturating_sub(2) as u32,
        // open_clip pools at the largest id, which 2 stands for.
        eos_token_id: 2,
        pad_token_id: 0,
        other: Map::new(),
    })
}

/// Where open_clip stores a tensor of [`crate::Clip`].
pub fn place(name: &str) -> Option<Stored> {
    let (tower, rest) = match name.split_once('.') {
        Some(("vision_model", rest)) => ("visual.", rest),
        Some(("text_model", rest)) => ("", rest),
        _ => return of_both(name),
    };
    let whole = |name: &str| (name.to_owned(), View::Whole);
    let (stored, view) = match rest {
        "embeddings.class_embedding" => whole("class_embedding"),
        "embeddings.patch_embedding.weight" => whole("conv1.weight"),
        "embeddings.position_embedding.weight" => whole("positional_embedding"),
        "embeddings.token_embedding.weight" => whole("token_embedding.weight"),
        _ => {
            let (module, end) = rest.rsplit_once('.')?;
            match module {
                "pre_layrnorm" => whole(&format!("ln_pre.{end}")),
                "post_layernorm" => whole(&format!("ln_post.{end}")),
                "final_layer_norm" => whole(&format!("ln_final.{end}")),
                _ => of_layer(module.strip_prefix("encoder.layers.")?, end)?,
            }
        }
    };
    Some(Stored {
        name: format!("{tower}{stored}"),
        view,
    })
}

fn of_both(name: &str) -> Option<Stored> {
    let (name, view) = match name {
        "logit_scale" => ("logit_scale", View::Whole),
        "visual_projection.weight" => ("visual.proj", View::Transposed),
        "text_projection.weight" => ("text_projection", View::Transposed),
        _ => return None,
    };
    Some(Stored {
        name: name.to_owned(),
        view,
    })
}

/// - `module`: such as `3.self_attn.q_proj`.
/// - `end`: `weight` or `bias`.
fn of_layer(module: &str, end: &str) -> Option<(String, View)> {
    let (layer, module) = module.split_once('.')?;
    let (stored, view) = match module {
        "layer_norm1" => (format!("ln_1.{end}"), View::Whole),
        "layer_norm2" => (format!("ln_2.{end}"), View::Whole),
        "self_attn.q_proj" => (format!("attn.in_proj_{end}"), View::Third(0)),
        "self_attn.k_proj" => (format!("attn.in_proj_{end}"), View::Third(1)),
        "self_attn.v_proj" => (format!("attn.in_proj_{end}"), View::Third(2)),
        "self_attn.out_proj" => (format!("attn.out_proj.{end}"), View::Whole),
        "mlp.fc1" => (format!("mlp.c_fc.{end}"), View::Whole),
        "mlp.fc2" => (format!("mlp.c_proj.{end}"), View::Whole),
        _ => return None,
    };
    Some((format!("transformer.resblocks.{layer}.{stored}"), view))
}

fn default_head_width() -> usize {
    64
}

fn default_mlp_ratio() -> f64 {
    4.0
}

fn default_context() -> usize {
    77
}

fn default_vocabulary() -> usize {
    49408
}

fn default_text_width() -> usize {
    512
}

fn default_heads() -> usize {
    8
}

fn default_layers() -> usize {
    12
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clip, DeviceSpec, Model};

    fn small() -> serde_json::Value {
        serde_json::json!({
            "embed_dim": 16, "quick_gelu": true,
            "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8},
            "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 24, "heads": 3, "layers": 2}
        })
    }

    #[test]
    fn every_tensor_of_a_clip_has_a_place_of_its_own() {
        let config = config(&small()).unwrap();
        assert_eq!(config.vision_config.num_attention_heads, 4);
        assert_eq!(config.text_config.intermediate_size, 96);
        let clip = Clip::new(config, &DeviceSpec::Cpu.open().unwrap());
        let mut places: Vec<String> = clip
            .layout()
            .iter()
            .map(|slice| {
                let stored = place(&slice.name).unwrap_or_else(|| panic!("{}", slice.name));
                format!("{} {:?}", stored.name, stored.view)
            })
            .collect();
        let all = places.len();
        places.sort();
        places.dedup();
        assert_eq!(places.len(), all);
        let expected = "visual.transformer.resblocks.1.attn.in_proj_bias Third(2)";
        assert!(places.iter().any(|place| place == expected), "{places:?}");
    }

    #[test]
    fn a_resnet_is_refused_and_defaults_are_those_of_the_library() {
        let mut json = small();
        json["vision_cfg"]["layers"] = serde_json::json!([3, 4, 6, 3]);
        let error = config(&json).unwrap_err().to_string();
        assert!(error.contains("not a VisionTransformer"), "{error}");
        let json = serde_json::json!({
            "embed_dim": 512,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
            "text_cfg": {}
        });
        let config = config(&json).unwrap();
        assert_eq!(config.text_config.vocab_size, 49408);
        assert_eq!(config.vision_config.num_attention_heads, 12);
        assert_eq!(config.text_config.hidden_act, Activation::Gelu);
    }
}

//! BLIP's first release and LAVIS: a timm vision transformer, the text encoder with the names of
//! BERT, and momentum copies whose names end in `_m`.

use super::{Stored, View};
use crate::blip::MedParts;

/// Which of the two sets of encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoders {
    /// The trained ones.
    Online,
    /// The momentum copies.
    Momentum,
}

/// Where a tensor of [`crate::Med`] lies.
///
/// - `parts`: what the file holds. With a decoder the parameters that both uses share are stored
///   under the decoder's name.
pub fn place(name: &str, parts: MedParts, encoders: Encoders) -> Option<Stored> {
    let end = match encoders {
        Encoders::Online => "",
        Encoders::Momentum => "_m",
    };
    let stored = if name == "temperature" {
        "temp".to_owned()
    } else if let Some(rest) = name.strip_prefix("vision_model.") {
        format!("visual_encoder{end}.{}", of_vision(rest)?)
    } else if let Some(rest) = name.strip_prefix("text_encoder.") {
        let own = rest.contains(".attention.");
        match parts == MedParts::Both && encoders == Encoders::Online && !own {
            true => format!("text_decoder.bert.{rest}"),
            false => format!("text_encoder{end}.{rest}"),
        }
    } else if let Some((head @ ("vision_proj" | "text_proj"), leaf)) = name.split_once('.') {
        format!("{head}{end}.{leaf}")
    } else {
        name.to_owned()
    };
    Some(Stored {
        name: stored,
        view: View::Whole,
    })
}

fn of_vision(rest: &str) -> Option<String> {
    Some(match rest {
        "embeddings.class_embedding" => "cls_token".to_owned(),
        "embeddings.position_embedding" => "pos_embed".to_owned(),
        _ => {
            let (module, end) = rest.rsplit_once('.')?;
            match module {
                "embeddings.patch_embedding" => format!("patch_embed.proj.{end}"),
                "post_layernorm" => format!("norm.{end}"),
                _ => {
                    let layer = module.strip_prefix("encoder.layers.")?;
                    let (layer, module) = layer.split_once('.')?;
                    let module = match module {
                        "layer_norm1" => "norm1",
                        "layer_norm2" => "norm2",
                        "self_attn.qkv" => "attn.qkv",
                        "self_attn.projection" => "attn.proj",
                        other => other,
                    };
                    format!("blocks.{layer}.{module}.{end}")
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, parts: MedParts, encoders: Encoders) -> String {
        place(name, parts, encoders).unwrap().name
    }

    #[test]
    fn names_are_those_of_the_first_release() {
        let both = |name: &str| stored(name, MedParts::Both, Encoders::Online);
        assert_eq!(
            both("vision_model.encoder.layers.3.self_attn.projection.bias"),
            "visual_encoder.blocks.3.attn.proj.bias"
        );
        assert_eq!(
            both("vision_model.encoder.layers.0.mlp.fc1.weight"),
            "visual_encoder.blocks.0.mlp.fc1.weight"
        );
        assert_eq!(
            both("text_encoder.embeddings.word_embeddings.weight"),
            "text_decoder.bert.embeddings.word_embeddings.weight"
        );
        assert_eq!(
            both("text_encoder.encoder.layer.0.crossattention.self.key.bias"),
            "text_decoder.bert.encoder.layer.0.crossattention.self.key.bias"
        );
        let own = "text_encoder.encoder.layer.0.attention.self.key.bias";
        assert_eq!(both(own), own);
        assert_eq!(both("temperature"), "temp");
        assert_eq!(both("itm_head.bias"), "itm_head.bias");
    }

    #[test]
    fn copies_have_names_of_their_own() {
        let copy = |name: &str| stored(name, MedParts::Filter, Encoders::Momentum);
        assert_eq!(
            copy("text_encoder.embeddings.LayerNorm.bias"),
            "text_encoder_m.embeddings.LayerNorm.bias"
        );
        assert_eq!(copy("vision_proj.weight"), "vision_proj_m.weight");
        assert_eq!(
            copy("vision_model.post_layernorm.bias"),
            "visual_encoder_m.norm.bias"
        );
    }
}

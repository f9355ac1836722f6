//! Hugging Face's ViTModel: query, key and value are three matrices.

/// The tensors of a ViTModel that make up a tensor of the vision tower of [`crate::Med`], one after
/// the other.
pub(crate) fn place(name: &str) -> Option<Vec<String>> {
    let one = |name: &str| Some(vec![name.to_owned()]);
    let rest = name.strip_prefix("vision_model.")?;
    match rest {
        "embeddings.class_embedding" => return one("embeddings.cls_token"),
        "embeddings.position_embedding" => return one("embeddings.position_embeddings"),
        _ => {}
    }
    let (module, end) = rest.rsplit_once('.')?;
    match module {
        "embeddings.patch_embedding" => {
            return one(&format!("embeddings.patch_embeddings.projection.{end}"));
        }
        "post_layernorm" => return one(&format!("layernorm.{end}")),
        _ => {}
    }
    let (layer, module) = module.strip_prefix("encoder.layers.")?.split_once('.')?;
    let modules: &[&str] = match module {
        "layer_norm1" => &["layernorm_before"],
        "layer_norm2" => &["layernorm_after"],
        "self_attn.qkv" => &[
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
        ],
        "self_attn.projection" => &["attention.output.dense"],
        "mlp.fc1" => &["intermediate.dense"],
        "mlp.fc2" => &["output.dense"],
        _ => return None,
    };
    let stored = |module: &&str| format!("encoder.layer.{layer}.{module}.{end}");
    Some(modules.iter().map(stored).collect())
}

/// The name in a ViTModel of a tensor of a file, which may hold a classifier as well; `None` for the
/// heads, which no tower has.
pub(crate) fn select(name: &str) -> Option<String> {
    let name = name.strip_prefix("vit.").unwrap_or(name);
    let is_head = name.starts_with("pooler.") || name.starts_with("classifier.");
    (!is_head).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_a_vit_model() {
        let places = |name: &str| place(name).unwrap();
        assert_eq!(
            places("vision_model.encoder.layers.3.self_attn.qkv.bias"),
            ["query", "key", "value"]
                .map(|part| format!("encoder.layer.3.attention.attention.{part}.bias"))
        );
        assert_eq!(
            places("vision_model.encoder.layers.0.mlp.fc2.weight"),
            ["encoder.layer.0.output.dense.weight"]
        );
        assert_eq!(
            places("vision_model.post_layernorm.bias"),
            ["layernorm.bias"]
        );
        assert_eq!(place("vision_proj.weight"), None);
        assert_eq!(
            select("vit.layernorm.bias"),
            Some("layernorm.bias".to_owned())
        );
        assert_eq!(select("pooler.dense.bias"), None);
        assert_eq!(select("classifier.weight"), None);
    }
}

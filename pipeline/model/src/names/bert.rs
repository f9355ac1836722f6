//! Hugging Face's BertModel, BertForMaskedLM and BertForPreTraining, as BLIP begins its text
//! transformer with them (`blip_pretrain.py`): encoder and decoder begin with the same layers, the
//! head of the decoder with that of the masked language model.

/// What the names of the head for words begin with. BertModel does not have it.
pub(crate) const WORD_HEAD: &str = "cls.predictions.";

/// The tensors of a BERT that make up a tensor of the text transformer of [`crate::Med`]. `None` for
/// cross-attention and the heads of BLIP, which BERT does not have.
pub(crate) fn place(name: &str) -> Option<Vec<String>> {
    let rest = match name.strip_prefix("text_decoder.") {
        Some(rest) => rest.strip_prefix("bert.").unwrap_or(rest),
        None => name.strip_prefix("text_encoder.")?,
    };
    (!rest.contains(".crossattention.")).then(|| vec![rest.to_owned()])
}

/// The name in a BertModel of a tensor of a file; `None` for what BLIP's text transformer does not
/// have: the pooler, the prediction of the next sentence, token types, and copies of tied tensors.
pub(crate) fn select(name: &str) -> Option<String> {
    const DROPPED: &[&str] = &[
        "pooler.",
        "cls.seq_relationship.",
        "embeddings.token_type_embeddings.",
        "cls.predictions.decoder.",
    ];
    let name = name.strip_prefix("bert.").unwrap_or(name);
    if DROPPED.iter().any(|head| name.starts_with(head)) {
        return None;
    }
    // TensorFlow's names, which the first checkpoints have.
    Some(match name.rsplit_once('.') {
        Some((norm, "gamma")) => format!("{norm}.weight"),
        Some((norm, "beta")) => format!("{norm}.bias"),
        _ => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoder_and_decoder_begin_with_the_same_layers() {
        let own = "encoder.layer.2.attention.self.key.bias";
        for prefix in ["text_encoder.", "text_decoder.bert."] {
            assert_eq!(place(&format!("{prefix}{own}")).unwrap(), [own]);
        }
        let head = "cls.predictions.transform.dense.weight";
        assert_eq!(place(&format!("text_decoder.{head}")).unwrap(), [head]);
        for absent in [
            "text_encoder.encoder.layer.0.crossattention.self.key.bias",
            "itm_head.weight",
            "temperature",
            "vision_model.post_layernorm.bias",
        ] {
            assert_eq!(place(absent), None);
        }
    }

    #[test]
    fn heads_are_dropped_and_old_names_are_read() {
        let selected = |name: &str| select(name).unwrap();
        assert_eq!(
            selected("bert.embeddings.LayerNorm.gamma"),
            "embeddings.LayerNorm.weight"
        );
        assert_eq!(
            selected("cls.predictions.transform.LayerNorm.beta"),
            "cls.predictions.transform.LayerNorm.bias"
        );
        assert_eq!(select("bert.pooler.dense.bias"), None);
        assert_eq!(select("cls.predictions.decoder.weight"), None);
    }
}

//! Towers of folders that these tests write name by name.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::tensor::{Dtype as Stored, TensorView};

use super::*;
use crate::InitRecipe;
use crate::device::DeviceSpec;
use crate::folder::Assets;
use crate::params::Model;
use crate::{Clip, ImagePreprocess};

const WIDTH: usize = 16;
const LAYERS: usize = 2;
const PATCH: usize = 4;
/// Tokens of the BERT; training has [DEC] and [ENC] behind them.
const TOKENS: usize = 9;
const POSITIONS: usize = 12;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn device() -> Device {
    DeviceSpec::Cpu.open().unwrap()
}

fn vocabulary() -> Tokenizer {
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"];
    Tokenizer::from_vocab_text(&tokens.join("\n")).unwrap()
}

/// Values that no other tensor has.
fn add(to: &mut Tensors, name: &str, shape: &[usize]) {
    let first = to.len() as f32;
    let len = shape.iter().product::<usize>();
    let values = (0..len).map(|i| first + i as f32 / len as f32).collect();
    to.insert(name.to_owned(), (shape.to_vec(), values));
}

fn add_linear(to: &mut Tensors, name: &str, outputs: usize, inputs: usize) {
    add(to, &format!("{name}.weight"), &[outputs, inputs]);
    add(to, &format!("{name}.bias"), &[outputs]);
}

fn add_norm(to: &mut Tensors, name: &str) {
    add(to, &format!("{name}.weight"), &[WIDTH]);
    add(to, &format!("{name}.bias"), &[WIDTH]);
}

/// The tensors of a ViTModel for pictures of this side.
fn vit(side: usize) -> Tensors {
    let mut to = Tensors::new();
    let patches = (side / PATCH).pow(2);
    add(&mut to, "embeddings.cls_token", &[1, 1, WIDTH]);
    add(
        &mut to,
        "embeddings.position_embeddings",
        &[1, patches + 1, WIDTH],
    );
    let patch = "embeddings.patch_embeddings.projection";
    add(
        &mut to,
        &format!("{patch}.weight"),
        &[WIDTH, 3, PATCH, PATCH],
    );
    add(&mut to, &format!("{patch}.bias"), &[WIDTH]);
    for layer in 0..LAYERS {
        let name = |end: &str| format!("encoder.layer.{layer}.{end}");
        for end in ["query", "key", "value"] {
            add_linear(
                &mut to,
                &name(&format!("attention.attention.{end}")),
                WIDTH,
                WIDTH,
            );
        }
        add_linear(&mut to, &name("attention.output.dense"), WIDTH, WIDTH);
        add_linear(&mut to, &name("intermediate.dense"), 4 * WIDTH, WIDTH);
        add_linear(&mut to, &name("output.dense"), WIDTH, 4 * WIDTH);
        add_norm(&mut to, &name("layernorm_before"));
        add_norm(&mut to, &name("layernorm_after"));
    }
    add_norm(&mut to, "layernorm");
    add_linear(&mut to, "pooler.dense", WIDTH, WIDTH);
    to
}

/// The tensors of a BertForPreTraining.
fn bert() -> Tensors {
    let mut to = Tensors::new();
    let table = |end: &str| format!("bert.embeddings.{end}_embeddings.weight");
    add(&mut to, &table("word"), &[TOKENS, WIDTH]);
    add(&mut to, &table("position"), &[POSITIONS, WIDTH]);
    add(&mut to, &table("token_type"), &[2, WIDTH]);
    add_norm(&mut to, "bert.embeddings.LayerNorm");
    for layer in 0..LAYERS {
        let name = |end: &str| format!("bert.encoder.layer.{layer}.{end}");
        for end in ["query", "key", "value"] {
            add_linear(
                &mut to,
                &name(&format!("attention.self.{end}")),
                WIDTH,
                WIDTH,
            );
        }
        add_linear(&mut to, &name("attention.output.dense"), WIDTH, WIDTH);
        add_norm(&mut to, &name("attention.output.LayerNorm"));
        add_linear(&mut to, &name("intermediate.dense"), 4 * WIDTH, WIDTH);
        add_linear(&mut to, &name("output.dense"), WIDTH, 4 * WIDTH);
        add_norm(&mut to, &name("output.LayerNorm"));
    }
    add_linear(&mut to, "bert.pooler.dense", WIDTH, WIDTH);
    add(&mut to, "cls.predictions.bias", &[TOKENS]);
    add_linear(&mut to, "cls.predictions.transform.dense", WIDTH, WIDTH);
    add_norm(&mut to, "cls.predictions.transform.LayerNorm");
    add_linear(&mut to, "cls.seq_relationship", 2, WIDTH);
    to
}

/// Writes a folder with its vocabulary.
fn write(folder: &Path, config: &str, tensors: &Tensors) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(CONFIG_FILE), config).unwrap();
    let lines = vocabulary().tokens()[..TOKENS].join("\n");
    std::fs::write(folder.join("vocab.txt"), lines).unwrap();
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| (name, bytemuck::cast_slice(values).to_vec()))
        .collect();
    let view = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| {
        let view = TensorView::new(Stored::F32, shape.clone(), &bytes[name]).unwrap();
        (name.clone(), view)
    };
    let file = folder.join(weights::WEIGHTS_FILE);
    safetensors::serialize_to_file(tensors.iter().map(view), None, &file).unwrap();
}

fn vit_config(side: usize) -> String {
    format!(
        r#"{{"architectures": ["ViTModel"], "model_type": "vit", "hidden_size": {WIDTH},
        "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": {LAYERS},
        "image_size": {side}, "patch_size": {PATCH}, "hidden_act": "gelu", "layer_norm_eps": 1e-12}}"#
    )
}

fn bert_config() -> String {
    format!(
        r#"{{"architectures": ["BertForPreTraining"], "model_type": "bert", "hidden_size": {WIDTH},
        "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": {LAYERS},
        "vocab_size": {TOKENS}, "max_position_embeddings": {POSITIONS}, "hidden_act": "gelu"}}"#
    )
}

const SIZES: Sizes = Sizes {
    image_size: 16,
    patch_size: PATCH,
    width: WIDTH,
    heads: 2,
    vision_layers: LAYERS,
    text_layers: LAYERS,
    projection: 8,
    max_text_tokens: POSITIONS,
};

fn med(parts: MedParts) -> Med {
    let tokens = vocabulary();
    let config = BlipConfig::new(&SIZES, tokens.len(), &tokens.special()).unwrap();
    let mut med = Med::new(config, parts, &device());
    med.initialise(1, &InitRecipe::default());
    med
}

fn clip(seed: u64, side: usize) -> Clip {
    let tokens = vocabulary();
    let sizes = Sizes {
        image_size: side,
        ..SIZES
    };
    // [SEP] is 3 here.
    let config = ClipConfig::new(&sizes, tokens.len(), &tokens.special()).unwrap();
    let mut clip = Clip::new(config, &device());
    clip.initialise(seed, &InitRecipe::default());
    clip
}

/// The stored tensors of a network.
fn tensors(network: &dyn Model) -> BTreeMap<String, Vec<f32>> {
    let flat = network.to_flat();
    let slices = network.layout().into_iter();
    slices
        .map(|slice| (slice.name, flat[slice.range].to_vec()))
        .collect()
}

/// Names of the tensors that differ.
fn changed(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> BTreeSet<String> {
    let names = a.keys().filter(|name| a[*name] != b[*name]);
    names.cloned().collect()
}

#[test]
fn a_blip_begins_with_a_vit_and_a_bert() {
    let temp = tempfile::tempdir().unwrap();
    let (pictures, texts) = (temp.path().join("vit"), temp.path().join("bert"));
    let (vit, bert) = (vit(16), bert());
    write(&pictures, &vit_config(16), &vit);
    write(&texts, &bert_config(), &bert);
    let drawn = tensors(&med(MedParts::Both));
    let mut network = med(MedParts::Both);
    read(&mut network, Modality::Vision, &pictures, &vocabulary()).unwrap();
    read(&mut network, Modality::Text, &texts, &vocabulary()).unwrap();
    let found = tensors(&network);

    let qkv = &found["vision_model.encoder.layers.1.self_attn.qkv.weight"];
    let part = |end: &str| &vit[&format!("encoder.layer.1.attention.attention.{end}.weight")].1;
    assert_eq!(
        *qkv,
        [&part("query")[..], part("key"), part("value")].concat()
    );
    for (own, stored) in [
        ("embeddings.class_embedding", "embeddings.cls_token"),
        (
            "embeddings.position_embedding",
            "embeddings.position_embeddings",
        ),
        (
            "embeddings.patch_embedding.weight",
            "embeddings.patch_embeddings.projection.weight",
        ),
        (
            "encoder.layers.0.layer_norm2.bias",
            "encoder.layer.0.layernorm_after.bias",
        ),
        (
            "encoder.layers.0.mlp.fc2.weight",
            "encoder.layer.0.output.dense.weight",
        ),
        ("post_layernorm.weight", "layernorm.weight"),
    ] {
        assert_eq!(
            found[&format!("vision_model.{own}")],
            vit[stored].1,
            "{own}"
        );
    }
    let key = "encoder.layer.1.attention.self.key.weight";
    for prefix in ["text_encoder", "text_decoder.bert"] {
        let own = &found[&format!("{prefix}.{key}")];
        assert_eq!(*own, bert[&format!("bert.{key}")].1);
    }
    for end in [
        "embeddings.position_embeddings.weight",
        "encoder.layer.0.output.dense.bias",
    ] {
        let (own, stored) = (format!("text_encoder.{end}"), format!("bert.{end}"));
        assert_eq!(found[&own], bert[&stored].1);
    }
    let transform = "cls.predictions.transform.dense.weight";
    assert_eq!(
        found[&format!("text_decoder.{transform}")],
        bert[transform].1
    );

    // Rows of the tokens that BERT does not have are drawn, the bias of their words is 0.
    let table = "embeddings.word_embeddings.weight";
    let (own, drawn_words) = (
        &found[&format!("text_encoder.{table}")],
        &drawn[&format!("text_encoder.{table}")],
    );
    assert_eq!(own.len(), 11 * WIDTH);
    assert_eq!(own[..TOKENS * WIDTH], bert[&format!("bert.{table}")].1);
    assert_eq!(own[TOKENS * WIDTH..], drawn_words[TOKENS * WIDTH..]);
    let bias = &found["text_decoder.cls.predictions.bias"];
    assert_eq!(bias[..TOKENS], bert["cls.predictions.bias"].1);
    assert_eq!(bias[TOKENS..], [0.0, 0.0]);

    let kept: BTreeSet<String> = found
        .keys()
        .filter(|name| found[*name] == drawn[*name])
        .cloned()
        .collect();
    let is_own = |name: &String| {
        name.contains(".crossattention.")
            || ["vision_proj.", "text_proj.", "itm_head.", "temperature"]
                .iter()
                .any(|head| name.starts_with(head))
    };
    assert_eq!(
        kept,
        found.keys().filter(|name| is_own(name)).cloned().collect()
    );
}

#[test]
fn a_head_is_drawn_where_the_bert_has_none_and_dropped_where_the_blip_has_none() {
    let temp = tempfile::tempdir().unwrap();
    let mut model = bert();
    model.retain(|name, _| !name.starts_with("cls."));
    // BertModel has no prefix; the first checkpoints have the names of TensorFlow.
    let old = |name: &str| {
        let name = name.trim_start_matches("bert.");
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        name.replace("LayerNorm.bias", "LayerNorm.beta")
    };
    let model: Tensors = model.into_iter().map(|(name, t)| (old(&name), t)).collect();
    write(temp.path(), &bert_config(), &model);
    let drawn = tensors(&med(MedParts::Captioner));
    let mut network = med(MedParts::Captioner);
    read(&mut network, Modality::Text, temp.path(), &vocabulary()).unwrap();
    let found = tensors(&network);
    let norm = "encoder.layer.1.output.LayerNorm";
    assert_eq!(
        found[&format!("text_encoder.{norm}.weight")],
        model[&format!("{norm}.gamma")].1
    );
    let head = "text_decoder.cls.predictions.transform.dense.weight";
    assert_eq!(found[head], drawn[head]);

    write(temp.path(), &bert_config(), &bert());
    let mut filter = med(MedParts::Filter);
    read(&mut filter, Modality::Text, temp.path(), &vocabulary()).unwrap();
    let key = "encoder.layer.0.attention.self.key.bias";
    assert_eq!(
        tensors(&filter)[&format!("text_encoder.{key}")],
        bert()[&format!("bert.{key}")].1
    );
}

#[test]
fn positions_of_other_pictures_are_resampled() {
    let temp = tempfile::tempdir().unwrap();
    let vit = vit(24);
    write(temp.path(), &vit_config(24), &vit);
    let mut network = med(MedParts::Filter);
    read(&mut network, Modality::Vision, temp.path(), &vocabulary()).unwrap();
    let (_, table) = &vit["embeddings.position_embeddings"];
    let expected = positions::resize(table, WIDTH, 1, [6, 6], [4, 4], Resample::Plain);
    let found = tensors(&network);
    assert_eq!(
        found["vision_model.embeddings.position_embedding"],
        expected
    );
}

#[test]
fn a_clip_begins_with_either_tower_of_a_clip_and_a_blip_with_the_pictures_of_a_blip() {
    let temp = tempfile::tempdir().unwrap();
    let (tokens, preprocess) = (vocabulary(), ImagePreprocess::new(16));
    let assets = Assets {
        tokenizer: Some(&tokens),
        preprocess: Some(&preprocess),
    };
    let (path, given) = (temp.path().join("clip"), clip(2, 24));
    given.save(&path, &assets).unwrap();
    for (modality, prefix) in [
        (Modality::Vision, "vision_model."),
        (Modality::Text, "text_model."),
    ] {
        let mut network = clip(1, 16);
        let drawn = tensors(&network);
        read(&mut network, modality, &path, &tokens).unwrap();
        let (found, given) = (tensors(&network), tensors(&given));
        assert!(
            changed(&found, &drawn)
                .iter()
                .all(|name| name.starts_with(prefix))
        );
        let other = changed(&found, &given);
        let mut own = other.iter().filter(|name| name.starts_with(prefix));
        match modality {
            Modality::Text => assert_eq!(own.next(), None),
            Modality::Vision => {
                let name = "vision_model.embeddings.position_embedding.weight";
                assert_eq!(own.collect::<Vec<_>>(), [name]);
                let resized =
                    positions::resize(&given[name], WIDTH, 1, [6, 6], [4, 4], Resample::Antialias);
                assert_eq!(found[name], resized);
            }
        }
    }
    let path = temp.path().join("blip");
    let mut given = med(MedParts::Both);
    given.initialise(2, &InitRecipe::default());
    given.save(&path, &assets).unwrap();
    let mut network = med(MedParts::Captioner);
    read(&mut network, Modality::Vision, &path, &tokens).unwrap();
    let differs = changed(&tensors(&network), &tensors(&med(MedParts::Captioner)));
    assert!(differs.contains("vision_model.encoder.layers.0.self_attn.qkv.weight"));
    assert!(differs.iter().all(|name| name.starts_with("vision_model.")));
}

#[test]
fn a_folder_that_does_not_fit_is_refused_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let line = |modality, config: &str, tensors: &Tensors, vocabulary: &Tokenizer| {
        write(temp.path(), config, tensors);
        let error = read(&mut med(MedParts::Both), modality, temp.path(), vocabulary);
        let line = error.unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line.replace(temp.path().to_str().unwrap(), "m")
    };
    let own = vocabulary();
    assert_eq!(
        line(Modality::Vision, &bert_config(), &bert(), &own),
        "m/config.json: model_type is \"bert\", expected vit or blip for the vision tower of a blip"
    );
    assert_eq!(
        line(Modality::Text, &vit_config(16), &vit(16), &own),
        "m/config.json: model_type is \"vit\", expected bert for the text tower of a blip"
    );
    let heads = vit_config(16).replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 4");
    assert_eq!(
        line(Modality::Vision, &heads, &vit(16), &own),
        "m/config.json: num_attention_heads is 4, the network that is to begin with this tower has 2"
    );
    let act = bert_config().replace("\"gelu\"", "\"quick_gelu\"");
    let found = line(Modality::Text, &act, &bert(), &own);
    assert!(found.contains("hidden_act is \"quick_gelu\""), "{found}");
    let mut wide = vit(16);
    add(
        &mut wide,
        "encoder.layer.1.intermediate.dense.weight",
        &[32, WIDTH],
    );
    assert_eq!(
        line(Modality::Vision, &vit_config(16), &wide, &own),
        "m/model.safetensors: tensor `encoder.layer.1.intermediate.dense.weight` has shape [32, 16], \
         the network needs [64, 16] for `vision_model.encoder.layers.1.mlp.fc1.weight`"
    );
    let mut short = bert();
    add(
        &mut short,
        "bert.embeddings.position_embeddings.weight",
        &[8, WIDTH],
    );
    let found = line(Modality::Text, &bert_config(), &short, &own);
    assert!(
        found.contains("has shape [8, 16], the network needs [12, 16]"),
        "{found}"
    );
    let mut more = bert();
    add(
        &mut more,
        "bert.encoder.layer.2.output.dense.bias",
        &[WIDTH],
    );
    let found = line(Modality::Text, &bert_config(), &more, &own);
    assert!(
        found.contains("`bert.encoder.layer.2.output.dense.bias` belongs to no layer"),
        "{found}"
    );
    let mut less = bert();
    less.remove("cls.predictions.transform.dense.bias");
    let found = line(Modality::Text, &bert_config(), &less, &own);
    assert!(
        found.contains("`cls.predictions.transform.dense.bias` is missing"),
        "{found}"
    );
    let other = own.vocab_text().replace("\nb\n", "\nx\n");
    let other = Tokenizer::from_vocab_text(&other).unwrap();
    assert_eq!(
        line(Modality::Text, &bert_config(), &bert(), &other),
        "m/vocab.txt: token 5 is \"b\", that of the vocabulary in training \"x\"; it must begin with all tokens of this file"
    );
}

#[test]
fn a_given_folder_may_hold_one_tower() {
    let temp = tempfile::tempdir().unwrap();
    let values = |tensors: &Tensors, select: fn(&str) -> Option<String>| -> usize {
        let own = tensors.iter().filter(|(name, _)| select(name).is_some());
        own.map(|(_, (_, values))| values.len()).sum()
    };
    write(temp.path(), &vit_config(16), &vit(16));
    let found = inspect(temp.path(), &device()).unwrap();
    assert_eq!(found, Some(values(&vit(16), vit::select)));
    write(temp.path(), &bert_config(), &bert());
    let found = inspect(temp.path(), &device()).unwrap();
    assert_eq!(found, Some(values(&bert(), bert::select)));
    let mut less = bert();
    less.remove("bert.encoder.layer.1.output.dense.bias");
    write(temp.path(), &bert_config(), &less);
    let line = inspect(temp.path(), &device()).unwrap_err().to_string();
    assert!(
        line.contains("`encoder.layer.1.output.dense.bias` is missing"),
        "{line}"
    );
    let foreign = r#"{"architectures": ["GPT2Model"], "model_type": "gpt2"}"#;
    std::fs::write(temp.path().join(CONFIG_FILE), foreign).unwrap();
    let load = crate::Load::on(&device());
    let line = crate::pretrained::inspect(temp.path(), &load)
        .unwrap_err()
        .to_string();
    assert!(
        line.contains("GPT2Model") && line.contains("a ViT or BERT"),
        "{line}"
    );
}

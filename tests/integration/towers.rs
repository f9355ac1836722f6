//! A training whose towers begin with a ViT and a BERT, over gRPC with a real coordinator: the given
//! weights are those of the folders, the others are drawn as without them, on any number of ranks.

use std::collections::BTreeMap;
use std::path::Path;

use capstan_dataset::{commits, models};
use capstan_model::DeviceSpec;
use capstan_plan::id::{ModelDigest, RunId, StageName};
use capstan_plan::stage::Objective;
use capstan_proto::v1;
use capstan_train::network;

use crate::stopping::{Cluster, annotate};

const WIDTH: usize = 16;
const TOKENS: [&str; 9] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "ball", "box",
];

/// The learning rate rounds to 0 where weights are updated, so that the model is the one that training
/// began with.
const TRAINING: &str = r#"
name = "towers"
[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
storing = { min_side_px = 16 }
[[stage]]
name = "vit"
kind = "model"
source = "vit"
[[stage]]
name = "bert"
kind = "model"
source = "bert"
[[stage]]
name = "blip"
kind = "train"
tokenizer = "bert"
data = [{ from = "human" }]
objectives = ["itc", "itm", "lm"]
steps = 2
global_batch = 8
checkpoint_steps = 0
learning_rate = 1e-300
architecture = { family = "blip", image_size = 32, patch_size = 8, width = 16, heads = 2, vision_layers = 1, text_layers = 1, projection = 8, max_text_tokens = 12 }
"#;

/// Names and shapes of a tower, without `weight` and `bias` of its linear maps and norms.
struct Shapes {
    plain: &'static [(&'static str, &'static [usize])],
    linear: &'static [(&'static str, usize, usize)],
    norms: &'static [&'static str],
}

const VIT: Shapes = Shapes {
    plain: &[
        ("embeddings.cls_token", &[1, 1, WIDTH]),
        ("embeddings.position_embeddings", &[1, 17, WIDTH]),
        (
            "embeddings.patch_embeddings.projection.weight",
            &[WIDTH, 3, 8, 8],
        ),
        ("embeddings.patch_embeddings.projection.bias", &[WIDTH]),
    ],
    linear: &[
        ("encoder.layer.0.attention.attention.query", WIDTH, WIDTH),
        ("encoder.layer.0.attention.attention.key", WIDTH, WIDTH),
        ("encoder.layer.0.attention.attention.value", WIDTH, WIDTH),
        ("encoder.layer.0.attention.output.dense", WIDTH, WIDTH),
        ("encoder.layer.0.intermediate.dense", 64, WIDTH),
        ("encoder.layer.0.output.dense", WIDTH, 64),
        ("pooler.dense", WIDTH, WIDTH),
    ],
    norms: &[
        "encoder.layer.0.layernorm_before",
        "encoder.layer.0.layernorm_after",
        "layernorm",
    ],
};

const BERT: Shapes = Shapes {
    plain: &[
        ("bert.embeddings.word_embeddings.weight", &[9, WIDTH]),
        ("bert.embeddings.position_embeddings.weight", &[12, WIDTH]),
        ("bert.embeddings.token_type_embeddings.weight", &[2, WIDTH]),
        ("cls.predictions.bias", &[9]),
    ],
    linear: &[
        ("bert.encoder.layer.0.attention.self.query", WIDTH, WIDTH),
        ("bert.encoder.layer.0.attention.self.key", WIDTH, WIDTH),
        ("bert.encoder.layer.0.attention.self.value", WIDTH, WIDTH),
        ("bert.encoder.layer.0.attention.output.dense", WIDTH, WIDTH),
        ("bert.encoder.layer.0.intermediate.dense", 64, WIDTH),
        ("bert.encoder.layer.0.output.dense", WIDTH, 64),
        ("cls.predictions.transform.dense", WIDTH, WIDTH),
    ],
    norms: &[
        "bert.embeddings.LayerNorm",
        "bert.encoder.layer.0.attention.output.LayerNorm",
        "bert.encoder.layer.0.output.LayerNorm",
        "cls.predictions.transform.LayerNorm",
    ],
};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

impl Shapes {
    fn tensors(&self) -> Tensors {
        let plain = self
            .plain
            .iter()
            .map(|(name, shape)| (name.to_string(), shape.to_vec()));
        let linear = self.linear.iter().flat_map(|(name, outputs, inputs)| {
            let weight = (format!("{name}.weight"), vec![*outputs, *inputs]);
            [weight, (format!("{name}.bias"), vec![*outputs])]
        });
        let norms = self
            .norms
            .iter()
            .flat_map(|name| ["weight", "bias"].map(|end| (format!("{name}.{end}"), vec![WIDTH])));
        let all = plain.chain(linear).chain(norms).enumerate();
        all.map(|(at, (name, shape))| {
            let wave = |i: usize| ((at * 97 + i) as f32 * 0.7).sin() / 4.0;
            let values = (0..shape.iter().product()).map(wave).collect();
            (name, (shape, values))
        })
        .collect()
    }
}

/// Writes a folder: configuration, vocabulary and a safetensors file.
fn write(folder: &Path, model_type: &str, tensors: &Tensors) {
    std::fs::create_dir_all(folder).unwrap();
    let config = serde_json::json!({
        "model_type": model_type, "hidden_size": WIDTH, "intermediate_size": 64,
        "num_attention_heads": 2, "num_hidden_layers": 1, "hidden_act": "gelu",
        "image_size": 32, "patch_size": 8, "vocab_size": TOKENS.len(),
        "max_position_embeddings": 12, "layer_norm_eps": 1e-12,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("vocab.txt"), TOKENS.join("\n")).unwrap();
    let (mut header, mut bytes) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let start = bytes.len();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = serde_json::json!({
            "dtype": "F32", "shape": shape, "data_offsets": [start, bytes.len()],
        });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let file = [&length[..], header.as_bytes(), &bytes].concat();
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
}

/// Runs the training with these keys: the model's digest and its tensors.
async fn trained(keys: &str, ranks: usize) -> (ModelDigest, BTreeMap<String, Vec<f32>>) {
    let cluster = Cluster::start().await;
    let folder = cluster.folder.path();
    annotate(folder);
    write(&folder.join("vit"), "vit", &VIT.tensors());
    write(&folder.join("bert"), "bert", &BERT.tensors());
    let mut roles = vec![cluster.worker()];
    roles.extend(["a", "b"][..ranks].iter().map(|name| cluster.trainer(name)));
    let keys = format!("steps = 2\nworld_size = {ranks}\n{keys}\n");
    cluster
        .submit(&TRAINING.replacen("steps = 2\n", &keys, 1))
        .await;
    let ended = cluster.ended().await;
    assert_eq!(ended.state(), v1::RunState::Done, "{}", ended.reason);
    let (run, stage) = (RunId::from("run"), StageName::from("blip"));
    let commits = commits::of_stage(&cluster.store, &run, &stage).await;
    let model = commits.unwrap().remove(0).outputs.model.unwrap();
    let cache = cluster.folder.path().join("cache");
    let folder = models::fetch(&cluster.store, &model, &cache).await.unwrap();
    let device = DeviceSpec::Cpu.open().unwrap();
    let objectives = [Objective::Itc, Objective::Itm, Objective::Lm];
    let network = network::load(&folder, &objectives, &device).unwrap();
    let flat = network.to_flat();
    let slices = network.layout().into_iter();
    let tensors = slices
        .map(|slice| (slice.name, flat[slice.range].to_vec()))
        .collect();
    for role in roles {
        role.stop().await;
    }
    cluster.stop().await;
    (model, tensors)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_begins_with_given_towers_on_any_number_of_ranks() {
    let towers = "towers = { vision = \"vit\", text = \"bert\" }";
    let (model, found) = trained(towers, 1).await;
    let (on_two, _) = trained(towers, 2).await;
    assert_eq!(model, on_two);
    let (_, drawn) = trained("", 1).await;
    let (vit, bert) = (VIT.tensors(), BERT.tensors());
    for (name, values) in &found {
        let qkv = |end: &str| {
            let part = |of| format!("encoder.layer.0.attention.attention.{of}.{end}");
            let parts = ["query", "key", "value"].map(|of| &vit[&part(of)].1[..]);
            parts.concat()
        };
        let expected = match name.as_str() {
            "vision_model.encoder.layers.0.self_attn.qkv.weight" => qkv("weight"),
            "vision_model.encoder.layers.0.self_attn.qkv.bias" => qkv("bias"),
            "vision_model.post_layernorm.weight" => vit["layernorm.weight"].1.clone(),
            "vision_model.embeddings.position_embedding" => {
                vit["embeddings.position_embeddings"].1.clone()
            }
            name if name.starts_with("vision_model.") => {
                assert_ne!(*values, drawn[name], "{name} is drawn");
                continue;
            }
            name if name.contains(".crossattention.") || !name.starts_with("text_") => {
                drawn[name].clone()
            }
            name if name.starts_with("text_proj.") => drawn[name].clone(),
            name => {
                let rest = name.replace("text_encoder.", "bert.");
                let stored = rest.trim_start_matches("text_decoder.");
                let (_, given) = &bert[stored];
                // The rows of [DEC] and [ENC] are drawn.
                [given, &drawn[name][given.len()..]].concat()
            }
        };
        assert_eq!(*values, expected, "{name}");
    }
}

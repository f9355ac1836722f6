//! Folders that are models, and folders that only look like one.

use super::*;
use crate::config::{BlipConfig, ClipConfig, Sizes};
use crate::device::DeviceSpec;
use crate::folder::Assets;
use crate::init::InitRecipe;
use crate::params::Model;
use crate::weights::WEIGHTS_FILE;

const SIZES: Sizes = Sizes {
    image_size: 16,
    patch_size: 8,
    width: 16,
    heads: 2,
    vision_layers: 1,
    text_layers: 1,
    projection: 8,
    max_text_tokens: 12,
};

fn inspect(folder: &Path) -> Result<Pretrained, Error> {
    Pretrained::open(
        folder,
        &Load::on(&DeviceSpec::Cpu.open().expect("a processor")),
    )
}

fn tokenizer() -> Tokenizer {
    Tokenizer::train(["a red ball", "two blue rings"], 1, 60).expect("a vocabulary")
}

/// A MED of this many tokens with all that belongs beside it.
fn med(folder: &Path, parts: MedParts, rows: usize) {
    let tokenizer = tokenizer();
    let device = DeviceSpec::Cpu.open().expect("a processor");
    let config = BlipConfig::new(&SIZES, rows, &tokenizer.special()).expect("sizes");
    let mut med = Med::new(config, parts, &device);
    med.initialise(1, &InitRecipe::default());
    let preprocess = ImagePreprocess::new(16);
    let assets = Assets {
        tokenizer: Some(&tokenizer),
        preprocess: Some(&preprocess),
    };
    med.save(folder, &assets).expect("saved");
}

#[test]
fn models_are_told_by_their_role() {
    let temp = tempfile::tempdir().expect("a folder");
    let tokens = tokenizer().len();
    for (parts, role) in [
        (MedParts::Captioner, "captioner"),
        (MedParts::Filter, "filter"),
        (MedParts::Both, "captioner and filter"),
    ] {
        let folder = temp.path().join(role);
        med(&folder, parts, tokens);
        let found = inspect(&folder).expect("a model");
        assert_eq!(
            (found.network.role(), found.tokenizer.len()),
            (role, tokens)
        );
        assert!(found.network.num_params() > 1_000);
        let (texts, network) = (max_text_tokens(&folder), &found.network);
        assert_eq!(texts.expect("a configuration"), network.max_text_tokens());
    }
    let folder = temp.path().join("clip");
    let device = DeviceSpec::Cpu.open().expect("a processor");
    let config = ClipConfig::new(&SIZES, tokens, &tokenizer().special()).expect("sizes");
    let mut clip = Clip::new(config, &device);
    clip.initialise(1, &InitRecipe::default());
    let (tokenizer, preprocess) = (tokenizer(), ImagePreprocess::new(16));
    let assets = Assets {
        tokenizer: Some(&tokenizer),
        preprocess: Some(&preprocess),
    };
    clip.save(&folder, &assets).expect("saved");
    assert_eq!(inspect(&folder).expect("a model").network.role(), "clip");
}

#[test]
fn what_is_wrong_with_a_folder_is_said_in_one_line() {
    let temp = tempfile::tempdir().expect("a folder");
    let tokens = tokenizer().len();
    let line = |name: &str, spoil: &dyn Fn(&Path)| {
        let folder = temp.path().join(name);
        med(&folder, MedParts::Filter, tokens);
        spoil(&folder);
        let error = inspect(&folder).expect_err("a spoilt folder").to_string();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
        error
    };
    let foreign = line("llama", &|folder| {
        let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#;
        std::fs::write(folder.join(CONFIG_FILE), config).expect("written");
    });
    assert!(
        foreign.contains("LlamaForCausalLM") && foreign.contains("CLIPModel"),
        "{foreign}"
    );
    let cut = line("cut", &|folder| {
        let path = folder.join(WEIGHTS_FILE);
        let whole = std::fs::read(&path).expect("weights");
        std::fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    });
    assert!(cut.contains("not a complete safetensors file"), "{cut}");
    let mute = line("mute", &|folder| {
        std::fs::remove_file(folder.join("vocab.txt")).expect("removed");
    });
    assert!(mute.contains("no usable tokenizer"), "{mute}");
    let other = line("other", &|folder| {
        let path = folder.join("vocab.txt");
        let text = std::fs::read_to_string(&path).expect("a vocabulary");
        std::fs::write(&path, format!("{text}surplus\n")).expect("written");
    });
    assert!(other.contains("the vocabulary has"), "{other}");
    let blind = line("blind", &|folder| {
        std::fs::remove_file(folder.join("preprocessor_config.json")).expect("removed");
    });
    assert!(blind.contains("preprocessor_config.json"), "{blind}");
}

//! Towers of a training: their models are part of the recipe, the names of their stages are not.

use super::*;
use crate::stage::{TowerModels, TrainWork};

const MODELS: &str = r#"
[[stage]]
name = "vit"
kind = "model"
source = "vit"
[[stage]]
name = "bert"
kind = "model"
source = "bert"
"#;

fn read(keys: &str) -> Result<Pipeline, crate::pipeline::Error> {
    let text = PIPELINE.replacen("steps = 1\n", &format!("steps = 1\n{keys}\n"), 1);
    Pipeline::from_toml(&format!("{text}{MODELS}"), "small.toml")
}

fn task(keys: &str) -> Task {
    let pipeline = read(keys).unwrap_or_else(|error| panic!("{error}"));
    let (_, tasks) = work_through_all(&pipeline, 1);
    tasks[&StageName::from("blip")][0].clone()
}

/// The one problem of the small pipeline with these keys.
fn refused(keys: &str) -> String {
    let error = read(keys).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].to_string()
}

#[test]
fn the_recipe_holds_the_models_of_towers_and_no_names() {
    let both = task("towers = { vision = \"vit\", text = \"bert\" }");
    let Work::Train(TrainWork { towers, .. }) = &both.work else {
        panic!()
    };
    let digest = |name: &str| Some(ModelDigest(Digest::of(name.as_bytes())));
    let expected = TowerModels {
        vision: digest("vit"),
        text: digest("bert"),
    };
    assert_eq!(*towers, Some(expected));
    let plain = task("");
    let json = serde_json::to_string(&plain.work).unwrap();
    assert!(!json.contains("towers"), "{json}");
    let others = [
        plain,
        task("towers = { vision = \"vit\" }"),
        task("towers = { vision = \"bert\" }"),
        task("towers = { text = \"vit\" }"),
    ];
    let recipes: BTreeSet<_> = others
        .iter()
        .chain([&both])
        .map(|task| task.recipe)
        .collect();
    assert_eq!(recipes.len(), 5);

    // The same models under other names of stages.
    let pipeline = read("towers = { vision = \"vit\", text = \"bert\" }").unwrap();
    let (mut world, _) = work_through_all(&pipeline, 1);
    let mut stage = pipeline.stage(&"blip".into()).unwrap().clone();
    let Kind::Train(train) = &mut stage.kind else {
        panic!()
    };
    train.towers.as_mut().unwrap().vision = Some("other".into());
    let vit = world.given[&StageName::from("vit")].clone();
    world.given.insert("other".into(), vit);
    let (_, steps) = work_through(&mut world, &stage, 1, &[], 0);
    assert_eq!(steps[0][0].recipe, both.recipe);
}

#[test]
fn towers_that_cannot_fit_are_refused() {
    let line = refused("towers = {}");
    assert!(
        line.contains("`towers = {}`: must be given a `vision`, a `text` or both"),
        "{line}"
    );
    let line = refused("towers = { audio = \"vit\" }");
    assert!(line.contains("audio"), "{line}");
    let line = refused("towers = { vision = \"words\" }");
    assert!(
        line.contains("`towers.vision = \"words\"`: must be a stage that gives a model"),
        "{line}"
    );
    let further = r#"
[[stage]]
name = "further"
kind = "train"
init = "blip"
tokenizer = "words"
data = [{ from = "balanced" }]
objectives = ["lm"]
steps = 1
global_batch = 2
learning_rate = 0.1
towers = { vision = "vit" }
"#;
    let text = format!("{PIPELINE}{MODELS}{further}");
    let error = Pipeline::from_toml(&text, "small.toml").unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    let line = error.problems[0].to_string();
    assert!(
        line.contains("`towers = { ... }`: must be left out where `init` names a model"),
        "{line}"
    );
}

#[test]
fn a_tower_of_a_model_of_known_family_must_fit() {
    let trained = |family: &str, towers: &str| {
        let sizes = "image_size = 32, patch_size = 16, width = 8, heads = 1, vision_layers = 1, \
            text_layers = 1, projection = 4, max_text_tokens = 8";
        let stage = format!(
            "[[stage]]\nname = \"further\"\nkind = \"train\"\ntokenizer = \"words\"\n\
            data = [{{ from = \"balanced\" }}]\nobjectives = [\"itc\"]\nsteps = 1\n\
            global_batch = 2\nlearning_rate = 0.1\ntowers = {towers}\n\
            architecture = {{ family = \"{family}\", {sizes} }}\n"
        );
        Pipeline::from_toml(&format!("{PIPELINE}{stage}"), "small.toml")
    };
    trained("blip", "{ vision = \"blip\" }").unwrap_or_else(|error| panic!("{error}"));
    for (family, key, reason) in [
        ("clip", "vision", "must be a CLIP, because this is one"),
        ("clip", "text", "must be a CLIP, because this is one"),
        (
            "blip",
            "text",
            "must be a stage of kind `model` with a BERT, because this is a BLIP",
        ),
    ] {
        let error = trained(family, &format!("{{ {key} = \"blip\" }}")).unwrap_err();
        let line = error.problems[0].to_string();
        let own = format!("`towers.{key} = \"blip\"`: {reason}");
        assert!(line.ends_with(&own), "{line}");
    }
}

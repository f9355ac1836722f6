//! Arms of pipelines whose stages are named after nothing in particular.

use super::*;

const DEMO: &str = include_str!("../../../../deploy/pipelines/demo.toml");
const FULL: &str = include_str!("../../../../services/cli/src/demo/full.toml");

fn of_file(text: &str) -> BTreeMap<String, Arm> {
    let pipeline = Pipeline::from_toml(text, "test.toml").unwrap();
    let arms = arms(&pipeline).into_iter();
    arms.map(|(stage, arm)| (stage.to_string(), arm)).collect()
}

fn arm(family: Family, texts: Texts) -> Arm {
    Arm {
        family: Some(family),
        texts,
    }
}

#[test]
fn the_arms_of_the_demo_are_those_that_its_stages_are_named_after() {
    let arms = of_file(&format!("{DEMO}\n{FULL}"));
    let families = [("clip", Family::Clip), ("blip", Family::Blip)];
    let kinds = [
        ("web", Texts::Web),
        ("human", Texts::Human),
        ("filter_only", Texts::FilterOnly),
        ("captioner_only", Texts::CaptionerOnly),
        ("bootstrapped", Texts::Bootstrapped),
    ];
    for (prefix, family) in families {
        for (suffix, texts) in kinds {
            let name = format!("{prefix}_{suffix}");
            assert_eq!(arms[&name], arm(family, texts), "{name}");
        }
    }
    // Fine-tuned from `blip_web` on human pairs: its first training has read the web.
    assert_eq!(arms["captioner"], arm(Family::Blip, Texts::Web));
    let bootstrapped = arm(Family::Blip, Texts::Bootstrapped);
    assert_eq!(arms["captioner_bootstrapped"], bootstrapped);
}

/// The stages of the demo under names that say nothing.
fn renamed(text: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(text.to_owned(), |text, (from, to)| {
        let text = text.replace(&format!("\"{from}\""), &format!("\"{to}\""));
        // A stage may be called as its kind is.
        text.replace(&format!("kind = \"{to}\""), &format!("kind = \"{from}\""))
    })
}

#[test]
fn names_of_stages_decide_nothing() {
    let text = renamed(
        DEMO,
        &[
            ("clip_web", "alpha"),
            ("clip_human", "clip_web_2"),
            ("clip_bootstrapped", "a_human"),
            ("filter", "sieve"),
        ],
    );
    let arms = of_file(&text);
    assert_eq!(arms["alpha"], arm(Family::Clip, Texts::Web));
    assert_eq!(arms["clip_web_2"], arm(Family::Clip, Texts::Human));
    assert_eq!(arms["a_human"], arm(Family::Clip, Texts::Bootstrapped));
}

const IMPORTED: &str = r#"
name = "imported"
[[stage]]
name = "pairs"
kind = "import"
dataset = "pairs"
format = "img2dataset"
source = "pairs"
[[stage]]
name = "words"
kind = "tokenizer"
data = [{ from = "pairs" }]
[[stage]]
name = "given"
kind = "model"
source = "model"
[[stage]]
name = "tuned"
kind = "train"
init = "given"
data = [{ from = "pairs" }]
tokenizer = "words"
objectives = ["itc"]
steps = 10
global_batch = 8
learning_rate = 1e-3
"#;

#[test]
fn imported_web_texts_are_web_and_a_model_from_outside_has_no_family() {
    let arms = of_file(IMPORTED);
    assert_eq!(arms["given"], Arm::default());
    let tuned = Arm {
        family: None,
        texts: Texts::Web,
    };
    assert_eq!(arms["tuned"], tuned);
}

#[test]
fn human_texts_make_no_human_arm_of_a_model_from_outside() {
    let text = IMPORTED.replace("\"img2dataset\"", "\"coco_captions\"");
    assert_eq!(of_file(&text)["tuned"], Arm::default());
}

#[test]
fn a_chain_leads_back_to_its_base_files() {
    let pipeline = Pipeline::from_toml(DEMO, "demo.toml").unwrap();
    let chain = |stage: &str| Chain::of(&stage.into(), &pipeline);
    let filter = Chain {
        base: "crawl".into(),
        is_web: true,
        has_synthetic: true,
    };
    assert_eq!(chain("filter"), filter);
    let human = Chain {
        base: "human".into(),
        is_web: false,
        has_synthetic: false,
    };
    assert_eq!(chain("human"), human);
}

fn summary(models: &[(&str, Arm)]) -> Summary {
    let named = models.iter().map(|(name, arm)| ((*name).to_owned(), *arm));
    Summary {
        models: models
            .iter()
            .map(|(name, _)| ((*name).to_owned(), ModelFigures::default()))
            .collect(),
        arms: named.collect(),
        ..Summary::default()
    }
}

#[test]
fn models_are_grouped_by_family_and_ordered_by_their_texts() {
    let mut summary = summary(&[
        ("d", arm(Family::Blip, Texts::Bootstrapped)),
        ("e", arm(Family::Blip, Texts::Web)),
        ("a", arm(Family::Clip, Texts::FilterOnly)),
        ("b", arm(Family::Clip, Texts::Human)),
    ]);
    summary
        .models
        .insert("zebra".to_owned(), Default::default());
    let groups = groups(&summary);
    let names: Vec<Vec<&str>> = groups
        .iter()
        .map(|group| group.models.iter().map(|model| model.name).collect())
        .collect();
    assert_eq!(names, [vec!["b", "a"], vec!["e", "d"], vec!["zebra"]]);
    let titles: Vec<&str> = groups.iter().map(Group::title).collect();
    assert_eq!(titles, ["CLIP", "BLIP", "Other models"]);
}

#[test]
fn two_models_of_one_arm_are_labelled_by_their_stages() {
    let web = arm(Family::Clip, Texts::Web);
    let summary = summary(&[
        ("clip_long", web),
        ("clip_short", web),
        ("clip_best", arm(Family::Clip, Texts::Bootstrapped)),
    ]);
    let groups = groups(&summary);
    let labels: Vec<String> = groups[0].models.iter().map(Measured::label).collect();
    assert_eq!(labels, ["clip long", "clip short", "Bootstrapped"]);
}

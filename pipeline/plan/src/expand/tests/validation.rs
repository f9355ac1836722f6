//! Validation of a training: its set is an input, and it is part of the recipe.

use super::*;
use crate::stage::TrainWork;

const VALIDATE: &str = "validate = { from = \"human\", every_steps = 1, metric = \"r_at_1\" }";

/// The small pipeline with these keys in its training.
fn with(keys: &str) -> Pipeline {
    read(keys).unwrap_or_else(|error| panic!("{error}"))
}

fn read(keys: &str) -> Result<Pipeline, crate::pipeline::Error> {
    let text = PIPELINE.replacen("steps = 1\n", &format!("steps = 1\n{keys}\n"), 1);
    Pipeline::from_toml(&text, "small.toml")
}

fn task(pipeline: &Pipeline) -> Task {
    let (_, tasks) = work_through_all(pipeline, 1);
    tasks[&StageName::from("blip")][0].clone()
}

#[test]
fn a_training_waits_for_its_validation_set() {
    let validated = with(VALIDATE);
    let stage = validated.stage(&"blip".into()).unwrap();
    assert!(stage.kind.inputs().contains(&"human".into()));
    let (world, tasks) = work_through_all(&validated, 1);
    let Work::Train(TrainWork { validation, .. }) = &tasks[&StageName::from("blip")][0].work else {
        panic!()
    };
    let StageOutput::Dataset(human) = &world.given[&StageName::from("human")] else {
        panic!()
    };
    assert_eq!(validation.as_ref(), Some(human));
    let problems = read(&VALIDATE.replace("human", "words")).unwrap_err();
    let problem = problems.problems[0].to_string();
    assert!(
        problem.contains("`validate.from = \"words\"`: must be a stage"),
        "{problem}"
    );
}

#[test]
fn the_recipe_holds_the_validation_but_no_name() {
    let plain = task(&pipeline());
    assert!(
        !serde_json::to_string(&plain.work)
            .unwrap()
            .contains("validation")
    );
    let validated = task(&with(VALIDATE));
    let best = task(&with(&format!("{VALIDATE}\nkeep = \"best\"")));
    let limited = task(&with(
        &VALIDATE.replace("every_steps", "limit = 9, every_steps"),
    ));
    let recipes: BTreeSet<_> = [&plain, &validated, &best, &limited]
        .map(|task| task.recipe)
        .into();
    assert_eq!(recipes.len(), 4);
    assert_eq!(task(&with("keep = \"last\"")).recipe, plain.recipe);
    // A set of other rows gives another recipe, the same set under another name does not.
    let other = task(&with(&VALIDATE.replace("human", "balanced")));
    assert_ne!(other.recipe, validated.recipe);
    let (mut given, stages) = work_through_all(&with(VALIDATE), 1);
    let renamed = with(VALIDATE);
    let mut stage = renamed.stage(&"blip".into()).unwrap().clone();
    let Kind::Train(train) = &mut stage.kind else {
        panic!()
    };
    train.validate.as_mut().unwrap().from = "other".into();
    let human = given.given[&StageName::from("human")].clone();
    given.given.insert("other".into(), human);
    let (_, steps) = work_through(&mut given, &stage, 1, &[], 0);
    assert_eq!(
        steps[0][0].recipe,
        stages[&StageName::from("blip")][0].recipe
    );
}

#[test]
fn settings_that_do_not_fit_are_refused_with_their_key() {
    let table = |keys: &str| format!("validate = {{ from = \"human\", {keys} }}");
    let clip = "objectives = [\"lm\"]\n";
    for (keys, refused) in [
        (
            "keep = \"best\"".to_owned(),
            "`keep = \"best\"`: must be \"last\" unless",
        ),
        (
            table("every_steps = 0, metric = \"r_at_1\""),
            "`validate.every_steps = 0`",
        ),
        (
            table("every_steps = 2, metric = \"r_at_1\""),
            "`validate.every_steps = 2`",
        ),
        (
            table("every_steps = 1, metric = \"cider\""),
            "`validate.decoding = ...`: must be given for cider",
        ),
        (
            table("every_steps = 1, metric = \"accuracy\""),
            "`validate.templates = ...`: must be given for accuracy",
        ),
        (
            table("every_steps = 1, metric = \"accuracy\", templates = [\"a\"]"),
            "`validate.templates = \"a\"`: must be texts with one `{}`",
        ),
        (
            table("every_steps = 1, metric = \"r_at_5\", templates = [\"{}\"]"),
            "`validate.templates = ...`: must be given for accuracy, and left out",
        ),
        (
            table("every_steps = 1, metric = \"r_at_5\", limit = 0"),
            "`validate.limit = 0`",
        ),
        (
            table("every_steps = 1, metric = \"accuracy\", templates = [\"{}\"], rerank = 4"),
            "`validate.rerank = 4`: must be 0 unless recall",
        ),
    ] {
        let problems = read(&keys).unwrap_err().problems;
        let [problem] = &problems[..] else {
            panic!("{keys}: {problems:?}");
        };
        assert!(problem.to_string().contains(refused), "{problem}");
    }
    // A captioner has no common space of pictures and texts.
    let text = PIPELINE.replace("objectives = [\"itc\", \"itm\", \"lm\"]\n", clip);
    let text = text.replacen("steps = 1\n", &format!("steps = 1\n{VALIDATE}\n"), 1);
    let problems = Pipeline::from_toml(&text, "x.toml")
        .unwrap_err()
        .to_string();
    assert!(
        problems.contains("`validate.metric = \"r_at_1\"`: must be cider with"),
        "{problems}"
    );
}

#[test]
fn a_training_has_at_most_a_thousand_measurements() {
    let steps = |every: u64| {
        let validate = VALIDATE.replace("every_steps = 1", &format!("every_steps = {every}"));
        let text = PIPELINE.replacen("steps = 1\n", &format!("steps = 20000\n{validate}\n"), 1);
        Pipeline::from_toml(&text, "x.toml").is_ok()
    };
    assert_eq!(
        [19, 20, 20_000, 20_001].map(steps),
        [false, true, true, false]
    );
}

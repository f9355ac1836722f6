//! Validation of a training, over gRPC with a real coordinator: it does not change the model, and a gang
//! that is stopped has the curve and the best step of one that is not.

use std::path::Path;

use capstan_dataset::commits;
use capstan_plan::id::{ModelDigest, RunId, StageName};
use capstan_plan::results::Training;
use capstan_proto::v1;

use crate::stopping::{Cluster, TRAINING, annotate, first_checkpoint, steps_done};

/// The training with a measurement after every 25 steps and after the last one.
fn validated(keys: &str) -> String {
    let validate =
        "validate = { from = \"human\", every_steps = 25, metric = \"r_at_1\", limit = 20 }";
    let with = format!("steps = 310\n{validate}\n{keys}\n");
    TRAINING.replacen("steps = 1500\n", &with, 1)
}

async fn trained(cluster: &Cluster) -> (ModelDigest, Training) {
    let ended = cluster.ended().await;
    assert_eq!(ended.state(), v1::RunState::Done, "{}", ended.reason);
    let (run, stage) = (RunId::from("run"), StageName::from("clip"));
    let commits = commits::of_stage(&cluster.store, &run, &stage).await;
    let outputs = commits.unwrap().remove(0).outputs;
    (outputs.model.unwrap(), outputs.training.unwrap())
}

/// Trains on two ranks without a disturbance.
async fn calm(pipeline: &str) -> (ModelDigest, Training) {
    let cluster = Cluster::start().await;
    annotate(cluster.folder.path());
    let roles = [cluster.worker(), cluster.trainer("a"), cluster.trainer("b")];
    cluster.submit(pipeline).await;
    let trained = trained(&cluster).await;
    let tensorboard = ["a", "b"].map(|name| events(cluster.folder.path(), name));
    let bytes: Vec<u8> = tensorboard.into_iter().flatten().flatten().collect();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(holds(b"train/learning_rate"));
    assert_eq!(holds(b"validation/r_at_1"), pipeline.contains("validate"));
    for role in roles {
        role.stop().await;
    }
    cluster.stop().await;
    trained
}

/// The event file of a trainer, if its rank was 0.
fn events(folder: &Path, trainer: &str) -> Option<Vec<u8>> {
    let run = folder.join(format!("metrics-{trainer}/run/clip"));
    std::fs::read(run.join("events.out.tfevents.capstan")).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_gang_has_the_curve_and_the_best_step_of_an_undisturbed_one() {
    let best = validated("keep = \"best\"");
    let (model, training) = calm(&best).await;
    let curve = training.validation.clone().unwrap();
    let steps: Vec<u64> = curve.points.iter().map(|point| point.step).collect();
    let expected: Vec<u64> = (1..=12).map(|n| 25 * n).chain([310]).collect();
    assert_eq!(steps, expected);
    assert_eq!(curve.published_step, curve.best().unwrap().step);
    let greatest = curve.value(curve.best().unwrap()).unwrap();
    assert!(greatest > 0.0, "a model that learned nothing shows nothing");

    let (last, of_last) = calm(&validated("")).await;
    let (plain, of_plain) = calm(&TRAINING.replace("steps = 1500", "steps = 310")).await;
    assert_eq!(last, plain, "a validation changes no weight");
    assert_eq!(of_last.curve, of_plain.curve);
    assert_eq!(of_last.validation.unwrap().points, curve.points);
    assert_eq!(model == plain, curve.published_step == 310);

    let cluster = Cluster::start().await;
    annotate(cluster.folder.path());
    let worker = cluster.worker();
    let (first, second) = (cluster.trainer("a"), cluster.trainer("b"));
    cluster.submit(&best).await;
    steps_done(&cluster, 30).await;
    first.stop().await;
    let third = cluster.trainer("c");
    let kept = first_checkpoint(&cluster.store).await;
    assert!((25..310).contains(&kept), "{kept}");
    let (stopped, again) = trained(&cluster).await;
    assert_eq!(stopped, model);
    assert_eq!(again.validation, training.validation);
    for role in [worker, second, third] {
        role.stop().await;
    }
    cluster.stop().await;
}

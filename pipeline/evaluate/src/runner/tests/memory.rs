//! A model in memory is measured as its folder is.

use capstan_model::{Load, Pretrained};

use super::*;
use crate::{check, evaluate_model};

/// The model of a folder as a training holds it, and how it is measured between two steps.
fn measured_in_training(folder: &Path, config: &stage::Evaluate) -> Evaluation {
    let load = Load::on(&Device::flex().autodiff());
    let training = Pretrained::open(folder, &load).unwrap();
    let before = training.network.to_flat();
    let rank = ComputePool::new(2).unwrap();
    let found = rank.install(|| {
        let model = Pretrained {
            network: training.network.inference(),
            tokenizer: training.tokenizer.clone(),
            preprocess: training.preprocess.clone(),
        };
        assert!(!model.network.device().is_autodiff());
        let params = model.network.params();
        assert!(params.iter().all(|param| !param.tensor().is_autodiff()));
        let pool = ComputePool::current();
        evaluate_model(config, &model, &sets(), 1, &pool, &|_, _| true).unwrap()
    });
    assert_eq!(training.network.to_flat(), before);
    found
}

#[test]
fn a_model_in_training_has_the_figures_of_its_folder() {
    let [clip, med] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    save_clip(clip.path());
    save_med(med.path(), MedParts::Both, 5);
    for (folder, blip) in [(&clip, false), (&med, true)] {
        let models = Models {
            model: folder.path(),
            captioner: None,
        };
        let stored = run(&config(blip), models, &sets(), 2).unwrap();
        assert_eq!(measured_in_training(folder.path(), &config(blip)), stored);
    }
}

#[test]
fn unusable_sets_are_found_without_a_model() {
    check(&config(true), &sets()).unwrap();
    let mut unusable = sets();
    unusable.retrieval.clear();
    let error = check(&config(true), &unusable).unwrap_err();
    assert!(
        matches!(error, Error::EmptySet { set: "retrieval" }),
        "{error}"
    );
    let mut unusable = sets();
    unusable.zero_shot.clone_from(&unusable.retrieval);
    let error = check(&config(true), &unusable).unwrap_err();
    assert!(matches!(error, Error::Class { .. }), "{error}");
}

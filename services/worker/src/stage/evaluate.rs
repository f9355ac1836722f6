//! `evaluate`: a model is measured on its sets.

use capstan_dataset::{held_out, models, versions};
use capstan_evaluate::Models;
use capstan_lease::Done;
use capstan_plan::commit::{Outputs, Shards};
use capstan_plan::row::Pair;
use capstan_plan::stage::{Evaluate, EvaluateWork};

use crate::compute::compute;
use crate::context::Context;
use crate::error::Error;

/// Measures a model; commits figures.
pub(crate) async fn run(
    context: &Context,
    config: &Evaluate,
    work: EvaluateWork,
) -> Result<Done, Error> {
    let EvaluateWork {
        model,
        captioner,
        retrieval,
        captioning,
        zero_shot,
    } = work;
    let folder = models::fetch(&context.store, &model, &context.cache).await?;
    let captioner_folder = match &captioner {
        Some(captioner) => Some(models::fetch(&context.store, captioner, &context.cache).await?),
        None => None,
    };
    let sets = capstan_evaluate::Sets {
        retrieval: pairs(context, retrieval.as_ref()).await?,
        captioning: pairs(context, captioning.as_ref()).await?,
        zero_shot: pairs(context, zero_shot.as_ref()).await?,
    };
    context.control.progress.begin("parts", 0);
    let (progress, report) = (context.control.progress.clone(), context.report_progress());
    let (config, seed, device) = (config.clone(), context.seed, context.device);
    let computed = compute(context, move |pool| {
        let report = |done: u64, total: u64| {
            progress.begin("parts", total);
            report(done)
        };
        let models = Models {
            model: &folder,
            captioner: captioner_folder.as_deref(),
        };
        Ok(capstan_evaluate::evaluate(
            &config, models, &sets, seed, device, pool, &report,
        )?)
    })
    .await?;
    let mut inputs = Vec::new();
    for shards in [&retrieval, &captioning, &zero_shot].into_iter().flatten() {
        inputs.extend(versions::manifests(&context.store, shards).await?);
    }
    inputs.extend([model].into_iter().chain(captioner).map(|model| model.0));
    Ok(Done {
        outputs: Outputs {
            evaluation: Some(computed.value),
            ..Outputs::default()
        },
        inputs,
        cpu_seconds: computed.cpu_seconds,
        wall_seconds: computed.wall_seconds,
    })
}

/// Pairs of a set with their pictures.
async fn pairs(context: &Context, shards: Option<&Shards>) -> Result<Vec<Pair>, Error> {
    match shards {
        Some(shards) => Ok(held_out::pairs(&context.store, shards).await?),
        None => Ok(Vec::new()),
    }
}

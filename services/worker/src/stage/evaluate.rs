//! `evaluate`: a model is measured on its sets.

use capstan_dataset::files::Pixels;
use capstan_dataset::models;
use capstan_dataset::view::View;
use capstan_evaluate::Models;
use capstan_lease::Done;
use capstan_plan::commit::{Outputs, Part};
use capstan_plan::row::Pair;
use capstan_plan::stage::EvaluateWork;

use crate::compute::compute;
use crate::context::Context;
use crate::error::Error;
use crate::overlays::digests;

/// Measures a model; commits figures.
pub(crate) async fn run(context: &Context, work: EvaluateWork) -> Result<Done, Error> {
    let EvaluateWork {
        config,
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
        retrieval: pairs(context, &retrieval).await?,
        captioning: pairs(context, &captioning).await?,
        zero_shot: pairs(context, &zero_shot).await?,
    };
    context.control.progress.begin("parts", 0);
    let (progress, report) = (context.control.progress.clone(), context.report_progress());
    let (seed, device) = (context.seed, context.device);
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
    let read = [&retrieval, &captioning, &zero_shot];
    let models = [model].into_iter().chain(captioner).map(|model| model.0);
    let inputs = digests(read.into_iter().flatten())
        .into_iter()
        .chain(models)
        .collect();
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
async fn pairs(context: &Context, parts: &[Part]) -> Result<Vec<Pair>, Error> {
    let mut pairs = Vec::new();
    for part in parts {
        let rows = View::read(&context.store, part, Pixels::Read).await?;
        pairs.extend(rows.into_iter().filter(|row| row.keep).map(|row| row.pair));
    }
    Ok(pairs)
}

//! Evaluation: the sets are read, the models fetched, the figures committed.

use capstan_dataset::files::Pixels;
use capstan_dataset::models;
use capstan_dataset::view::View;
use capstan_evaluate::Models;
use capstan_lease::Done;
use capstan_plan::commit::{Outputs, Part};
use capstan_plan::id::ModelDigest;
use capstan_plan::row::Pair;
use capstan_plan::stage;

use crate::compute::compute;
use crate::context::Context;
use crate::error::Error;
use crate::models::part_digests;

/// Shards of the sets that a model is measured on.
pub(crate) struct Sets {
    pub(crate) retrieval: Vec<Part>,
    pub(crate) captioning: Vec<Part>,
    pub(crate) zero_shot: Vec<Part>,
}

/// Measures a model; commits figures.
pub(crate) async fn evaluate(
    context: &Context,
    config: stage::Evaluate,
    model: &ModelDigest,
    captioner: Option<&ModelDigest>,
    parts: Sets,
) -> Result<Done, Error> {
    let folder = models::fetch(&context.store, model, &context.cache).await?;
    let captioner_folder = match captioner {
        Some(captioner) => Some(models::fetch(&context.store, captioner, &context.cache).await?),
        None => None,
    };
    let sets = capstan_evaluate::Sets {
        retrieval: pairs(context, &parts.retrieval).await?,
        captioning: pairs(context, &parts.captioning).await?,
        zero_shot: pairs(context, &parts.zero_shot).await?,
    };
    context.control.progress.begin("parts", 0);
    let (progress, told) = (context.control.progress.clone(), context.told());
    let (seed, device) = (context.seed, context.device);
    let computed = compute(context, move |pool| {
        let told = |done: u64, total: u64| {
            progress.begin("parts", total);
            told(done)
        };
        let models = Models {
            model: &folder,
            captioner: captioner_folder.as_deref(),
        };
        Ok(capstan_evaluate::evaluate(
            &config, models, &sets, seed, device, pool, &told,
        )?)
    })
    .await?;
    let read = [&parts.retrieval, &parts.captioning, &parts.zero_shot];
    let inputs = read.into_iter().flatten().flat_map(part_digests);
    let inputs = inputs
        .chain([model.0])
        .chain(captioner.map(|model| model.0))
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

//! `filter`: a model judges the texts of one shard.

use capstan_capfilt::Filter;
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::models;
use capstan_dataset::view::View;
use capstan_lease::Done;
use capstan_plan::commit::Outputs;
use capstan_plan::stage::{self as settings, FilterWork};

use crate::compute::compute;
use crate::context::Context;
use crate::error::Error;
use crate::overlays::digests;

/// Judges the texts of one shard; commits an overlay.
pub(crate) async fn run(
    context: &Context,
    config: &settings::Filter,
    work: FilterWork,
) -> Result<Done, Error> {
    let FilterWork { part, model } = work;
    let config = config.clone();
    let folder = models::fetch(&context.store, &model, &context.cache).await?;
    let rows = View::read(&context.store, &part, Pixels::Read).await?;
    context
        .control
        .progress
        .begin("pictures", rows.len() as u64);
    let (report, device) = (context.report_progress(), context.device);
    let kept = context.models.filter.clone();
    let computed = compute(context, move |pool| {
        let filter = kept.get(model, || Filter::load(&folder, model, device, pool))?;
        Ok(filter.judge_shard(pool, &config, &rows, &report)?)
    })
    .await?;
    let mut outputs = Outputs::default();
    let verdicts = || computed.value.iter().flat_map(|row| &row.verdicts);
    outputs
        .counts
        .insert("judged".to_owned(), verdicts().count() as u64);
    let kept = verdicts().filter(|verdict| verdict.kept).count();
    outputs.counts.insert("kept_texts".to_owned(), kept as u64);
    outputs
        .files
        .push(files::write_overlay(&context.store, &part.base, computed.value).await?);
    Ok(Done {
        outputs,
        inputs: digests([&part]).into_iter().chain([model.0]).collect(),
        cpu_seconds: computed.cpu_seconds,
        wall_seconds: computed.wall_seconds,
    })
}

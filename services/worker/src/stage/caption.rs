//! `caption`: a model writes texts for the pictures of one shard.

use capstan_capfilt::Captioner;
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::models;
use capstan_dataset::view::View;
use capstan_lease::Done;
use capstan_plan::commit::Outputs;
use capstan_plan::stage::{Caption, CaptionWork};

use crate::compute::compute;
use crate::context::Context;
use crate::error::Error;
use crate::overlays::digests;

/// Captions one shard; commits an overlay.
pub(crate) async fn run(
    context: &Context,
    config: &Caption,
    work: CaptionWork,
) -> Result<Done, Error> {
    let CaptionWork { part, model } = work;
    let config = config.clone();
    let folder = models::fetch(&context.store, &model, &context.cache).await?;
    let rows = View::read(&context.store, &part, Pixels::Read).await?;
    context
        .control
        .progress
        .begin("pictures", rows.len() as u64);
    let (report, seed) = (context.report_progress(), context.seed);
    let (device, kept) = (context.device, context.models.captioner.clone());
    let computed = compute(context, move |pool| {
        let captioner = kept.get(model, || Captioner::load(&folder, model, device, pool))?;
        Ok(captioner.caption_shard(pool, &config, seed, &rows, &report)?)
    })
    .await?;
    let mut outputs = Outputs::default();
    let texts = computed
        .value
        .iter()
        .map(|row| row.texts.len() as u64)
        .sum();
    outputs.counts.insert("synthetic".to_owned(), texts);
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

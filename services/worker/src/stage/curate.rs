//! `curate`: the texts of one shard are filtered and matched.

use capstan_curate::{CurateRow, Curator};
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::view::{View, ViewRow};
use capstan_lease::Done;
use capstan_plan::commit::Outputs;
use capstan_plan::stage::{Curate, CurateWork};

use crate::context::Context;
use crate::error::Error;
use crate::measured::computed;
use crate::overlays::{count_kept, metadata_digests};

/// Rows between two checks whether the task was cancelled.
const BATCH: usize = 256;

/// Curates one shard; commits an overlay.
pub(crate) async fn run(
    context: &Context,
    config: &Curate,
    work: CurateWork,
) -> Result<Done, Error> {
    let CurateWork { part } = work;
    let curator = Curator::new(config)?;
    let rows = View::read(&context.store, &part, Pixels::Skip).await?;
    let rows: Vec<CurateRow> = rows.into_iter().map(curate_row).collect();
    let pictures = rows.len() as u64;
    context.control.progress.begin("pictures", pictures);
    let report = context.report_progress();
    let measured = computed(move || {
        let mut curated = Vec::with_capacity(rows.len());
        for batch in rows.chunks(BATCH) {
            curated.extend(curator.shard(batch));
            if !report(curated.len() as u64) {
                return Err(Error::Cancelled);
            }
        }
        Ok(curated)
    });
    let measured = measured.await?;
    let curated = measured.value;
    let mut outputs = Outputs::default();
    count_kept(&mut outputs, &curated);
    outputs
        .files
        .push(files::write_overlay(&context.store, &part.base, curated).await?);
    Ok(Done {
        outputs,
        inputs: metadata_digests([&part]),
        cpu_seconds: measured.cpu_seconds,
        ..Done::default()
    })
}

fn curate_row(row: ViewRow) -> CurateRow {
    let (width, height) = (row.pair.original_width, row.pair.original_height);
    CurateRow {
        pair_id: row.pair.pair_id,
        width,
        height,
        texts: row.pair.texts,
    }
}

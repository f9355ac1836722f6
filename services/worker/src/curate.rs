//! Curation of one shard, and balancing over all of them.

use capstan_curate::{BalanceRow, CurateRow, Curator};
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::view::{View, ViewRow};
use capstan_lease::Done;
use capstan_plan::commit::{Outputs, Part};
use capstan_plan::id::Digest;
use capstan_plan::row::{Curation, Text};
use capstan_plan::stage;

use crate::context::Context;
use crate::error::Error;
use crate::measured::computed;
use crate::models::part_digests;

/// Rows between two looks at whether the task was cancelled.
const BATCH: usize = 256;

/// Curates one shard; commits an overlay.
pub(crate) async fn curate(
    context: &Context,
    config: stage::Curate,
    part: Part,
) -> Result<Done, Error> {
    let curator = Curator::new(&config)?;
    let rows = View::read(&context.store, &part, Pixels::Skip).await?;
    let rows: Vec<CurateRow> = rows.into_iter().map(curate_row).collect();
    let pictures = rows.len() as u64;
    context.control.progress.begin("pictures", pictures);
    let told = context.told();
    let measured = computed(move || {
        let mut curated = Vec::with_capacity(rows.len());
        for batch in rows.chunks(BATCH) {
            curated.extend(curator.shard(batch));
            if !told(curated.len() as u64) {
                return Err(Error::Cancelled);
            }
        }
        Ok(curated)
    });
    let measured = measured.await?;
    let curated = measured.value;
    let mut outputs = Outputs::default();
    count(&mut outputs, &curated);
    outputs
        .files
        .push(files::write_overlay(&context.store, &part.base, curated).await?);
    Ok(Done {
        outputs,
        inputs: inputs(&[part]),
        cpu_seconds: measured.cpu_seconds,
        ..Done::default()
    })
}

/// Balances every shard; commits an overlay per shard, in order.
pub(crate) async fn balance(
    context: &Context,
    config: stage::Balance,
    parts: Vec<Part>,
) -> Result<Done, Error> {
    let mut shards = Vec::with_capacity(parts.len());
    for part in &parts {
        let rows = View::read(&context.store, part, Pixels::Skip).await?;
        shards.push(rows.iter().map(balance_row).collect::<Vec<_>>());
    }
    let seed = context.seed;
    let balance = move || Ok(capstan_curate::balance(&config, seed, &shards));
    let measured = computed(balance).await?;
    let mut outputs = Outputs::default();
    for (part, rows) in parts.iter().zip(measured.value) {
        count(&mut outputs, &rows);
        outputs
            .files
            .push(files::write_overlay(&context.store, &part.base, rows).await?);
    }
    Ok(Done {
        outputs,
        inputs: inputs(&parts),
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

fn balance_row(row: &ViewRow) -> BalanceRow {
    if !row.keep {
        return BalanceRow::dropped(row.pair.pair_id, row.reason.clone());
    }
    let kept: Vec<Text> = row.curated_texts().cloned().collect();
    BalanceRow::kept(row.pair.pair_id, row.pair.sha256, &kept, &row.queries)
}

fn count(outputs: &mut Outputs, rows: &[Curation]) {
    for row in rows {
        let name = match &row.reason {
            Some(reason) => format!("dropped_{reason}"),
            None => "kept".to_owned(),
        };
        *outputs.counts.entry(name).or_default() += 1;
    }
}

fn inputs(parts: &[Part]) -> Vec<Digest> {
    parts.iter().flat_map(part_digests).collect()
}

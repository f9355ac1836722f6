//! `balance`: exact duplicates are dropped and queries capped over every shard.

use capstan_curate::BalanceRow;
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::versions;
use capstan_dataset::view::{View, ViewRow};
use capstan_lease::Done;
use capstan_plan::commit::Outputs;
use capstan_plan::row::Text;
use capstan_plan::stage::{Balance, BalanceWork};

use crate::context::Context;
use crate::error::Error;
use crate::measured::computed;
use crate::overlays::count_kept;

/// Balances every shard; commits an overlay per shard, in order.
pub(crate) async fn run(
    context: &Context,
    config: &Balance,
    work: BalanceWork,
) -> Result<Done, Error> {
    let parts = versions::parts_of(&context.store, &work.shards).await?;
    let mut shards = Vec::with_capacity(parts.len());
    for part in &parts {
        let rows = View::read(&context.store, part, Pixels::Skip).await?;
        shards.push(rows.iter().map(balance_row).collect::<Vec<_>>());
    }
    let (config, seed) = (config.clone(), context.seed);
    let balance = move || Ok(capstan_curate::balance(&config, seed, &shards));
    let measured = computed(balance).await?;
    let mut outputs = Outputs::default();
    for (part, rows) in parts.iter().zip(measured.value) {
        count_kept(&mut outputs, &rows);
        outputs
            .files
            .push(files::write_overlay(&context.store, &part.base, rows).await?);
    }
    Ok(Done {
        outputs,
        inputs: versions::manifests(&context.store, &work.shards).await?,
        cpu_seconds: measured.cpu_seconds,
        ..Done::default()
    })
}

fn balance_row(row: &ViewRow) -> BalanceRow {
    if !row.keep {
        return BalanceRow::dropped(row.pair.pair_id, row.reason.clone());
    }
    let kept: Vec<Text> = row.curated_texts().cloned().collect();
    BalanceRow::kept(row.pair.pair_id, row.pair.sha256, &kept, &row.queries)
}

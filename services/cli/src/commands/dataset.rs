//! `capstan dataset`: the datasets of a store: listing, checking, import and export.

mod export;
mod import;
mod lineage;

use capstan_dataset::files::Pixels;
use capstan_dataset::verify::{Scope, verify};
use capstan_dataset::view::{View, ViewRow};
use capstan_dataset::{Error, Store, stats, versions};
use serde_json::{Value, json};

use super::block_on;
use crate::args::{Dataset, StoreArgs};
use crate::error::{Exit, ExpectedError, OrExit};
use crate::output::{self, table};
use crate::settings::Settings;
use crate::store;

/// Runs a dataset command.
///
/// # Errors
/// Unavailable store; usage, for an unknown dataset; run failed, for damage that `verify` finds.
pub fn run(command: &Dataset, settings: &Settings) -> Result<(), ExpectedError> {
    block_on(async {
        match command {
            Dataset::Ls(args) => list(&open(args, settings).await?, args.json).await,
            Dataset::Show {
                dataset,
                rows,
                store,
            } => show(&open(store, settings).await?, dataset, *rows, store.json).await,
            Dataset::Stats { dataset, store } => {
                statistics(&open(store, settings).await?, dataset, store.json).await
            }
            Dataset::Verify { dataset, store } => {
                let opened = open(store, settings).await?;
                check(&opened, dataset.as_deref(), store.json).await
            }
            Dataset::Lineage {
                dataset,
                query,
                limit,
                store,
            } => {
                let opened = open(store, settings).await?;
                lineage::lineage(&opened, dataset, query, *limit, store.json).await
            }
            Dataset::Import(args) => import::import(args, settings).await,
            Dataset::Export {
                dataset,
                folder,
                layout,
                rows_per_file,
                store,
            } => {
                let opened = open(store, settings).await?;
                let options = export::options(*layout, *rows_per_file);
                export::export(&opened, dataset, folder, options, store.json).await
            }
        }
    })
}

/// Opens a store that exists; reading creates none.
pub(super) async fn open(args: &StoreArgs, settings: &Settings) -> Result<Store, ExpectedError> {
    let overrides = capstan_runtime::Overrides::new().set_some("store.url", args.store.clone());
    store::open_existing(&settings.load_with(overrides)?.store).await
}

/// A dataset or version that does not exist is a mistake of the caller.
fn found<T>(result: Result<T, Error>) -> Result<T, ExpectedError> {
    result.map_err(|error| {
        let exit = match &error {
            Error::NoDataset { .. } | Error::Name { .. } => Exit::Usage,
            _ => Exit::Unavailable,
        };
        ExpectedError::from_error(exit, &error)
    })
}

async fn list(store: &Store, as_json: bool) -> Result<(), ExpectedError> {
    let mut rows = Vec::new();
    for dataset in found(versions::datasets(store).await)? {
        for version in found(versions::list(store, &dataset).await)? {
            rows.push(found(versions::read(store, &version).await)?);
        }
    }
    if as_json {
        return output::json(&rows);
    }
    let mut table = table(&["version", "made by", "run", "statistics"]);
    for version in rows {
        let statistics = version
            .statistics
            .iter()
            .map(|(name, count)| format!("{name} {count}"));
        table.add_row([
            format!("{}@{}", version.dataset, version.number),
            version.stage.to_string(),
            version.run.to_string(),
            statistics.collect::<Vec<_>>().join(", "),
        ]);
    }
    println!("{table}");
    Ok(())
}

async fn show(
    store: &Store,
    dataset: &str,
    count: usize,
    as_json: bool,
) -> Result<(), ExpectedError> {
    let version = found(versions::resolve(store, dataset).await)?;
    let mut left = count;
    for part in found(versions::parts(store, &version).await)? {
        let mut view = found(View::open(store, &part, Pixels::Skip).await)?;
        while left > 0 {
            let Some(rows) = found(view.next().await)? else {
                break;
            };
            for row in rows.iter().take(left) {
                let shown = describe(row);
                if as_json {
                    println!("{shown}");
                } else {
                    print_row(&shown);
                }
            }
            left = left.saturating_sub(rows.len());
        }
    }
    Ok(())
}

/// A row as JSON: picture, texts, verdicts and reasons.
fn describe(row: &ViewRow) -> Value {
    let texts = row.pair.texts.iter().chain(&row.synthetic).map(|text| {
        let verdict = row.verdict(&text.text_id);
        let curated = row.kept_texts.contains(&text.text_id) || !text.origin.is_web();
        json!({
            "text": text.text,
            "origin": text.origin.as_str(),
            "curated": row.keep && curated,
            "itc": verdict.map(|verdict| verdict.itc),
            "itm": verdict.map(|verdict| verdict.itm),
            "kept": verdict.map(|verdict| verdict.kept),
            "reason": verdict.map(|verdict| verdict.reason.clone()),
        })
    });
    json!({
        "pair_id": row.pair.pair_id.to_string(),
        "image_url": row.pair.image_url,
        "page_url": row.pair.page_url,
        "size": format!("{}x{}", row.pair.width, row.pair.height),
        "keep": row.keep,
        "reason": row.reason,
        "texts": texts.collect::<Vec<_>>(),
    })
}

fn print_row(row: &Value) {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let fate = if row["keep"] == json!(true) {
        "kept".to_owned()
    } else {
        format!("dropped: {}", text("reason"))
    };
    println!("{} ({}) {fate}", text("image_url"), text("size"));
    for line in row["texts"].as_array().into_iter().flatten() {
        let verdict = match (line["kept"].as_bool(), line["itm"].as_f64()) {
            (Some(kept), Some(itm)) => {
                format!(
                    "  [{}, itm {itm:.2}]",
                    if kept { "kept" } else { "dropped" }
                )
            }
            _ => String::new(),
        };
        let origin = line["origin"].as_str().unwrap_or_default();
        println!(
            "  {origin}: {}{verdict}",
            line["text"].as_str().unwrap_or_default()
        );
    }
}

async fn statistics(store: &Store, dataset: &str, as_json: bool) -> Result<(), ExpectedError> {
    let version = found(versions::resolve(store, dataset).await)?;
    let stats = found(stats::stats(store, &version).await)?;
    let value = serde_json::to_value(&stats).or_exit(Exit::RunFailed)?;
    if as_json {
        return output::json(&value);
    }
    println!("{version}");
    let mut table = table(&["figure", "value"]);
    flatten("", &value, &mut |name, value| {
        table.add_row([name, value]);
    });
    println!("{table}");
    Ok(())
}

/// Nested figures as dotted names.
fn flatten(prefix: &str, value: &Value, each: &mut impl FnMut(String, String)) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&name, value, each);
            }
        }
        other => each(prefix.to_owned(), other.to_string()),
    }
}

async fn check(store: &Store, dataset: Option<&str>, as_json: bool) -> Result<(), ExpectedError> {
    let scope = match dataset {
        None => Scope::Store,
        Some(name) if name.contains('@') => {
            Scope::Version(found(versions::resolve(store, name).await)?)
        }
        Some(name) => Scope::Dataset(name.into()),
    };
    let report = found(verify(store, &scope).await)?;
    if as_json {
        output::json(&report)?;
    } else {
        println!(
            "{} versions, {} shards, {} files, {} rows, {} commits, {} models read",
            report.versions,
            report.shards,
            report.files,
            report.rows,
            report.commits,
            report.models
        );
        for problem in &report.problems {
            println!("{}: {}", problem.path, problem.reason);
        }
    }
    if report.is_clean() {
        if !as_json {
            println!("clean");
        }
        return Ok(());
    }
    let count = report.problems.len() as u64 + report.more_problems;
    Err(ExpectedError::new(
        Exit::RunFailed,
        format!("{}: {count} problems found", store.url()),
    ))
}

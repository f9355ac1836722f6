//! `capstan model`: the models of a store: listing, import and export.

use std::path::Path;

use capstan_dataset::models::{self, Listed};
use capstan_dataset::{Error, Store};
use capstan_model::{DeviceSpec, Load, pretrained};
use capstan_plan::id::ModelDigest;
use serde_json::json;

use super::{block_on, dataset};
use crate::args::{Model, StoreArgs};
use crate::error::{Exit, ExpectedError, OrExit};
use crate::output::{self, table};
use crate::settings::Settings;

/// Runs a model command.
///
/// # Errors
/// Unavailable store; usage, for a digest that names no model or several, or a folder that is
/// there; foreign input, for a folder that is no model of ours.
pub fn run(command: &Model, settings: &Settings) -> Result<(), ExpectedError> {
    match command {
        Model::Ls(args) => block_on(list(args, settings)),
        Model::Import { folder, store } => {
            let device = DeviceSpec::Cpu.open().or_exit(Exit::RunFailed)?;
            pretrained::inspect(folder, &Load::on(&device)).or_exit(Exit::ForeignInput)?;
            block_on(import(folder, store, settings))
        }
        Model::Export {
            digest,
            folder,
            store,
        } => block_on(export(digest, folder, store, settings)),
    }
}

async fn list(args: &StoreArgs, settings: &Settings) -> Result<(), ExpectedError> {
    let store = dataset::open(args, settings).await?;
    let listed = models::catalogue(&store).await.or_exit(Exit::Unavailable)?;
    if args.json {
        return output::json(&listed);
    }
    let mut table = table(&["model", "family", "parameters", "size", "made by"]);
    for model in &listed {
        table.add_row([
            model.model.0.short(),
            model.family.clone(),
            model.parameters.to_string(),
            size(model.size_bytes),
            maker(model),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn maker(model: &Listed) -> String {
    match &model.made_by {
        Some(made) if made.adopted => format!("{} of {} (adopted)", made.stage, made.run),
        Some(made) => format!("{} of {}", made.stage, made.run),
        None => "put by hand".to_owned(),
    }
}

/// Bytes in the largest unit that is not larger than the size.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

async fn import(folder: &Path, args: &StoreArgs, settings: &Settings) -> Result<(), ExpectedError> {
    let store = dataset::open(args, settings).await?;
    let digest = models::put_given(&store, folder)
        .await
        .or_exit(Exit::Unavailable)?;
    if args.json {
        return output::json(&json!({"model": digest}));
    }
    println!("{digest}");
    Ok(())
}

async fn export(
    digest: &str,
    folder: &Path,
    args: &StoreArgs,
    settings: &Settings,
) -> Result<(), ExpectedError> {
    if folder.exists() {
        let line = format!("{}: is there already; name a new folder", folder.display());
        return Err(ExpectedError::new(Exit::Usage, line));
    }
    let store = dataset::open(args, settings).await?;
    let model = find(&store, digest).await?;
    // Fetched beside its place and renamed, so that it appears atomically.
    let partial = output::beside(folder);
    let fetched = models::fetch(&store, &model, &partial).await;
    let moved = fetched.and_then(|fetched| {
        std::fs::rename(&fetched, folder).map_err(|source| Error::Local {
            path: folder.display().to_string(),
            source,
        })
    });
    let _ = std::fs::remove_dir_all(&partial);
    moved.or_exit(Exit::Unavailable)?;
    if args.json {
        return output::json(&json!({"model": model, "folder": folder}));
    }
    println!("{model} -> {}", folder.display());
    Ok(())
}

/// The model whose digest begins so.
async fn find(store: &Store, digest: &str) -> Result<ModelDigest, ExpectedError> {
    let all = models::list(store).await.or_exit(Exit::Unavailable)?;
    let usage = |text: String| Err(ExpectedError::new(Exit::Usage, text));
    let begins = |model: &&ModelDigest| model.to_string().starts_with(&digest.to_lowercase());
    let found: Vec<_> = all.iter().filter(begins).collect();
    match found.as_slice() {
        [model] => Ok(**model),
        [] => usage(format!(
            "no model of {} begins with `{digest}`: `capstan model ls` lists them",
            store.url()
        )),
        several => usage(format!(
            "{} models of {} begin with `{digest}`: give more digits",
            several.len(),
            store.url()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        let told = [17, 1_500, 3_250_000, 7_000_000_000].map(size);
        assert_eq!(told, ["17 B", "1.5 kB", "3.2 MB", "7.0 GB"]);
    }

    #[tokio::test]
    async fn a_model_is_found_by_the_beginning_of_its_digest() {
        let store = Store::memory();
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("vocab.txt"), "a\n").unwrap();
        let model = models::put(&store, temp.path()).await.unwrap();
        let hex = model.to_string();
        assert_eq!(find(&store, &hex[..6]).await.unwrap(), model);
        let error = find(&store, "zz").await.unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("model ls"), "{error}");
    }
}

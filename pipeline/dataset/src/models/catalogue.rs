//! Lists the models of a store: family and size from the headers of their files, and their origin.

use std::collections::HashMap;

use capstan_plan::commit::Commit;
use capstan_plan::id::{ModelDigest, RunId, StageName};
use serde::{Deserialize, Serialize};

use super::{list, manifest, prefix};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::{commits, runs};

/// Longest header of a safetensors file that is read.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// A model of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its digest.
    pub model: ModelDigest,
    /// The class that `config.json` names (`CLIPModel`, `BlipForConditionalGeneration` ...). For a
    /// pre-trained MED both classes, joined by `+`; for a vocabulary alone `tokenizer`.
    pub family: String,
    /// Number of parameters; tensors shared within a pre-trained MED count once.
    pub parameters: u64,
    /// Size of all files.
    pub size_bytes: u64,
    /// The first commit that output it. `None` if it was put without a run, or if its run is no
    /// longer in the store.
    pub made_by: Option<MadeBy>,
}

/// The commit that output a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MadeBy {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// Whether that run adopted the commit of an earlier run.
    pub adopted: bool,
    /// When the run was submitted, in milliseconds since 1970.
    pub created_at_ms: i64,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
}

#[derive(Deserialize)]
struct Tensor {
    shape: Vec<u64>,
}

/// Every complete model of the store, by digest.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn catalogue(store: &Store) -> Result<Vec<Listed>> {
    let mut makers = makers(store).await?;
    let mut listed = Vec::new();
    for model in list(store).await? {
        let made_by = makers.remove(&model);
        listed.push(Listed {
            made_by,
            ..describe(store, &model).await?
        });
    }
    Ok(listed)
}

/// Describes one model, without `made_by`.
///
/// # Errors
/// [`Error::NoModel`], [`Error::Damaged`]; those of the store.
pub async fn describe(store: &Store, model: &ModelDigest) -> Result<Listed> {
    let files = manifest(store, model).await?.files;
    let mut families: Vec<String> = Vec::new();
    let mut tensors: HashMap<String, u64> = HashMap::new();
    for file in &files {
        let path = format!("{}/{}", prefix(model), file.name);
        if file.name.ends_with("config.json") && !file.name.contains("_config.json") {
            families.push(family(&path, &store.get(&path).await?)?);
        }
        if file.name.ends_with("model.safetensors") {
            tensors.extend(read_header(store, &path, file.size_bytes).await?);
        }
    }
    if families.is_empty() {
        families.push("tokenizer".to_owned());
    }
    Ok(Listed {
        model: *model,
        family: families.join("+"),
        parameters: tensors.values().sum(),
        size_bytes: files.iter().map(|file| file.size_bytes).sum(),
        made_by: None,
    })
}

fn family(path: &str, bytes: &[u8]) -> Result<String> {
    let config: Config =
        serde_json::from_slice(bytes).map_err(|error| Error::damaged(path, error))?;
    let class = config.architectures.into_iter().next();
    Ok(class
        .or(config.model_type)
        .unwrap_or_else(|| "unknown".to_owned()))
}

/// The number of values of every tensor, under the name that both folders of a MED use for it.
async fn read_header(store: &Store, path: &str, size_bytes: u64) -> Result<HashMap<String, u64>> {
    let foreign = |reason: &str| Error::damaged(path, reason);
    let short = || foreign("it is no complete safetensors file");
    if size_bytes < 8 {
        return Err(short());
    }
    let length = store.get_range(path, 0..8).await?;
    let length = length.first_chunk().ok_or_else(short)?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length + 8 > size_bytes {
        return Err(short());
    }
    let header = store.get_range(path, 8..8 + length).await?;
    let header: HashMap<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|error| Error::damaged(path, error))?;
    let tensors = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__");
    tensors
        .map(|(name, value)| {
            let tensor: Tensor =
                serde_json::from_value(value).map_err(|error| Error::damaged(path, error))?;
            Ok((shared_name(&name), tensor.shape.iter().product()))
        })
        .collect()
}

/// Both folders of a MED hold the tensors that its decoder shares with its encoder: all of
/// `text_decoder.bert` but self-attention.
fn shared_name(name: &str) -> String {
    match name.strip_prefix("text_decoder.bert.") {
        Some(rest) if !rest.contains(".attention.") => format!("text_encoder.{rest}"),
        _ => name.to_owned(),
    }
}

/// The first commit of every model: runs by time, stages by name.
async fn makers(store: &Store) -> Result<HashMap<ModelDigest, MadeBy>> {
    let mut runs = runs::list(store).await?;
    runs.sort_by_key(|run| run.created_at_ms);
    let mut makers = HashMap::new();
    for run in runs {
        for commit in commits::of_run(store, &run.run).await? {
            let Commit {
                outputs,
                stage,
                adopted,
                ..
            } = commit;
            if let Some(model) = outputs.model {
                makers.entry(model).or_insert_with(|| MadeBy {
                    run: run.run.clone(),
                    stage,
                    adopted,
                    created_at_ms: run.created_at_ms,
                });
            }
        }
    }
    Ok(makers)
}

#[cfg(test)]
mod tests;

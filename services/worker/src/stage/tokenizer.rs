//! `tokenizer`: one vocabulary is made from the texts of all sources.

use std::path::{Path, PathBuf};

use capstan_dataset::{index, models, versions};
use capstan_lease::Done;
use capstan_model::Tokenizer;
use capstan_plan::commit::Outputs;
use capstan_plan::stage::{self as settings, TokenizerWork};

use crate::compute::compute;
use crate::context::Context;
use crate::error::Error;

/// Makes one vocabulary from the texts of all sources; commits its folder.
pub(crate) async fn run(
    context: &Context,
    config: &settings::Tokenizer,
    work: TokenizerWork,
) -> Result<Done, Error> {
    let TokenizerWork { data } = work;
    let index = index::samples(&context.store, &data).await?;
    let texts: Vec<String> = index
        .samples
        .into_iter()
        .map(|sample| sample.text)
        .collect();
    context.control.progress.begin("texts", texts.len() as u64);
    let folder = Scratch::new(context, "tokenizer")?;
    let (made, config) = (folder.0.clone(), config.clone());
    let computed = compute(context, move |_| {
        let tokenizer = Tokenizer::train(&texts, config.min_count, config.max_vocab)?;
        tokenizer.save(&made)?;
        Ok(tokenizer.len() as u64)
    })
    .await?;
    let model = models::put(&context.store, &folder.0).await?;
    let mut outputs = Outputs {
        model: Some(model),
        ..Outputs::default()
    };
    outputs.counts.insert("tokens".to_owned(), computed.value);
    let mut inputs = Vec::new();
    for data in &data {
        inputs.extend(versions::manifests(&context.store, &data.shards).await?);
    }
    Ok(Done {
        outputs,
        inputs,
        cpu_seconds: computed.cpu_seconds,
        wall_seconds: computed.wall_seconds,
    })
}

/// A folder for unfinished files; removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, empty.
    fn new(context: &Context, name: &str) -> Result<Self, Error> {
        let unique = format!("{name}-{}", context.attempt);
        let folder = context.cache.join("scratch").join(unique);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| local(&folder, error))?;
        }
        std::fs::create_dir_all(&folder).map_err(|error| local(&folder, error))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "files of an attempt are left");
        }
    }
}

fn local(path: &Path, source: std::io::Error) -> Error {
    Error::Local {
        path: path.to_owned(),
        source,
    }
}

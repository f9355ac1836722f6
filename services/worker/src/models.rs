//! Vocabularies, captions and verdicts: stages that need a model's room.

use std::path::PathBuf;

use capstan_capfilt::{Captioner, Filter};
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::view::View;
use capstan_dataset::{index, models};
use capstan_lease::Done;
use capstan_model::Tokenizer;
use capstan_model::inspect::inspect;
use capstan_plan::commit::{Outputs, Part};
use capstan_plan::id::{Digest, ModelDigest};
use capstan_plan::stage;
use capstan_plan::task::Data;

use crate::compute::compute;
use crate::context::Context;
use crate::error::Error;
use crate::measured::computed;

/// Makes one vocabulary from the texts of all sources; commits its folder.
pub(crate) async fn tokenizer(
    context: &Context,
    config: stage::Tokenizer,
    data: &[Data],
) -> Result<Done, Error> {
    let index = index::samples(&context.store, data).await?;
    let texts: Vec<String> = index
        .samples
        .into_iter()
        .map(|sample| sample.text)
        .collect();
    context.control.progress.begin("texts", texts.len() as u64);
    let folder = Scratch::new(context, "tokenizer")?;
    let made = folder.0.clone();
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
    let inputs = data
        .iter()
        .flat_map(|data| &data.parts)
        .flat_map(part_digests)
        .collect();
    Ok(Done {
        outputs,
        inputs,
        cpu_seconds: computed.cpu_seconds,
        wall_seconds: computed.wall_seconds,
    })
}

/// Brings in a model that somebody has: from a folder, or one that the store holds already.
///
/// All of it is read as its users will, so that a foreign one is refused here, in one line.
pub(crate) async fn given(context: &Context, config: &stage::GivenModel) -> Result<Done, Error> {
    let store = &context.store;
    let folder = match (&config.source, &config.digest) {
        (Some(source), _) => given_folder(context, source).await?,
        (None, Some(digest)) => models::fetch(store, digest, &context.cache).await?,
        (None, None) => {
            return Err(Error::Role(
                "bring in a model without `source` and `digest`",
            ));
        }
    };
    let inspected = folder.clone();
    let computed = compute(context, move |_| Ok(inspect(&inspected)?)).await?;
    let model = match (&config.source, config.digest) {
        (None, Some(digest)) => digest,
        (_, wanted) => {
            let found = models::digest_given(&folder).await?;
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                return Err(Error::OtherModel {
                    folder,
                    found,
                    wanted,
                });
            }
            models::put_given(store, &folder).await?
        }
    };
    let mut outputs = Outputs {
        model: Some(model),
        ..Outputs::default()
    };
    let parameters = computed.value.parameters as u64;
    outputs.counts.insert("parameters".to_owned(), parameters);
    Ok(Done {
        outputs,
        inputs: config.digest.iter().map(|digest| digest.0).collect(),
        cpu_seconds: computed.cpu_seconds,
        wall_seconds: computed.wall_seconds,
    })
}

/// The folder of a given model, none of whose links leads out of the import roots.
async fn given_folder(context: &Context, source: &str) -> Result<PathBuf, Error> {
    let (roots, source) = (context.import_roots.clone(), source.to_owned());
    let folder = computed(move || {
        let folder = roots.resolve(&source)?;
        folder.check_links()?;
        Ok(folder.path().to_owned())
    });
    Ok(folder.await?.value)
}

/// Captions one shard; commits an overlay.
pub(crate) async fn caption(
    context: &Context,
    config: stage::Caption,
    part: Part,
    model: &ModelDigest,
) -> Result<Done, Error> {
    let folder = models::fetch(&context.store, model, &context.cache).await?;
    let rows = View::read(&context.store, &part, Pixels::Read).await?;
    context
        .control
        .progress
        .begin("pictures", rows.len() as u64);
    let (told, seed) = (context.told(), context.seed);
    let (device, digest) = (context.device, *model);
    let computed = compute(context, move |pool| {
        let captioner = Captioner::load(&folder, digest, device, pool)?;
        Ok(captioner.caption_shard(&config, seed, &rows, &told)?)
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
        inputs: part_digests(&part).into_iter().chain([model.0]).collect(),
        cpu_seconds: computed.cpu_seconds,
        wall_seconds: computed.wall_seconds,
    })
}

/// Judges the texts of one shard; commits an overlay.
pub(crate) async fn filter(
    context: &Context,
    config: stage::Filter,
    part: Part,
    model: &ModelDigest,
) -> Result<Done, Error> {
    let folder = models::fetch(&context.store, model, &context.cache).await?;
    let rows = View::read(&context.store, &part, Pixels::Read).await?;
    context
        .control
        .progress
        .begin("pictures", rows.len() as u64);
    let (told, device, digest) = (context.told(), context.device, *model);
    let computed = compute(context, move |pool| {
        let filter = Filter::load(&folder, digest, device, pool)?;
        Ok(filter.judge_shard(&config, &rows, &told)?)
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
        inputs: part_digests(&part).into_iter().chain([model.0]).collect(),
        cpu_seconds: computed.cpu_seconds,
        wall_seconds: computed.wall_seconds,
    })
}

/// Digests of a shard's files.
pub(crate) fn part_digests(part: &Part) -> Vec<Digest> {
    [&part.base]
        .into_iter()
        .chain(&part.overlays)
        .map(|file| file.digest)
        .collect()
}

/// A folder for files under way; removed on drop.
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

fn local(path: &std::path::Path, source: std::io::Error) -> Error {
    Error::Local {
        path: path.to_owned(),
        source,
    }
}

//! `model`: an existing model is checked and stored.

use std::path::PathBuf;

use capstan_dataset::models;
use capstan_lease::Done;
use capstan_model::{DeviceSpec, Load, pretrained};
use capstan_plan::commit::Outputs;
use capstan_plan::stage::GivenModel;

use crate::compute::compute;
use crate::context::Context;
use crate::error::Error;
use crate::measured::computed;

/// Reads an existing model from a folder, or one that the store holds already.
///
/// The whole folder is read as later stages read it, so that a foreign one is refused here, in one
/// line.
pub(crate) async fn run(context: &Context, config: &GivenModel) -> Result<Done, Error> {
    let store = &context.store;
    let folder = match (&config.source, &config.digest) {
        (Some(source), _) => source_folder(context, source).await?,
        (None, Some(digest)) => models::fetch(store, digest, &context.cache).await?,
        (None, None) => {
            return Err(Error::Role(
                "bring in a model without `source` and `digest`",
            ));
        }
    };
    let inspected = folder.clone();
    let computed = compute(context, move |_| {
        let load = Load::on(&DeviceSpec::Cpu.open()?);
        Ok(pretrained::inspect(&inspected, &load)?)
    });
    let computed = computed.await?;
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
    let parameters = computed.value as u64;
    outputs.counts.insert("parameters".to_owned(), parameters);
    Ok(Done {
        outputs,
        inputs: config.digest.iter().map(|digest| digest.0).collect(),
        cpu_seconds: computed.cpu_seconds,
        wall_seconds: computed.wall_seconds,
    })
}

/// The folder of a given model, none of whose links leads out of the import roots.
async fn source_folder(context: &Context, source: &str) -> Result<PathBuf, Error> {
    let (roots, source) = (context.import_roots.clone(), source.to_owned());
    let folder = computed(move || {
        let folder = roots.resolve(&source)?;
        folder.check_links()?;
        Ok(folder.path().to_owned())
    });
    Ok(folder.await?.value)
}

//! The inputs of a demo: world, pipeline and device, checked before anything is written.

use std::collections::BTreeMap;
use std::path::Path;

use capstan_dataset::{Store, models};
use capstan_demoweb::{Site, World};
use capstan_model::DeviceSpec;
use capstan_plan::Pipeline;
use capstan_plan::id::{Digest, ModelDigest, StageName};
use capstan_plan::stage::Kind;

use super::folder::{Folder, Marker};
use super::{FULL, PIPELINE};
use crate::args;
use crate::error::{Exit, ExpectedError, OrExit};

/// World, pipeline and device of a demo.
pub struct Inputs {
    pub world: World,
    pub pipeline: Pipeline,
    pub device: DeviceSpec,
    pub marker: Marker,
}

impl Inputs {
    /// Reads and checks the inputs; writes nothing.
    ///
    /// # Errors
    /// Configuration, naming file, stage and key; usage, for an unknown device.
    pub fn read(args: &args::Demo) -> Result<Self, ExpectedError> {
        let world = match &args.world {
            Some(path) => World::from_toml(&read(path)?, &path.display().to_string())
                .or_exit(Exit::Configuration)?,
            None => World::shipped(),
        };
        let text = pipeline_text(args)?;
        let file = args.pipeline.as_ref().map_or_else(
            || "the shipped pipeline".to_owned(),
            |path| path.display().to_string(),
        );
        let mut pipeline = Pipeline::from_toml(&text, &file)
            .map_err(|error| ExpectedError::lines(Exit::Configuration, error))?;
        let device: DeviceSpec = args.device.parse().or_exit(Exit::Usage)?;
        let device = device.resolve().or_exit(Exit::Usage)?;
        let world_digest = Digest::of(world.to_toml().as_bytes()).to_string();
        pipeline.seed = args.seed;
        set_snapshots(
            &mut pipeline,
            &Digest::of_parts([world_digest.as_bytes(), &args.seed.to_le_bytes()[..]]),
        );
        let pipeline_digest = Digest::of(text.as_bytes()).to_string();
        let marker = Marker {
            seed: args.seed,
            world: world_digest,
            pipeline: pipeline_digest,
        };
        Ok(Self {
            world,
            pipeline,
            device,
            marker,
        })
    }
}

/// Sets the snapshot of each crawl to the digest of the inputs of the demo web.
fn set_snapshots(pipeline: &mut Pipeline, snapshot: &Digest) {
    for stage in &mut pipeline.stages {
        if let Kind::Crawl(crawl) = &mut stage.kind {
            crawl.snapshot = format!("demo-{}", snapshot.short());
        }
    }
}

/// The text of the requested pipeline.
pub fn pipeline_text(args: &args::Demo) -> Result<String, ExpectedError> {
    let text = match &args.pipeline {
        Some(path) => read(path)?,
        None => PIPELINE.to_owned(),
    };
    Ok(if args.full {
        format!("{text}\n{FULL}")
    } else {
        text
    })
}

fn read(path: &Path) -> Result<String, ExpectedError> {
    std::fs::read_to_string(path).map_err(|error| {
        ExpectedError::new(Exit::Configuration, format!("{}: {error}", path.display()))
    })
}

/// Writes the annotated sets, atomically.
pub fn write_annotations(site: &Site, folder: &Folder) -> Result<(), ExpectedError> {
    let partial = folder.root().join("annotations.partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).or_exit(Exit::RunFailed)?;
    }
    site.write_annotations(&partial).or_exit(Exit::RunFailed)?;
    std::fs::rename(&partial, folder.annotations()).or_exit(Exit::RunFailed)
}

/// Copies models from the store into folders named after their stages.
pub async fn copy_models(
    store: &Store,
    trained: &BTreeMap<StageName, ModelDigest>,
    folder: &Folder,
) -> Result<(), ExpectedError> {
    std::fs::create_dir_all(folder.models()).or_exit(Exit::RunFailed)?;
    for (stage, model) in trained {
        let to = folder.models().join(stage.as_str());
        if to.exists() {
            continue;
        }
        let from = models::fetch(store, model, &folder.cache())
            .await
            .or_exit(Exit::RunFailed)?;
        let partial = folder.models().join(format!("{stage}.partial"));
        if partial.exists() {
            std::fs::remove_dir_all(&partial).or_exit(Exit::RunFailed)?;
        }
        copy_folder(&from, &partial).or_exit(Exit::RunFailed)?;
        std::fs::rename(&partial, &to).or_exit(Exit::RunFailed)?;
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

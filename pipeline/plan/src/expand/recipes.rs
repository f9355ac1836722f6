//! The recipe of each kind of work: settings without names, digests of rows without times.
//!
//! Names of stages and datasets never shape an output, so they are blanked: a pipeline whose
//! stages are called otherwise adopts the same commits.

use crate::commit::{File, Part};
use crate::id::{DatasetName, Digest, RecipeHash, RunId, StageName};
use crate::recipe::hash;
use crate::stage::{Crawl, Import, Kind, Source, Strategy};
use crate::task::{Data, Work};

/// The recipe of `work`, a task of a stage of `kind`.
pub(super) fn of(kind: &Kind, run: &RunId, seed: u64, work: &Work) -> RecipeHash {
    match work {
        Work::Frontier {
            config,
            wave,
            seen,
            links,
        } => {
            // The number of files seen tells where `seen` ends and `links` begin.
            let config = (nameless_crawl(config), wave, seen.len());
            hash(
                kind,
                "frontier",
                None,
                &config,
                &[],
                &rows(seen.iter().chain(links)),
            )
        }
        Work::Pages { config, pages } => hash(
            kind,
            "pages",
            None,
            &nameless_crawl(config),
            &[],
            &rows([pages]),
        ),
        Work::ImageFrontier { config, links } => hash(
            kind,
            "image-frontier",
            None,
            &nameless_crawl(config),
            &[],
            &rows(links),
        ),
        Work::Images { config, images } => hash(
            kind,
            "images",
            None,
            &nameless_crawl(config),
            &[],
            &rows([images]),
        ),
        Work::Import { config, slice } => {
            // The name of the dataset stands in its rows. What lies in the folder is not known
            // here: without a label of its state no other run's import is adopted; later stages,
            // whose recipes hold the rows, are.
            let config = Import {
                shards: None,
                ..config.clone()
            };
            let run = config.snapshot.is_none().then_some(run);
            hash(kind, "", None, &(config, slice, run), &[], &[])
        }
        Work::Model { config } => {
            // A digest says all; of a folder without one nothing is known here.
            let run = config.digest.is_none().then_some(run);
            let source = config.source.as_ref().filter(|_| run.is_some());
            let models: Vec<Digest> = config.digest.iter().map(|model| model.0).collect();
            hash(kind, "", None, &(source, run), &models, &[])
        }
        Work::Curate { config, part } => {
            let mut config = config.clone();
            config.from = nobody();
            hash(kind, "", None, &config, &[], &[part_digest(part)])
        }
        Work::Balance { config, parts } => {
            let mut config = config.clone();
            config.from = nobody();
            hash(kind, "", Some(seed), &config, &[], &[parts_digest(parts)])
        }
        Work::Tokenizer { config, data } => {
            let mut config = config.clone();
            nameless_sources(&mut config.data);
            hash(kind, "", None, &config, &[], &data_digests(data))
        }
        Work::Train {
            config,
            data,
            tokenizer,
            init,
        } => {
            let mut config = config.clone();
            nameless_sources(&mut config.data);
            config.tokenizer = nobody();
            config.init = config.init.map(|_| nobody());
            // A run that is killed and resumed gives the same model, so how often it is
            // saved shapes nothing.
            config.checkpoint_steps = 0;
            let models: Vec<Digest> = [*tokenizer]
                .iter()
                .chain(init)
                .map(|model| model.0)
                .collect();
            hash(kind, "", Some(seed), &config, &models, &data_digests(data))
        }
        Work::Caption {
            config,
            part,
            model,
        } => {
            let mut config = config.clone();
            (config.from, config.model) = (nobody(), nobody());
            let seed = draws(&config.decoding.choose).then_some(seed);
            hash(kind, "", seed, &config, &[model.0], &[part_digest(part)])
        }
        Work::Filter {
            config,
            part,
            model,
        } => {
            let mut config = config.clone();
            (config.from, config.model) = (nobody(), nobody());
            hash(kind, "", None, &config, &[model.0], &[part_digest(part)])
        }
        Work::Evaluate {
            config,
            model,
            captioner,
            retrieval,
            captioning,
            zero_shot,
        } => {
            let mut config = config.clone();
            config.model = nobody();
            config.captioner = config.captioner.map(|_| nobody());
            let sets = [
                config.retrieval.as_mut().map(|set| &mut set.from),
                config.captioning.as_mut().map(|set| &mut set.from),
                config.zero_shot.as_mut().map(|set| &mut set.from),
            ];
            sets.into_iter().flatten().for_each(|from| *from = nobody());
            let decoding = config.captioning.as_ref().map(|set| &set.decoding.choose);
            let seed = (config.blind || decoding.is_some_and(draws)).then_some(seed);
            let models: Vec<Digest> = [*model].iter().chain(captioner).map(|m| m.0).collect();
            let sets = [retrieval, captioning, zero_shot].map(|parts| parts_digest(parts));
            hash(kind, "", seed, &config, &models, &sets)
        }
    }
}

fn nobody() -> StageName {
    StageName(String::new())
}

fn nameless_crawl(config: &Crawl) -> Crawl {
    Crawl {
        dataset: DatasetName(String::new()),
        ..config.clone()
    }
}

fn nameless_sources(sources: &mut [Source]) {
    sources.iter_mut().for_each(|source| source.from = nobody());
}

fn draws(choose: &Strategy) -> bool {
    matches!(choose, Strategy::Nucleus { .. })
}

fn rows<'a>(files: impl IntoIterator<Item = &'a File>) -> Vec<Digest> {
    files.into_iter().map(|file| file.rows_digest).collect()
}

/// A base and its overlays, in order.
fn part_digest(part: &Part) -> Digest {
    let digests = rows([&part.base].into_iter().chain(&part.overlays));
    Digest::of_parts(digests.iter().map(|digest| &digest.0[..]))
}

fn parts_digest(parts: &[Part]) -> Digest {
    let digests: Vec<Digest> = parts.iter().map(part_digest).collect();
    Digest::of_parts(digests.iter().map(|digest| &digest.0[..]))
}

fn data_digests(data: &[Data]) -> Vec<Digest> {
    data.iter().map(|data| parts_digest(&data.parts)).collect()
}

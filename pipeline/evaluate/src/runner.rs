//! The evaluation of model folders on sets.

use std::borrow::Cow;
use std::path::Path;

use capstan_model::{ComputePool, DeviceSpec, Pretrained};
use capstan_plan::draw::Draws;
use capstan_plan::results::Evaluation;
use capstan_plan::row::Pair;
use capstan_plan::stage;

use crate::error::Error;
use crate::measurement::{Measurement, Retrieval, ZeroShot};
use crate::network::{self, LoadedNetwork, Pictures, picture_batches, text_batches};
use crate::progress::BatchProgress;
use crate::scores::Scores;
use crate::{blind, rerank, zero_shot};

/// The folders of the models.
#[derive(Debug, Clone, Copy)]
pub struct Models<'a> {
    /// The evaluated model: a CLIP, or a BLIP with the parts that the stage needs.
    pub model: &'a Path,
    /// The same model after LM fine-tuning, for `captioning_fine_tuned`.
    pub captioner: Option<&'a Path>,
}

/// The pictures of the evaluation, with their reference texts. Pictures without a text are left
/// out of every figure.
#[derive(Debug, Clone, Default)]
pub struct Sets {
    /// Retrieval: every text belongs to its picture.
    pub retrieval: Vec<Pair>,
    /// Captioning: texts are references. If the pairs are those of `retrieval`, the pictures are
    /// encoded once.
    pub captioning: Vec<Pair>,
    /// Zero-shot classification: the only text of a picture is its class.
    pub zero_shot: Vec<Pair>,
}

/// The pictures of [`Sets`] that have a text. Copies pictures only where some have none.
struct WithTexts<'a> {
    retrieval: Cow<'a, [Pair]>,
    captioning: Cow<'a, [Pair]>,
    zero_shot: Cow<'a, [Pair]>,
}

impl<'a> WithTexts<'a> {
    fn new(sets: &'a Sets) -> Self {
        Self {
            retrieval: with_texts(&sets.retrieval),
            captioning: with_texts(&sets.captioning),
            zero_shot: with_texts(&sets.zero_shot),
        }
    }
}

fn with_texts(pairs: &[Pair]) -> Cow<'_, [Pair]> {
    let has_text = |pair: &&Pair| !pair.texts.is_empty();
    match pairs.iter().all(|pair| has_text(&pair)) {
        true => Cow::Borrowed(pairs),
        false => pairs.iter().filter(has_text).cloned().collect(),
    }
}

/// Evaluates a model as `config` requests.
///
/// - `seed`: keys the permutation of the blind test and the draws of nucleus sampling.
/// - `pool`: the threads of all numeric work.
/// - `progress(done, total)`: called with numbers of batches; `false` cancels.
///
/// Memory: the picture tokens of a set are kept until the set is finished.
///
/// # Errors
/// [`Error`]: a folder, a set or a setting cannot be used. All errors but [`Error::Picture`] and
/// [`Error::Decoding`] occur before the first computation.
pub fn evaluate(
    config: &stage::Evaluate,
    models: Models<'_>,
    sets: &Sets,
    seed: u64,
    device: DeviceSpec,
    pool: &ComputePool,
    progress: &dyn Fn(u64, u64) -> bool,
) -> Result<Evaluation, Error> {
    check(config, sets)?;
    if models.captioner.is_some() && config.captioning.is_none() {
        return Err(Error::NoCaptioning);
    }
    let model = network::open(models.model, device, pool)?;
    let captioner = match models.captioner {
        Some(folder) => Some((network::open(folder, device, pool)?, folder)),
        None => None,
    };
    let network = LoadedNetwork::new(&model, pool, models.model);
    let captioner = captioner
        .as_ref()
        .map(|(model, folder)| LoadedNetwork::new(model, pool, folder));
    figures(config, network, captioner, sets, seed, progress)
}

/// Evaluates a model that is in memory, such as one in training.
///
/// The arguments are those of [`evaluate`].
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_model(
    config: &stage::Evaluate,
    model: &Pretrained,
    sets: &Sets,
    seed: u64,
    pool: &ComputePool,
    progress: &dyn Fn(u64, u64) -> bool,
) -> Result<Evaluation, Error> {
    check(config, sets)?;
    let network = LoadedNetwork::new(model, pool, Path::new("memory"));
    figures(config, network, None, sets, seed, progress)
}

/// Checks that `sets` hold what `config` evaluates.
///
/// # Errors
/// [`Error`] names the set.
pub fn check(config: &stage::Evaluate, sets: &Sets) -> Result<(), Error> {
    check_sizes(config, sets)?;
    check_texts(config, &WithTexts::new(sets))
}

fn figures(
    config: &stage::Evaluate,
    network: LoadedNetwork<'_>,
    captioner: Option<LoadedNetwork<'_>>,
    sets: &Sets,
    seed: u64,
    progress: &dyn Fn(u64, u64) -> bool,
) -> Result<Evaluation, Error> {
    check_parts(config, &network, captioner.as_ref())?;
    let sets = &WithTexts::new(sets);
    let run = Run {
        config,
        sets,
        draws: Draws::new(seed, "evaluate caption"),
        progress: BatchProgress::new(
            batches(config, sets, &network, captioner.is_some()),
            progress,
        ),
    };
    let measurement = run.measure(&network, captioner.as_ref())?;
    let moved =
        |pictures| blind::derangement(seed, pictures).expect("`check` refuses sets of one picture");
    Ok(Evaluation {
        sighted: measurement.figures(&|pictures| (0..pictures).collect()),
        blind: config.blind.then(|| measurement.figures(&moved)),
    })
}

/// The sets that the stage evaluates, by name.
fn requested<'s>(
    config: &stage::Evaluate,
    sets: [&'s [Pair]; 3],
) -> Vec<(&'static str, &'s [Pair])> {
    let [retrieval, captioning, zero_shot] = sets;
    let all = [
        ("retrieval", config.retrieval.is_some(), retrieval),
        ("captioning", config.captioning.is_some(), captioning),
        ("zero-shot", config.zero_shot.is_some(), zero_shot),
    ];
    all.into_iter()
        .filter(|(_, requested, _)| *requested)
        .map(|(name, _, set)| (name, set))
        .collect()
}

/// Checks that every set that the stage evaluates has a picture and a text.
fn check_sizes(config: &stage::Evaluate, sets: &Sets) -> Result<(), Error> {
    let sets = [&sets.retrieval[..], &sets.captioning, &sets.zero_shot];
    for (set, pairs) in requested(config, sets) {
        if pairs.is_empty() {
            return Err(Error::EmptySet { set });
        }
        if pairs.iter().all(|pair| pair.texts.is_empty()) {
            let pictures = pairs.len();
            return Err(Error::NoTexts { set, pictures });
        }
    }
    Ok(())
}

fn check_texts(config: &stage::Evaluate, sets: &WithTexts<'_>) -> Result<(), Error> {
    let named = [&sets.retrieval[..], &sets.captioning, &sets.zero_shot];
    for (set, pairs) in requested(config, named) {
        if config.blind && pairs.len() < 2 {
            return Err(Error::Blind { set });
        }
        for pair in pairs {
            let texts = pair.texts.len();
            if set == "zero-shot" && texts != 1 {
                return Err(Error::Class {
                    pair: pair.pair_id,
                    texts,
                });
            }
        }
    }
    if let Some(zero_shot) = &config.zero_shot {
        let templates = &zero_shot.templates;
        if templates.is_empty() || !templates.iter().all(|template| template.contains("{}")) {
            return Err(Error::Templates);
        }
    }
    Ok(())
}

fn check_parts(
    config: &stage::Evaluate,
    network: &LoadedNetwork<'_>,
    captioner: Option<&LoadedNetwork<'_>>,
) -> Result<(), Error> {
    if config.retrieval.is_some() {
        network.needs_encoders("retrieval")?;
    }
    if config.zero_shot.is_some() {
        network.needs_encoders("zero-shot classification")?;
    }
    if config.captioning.is_some() {
        network.needs_decoder("captioning")?;
    }
    captioner.map_or(Ok(()), |captioner| captioner.needs_decoder("captioning"))
}

/// Whether both sets hold the same pictures in the same order.
fn same_pictures(a: &[Pair], b: &[Pair]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.pair_id == b.pair_id)
}

/// Number of candidates that ITM scores again; 0 for a model without ITM.
fn candidates(config: &stage::Evaluate, network: &LoadedNetwork<'_>) -> usize {
    let requested = config.retrieval.as_ref().map_or(0, |set| set.rerank);
    if network.has_itm() { requested } else { 0 }
}

/// The number of batches of an evaluation.
fn batches(
    config: &stage::Evaluate,
    sets: &WithTexts<'_>,
    network: &LoadedNetwork<'_>,
    fine_tuned: bool,
) -> usize {
    let mut total = 0;
    if config.retrieval.is_some() {
        let texts = sets.retrieval.iter().map(|pair| pair.texts.len()).sum();
        total += picture_batches(sets.retrieval.len()) + text_batches(texts);
        if candidates(config, network) > 0 {
            total += picture_batches(sets.retrieval.len());
        }
    }
    if config.captioning.is_some() {
        let pictures = picture_batches(sets.captioning.len());
        let shared = config.retrieval.is_some() && same_pictures(&sets.retrieval, &sets.captioning);
        total += pictures * (if shared { 1 } else { 2 } + if fine_tuned { 2 } else { 0 });
    }
    if let Some(zero_shot) = &config.zero_shot {
        let prompts = classes(&sets.zero_shot).len() * zero_shot.templates.len();
        total += picture_batches(sets.zero_shot.len()) + text_batches(prompts);
    }
    total
}

/// The distinct classes of a zero-shot set, sorted.
fn classes(set: &[Pair]) -> Vec<&str> {
    let texts = set.iter().flat_map(|pair| &pair.texts);
    let mut classes: Vec<&str> = texts.map(|text| text.text.as_str()).collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

struct Run<'a> {
    config: &'a stage::Evaluate,
    sets: &'a WithTexts<'a>,
    draws: Draws,
    progress: BatchProgress<'a>,
}

impl Run<'_> {
    fn measure(
        &self,
        network: &LoadedNetwork<'_>,
        captioner: Option<&LoadedNetwork<'_>>,
    ) -> Result<Measurement, Error> {
        let mut measurement = Measurement::default();
        let mut encoded = None;
        if self.config.retrieval.is_some() {
            let pictures = network.pictures(&self.sets.retrieval, &self.progress)?;
            measurement.retrieval = Some(self.retrieval(network, &pictures)?);
            encoded = Some(pictures);
        }
        if let Some(captioning) = &self.config.captioning {
            let set = &self.sets.captioning;
            let texts = |pair: &Pair| pair.texts.iter().map(|text| text.text.clone()).collect();
            measurement.references = set.iter().map(texts).collect();
            let shared = encoded.filter(|_| same_pictures(&self.sets.retrieval, set));
            let decoding = &captioning.decoding;
            measurement.captions = Some(self.captions(network, shared, decoding)?);
            if let Some(captioner) = captioner {
                measurement.fine_tuned = Some(self.captions(captioner, None, decoding)?);
            }
        }
        if let Some(config) = &self.config.zero_shot {
            measurement.zero_shot = Some(self.zero_shot(network, config)?);
        }
        Ok(measurement)
    }

    fn retrieval(
        &self,
        network: &LoadedNetwork<'_>,
        pictures: &Pictures,
    ) -> Result<Retrieval, Error> {
        let set = &self.sets.retrieval;
        let texts = set.iter().enumerate();
        let (owner, texts): (Vec<usize>, Vec<&str>) = texts
            .flat_map(|(owner, pair)| pair.texts.iter().map(move |text| (owner, &text.text[..])))
            .unzip();
        let tokens = network.tokens(&texts);
        let features = network.texts(&tokens, &self.progress)?.concat();
        let width = features.len() / texts.len();
        let products = network.similarities(&pictures.features, &features, width)?;
        let cosine = Scores::new(set.len(), texts.len(), products);
        let reranked = match candidates(self.config, network) {
            0 => None,
            k => {
                let candidates = rerank::candidates(&cosine, k);
                let wanted = candidates.pairs();
                let logits = network.itm(pictures, &tokens, &wanted, &self.progress)?;
                let logit = |picture: usize, text: usize| {
                    let place = wanted[picture].binary_search(&text);
                    logits[picture][place.expect("every candidate has a logit")]
                };
                Some(rerank::rerank(&cosine, &candidates, logit))
            }
        };
        Ok(Retrieval {
            owner,
            cosine,
            reranked,
        })
    }

    fn captions(
        &self,
        network: &LoadedNetwork<'_>,
        encoded: Option<Pictures>,
        decoding: &stage::Decoding,
    ) -> Result<Vec<String>, Error> {
        let set = &self.sets.captioning;
        let pictures = match encoded {
            Some(pictures) => pictures,
            None => network.pictures(set, &self.progress)?,
        };
        let draws = self.draws;
        let draw = move |picture: usize, position: usize| {
            draws.unit(&set[picture].pair_id.0.0, position as u64)
        };
        network.captions(&pictures, decoding, &draw, &self.progress)
    }

    fn zero_shot(
        &self,
        network: &LoadedNetwork<'_>,
        config: &stage::ZeroShot,
    ) -> Result<ZeroShot, Error> {
        let set = &self.sets.zero_shot;
        let classes = classes(set);
        let templates = &config.templates;
        let prompts: Vec<String> = classes
            .iter()
            .flat_map(|class| templates.iter().map(move |t| zero_shot::prompt(t, class)))
            .collect();
        let prompts = network.texts(&network.tokens(&prompts), &self.progress)?;
        let prototypes: Vec<Vec<f32>> = prompts
            .chunks(templates.len())
            .map(zero_shot::ensemble)
            .collect();
        let pictures = network.pictures(set, &self.progress)?;
        let width = prototypes[0].len();
        let products = network.similarities(&pictures.features, &prototypes.concat(), width)?;
        let class = |pair: &Pair| {
            let place = classes.binary_search(&&pair.texts[0].text[..]);
            place.expect("`classes` contains every class of the set")
        };
        Ok(ZeroShot {
            class: set.iter().map(class).collect(),
            scores: Scores::new(set.len(), classes.len(), products),
        })
    }
}

#[cfg(test)]
mod tests;
